//! Linkerd's circuit breaker: shut after seven failures in a row, or when the success rate of ten exact seconds is below 0.8;
//! then one call after a pause, and longer pauses while that fails.

use crate::chance::Rng;
use crate::engine::config::SECONDS;

const CONSECUTIVE: u32 = 7;
const LEAST_RATE: f64 = 0.8;
const LEAST_CALLS: u32 = 5;
/// Of a second each.
const BUCKETS: usize = 10;
const FIRST_PAUSE: u64 = SECONDS;
const LONGEST_PAUSE: u64 = 60 * SECONDS;
/// A pause is longer by up to this part.
const JITTER: f64 = 0.5;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    Shut {
        until: u64,
    },
    /// One call may pass, or is under way.
    Probation {
        is_used: bool,
    },
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    second: u64,
    all: u32,
    good: u32,
}

#[derive(Default)]
pub(super) struct Breaker {
    gate: Gate,
    /// In a row.
    failures: u32,
    buckets: [Bucket; BUCKETS],
    /// Pauses in a row.
    pauses: u32,
}

impl Breaker {
    pub(super) fn is_shut(&self) -> bool {
        self.gate != Gate::Open
    }

    pub(super) fn admits(&mut self, now: u64) -> bool {
        if matches!(self.gate, Gate::Shut { until } if now >= until) {
            self.gate = Gate::Probation { is_used: false };
        }
        matches!(self.gate, Gate::Open | Gate::Probation { is_used: false })
    }

    pub(super) fn begin(&mut self) {
        if let Gate::Probation { is_used } = &mut self.gate {
            *is_used = true;
        }
    }

    pub(super) fn end(&mut self, now: u64, is_good: bool, rng: &mut Rng) {
        match self.gate {
            Gate::Open => {
                self.count(now, is_good);
                if self.failures >= CONSECUTIVE || self.is_too_low(now) {
                    self.shut(now, rng);
                }
            }
            Gate::Probation { .. } if is_good => *self = Self::default(),
            Gate::Probation { .. } => self.shut(now, rng),
            Gate::Shut { .. } => {}
        }
    }

    fn count(&mut self, now: u64, is_good: bool) {
        self.failures = if is_good { 0 } else { self.failures + 1 };
        let second = now / SECONDS;
        let bucket = &mut self.buckets[second as usize % BUCKETS];
        if bucket.second != second {
            *bucket = Bucket { second, ..Bucket::default() };
        }
        bucket.all += 1;
        bucket.good += u32::from(is_good);
    }

    fn is_too_low(&self, now: u64) -> bool {
        let recent = self.buckets.iter().filter(|bucket| bucket.second + BUCKETS as u64 > now / SECONDS);
        let (all, good) = recent.fold((0, 0), |(all, good), bucket| (all + bucket.all, good + bucket.good));
        all >= LEAST_CALLS && f64::from(good) < LEAST_RATE * f64::from(all)
    }

    fn shut(&mut self, now: u64, rng: &mut Rng) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16)).min(LONGEST_PAUSE);
        let jitter = JITTER * rng.f64() * pause as f64;
        self.pauses += 1;
        self.gate = Gate::Shut { until: now + (pause + jitter as u64).min(LONGEST_PAUSE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::MILLIS;

    fn rng() -> Rng {
        Rng::with_seed(1)
    }

    #[test]
    fn seven_failures_in_a_row_shut_it() {
        let mut breaker = Breaker::default();
        // Enough good ones before, so that the rate is not too low.
        (0..100).for_each(|_| breaker.end(0, true, &mut rng()));
        (0..6).for_each(|_| breaker.end(0, false, &mut rng()));
        breaker.end(0, true, &mut rng());
        (0..6).for_each(|_| breaker.end(0, false, &mut rng()));
        assert!(!breaker.is_shut());
        breaker.end(0, false, &mut rng());
        assert!(breaker.is_shut());
    }

    #[test]
    fn five_calls_of_ten_seconds_make_a_rate() {
        for (calls, is_shut) in [
            (&[(0, true), (0, false), (0, false), (0, false)][..], false),
            (&[(0, true), (0, true), (0, false), (0, true), (0, false)], true),
            (&[(0, true), (0, true), (0, true), (0, true), (0, false)], false),
            (&[(0, false), (1, true), (9, true), (9, true), (9, false)], true),
            (&[(0, false), (1, true), (9, true), (9, true), (10, false)], false),
        ] {
            let mut breaker = Breaker::default();
            calls.iter().for_each(|(second, is_good)| breaker.end(second * SECONDS, *is_good, &mut rng()));
            assert_eq!(breaker.is_shut(), is_shut, "{calls:?}");
        }
    }

    #[test]
    fn one_call_decides_after_a_pause_that_doubles_up_to_a_minute() {
        let (mut breaker, mut rng, mut now) = (Breaker::default(), rng(), 0);
        (0..7).for_each(|_| breaker.end(now, false, &mut rng));
        for least in [1, 2, 4, 8, 16, 32, 60, 60] {
            let Gate::Shut { until } = breaker.gate else { panic!("{:?}", breaker.gate) };
            let pause = until - now;
            assert!(
                (least * SECONDS..=(least * 1_500 * MILLIS).min(LONGEST_PAUSE)).contains(&pause),
                "{least} {pause}"
            );
            assert!(!breaker.admits(until - 1) && breaker.admits(until));
            breaker.begin();
            now = until;
            assert!(!breaker.admits(now));
            breaker.end(now, false, &mut rng);
        }
        now += LONGEST_PAUSE;
        assert!(breaker.admits(now));
        breaker.begin();
        breaker.end(now, true, &mut rng);
        assert!(!breaker.is_shut() && breaker.pauses == 0);
    }
}
