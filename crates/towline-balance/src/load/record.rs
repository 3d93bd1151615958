//! What the driver keeps of an endpoint between two looks at it. Calls do not touch it.

use std::time::Duration;

use towline_core::EjectionRule;

use super::Nanos;
use super::status::Probe;

/// The memory of the success rate: what is as old counts 37 %.
const WINDOW: f32 = 10e9;
/// And of how it is just now.
const MOMENT: f32 = 1e9;

/// Calls that have ended, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Answered, well or not. Calls that were given up or refused for reasons of their own are not among them.
    pub(crate) calls: u64,
    pub(crate) failures: u64,
}

/// How many calls have lately failed, of how many: sums that decay.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    pub(crate) calls: f32,
    pub(crate) failures: f32,
    /// Calls and failures of the last moment.
    moment: (f32, f32),
    seen: Ended,
    at: Nanos,
}

impl Window {
    /// Adds what has ended since the last time; and says how much that is.
    pub(crate) fn look(&mut self, ended: Ended, now: Nanos) -> (f32, f32) {
        let keep = |memory: f32| (-(now.saturating_sub(self.at) as f32) / memory).exp();
        let new = |now: u64, then: u64| now.saturating_sub(then) as f32;
        let calls = new(ended.calls, self.seen.calls);
        // Counted one after the other, so there may seem to be more failures than calls for a moment.
        let failures = new(ended.failures, self.seen.failures).min(calls);
        self.calls = self.calls * keep(WINDOW) + calls;
        self.failures = self.failures * keep(WINDOW) + failures;
        self.moment = (self.moment.0 * keep(MOMENT) + calls, self.moment.1 * keep(MOMENT) + failures);
        (self.seen, self.at) = (ended, now);
        (calls, failures)
    }

    /// Forgets what was.
    pub(crate) fn clear(&mut self) {
        (self.calls, self.failures, self.moment) = (0.0, 0.0, (0.0, 0.0));
    }

    /// The share of the calls that failed.
    pub(crate) fn rate(&self) -> f32 {
        if self.calls > 0.0 { self.failures / self.calls } else { 0.0 }
    }

    /// The share that failed in the last moment; `None` when there was hardly a call.
    pub(crate) fn just_now(&self) -> Option<f32> {
        let (calls, failures) = self.moment;
        (calls >= 0.5).then(|| failures / calls)
    }
}

/// An ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejected {
    pub(crate) rule: EjectionRule,
    pub(crate) since: Nanos,
    /// When a probe may find out.
    pub(crate) until: Nanos,
}

#[derive(Debug)]
pub(crate) struct Record {
    /// Since when it gets calls: since it joined, or returned.
    pub(crate) in_service: Nanos,
    pub(crate) window: Window,
    /// Calls and failures since it last did well: not chance, until it does well again.
    pub(crate) open: (f32, f32),
    pub(crate) ejected: Option<Ejected>,
    /// How many times it was ejected lately.
    pub(crate) ejections: u32,
    /// When the last ejection ended, or was forgiven.
    pub(crate) well_since: Nanos,
    /// The last probe that was seen, and since when it is as it is.
    pub(crate) probe: Probe,
    pub(crate) probe_since: Nanos,
}

impl Record {
    pub(crate) fn new(now: Nanos) -> Self {
        Self {
            in_service: now,
            window: Window::default(),
            open: (0.0, 0.0),
            ejected: None,
            ejections: 0,
            well_since: now,
            probe: Probe::default(),
            probe_since: now,
        }
    }

    /// For how long it is in service.
    pub(crate) fn age(&self, now: Nanos) -> Nanos {
        now.saturating_sub(self.in_service)
    }

    /// One ejection is forgiven for each `base` in service.
    pub(crate) fn forgive(&mut self, now: Nanos, base: Duration) {
        let base = super::nanos(base).max(1);
        while self.ejections > 0 && now.saturating_sub(self.well_since) >= base {
            self.ejections -= 1;
            self.well_since += base;
        }
        if self.ejections == 0 {
            self.well_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn what_is_ten_seconds_old_counts_a_third() {
        let mut window = Window::default();
        assert_eq!(window.look(Ended { calls: 100, failures: 50 }, 0), (100.0, 50.0));
        assert_eq!(window.look(Ended { calls: 100, failures: 50 }, 10 * SECOND), (0.0, 0.0));
        assert!((window.calls - 36.8).abs() < 0.1 && (window.rate() - 0.5).abs() < 1e-3, "{window:?}");
        assert_eq!(window.look(Ended { calls: 101, failures: 55 }, 10 * SECOND), (1.0, 1.0));
    }

    #[test]
    fn one_ejection_is_forgiven_for_each_base_in_service() {
        let mut record = Record::new(0);
        (record.ejections, record.well_since) = (3, SECOND);
        let base = Duration::from_secs(30);
        let after = |record: &mut Record, seconds: Nanos| {
            record.forgive(seconds * SECOND, base);
            record.ejections
        };
        assert_eq!([30, 31, 60, 61, 1_000].map(|seconds| after(&mut record, seconds)), [3, 2, 2, 1, 0]);
    }
}
