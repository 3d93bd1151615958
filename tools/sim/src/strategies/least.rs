//! The fewest requests in flight, as far as one client knows.

use super::Members;
use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, LoadReport, Outcome, Pick, Strategy, Token};

/// Among whom.
#[derive(Clone, Copy)]
pub(super) enum Choice {
    /// Everybody.
    All,
    /// Two at random.
    Two,
}

pub(super) struct LeastRequest {
    choice: Choice,
    members: Members,
    /// By server.
    in_flight: Vec<u32>,
}

impl LeastRequest {
    pub(super) fn new(choice: Choice) -> Self {
        Self { choice, members: Members::default(), in_flight: Vec::new() }
    }
}

impl Strategy for LeastRequest {
    fn pick(&mut self, _: u64, rng: &mut Rng, _: &Fleet) -> Option<Pick> {
        let load = |id| self.in_flight[id as usize];
        let server = match self.choice {
            Choice::All => self.members.least(rng, load)?,
            Choice::Two => self.members.two(rng).map(|(a, b)| if load(a) <= load(b) { a } else { b })?,
        };
        self.in_flight[server as usize] += 1;
        Some(Pick { server, token: server.into() })
    }

    fn end(&mut self, token: Token, _: u64, _: Outcome, _: Option<LoadReport>) {
        self.in_flight[token as usize] -= 1;
    }

    fn change(&mut self, _: u64, change: Change) {
        self.members.change(change);
        if let Change::Added(id) = change {
            self.in_flight.resize(id as usize + 1, 0);
        }
    }
}
