//! Strategies that look at nothing.

use super::Members;
use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, LoadReport, Outcome, Pick, Strategy, Token};

#[derive(Default)]
pub(super) struct Random(Members);

impl Strategy for Random {
    fn pick(&mut self, _: u64, rng: &mut Rng, _: &Fleet) -> Option<Pick> {
        self.0.random(rng).map(|server| Pick { server, token: 0 })
    }

    fn end(&mut self, _: Token, _: u64, _: Outcome, _: Option<LoadReport>) {}

    fn change(&mut self, _: u64, change: Change) {
        self.0.change(change);
    }
}

/// Each client begins somewhere else.
pub(super) struct RoundRobin {
    members: Members,
    next: usize,
}

impl RoundRobin {
    pub(super) fn new(mut rng: Rng) -> Self {
        Self { members: Members::default(), next: rng.usize(..1 << 20) }
    }
}

impl Strategy for RoundRobin {
    fn pick(&mut self, _: u64, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        self.next += 1;
        let index = self.next.checked_rem(self.members.len())?;
        Some(Pick { server: self.members.get(index), token: 0 })
    }

    fn end(&mut self, _: Token, _: u64, _: Outcome, _: Option<LoadReport>) {}

    fn change(&mut self, _: u64, change: Change) {
        self.members.change(change);
    }
}
