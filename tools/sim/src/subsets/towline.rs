//! The library's own subsets.

use towline_balance::core::{Moves, Ring};
use towline_balance::{Change as Move, Subset};
use towline_core::{Endpoint, EndpointKey, Target};

use super::{Clients, Config, Step, Tell};
use crate::strategy::{Change, ServerId};

pub(super) struct Towline {
    seed: u64,
    target: Target,
    rings: Vec<Ring>,
    moves: Moves,
}

impl Towline {
    pub(super) fn nth(config: &Config, seed: u64) -> Self {
        Self::new(config, seed, |client| Subset::nth(client, config.clients))
    }

    pub(super) fn named(config: &Config, seed: u64) -> Self {
        Self::new(config, seed, |client| Subset::named(&format!("client-{client}-{seed}")))
    }

    fn new(config: &Config, seed: u64, subset: impl Fn(usize) -> Subset) -> Self {
        let ring = |client| subset(client).size(config.size).ring().expect("a client that there is");
        let target = "server:1".parse().expect("a host and a port");
        Self { seed, target, rings: (0..config.clients).map(ring).collect(), moves: Moves::new() }
    }

    /// Names differ by seed, so that they hash to other places.
    fn key(&self, server: ServerId) -> EndpointKey {
        EndpointKey::new(format!("{}-{server}", self.seed))
    }

    fn endpoint(&self, server: ServerId) -> Endpoint {
        Endpoint::new(self.key(server), self.target.clone())
    }
}

fn server(key: &EndpointKey) -> ServerId {
    let number = key.as_str().rsplit('-').next().and_then(|number| number.parse().ok());
    number.expect("a key ends with the server's number")
}

impl Clients for Towline {
    fn begin(&mut self, servers: &[ServerId], tell: Tell<'_>) {
        let endpoints: Vec<_> = servers.iter().map(|server| self.endpoint(*server)).collect();
        for (client, ring) in self.rings.iter_mut().enumerate() {
            let chosen = ring.replace(endpoints.clone());
            chosen.iter().for_each(|endpoint| tell(Step::Enters(client, server(endpoint.key()))));
        }
    }

    fn change(&mut self, change: Change, tell: Tell<'_>) {
        let (endpoint, is_new) = match change {
            Change::Added(server) => (self.endpoint(server), true),
            Change::Removed(server) => (self.endpoint(server), false),
        };
        for (client, ring) in self.rings.iter_mut().enumerate() {
            match is_new {
                true => ring.insert(endpoint.clone(), &mut self.moves),
                false => ring.remove(endpoint.key(), &mut self.moves),
            }
            for moved in self.moves.drain(..) {
                tell(match moved {
                    Move::Insert(key, _) => Step::Enters(client, server(&key)),
                    Move::Remove(key) => Step::Leaves(server(&key)),
                });
            }
        }
    }
}
