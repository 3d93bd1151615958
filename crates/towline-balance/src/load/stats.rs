//! One life of an endpoint, counted; and a call that counts on it.

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::fmt;
use std::sync::Arc;

use towline_core::{EndpointId, EndpointKey, LoadReport, Outcome, Reported};

use super::ewma::Ewma;
use super::oldest::{Oldest, Slot};
use super::probation::Probation;
use super::report::Report;
use super::{Levels, Nanos, nanos};

/// What calls have left behind on one life of an endpoint. Outlives its removal for as long as calls are in flight: a
/// late event of an old life changes the old life's numbers and nobody else's.
pub struct Stats {
    id: EndpointId,
    key: EndpointKey,
    levels: Arc<Levels>,
    /// Calls in flight in the low 24 bits, calls begun above.
    calls: AtomicU64,
    latency: Ewma,
    oldest: Oldest,
    probation: Probation,
    report: Report,
    /// Where it is in the snapshot that was published last.
    index: AtomicU32,
}

const IN_FLIGHT_BITS: u32 = 24;
const IN_FLIGHT: u64 = (1 << IN_FLIGHT_BITS) - 1;

/// How many times the median a failure counts for.
const PENALTY: f32 = 10.0;
/// The longest that a server's wish to be left alone counts for, in nanoseconds: five minutes.
const LONGEST_PUSHBACK: f32 = 300e9;
/// Answers before an endpoint's latency is compared with the set's.
const SAMPLES: u64 = 3;
/// Tracked calls per median latency.
const TRACKED: f32 = 16.0;

impl Stats {
    pub(crate) fn new(key: EndpointKey, levels: Arc<Levels>) -> Arc<Self> {
        Arc::new(Self {
            id: EndpointId::fresh(),
            key,
            levels,
            calls: AtomicU64::new(0),
            latency: Ewma::default(),
            oldest: Oldest::default(),
            probation: Probation::default(),
            report: Report::default(),
            index: AtomicU32::new(u32::MAX),
        })
    }

    /// This life of the endpoint.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Its key.
    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    pub(crate) fn moved_to(&self, index: usize) {
        self.index.store(u32::try_from(index).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Calls that have not ended.
    pub fn in_flight(&self) -> u32 {
        (self.calls.load(Ordering::Relaxed) & IN_FLIGHT) as u32
    }

    /// Calls that have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.calls.load(Ordering::Relaxed) >> IN_FLIGHT_BITS
    }

    /// The average latency at `now`, in nanoseconds, `None` before the first answer.
    pub(crate) fn average(&self, now: Nanos) -> Option<f32> {
        self.latency.read().map(|reading| reading.at(now, self.levels.median(), self.levels.rate))
    }

    /// Age of the oldest call in flight that is tracked.
    pub(crate) fn oldest_age(&self, now: Nanos) -> Nanos {
        self.oldest.age(now)
    }

    /// The latency to expect: the average, or the age of the oldest call if that is more, or the median of the set.
    fn estimate(&self, now: Nanos) -> f32 {
        let average = self.average(now).unwrap_or_else(|| self.levels.median());
        average.max(self.oldest_age(now) as f32)
    }

    /// Whether nobody should call it but one at a time: it is far slower than the set, or nobody knows yet.
    pub(crate) fn is_on_probation(&self, now: Nanos) -> bool {
        let median = self.levels.median();
        if median == 0.0 {
            return false;
        }
        match self.latency.read() {
            None => true,
            Some(reading) => reading.samples >= SAMPLES && self.estimate(now) > self.levels.limit(),
        }
    }

    /// Whether an endpoint on probation may be called now: nobody is calling it, and if it has ever answered, the pause
    /// since the last probe is over.
    pub(crate) fn is_probe_due(&self, now: Nanos) -> bool {
        self.in_flight() == 0 && (self.latency.read().is_none() || self.probation.is_due(now))
    }

    /// Takes the one call that an endpoint on probation may have now.
    pub(crate) fn begin_probe(&self, now: Nanos) -> bool {
        self.in_flight() == 0 && (self.latency.read().is_none() || self.probation.begin(now))
    }

    /// What a call to it costs now; `weight` divides the calls in flight.
    pub(crate) fn load(&self, now: Nanos, weight: f64) -> f64 {
        let in_flight = f64::from(self.in_flight()) / weight;
        if !self.levels.is_timed() {
            return in_flight;
        }
        if self.is_on_probation(now) {
            return if self.is_probe_due(now) { 0.0 } else { f64::INFINITY };
        }
        let median = self.levels.median();
        if median == 0.0 {
            // Before anything is known about the set there is no latency that could be compared.
            return in_flight;
        }
        let latency = self.estimate(now);
        f64::from(latency * (latency / median).max(1.0)) * (1.0 + in_flight)
    }

    pub(crate) fn reported(&self, now: Nanos) -> Option<Reported> {
        self.report.read(now, self.in_flight())
    }

    /// Forgets what is too old.
    pub(crate) fn sweep(&self, now: Nanos) {
        self.report.sweep(now);
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stats").field("key", &self.key).field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// A call that counts on an endpoint until it is [ended](Flight::end). Dropped without that, it was given up: a lower
/// bound of the endpoint's latency, nothing more.
#[must_use = "a call counts for as long as its `Flight` lives"]
pub struct Flight {
    stats: Arc<Stats>,
    began: Nanos,
    slot: Option<Slot>,
    ended: bool,
}

impl Flight {
    /// A call to the endpoint begins at `now`.
    pub fn begin(stats: Arc<Stats>, now: Nanos) -> Self {
        stats.calls.fetch_add(1 << IN_FLIGHT_BITS | 1, Ordering::Relaxed);
        let levels = &stats.levels;
        let slot = if levels.is_timed() {
            levels.touch();
            stats.oldest.begin(now, (levels.median() / TRACKED) as Nanos)
        } else {
            None
        };
        Self { stats, began: now, slot, ended: false }
    }

    /// Which endpoint.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The server said this about itself with its answer.
    pub fn report(&self, report: LoadReport) {
        self.report_at(self.stats.levels.clock.now(), report);
    }

    /// As [`report`](Self::report), at a time of one's own.
    pub fn report_at(&self, now: Nanos, report: LoadReport) {
        let stats = &self.stats;
        // This call is counted in what the server said, or just ended: it is not there any more.
        stats.report.store(now, report, stats.in_flight().saturating_sub(1));
        stats.levels.recent.push(stats.index.load(Ordering::Relaxed) as usize);
    }

    /// The call has ended like this.
    pub fn end(self, outcome: Outcome) {
        let now = self.stats.levels.now();
        self.end_at(now, Some(outcome));
    }

    /// As [`end`](Self::end), at a time of one's own; `None` when the caller gave it up.
    pub fn end_at(mut self, now: Nanos, outcome: Option<Outcome>) {
        self.finish(now, outcome);
    }

    fn finish(&mut self, now: Nanos, outcome: Option<Outcome>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let stats = &*self.stats;
        stats.calls.fetch_sub(1, Ordering::Relaxed);
        if let Some(slot) = self.slot.take() {
            stats.oldest.end(slot);
        }
        if stats.levels.is_timed() {
            stats.learn(now, now.saturating_sub(self.began) as f32, outcome);
        }
    }
}

impl Stats {
    fn learn(&self, now: Nanos, took: f32, outcome: Option<Outcome>) {
        let (median, limit, rate) = (self.levels.median(), self.levels.limit(), self.levels.rate);
        let was_above = self.average(now).is_some_and(|average| average > limit);
        match outcome {
            // With nothing to measure it by, a short failure must not leave a short latency.
            None | Some(Outcome::Failure | Outcome::Pushback(None)) if median == 0.0 => {}
            Some(Outcome::Success) if was_above && took <= limit => {
                // A probe that went well: what was before it is over.
                self.latency.restart(now, took.max(median));
                return self.probation.passed();
            }
            Some(Outcome::Success) => self.latency.answered(now, took, rate),
            Some(Outcome::Pushback(hint)) => {
                let wish = hint.map_or(median * PENALTY, |hint| (nanos(hint) as f32).min(LONGEST_PUSHBACK));
                self.latency.at_least(now, took.max(wish), median, rate);
            }
            // How long a wrong argument takes to be refused says nothing.
            Some(Outcome::Ignore) => return self.probation.inconclusive(now),
            None => {
                self.latency.at_least(now, took, median, rate);
                if took <= limit {
                    return self.probation.inconclusive(now);
                }
            }
            Some(_) => self.latency.at_least(now, took.max(median * PENALTY), median, rate),
        }
        if was_above || self.average(now).is_some_and(|average| average > limit) {
            self.probation.failed(now);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.ended {
            let now = self.stats.levels.now();
            self.finish(now, None);
        }
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("stats", &self.stats).finish_non_exhaustive()
    }
}
