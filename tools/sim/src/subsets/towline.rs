//! The library's own subsets.

use std::collections::VecDeque;

use towline_balance::core::{Moves, Ring};
use towline_balance::{Change as Move, Subset};
use towline_core::{Endpoint, EndpointKey, Target};

use super::{Clients, Config, Step, Tell};
use crate::strategy::{Change, ServerId};

pub(super) struct Towline {
    seed: u64,
    rings: Vec<Ring>,
    /// What comes of the changes to come. A thousand clients who know a thousand servers each do not fit into any cache: one
    /// after the other they do.
    steps: VecDeque<Vec<Step>>,
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
        Self { seed, rings: (0..config.clients).map(ring).collect(), steps: VecDeque::new() }
    }
}

fn server(key: &EndpointKey) -> ServerId {
    let number = key.as_str().rsplit('-').next().and_then(|number| number.parse().ok());
    number.expect("a key ends with the server's number")
}

impl Clients for Towline {
    fn begin(&mut self, servers: &[ServerId], coming: &[Change], tell: Tell<'_>) {
        // Names differ by seed, so that they hash to other places.
        let target: Target = "server:1".parse().expect("a host and a port");
        let endpoint =
            |server: &ServerId| Endpoint::new(EndpointKey::new(format!("{}-{server}", self.seed)), target.clone());
        let endpoints: Vec<_> = servers.iter().map(endpoint).collect();
        let changes = coming.iter().map(|change| match change {
            Change::Added(server) => (endpoint(server), true),
            Change::Removed(server) => (endpoint(server), false),
        });
        let changes: Vec<_> = changes.collect();
        self.steps.resize_with(coming.len(), Vec::new);
        let mut moves = Moves::new();
        for (client, mut ring) in self.rings.drain(..).enumerate() {
            let chosen = ring.replace(endpoints.clone());
            chosen.iter().for_each(|endpoint| tell(Step::Enters(client, server(endpoint.key()))));
            for ((endpoint, is_new), steps) in changes.iter().zip(&mut self.steps) {
                match is_new {
                    true => ring.insert(endpoint.clone(), &mut moves),
                    false => ring.remove(endpoint.key(), &mut moves),
                }
                steps.extend(moves.drain(..).map(|moved| match moved {
                    Move::Insert(key, _) => Step::Enters(client, server(&key)),
                    Move::Remove(key) => Step::Leaves(server(&key)),
                }));
            }
        }
    }

    fn change(&mut self, _change: Change, tell: Tell<'_>) {
        self.steps.pop_front().into_iter().flatten().for_each(tell);
    }
}
