//! Power of two choices with the truth about who fails: where theory has an exact figure, these have to land on it.

use super::Members;
use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, LoadReport, Outcome, Pick, Strategy, Token};

pub(crate) struct Yardstick {
    members: Members,
    /// Of two of which one fails, the failing one is taken: that is what it comes to when a fast failure counts as a
    /// fast answer.
    prefers_failing: bool,
}

impl Yardstick {
    /// Goes to a failing server only when both choices are: the floor of any metric.
    pub(crate) fn perfect() -> Self {
        Self { members: Members::default(), prefers_failing: false }
    }

    pub(crate) fn error_blind() -> Self {
        Self { members: Members::default(), prefers_failing: true }
    }
}

impl Strategy for Yardstick {
    fn pick(&mut self, _: u64, rng: &mut Rng, fleet: &Fleet) -> Option<Pick> {
        let (a, b) = self.members.two(rng)?;
        let server = if fleet.is_failing(a) == self.prefers_failing { a } else { b };
        Some(Pick { server, token: 0 })
    }

    fn end(&mut self, _: Token, _: u64, _: Outcome, _: Option<LoadReport>) {}

    fn change(&mut self, _: u64, change: Change) {
        self.members.change(change);
    }
}

/// Pairs out of `n`.
fn pairs(n: u32) -> f64 {
    f64::from(n) * f64::from(n.saturating_sub(1)) / 2.0
}

/// The share of calls that two choices send to the `bad` of `all` when the metric is perfect: both are bad.
pub(crate) fn floor(bad: u32, all: u32) -> f64 {
    pairs(bad) / pairs(all)
}

/// The share when one bad choice is enough.
pub(crate) fn error_blind(bad: u32, all: u32) -> f64 {
    1.0 - pairs(all - bad) / pairs(all)
}
