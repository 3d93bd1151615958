//! The peak EWMA of Finagle, which Linkerd's is made after: it jumps to every peak and decays towards zero.

use crate::engine::config::SECONDS;

const DECAY: f64 = 10.0 * SECONDS as f64;

#[derive(Clone, Copy, Default)]
pub(super) struct Peak {
    /// In nanoseconds.
    cost: f64,
    stamp: u64,
}

impl Peak {
    pub(super) fn new(now: u64, cost: f64) -> Self {
        Self { cost, stamp: now }
    }

    pub(super) fn at(&self, now: u64) -> f64 {
        self.cost * self.weight(now)
    }

    pub(super) fn observe(&mut self, now: u64, value: f64) {
        let weight = self.weight(now);
        self.cost = if value > self.cost { value } else { self.cost * weight + value * (1.0 - weight) };
        self.stamp = now;
    }

    fn weight(&self, now: u64) -> f64 {
        (-((now - self.stamp) as f64) / DECAY).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_taken_whole_and_forgotten_by_and_by() {
        let mut peak = Peak::new(0, 10.0);
        peak.observe(SECONDS, 100.0);
        assert_eq!(peak.at(SECONDS), 100.0);
        assert!((peak.at(11 * SECONDS) - 36.8).abs() < 0.1);
        peak.observe(11 * SECONDS, 10.0);
        assert!((peak.at(11 * SECONDS) - (36.8 + 6.3)).abs() < 0.1);
    }
}
