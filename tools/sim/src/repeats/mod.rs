//! What clients do about a call beside sending it once: other attempts when one has failed, and others beside one that is
//! late.

pub(crate) mod backup;
pub(crate) mod budgets;
pub(crate) mod towline;

use crate::chance::Rng;
use crate::strategy::Outcome;

/// An attempt that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) outcome: Outcome,
    /// Since it began.
    pub(crate) latency: u64,
    /// Which of its call it was, from 0.
    pub(crate) number: u32,
    /// It began beside another.
    pub(crate) is_hedge: bool,
    /// It began because one before it had ended like this.
    pub(crate) after: Option<Outcome>,
    /// What its call was told when it began.
    pub(crate) hedge_after: Option<u64>,
}

/// A call of which no attempt is under way, and none went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Of the last.
    pub(crate) outcome: Outcome,
    /// How many there were.
    pub(crate) attempts: u32,
    /// How long its caller still waits.
    pub(crate) left: Option<u64>,
}

/// One client's. Times are those of strategies.
pub(crate) trait Repeats {
    /// A call begins: after how long another attempt is wanted beside its first, if that is not over by then.
    fn begun(&mut self, _now: u64) -> Option<u64> {
        None
    }

    /// That time has come: whether there may be one.
    fn may_hedge(&mut self, _now: u64) -> bool {
        false
    }

    fn ended(&mut self, _now: u64, _attempt: Attempt) {}

    /// The pause before the next attempt, if there is to be one.
    fn again(&mut self, now: u64, failed: Failed, rng: &mut Rng) -> Option<u64>;
}

/// Every call is sent once.
pub(crate) struct Once;

impl Repeats for Once {
    fn again(&mut self, _: u64, _: Failed, _: &mut Rng) -> Option<u64> {
        None
    }
}
