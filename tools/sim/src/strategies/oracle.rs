//! Who knows everything: the calls of all clients, those on the way included, and how fast each server is now.
//!
//! It takes the server where a call of the mean size is expected to end first. It does not know the size of calls, and
//! does not plan ahead, so it is a bound in practice rather than in theory.

use super::Members;
use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, LoadReport, Outcome, Pick, Strategy, Token};

#[derive(Default)]
pub(super) struct Oracle(Members);

impl Strategy for Oracle {
    fn pick(&mut self, now: u64, rng: &mut Rng, fleet: &Fleet) -> Option<Pick> {
        let server = self.0.least(rng, |id| fleet.expected_ns(id, now))?;
        Some(Pick { server, token: 0 })
    }

    fn end(&mut self, _: Token, _: u64, _: Outcome, _: Option<LoadReport>) {}

    fn change(&mut self, _: u64, change: Change) {
        self.0.change(change);
    }
}
