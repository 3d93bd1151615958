//! Finagle's `BackupRequestFilter`: another attempt once a call has taken longer than all but a part of the calls lately, when two
//! budgets allow it.

use hdrhistogram::Histogram;

use super::budgets::{Budget, Finagle};
use super::{Attempt, Failed, Repeats};
use crate::chance::Rng;
use crate::engine::config::{MILLIS, SECONDS};
use crate::strategy::Outcome;

/// Histograms of ten seconds each.
const WINDOWS: u64 = 3;
const WINDOW: u64 = 10 * SECONDS;
/// The delay is looked up so often.
const REFRESH: u64 = 3 * SECONDS;
/// In milliseconds: the shortest delay, and latencies from which on there is no backup.
const SHORTEST: u64 = 1;
const LONGEST: u64 = 2_000;

pub(crate) struct Backup {
    /// The part of the calls that may have one.
    part: f64,
    /// Milliseconds; by window.
    windows: Vec<Histogram<u32>>,
    /// Which window is being filled.
    at: u64,
    delay: Option<u64>,
    refresh_at: u64,
    own: Finagle,
    shared: Finagle,
}

impl Backup {
    pub(crate) fn new(part: f64) -> Self {
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are sound");
        Self {
            part,
            windows: (0..WINDOWS).map(|_| histogram()).collect(),
            at: 0,
            delay: None,
            refresh_at: REFRESH,
            own: Finagle::with(part, 0),
            shared: Finagle::new(),
        }
    }

    fn window(&mut self, now: u64) -> &mut Histogram<u32> {
        while self.at < now / WINDOW {
            self.at += 1;
            self.windows[(self.at % WINDOWS) as usize].reset();
        }
        &mut self.windows[(self.at % WINDOWS) as usize]
    }

    fn refresh(&mut self, now: u64) {
        if now < self.refresh_at {
            return;
        }
        self.refresh_at = now + REFRESH;
        self.window(now);
        let mut all = self.windows[0].clone();
        self.windows[1..].iter().for_each(|window| all.add(window).expect("the bounds are the same"));
        let delay = all.value_at_quantile(1.0 - self.part).max(SHORTEST);
        self.delay = (!all.is_empty() && delay < LONGEST).then_some(delay * MILLIS);
    }
}

impl Repeats for Backup {
    fn begun(&mut self, now: u64) -> Option<u64> {
        self.own.deposit(now);
        self.shared.deposit(now);
        self.refresh(now);
        self.delay
    }

    fn may_hedge(&mut self, now: u64) -> bool {
        self.own.withdraw(now) && self.shared.withdraw(now)
    }

    /// What failed fast says nothing of how long answers take.
    fn ended(&mut self, now: u64, attempt: Attempt) {
        if matches!(attempt.outcome, Outcome::Ok | Outcome::Cut | Outcome::Superseded) {
            let latency = attempt.latency.div_ceil(MILLIS);
            self.window(now).saturating_record(latency);
        }
    }

    fn again(&mut self, _: u64, _: Failed, _: &mut Rng) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(backup: &mut Backup, now: u64, millis: u64) {
        let (outcome, latency) = (Outcome::Ok, millis * MILLIS);
        backup.ended(now, Attempt { outcome, latency, number: 0, is_hedge: false, after: None, hedge_after: None });
    }

    #[test]
    fn the_delay_is_the_percentile_of_the_last_windows_looked_up_now_and_then() {
        let mut backup = Backup::new(0.01);
        assert_eq!(backup.begun(0), None);
        (1..=1_000).for_each(|millis| answered(&mut backup, SECONDS, millis));
        assert_eq!(backup.begun(2 * SECONDS), None);
        assert_eq!(backup.begun(3 * SECONDS), Some(990 * MILLIS));
        (0..100_000).for_each(|_| answered(&mut backup, 4 * SECONDS, 5));
        assert_eq!(backup.begun(5 * SECONDS), Some(990 * MILLIS));
        assert_eq!(backup.begun(6 * SECONDS), Some(5 * MILLIS));
        assert_eq!(backup.begun(60 * SECONDS), None, "nothing is known any more");
    }

    #[test]
    fn one_call_in_a_hundred_may_have_one() {
        let mut backup = Backup::new(0.01);
        (0..1_000).for_each(|_| assert_eq!(backup.begun(0), None));
        assert_eq!((0..1_000).filter(|_| backup.may_hedge(0)).count(), 10);
    }
}
