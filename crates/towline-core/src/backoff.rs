//! How long to wait before trying again.

use std::time::Duration;

use crate::Rng;

/// How waits are spread, so that those who failed together do not come back together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// Anything from nothing to the whole: `U(0, min(cap, base × 2ⁿ))`. It spreads a fleet best (AWS Architecture Blog,
    /// "Exponential Backoff And Jitter", 2015).
    #[default]
    Full,
    /// At least half of it: `h + U(0, h)`, where `h` is half of `min(cap, base × 2ⁿ)`. For what must not be tried again at
    /// once.
    Equal,
    /// By the last wait instead of the number: `U(base, min(cap, 3 × last))`. It forgets the past sooner.
    Decorrelated,
}

/// Exponential backoff with jitter, [full](Jitter::Full) unless told otherwise.
///
/// The draw is taken after the cap and never before it, so that jitter is as wide at the cap as anywhere: where the cap
/// comes last, clients that have failed for long all wait for just that, and come back in step.
///
/// ```
/// use std::time::Duration;
/// use towline_core::{Backoff, Jitter, Rng};
///
/// let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// let mut rng = Rng::with_seed(1);
/// assert!(backoff.delay(0, &mut rng) < Duration::from_millis(50));
/// assert!(backoff.delay(40, &mut rng) < Duration::from_secs(2));
/// assert!(backoff.with_jitter(Jitter::Equal).delay(40, &mut rng) >= Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    jitter: Jitter,
}

impl Backoff {
    /// `base` bounds the first wait, `cap` every wait.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, jitter: Jitter::Full }
    }

    /// Spreads waits like this.
    #[must_use]
    pub const fn with_jitter(self, jitter: Jitter) -> Self {
        Self { jitter, ..self }
    }

    /// The wait before attempt `n + 1`, where `n` counts the failures so far, from 0.
    ///
    /// Decorrelated waits depend on the last one; for who has not kept it, that is taken to have been the longest possible.
    pub fn delay(&self, n: u32, rng: &mut Rng) -> Duration {
        self.delay_after(n, self.ceiling(n), rng)
    }

    /// The wait before attempt `n + 1` after one of `last`, zero if it is the first.
    pub fn delay_after(&self, n: u32, last: Duration, rng: &mut Rng) -> Duration {
        let ceiling = self.ceiling(n);
        match self.jitter {
            Jitter::Full => ceiling.mul_f64(rng.unit()),
            Jitter::Equal => ceiling / 2 + (ceiling / 2).mul_f64(rng.unit()),
            Jitter::Decorrelated => {
                let least = self.base.min(self.cap);
                let most = last.saturating_mul(3).clamp(least, self.cap);
                least + (most - least).mul_f64(rng.unit())
            }
        }
    }

    /// The longest wait for `n` with full or equal jitter. Decorrelated waits know only the cap.
    pub fn ceiling(&self, n: u32) -> Duration {
        let factor = 1u32.checked_shl(n.min(31)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

    #[test]
    fn jitter_survives_the_cap() {
        for (jitter, shortest) in [(Jitter::Full, 0), (Jitter::Equal, 1_000), (Jitter::Decorrelated, 50)] {
            let (backoff, mut rng) = (BACKOFF.with_jitter(jitter), Rng::with_seed(3));
            let mut last = Duration::ZERO;
            let draws: Vec<_> = (0..1_000)
                .map(|n| {
                    last = backoff.delay_after(n, last, &mut rng);
                    last
                })
                .collect();
            let spread = |draw: &Duration| (draw.as_secs_f64() - shortest as f64 / 1e3) / (2.0 - shortest as f64 / 1e3);
            let late = &draws[100..];
            assert!(late.iter().all(|draw| (0.0..1.0).contains(&spread(draw))), "{jitter:?}");
            let (low, high) = (late.iter().any(|d| spread(d) < 0.1), late.iter().any(|d| spread(d) > 0.8));
            assert!(low && high, "{jitter:?}");
            let at_the_cap = late.iter().filter(|d| **d > Duration::from_millis(1_990)).count();
            assert!(at_the_cap < 45, "{jitter:?}: {at_the_cap} of 900 wait for just the cap");
        }
    }

    #[test]
    fn decorrelated_waits_follow_the_last_one() {
        let (backoff, mut rng) = (BACKOFF.with_jitter(Jitter::Decorrelated), Rng::with_seed(3));
        for last in [0, 50, 100, 400] {
            let most = (3 * last).max(50);
            for _ in 0..100 {
                let wait = backoff.delay_after(9, Duration::from_millis(last), &mut rng).as_millis() as u64;
                assert!((50..=most).contains(&wait), "{wait} after {last}");
            }
        }
    }

    #[test]
    fn ceiling_doubles_until_the_cap() {
        let ceilings: Vec<_> = (0..8).map(|n| BACKOFF.ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
    }
}
