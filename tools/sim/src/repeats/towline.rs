//! Our own: the production cores of the layers for retries and hedges, with what all clones of a layer share. What is not here are
//! the futures that wait for attempts; each decision, each token and each delay is the library's.

use std::time::Duration;

use towline_core::{Outcome as Classified, Rng as Ours, Sent};
use towline_retry::core::{Ended, Hedging, Rules};
use towline_retry::{Budget, HedgePolicy, Permit, RetryPolicy};

use super::{Attempt, Failed, Repeats};
use crate::chance::Rng;
use crate::strategies::clock::Clock;
use crate::strategy::Outcome;

/// Retries as they are without settings, of calls that may be repeated.
pub(crate) struct Towline {
    rules: Rules,
    budget: Budget,
    /// Of the attempts that were paid for and have not ended.
    permits: Vec<Permit>,
    hedging: Option<Hedging>,
    hedges: Vec<Permit>,
    /// The budget reads tokio's.
    clock: Clock,
}

impl Towline {
    pub(crate) fn new() -> Self {
        Self {
            rules: RetryPolicy::idempotent().rules(),
            budget: Budget::default(),
            permits: Vec::new(),
            hedging: None,
            hedges: Vec::new(),
            clock: Clock::new(),
        }
    }

    /// And hedges, as they are without settings.
    pub(crate) fn hedging() -> Self {
        Self { hedging: Some(HedgePolicy::idempotent().hedging()), ..Self::new() }
    }

    /// A permit is spent by an attempt that may have been sent; it does not matter which, they are all worth the same.
    fn settle(permits: &mut Vec<Permit>, outcome: Outcome) {
        if let Some(permit) = permits.pop()
            && sent(outcome) == Sent::Maybe
        {
            permit.spend();
        }
    }
}

fn sent(outcome: Outcome) -> Sent {
    if outcome == Outcome::Unreachable { Sent::Never } else { Sent::Maybe }
}

impl Repeats for Towline {
    fn begun(&mut self, now: u64) -> Option<u64> {
        self.hedging.as_ref()?.begin(now)
    }

    fn may_hedge(&mut self, _: u64) -> bool {
        let permit = self.hedging.as_ref().and_then(Hedging::may_hedge);
        let may = permit.is_some();
        self.hedges.extend(permit);
        may
    }

    fn ended(&mut self, _: u64, attempt: Attempt) {
        if attempt.outcome == Outcome::Ok {
            self.budget.deposit();
        }
        if attempt.is_hedge {
            return Self::settle(&mut self.hedges, attempt.outcome);
        }
        if attempt.after.is_some_and(|before| sent(before) == Sent::Maybe) {
            Self::settle(&mut self.permits, attempt.outcome);
        }
        // Who was overtaken, or given up, has told something if it took long.
        if let Some(hedging) = &self.hedging
            && (attempt.outcome == Outcome::Ok || attempt.hedge_after.is_some_and(|after| attempt.latency >= after))
        {
            hedging.record(attempt.latency);
        }
    }

    fn again(&mut self, now: u64, failed: Failed, rng: &mut Rng) -> Option<u64> {
        let ended = Ended {
            attempt: failed.attempts - 1,
            outcome: Classified::Failure,
            sent: sent(failed.outcome),
            is_idempotent: true,
            is_replayable: true,
            left: failed.left.map(Duration::from_nanos),
            last_pause: Duration::ZERO,
        };
        let again = self.rules.decide(&ended, &mut Ours::with_seed(rng.u64(..))).ok()?;
        if again.costs {
            let _runtime = self.clock.enter(now);
            self.permits.push(self.budget.withdraw()?);
        }
        Some(again.after.as_nanos() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::{MILLIS, SECONDS};

    fn failed(outcome: Outcome) -> Failed {
        Failed { outcome, attempts: 1, left: None }
    }

    /// Retries of calls that failed, as many as there may be at once.
    fn drain(towline: &mut Towline) -> usize {
        let rng = &mut Rng::with_seed(1);
        (0..1_000).take_while(|_| towline.again(0, failed(Outcome::Failed), rng).is_some()).count()
    }

    fn ended(towline: &mut Towline, outcome: Outcome, after: Option<Outcome>) {
        towline.ended(0, Attempt { outcome, latency: 0, number: 1, is_hedge: false, after, hedge_after: None });
    }

    #[test]
    fn what_may_have_been_sent_costs_and_what_was_not_is_free() {
        let mut towline = Towline::new();
        assert_eq!(drain(&mut towline), 100);
        assert!(towline.again(0, failed(Outcome::Unreachable), &mut Rng::with_seed(1)).is_some());
    }

    #[test]
    fn hedges_come_after_most_of_what_was_answered_and_are_a_fiftieth() {
        let mut towline = Towline::hedging();
        for call in 0..1_000 {
            assert_eq!(towline.begun(call), None);
            let latency = (call + 1) * MILLIS;
            let (number, is_hedge, after, hedge_after) = (0, false, None, None);
            towline.ended(call, Attempt { outcome: Outcome::Ok, latency, number, is_hedge, after, hedge_after });
        }
        let delay = towline.begun(SECONDS).unwrap();
        assert!((985 * MILLIS..1_020 * MILLIS).contains(&delay), "{delay}");
        assert_eq!((0..100).filter(|_| towline.may_hedge(SECONDS)).count(), 20);
        let lost = |outcome| {
            let (latency, number, is_hedge) = (0, 1, true);
            Attempt { outcome, latency, number, is_hedge, after: None, hedge_after: Some(delay) }
        };
        towline.ended(SECONDS, lost(Outcome::Superseded));
        assert!(!towline.may_hedge(SECONDS));
        towline.ended(SECONDS, lost(Outcome::Unreachable));
        assert!(towline.may_hedge(SECONDS), "what never left was not needed");
    }

    #[test]
    fn a_token_comes_back_from_an_attempt_that_never_left_and_a_success_brings_a_tenth() {
        let mut towline = Towline::new();
        drain(&mut towline);
        ended(&mut towline, Outcome::Failed, Some(Outcome::Failed));
        ended(&mut towline, Outcome::Unreachable, Some(Outcome::Unreachable));
        assert_eq!(drain(&mut towline), 0);
        ended(&mut towline, Outcome::Unreachable, Some(Outcome::Failed));
        assert_eq!(drain(&mut towline), 1);
        (0..20).for_each(|_| ended(&mut towline, Outcome::Ok, None));
        assert_eq!(drain(&mut towline), 2);
    }
}
