//! Finagle's deterministic aperture: servers, ordered by hash, and clients, by index, share a ring evenly. A client's
//! aperture begins where the client does, and is as many clients wide as it takes to have `size` servers; at its ends it may have
//! parts of servers, to which it connects and sends less. Finagle asks for 12 servers at least; here for as many as the others.

use super::{Anew, Clients, Config, Tell};
use crate::chance::mix;
use crate::strategy::{Change, ServerId};

pub(super) struct Aperture {
    size: usize,
    seed: u64,
    /// By hash.
    servers: Vec<(u64, ServerId)>,
    chosen: Anew,
}

impl Aperture {
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        Self { size: config.size, seed: mix(seed), servers: Vec::new(), chosen: Anew::new(config) }
    }

    fn hash(&self, server: ServerId) -> (u64, ServerId) {
        (mix(self.seed ^ mix(u64::from(server))), server)
    }

    fn open(&mut self, tell: Tell<'_>) {
        let (servers, clients) = (self.servers.len(), self.chosen.of.len());
        let width = (self.size * clients).div_ceil(servers).min(clients);
        for client in 0..clients {
            let (begin, end) = (client * servers / clients, ((client + width) * servers).div_ceil(clients));
            let touched = (begin..end).take(servers).map(|place| self.servers[place % servers].1);
            self.chosen.set(client, touched, tell);
        }
    }
}

impl Clients for Aperture {
    fn begin(&mut self, servers: &[ServerId], _coming: &[Change], tell: Tell<'_>) {
        self.servers = servers.iter().map(|server| self.hash(*server)).collect();
        self.servers.sort_unstable();
        self.open(tell);
    }

    fn change(&mut self, change: Change, tell: Tell<'_>) {
        match change {
            Change::Added(server) => {
                let new = self.hash(server);
                self.servers.insert(self.servers.partition_point(|other| *other < new), new);
            }
            Change::Removed(server) => self.servers.retain(|(_, other)| *other != server),
        }
        self.open(tell);
    }
}
