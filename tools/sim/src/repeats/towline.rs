//! Our own: the retry layer's production core, and the budget that all clones of a layer share. What is not here is the future
//! that waits for an attempt; each decision and each token is the library's.

use std::time::Duration;

use towline_core::{Outcome as Classified, Rng as Ours, Sent};
use towline_retry::core::{Ended, Rules};
use towline_retry::{Budget, Permit, RetryPolicy};

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
    /// The budget reads tokio's.
    clock: Clock,
}

impl Towline {
    pub(crate) fn new() -> Self {
        Self { rules: RetryPolicy::idempotent().rules(), budget: Budget::default(), permits: Vec::new(), clock: Clock::new() }
    }
}

fn sent(outcome: Outcome) -> Sent {
    if outcome == Outcome::Unreachable { Sent::Never } else { Sent::Maybe }
}

impl Repeats for Towline {
    fn ended(&mut self, _: u64, attempt: Attempt) {
        if attempt.outcome == Outcome::Ok {
            self.budget.deposit();
        }
        // What it was paid with goes back when it never left.
        let was_paid = attempt.after.is_some_and(|before| sent(before) == Sent::Maybe);
        if was_paid
            && let Some(permit) = self.permits.pop()
            && sent(attempt.outcome) == Sent::Maybe
        {
            permit.spend();
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

    fn failed(outcome: Outcome) -> Failed {
        Failed { outcome, attempts: 1, left: None }
    }

    /// Retries of calls that failed, as many as there may be at once.
    fn drain(towline: &mut Towline) -> usize {
        let rng = &mut Rng::with_seed(1);
        (0..1_000).take_while(|_| towline.again(0, failed(Outcome::Failed), rng).is_some()).count()
    }

    fn ended(towline: &mut Towline, outcome: Outcome, after: Option<Outcome>) {
        towline.ended(0, Attempt { outcome, latency: 0, number: 1, is_hedge: false, after });
    }

    #[test]
    fn what_may_have_been_sent_costs_and_what_was_not_is_free() {
        let mut towline = Towline::new();
        assert_eq!(drain(&mut towline), 100);
        assert!(towline.again(0, failed(Outcome::Unreachable), &mut Rng::with_seed(1)).is_some());
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
