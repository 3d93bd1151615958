//! Retries as others bound them: each by its own rule for how many there may be, all with the same attempts and pauses, so that
//! the rules are what differs.

use tower::retry::budget::{Budget as _, TpsBudget};

use super::{Attempt, Failed, Repeats};
use crate::chance::Rng;
use crate::engine::config::{MILLIS, SECONDS};
use crate::strategies::clock::Clock;
use crate::strategy::Outcome;

/// The first included.
const ATTEMPTS: u32 = 3;
/// The longest first pause, doubled with each, and the longest of all; drawn from nothing on.
const PAUSE: (u64, u64) = (25 * MILLIS, SECONDS);

/// Who says whether there may be another attempt.
pub(crate) trait Budget {
    /// A call begins.
    fn begun(&mut self, _now: u64) {}
    /// An attempt went well; which of its call it was.
    fn succeeded(&mut self, _now: u64, _number: u32) {}
    fn failed(&mut self, _now: u64) {}
    fn withdraw(&mut self, now: u64) -> bool;
}

pub(crate) struct Retries<B>(pub(crate) B);

impl<B: Budget> Repeats for Retries<B> {
    fn begun(&mut self, now: u64) -> Option<u64> {
        self.0.begun(now);
        None
    }

    fn ended(&mut self, now: u64, attempt: Attempt) {
        match attempt.outcome {
            Outcome::Ok => self.0.succeeded(now, attempt.number),
            Outcome::Failed | Outcome::Cut | Outcome::Unreachable => self.0.failed(now),
            Outcome::Superseded => {}
        }
    }

    fn again(&mut self, now: u64, failed: Failed, rng: &mut Rng) -> Option<u64> {
        if failed.attempts >= ATTEMPTS || !self.0.withdraw(now) {
            return None;
        }
        let longest = (PAUSE.0 << (failed.attempts - 1)).min(PAUSE.1);
        Some(rng.u64(0..=longest)).filter(|pause| failed.left.is_none_or(|left| *pause < left))
    }
}

/// There is none.
pub(crate) struct Unlimited;

impl Budget for Unlimited {
    fn withdraw(&mut self, _: u64) -> bool {
        true
    }
}

/// Finagle's `RetryBudget`: every call deposits, and so does time; what was deposited, or withdrawn, is forgotten after ten
/// seconds.
pub(crate) struct Finagle {
    /// By second. In thousandths of a deposit.
    windows: [i64; WINDOWS],
    /// The second of the last change.
    at: u64,
    cost: i64,
    reserve: i64,
}

const WINDOWS: usize = 10;
const DEPOSIT: i64 = 1_000;

impl Finagle {
    /// As it is by default: a fifth of the calls, and ten per second.
    pub(crate) fn new() -> Self {
        Self::with(0.2, 10)
    }

    pub(crate) fn with(part: f64, per_second: i64) -> Self {
        let cost = (DEPOSIT as f64 / part) as i64;
        Self { windows: [0; WINDOWS], at: 0, cost, reserve: per_second * WINDOWS as i64 * cost }
    }

    fn forget(&mut self, now: u64) -> &mut i64 {
        let second = now / SECONDS;
        let old = (self.at + 1..=second).take(WINDOWS);
        old.for_each(|second| self.windows[second as usize % WINDOWS] = 0);
        self.at = second;
        &mut self.windows[second as usize % WINDOWS]
    }

    pub(crate) fn deposit(&mut self, now: u64) {
        *self.forget(now) += DEPOSIT;
    }
}

impl Budget for Finagle {
    fn begun(&mut self, now: u64) {
        self.deposit(now);
    }

    fn withdraw(&mut self, now: u64) -> bool {
        self.forget(now);
        let may = self.windows.iter().sum::<i64>() + self.reserve >= self.cost;
        if may {
            *self.forget(now) -= self.cost;
        }
        may
    }
}

/// gRPC's throttle (proposal A6), with the values of its documentation: at most 10 tokens, a tenth for every success.
pub(crate) struct Grpc {
    tokens: f64,
}

const GRPC_MOST: f64 = 10.0;
const GRPC_RATIO: f64 = 0.1;

impl Grpc {
    pub(crate) fn new() -> Self {
        Self { tokens: GRPC_MOST }
    }
}

impl Budget for Grpc {
    fn succeeded(&mut self, _: u64, _: u32) {
        self.tokens = (self.tokens + GRPC_RATIO).min(GRPC_MOST);
    }

    fn failed(&mut self, _: u64) {
        self.tokens = (self.tokens - 1.0).max(0.0);
    }

    fn withdraw(&mut self, _: u64) -> bool {
        self.tokens > GRPC_MOST / 2.0
    }
}

/// The standard mode of AWS's clients: a retry costs 5 of 500 tokens, and has them back when it goes well; a call that
/// goes well at once brings one.
pub(crate) struct Aws {
    tokens: u32,
}

const AWS_MOST: u32 = 500;
const AWS_COST: u32 = 5;

impl Aws {
    pub(crate) fn new() -> Self {
        Self { tokens: AWS_MOST }
    }
}

impl Budget for Aws {
    fn succeeded(&mut self, _: u64, number: u32) {
        self.tokens = (self.tokens + if number == 0 { 1 } else { AWS_COST }).min(AWS_MOST);
    }

    fn withdraw(&mut self, _: u64) -> bool {
        let left = self.tokens.checked_sub(AWS_COST);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }
}

/// tower's own: its crate, at the simulator's time. Successes deposit.
pub(crate) struct Tower {
    budget: TpsBudget,
    clock: Clock,
}

impl Tower {
    pub(crate) fn new() -> Self {
        let mut clock = Clock::new();
        let budget = {
            let _runtime = clock.enter(0);
            TpsBudget::default()
        };
        Self { budget, clock }
    }
}

impl Budget for Tower {
    fn succeeded(&mut self, now: u64, _: u32) {
        let _runtime = self.clock.enter(now);
        self.budget.deposit();
    }

    fn withdraw(&mut self, now: u64) -> bool {
        let _runtime = self.clock.enter(now);
        self.budget.withdraw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that can be withdrawn now.
    fn drain(budget: &mut impl Budget, now: u64) -> u32 {
        (0..10_000).take_while(|_| budget.withdraw(now)).count() as u32
    }

    #[test]
    fn finagle_s_pays_a_fifth_of_the_calls_and_ten_per_second() {
        let mut budget = Finagle::new();
        assert_eq!(drain(&mut budget, 0), 100, "ten seconds of the floor");
        (0..1_000).for_each(|_| budget.begun(0));
        assert_eq!(drain(&mut budget, 0), 200);
        assert_eq!(drain(&mut budget, 9 * SECONDS), 0);
        assert_eq!(drain(&mut budget, 10 * SECONDS), 100, "what was withdrawn is forgotten");
    }

    #[test]
    fn grpc_s_stops_at_half_and_a_success_brings_a_tenth() {
        let mut budget = Grpc::new();
        (0..5).for_each(|_| budget.failed(0));
        assert!(!budget.withdraw(0));
        budget.succeeded(0, 0);
        assert!(budget.withdraw(0));
        (0..100).for_each(|_| budget.failed(0));
        (0..50).for_each(|_| budget.succeeded(0, 0));
        assert!(!budget.withdraw(0));
    }

    #[test]
    fn aws_s_has_a_hundred_and_gets_back_what_went_well() {
        let mut budget = Aws::new();
        assert_eq!(drain(&mut budget, 0), 100);
        (0..5).for_each(|_| budget.succeeded(0, 0));
        budget.succeeded(0, 1);
        assert_eq!(drain(&mut budget, 0), 2);
    }

    #[test]
    fn tower_s_pays_a_fifth_of_what_went_well_and_ten_per_second() {
        let mut budget = Tower::new();
        assert_eq!(drain(&mut budget, 0), 100);
        (0..1_000).for_each(|_| budget.succeeded(SECONDS, 0));
        assert_eq!(drain(&mut budget, SECONDS), 200);
    }

    #[test]
    fn three_attempts_are_all_and_a_pause_that_comes_too_late_is_not_begun() {
        let (mut retries, mut rng) = (Retries(Unlimited), Rng::with_seed(1));
        let mut again =
            |attempts, left| retries.again(0, Failed { outcome: Outcome::Failed, attempts, left }, &mut rng);
        assert!((0..100).all(|_| again(1, None).is_some_and(|pause| pause <= 25 * MILLIS)));
        assert!((0..100).any(|_| again(2, None).is_some_and(|pause| pause > 25 * MILLIS)));
        assert_eq!((again(3, None), again(1, Some(0))), (None, None));
    }
}
