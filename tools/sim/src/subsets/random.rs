//! Rendezvous hashing, as gRPC's random subsetting (A68): the first by a hash of the server that each client seeds.

use super::{Clients, Config, Step, Tell};
use crate::chance::{Role, mix, split};
use crate::strategy::{Change, ServerId};

pub(super) struct Random {
    size: usize,
    servers: Vec<ServerId>,
    seeds: Vec<u64>,
    /// By client, from the first on.
    chosen: Vec<Vec<(u64, ServerId)>>,
}

impl Random {
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        let seeds = (0..config.clients as u32).map(|client| split(seed, Role::Client(client)).u64(..)).collect();
        Self { size: config.size, servers: Vec::new(), seeds, chosen: vec![Vec::new(); config.clients] }
    }
}

fn hash(seed: u64, server: ServerId) -> (u64, ServerId) {
    (mix(seed ^ mix(u64::from(server))), server)
}

impl Clients for Random {
    fn begin(&mut self, servers: &[ServerId], _coming: &[Change], tell: Tell<'_>) {
        self.servers = servers.to_vec();
        for (client, (seed, chosen)) in self.seeds.iter().zip(&mut self.chosen).enumerate() {
            *chosen = servers.iter().map(|server| hash(*seed, *server)).collect();
            chosen.sort_unstable();
            chosen.truncate(self.size);
            chosen.iter().for_each(|(_, server)| tell(Step::Enters(client, *server)));
        }
    }

    fn change(&mut self, change: Change, tell: Tell<'_>) {
        match change {
            Change::Added(server) => self.servers.push(server),
            Change::Removed(server) => self.servers.retain(|other| *other != server),
        }
        for (client, (seed, chosen)) in self.seeds.iter().zip(&mut self.chosen).enumerate() {
            match change {
                Change::Added(server) => {
                    let new = hash(*seed, server);
                    let place = chosen.partition_point(|other| *other < new);
                    if place < self.size {
                        chosen.insert(place, new);
                        tell(Step::Enters(client, server));
                    }
                    if chosen.len() > self.size {
                        let (_, last) = chosen.pop().expect("there is more than one");
                        tell(Step::Leaves(last));
                    }
                }
                Change::Removed(server) => {
                    let Some(place) = chosen.iter().position(|(_, other)| *other == server) else { continue };
                    let last = chosen.last().copied();
                    chosen.remove(place);
                    tell(Step::Leaves(server));
                    let others = self.servers.iter().map(|server| hash(*seed, *server));
                    if let Some(next) = others.filter(|other| Some(*other) > last).min() {
                        chosen.push(next);
                        tell(Step::Enters(client, next.1));
                    }
                }
            }
        }
    }
}
