//! Google's deterministic subsetting ("Site Reliability Engineering", chapter 20): as many clients as have one server each
//! `size` times over are a round; all of a round shuffle the list in the same way, and each takes its slice.

use super::{Anew, Clients, Config, Tell};
use crate::chance::Rng;
use crate::strategy::{Change, ServerId};

pub(super) struct Dealt {
    size: usize,
    seed: u64,
    servers: Vec<ServerId>,
    chosen: Anew,
}

impl Dealt {
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        Self { size: config.size, seed, servers: Vec::new(), chosen: Anew::new(config) }
    }

    fn deal(&mut self, tell: Tell<'_>) {
        // Where there are fewer than one slice, it is all of them.
        let slices = (self.servers.len() / self.size).max(1);
        let mut shuffled = Vec::new();
        for client in 0..self.chosen.of.len() {
            let (round, slice) = (client / slices, client % slices);
            if slice == 0 {
                shuffled.clone_from(&self.servers);
                let mut rng = Rng::with_seed(self.seed << 32 | round as u64);
                // From the end, as the book's Python shuffles.
                (1..shuffled.len()).rev().for_each(|last| shuffled.swap(last, rng.usize(..=last)));
            }
            let slice = shuffled.iter().copied().skip(slice * self.size).take(self.size);
            self.chosen.set(client, slice, tell);
        }
    }
}

impl Clients for Dealt {
    fn begin(&mut self, servers: &[ServerId], _coming: &[Change], tell: Tell<'_>) {
        self.servers = servers.to_vec();
        self.deal(tell);
    }

    fn change(&mut self, change: Change, tell: Tell<'_>) {
        match change {
            Change::Added(server) => self.servers.push(server),
            Change::Removed(server) => self.servers.retain(|other| *other != server),
        }
        self.deal(tell);
    }
}
