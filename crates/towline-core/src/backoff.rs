//! How long to wait before trying again.

use std::time::Duration;

use crate::Rng;

/// Exponential backoff with full jitter: attempt `n` waits a uniform time in `[0, min(cap, base × 2ⁿ))`.
///
/// Full jitter spreads a fleet best (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015), and it
/// keeps its jitter at the cap: the draw is taken after the cap, never before it.
///
/// ```
/// use std::time::Duration;
/// use towline_core::{Backoff, Rng};
///
/// let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// let mut rng = Rng::with_seed(1);
/// assert!(backoff.delay(0, &mut rng) < Duration::from_millis(50));
/// assert!(backoff.delay(40, &mut rng) < Duration::from_secs(2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// `base` bounds the first wait, `cap` every wait.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap }
    }

    /// The wait before attempt `n + 1`, where `n` counts the failures so far, from 0.
    pub fn delay(&self, n: u32, rng: &mut Rng) -> Duration {
        self.ceiling(n).mul_f64(rng.unit())
    }

    /// The longest wait that [`delay`](Self::delay) can draw for `n`.
    pub fn ceiling(&self, n: u32) -> Duration {
        let factor = 1u32.checked_shl(n.min(31)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_survives_the_cap() {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut rng = Rng::with_seed(3);
        let draws: Vec<_> = (0..100).map(|_| backoff.delay(1_000, &mut rng)).collect();
        assert!(draws.iter().all(|d| *d < Duration::from_secs(2)));
        assert!(draws.iter().any(|d| *d < Duration::from_millis(500)));
        assert!(draws.iter().any(|d| *d > Duration::from_millis(1_500)));
    }

    #[test]
    fn ceiling_doubles_until_the_cap() {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let ceilings: Vec<_> = (0..8).map(|n| backoff.ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
    }
}
