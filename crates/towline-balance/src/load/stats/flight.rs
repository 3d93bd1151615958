//! A call that counts on an endpoint.

use std::fmt;
use std::sync::Arc;

use towline_core::{LoadReport, Outcome};

use super::{CALL, End, IN_FLIGHT, IN_FLIGHT_BITS, LATE_TIMES, Standing, Stats, TRACKED, took};
use crate::load::oldest::Slot;
use crate::load::status::Probe;
use crate::load::{Entry, Nanos};
use crate::sync::Ordering;

/// A call that counts on an endpoint until it is [ended](Flight::end). Dropped without that, it was given up: a lower
/// bound of the endpoint's latency, nothing more.
#[must_use = "a call counts for as long as its `Flight` lives"]
pub struct Flight {
    stats: Arc<Stats>,
    began: Nanos,
    slot: Option<Slot>,
    /// How many had begun before it.
    serial: u32,
    /// Whether it is to find out if an ejected endpoint does well again.
    probe: Option<Probe>,
    /// Whether it is the probe of an endpoint on probation.
    is_trial: bool,
    /// Whether the endpoint has granted it yet: until then it was never there, once it is dropped.
    is_granted: bool,
    has_ended: bool,
    /// Of the calls that it is kept together with, for the load bound.
    key: Option<u64>,
}

impl Flight {
    /// The endpoint is asked for a call at `now`, which waits for it unless it is granted already; `None` when the endpoint
    /// is at a limit. One on probation may be asked for its probe.
    #[inline(always)]
    pub(crate) fn ask(stats: Arc<Stats>, now: Nanos, is_granted: bool, is_trial: bool, entry: Entry) -> Option<Self> {
        let before = stats.calls.fetch_add(CALL, Ordering::Relaxed);
        let levels = &stats.levels;
        let waiting = if is_granted { 0 } else { stats.pending.fetch_add(1, Ordering::Relaxed) };
        if levels.is_limited && !stats.is_within_limits((before & IN_FLIGHT) as u32, waiting, entry) {
            stats.take_back(is_granted);
            return None;
        }
        let slot = if levels.is_timed() {
            stats.oldest.begin(now, (stats.measure().median() / TRACKED) as Nanos)
        } else {
            None
        };
        levels.touch();
        let (probe, serial) = (stats.status.begin(), (before >> IN_FLIGHT_BITS) as u32);
        Some(Self { stats, began: now, slot, serial, probe, is_trial, is_granted, has_ended: false, key: entry.key })
    }

    /// A call to the endpoint begins at `now`; `None` when the endpoint is at a limit.
    #[inline]
    pub fn begin(stats: Arc<Stats>, now: Nanos) -> Option<Self> {
        Self::ask(stats, now, true, false, Entry::default())
    }

    #[inline]
    pub(crate) fn granted(&mut self) {
        if !self.is_granted {
            self.is_granted = true;
            self.stats.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Which endpoint.
    #[inline]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The server said this about itself with its answer.
    pub fn report(&self, report: LoadReport) {
        let (stats, levels) = (&self.stats, &self.stats.levels);
        // This call is counted in what the server said, or just ended: it is not there any more.
        stats.report.store(levels.clock.now(), report, stats.in_flight().saturating_sub(1));
        if let Some(index) = stats.place() {
            levels.reported(index);
        }
    }

    /// The call has ended like this.
    #[inline]
    pub fn end(self, outcome: Outcome) {
        let now = self.stats.levels.now();
        self.end_at(now, Some(outcome));
    }

    /// As [`end`](Self::end), at a time of one's own; `None` when the caller gave it up.
    #[inline]
    pub fn end_at(mut self, now: Nanos, outcome: Option<Outcome>) {
        self.finish(now, outcome.map_or(End::GivenUp, End::Outcome));
    }

    /// The endpoint could not be reached, so that there was no call.
    pub fn unreachable(mut self) {
        let now = self.stats.levels.now();
        self.finish(now, End::Unreachable);
    }

    #[inline]
    fn finish(&mut self, now: Nanos, end: End) {
        self.has_ended = true;
        let stats = &*self.stats;
        // Who was only asked, and neither granted nor refused, is not counted among the calls.
        let never_was = !self.is_granted && matches!(end, End::GivenUp);
        if !self.is_granted {
            stats.pending.fetch_sub(1, Ordering::Relaxed);
        }
        let before = stats.calls.fetch_sub(if never_was { CALL } else { 1 }, Ordering::Relaxed);
        if let Some(slot) = self.slot.take() {
            stats.oldest.end(slot);
        }
        if let Some(probe) = self.probe {
            stats.probed(probe, self.began, now, if never_was { end } else { stats.unanswered(self.began, now, end) });
        }
        let levels = &stats.levels;
        if let Some(bound) = &levels.bound {
            bound.leave(self.key);
        }
        if never_was {
            if self.is_trial {
                stats.leave_trial(now);
            }
            return;
        }
        if levels.is_timed() {
            let was_bad = stats.standing(now) == Standing::OnProbation;
            let is_well = stats.count(self.began, now, stats.unanswered(self.began, now, end));
            stats.learn(self.began, now, end, was_bad, is_well, self.is_trial);
        } else {
            stats.count(self.began, now, end);
            if self.is_trial && matches!(end, End::GivenUp) {
                stats.leave_trial(now);
            }
        }
        if levels.is_limited {
            let was_late = if levels.is_timed() {
                took(self.began, now) > LATE_TIMES * stats.measure().usual()
            } else {
                matches!(end, End::GivenUp)
            };
            stats.adapt(self.serial, (before & IN_FLIGHT) as u32, end, was_late);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.has_ended {
            let now = self.stats.levels.now();
            self.finish(now, End::GivenUp);
        }
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("stats", &self.stats).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use towline_core::EndpointKey;

    use super::*;
    use crate::load::{Admission, Allowance, Circuit, Clock, Levels, LoadMetric, Settings};
    use crate::sync::AtomicU64;

    /// An endpoint whose limit is learned, from 20 on.
    fn adaptive() -> Arc<Stats> {
        let circuit = Circuit::new().adaptive(1, 100).unwrap();
        let settings = Settings { metric: LoadMetric::in_flight(), circuit, ..Settings::default() };
        Stats::new(EndpointKey::new("a"), Levels::new(settings, Clock::Manual(AtomicU64::new(0))))
    }

    fn limit_after(ends: &[Option<Outcome>]) -> Option<u32> {
        let stats = adaptive();
        // The very first call is as old as the limit, and says nothing.
        drop(Flight::begin(stats.clone(), 0));
        let flights: Vec<_> = ends.iter().map(|_| Flight::begin(stats.clone(), 0).unwrap()).collect();
        flights.into_iter().zip(ends).for_each(|(flight, end)| flight.end_at(0, *end));
        stats.limit()
    }

    #[test]
    fn pushback_and_calls_that_are_given_up_shrink_the_limit_and_other_failures_do_not() {
        assert_eq!(limit_after(&[]), Some(20));
        assert_eq!(limit_after(&[Some(Outcome::Pushback(None)); 3]), Some(14), "once for all together");
        assert_eq!(limit_after(&[None; 4]), Some(14), "four are a queue");
        assert_eq!(limit_after(&[None; 3]), Some(20));
        assert_eq!(limit_after(&[Some(Outcome::Failure); 15]), Some(20));
        assert_eq!(limit_after(&[Some(Outcome::Ignore); 15]), Some(20));
        assert_eq!(limit_after(&[Some(Outcome::Success); 15]), Some(20), "half of it was used by the first six alone");
    }

    #[test]
    fn a_call_that_is_refused_at_a_limit_was_never_there() {
        let circuit = Circuit::new().in_flight(2).unwrap().pending(1).unwrap();
        let levels = Levels::new(Settings { circuit, ..Settings::default() }, Clock::Manual(AtomicU64::new(0)));
        let stats = Stats::new(EndpointKey::new("a"), levels);
        let mut waits = Flight::ask(stats.clone(), 0, false, false, Entry::default()).unwrap();
        assert!(Flight::ask(stats.clone(), 0, false, false, Entry::default()).is_none(), "one waits");
        assert_eq!((stats.in_flight(), stats.begun()), (1, 1));
        waits.granted();
        waits.granted();
        let second = Flight::ask(stats.clone(), 0, false, false, Entry::default()).unwrap();
        assert!(Flight::begin(stats.clone(), 0).is_none(), "two are in flight");
        drop((waits, second));
        assert_eq!((stats.in_flight(), stats.begun()), (0, 1), "the second was not granted");
        assert!(Flight::ask(stats, 0, false, false, Entry::default()).is_some());
    }

    #[test]
    fn a_call_that_comes_to_an_endpoint_at_its_bound_was_never_there() {
        let settings = Settings { load_bound: Some(1.25), ..Settings::default() };
        let levels = Levels::new(settings, Clock::Manual(AtomicU64::new(0)));
        levels.bound.as_ref().unwrap().set_of([1.0; 5].into_iter());
        let home = Entry { allowance: Allowance::Home, key: Some(1), per_call: 1.0 };
        let stats = Stats::new(EndpointKey::new("a"), levels.clone());
        let held: Vec<_> = (0..10).map_while(|_| Flight::ask(stats.clone(), 0, true, false, home)).collect();
        assert_eq!(held.len(), 1, "the mean of one call over five, rounded up");
        let elsewhere = Stats::new(EndpointKey::new("b"), levels);
        let others: Vec<_> = (0..3).map(|_| Flight::begin(elsewhere.clone(), 0).unwrap()).collect();
        assert!(Flight::ask(stats.clone(), 0, true, false, home).is_some(), "two of five calls");
        drop((held, others));
        assert_eq!((stats.in_flight(), stats.begun()), (0, 2));
        assert!(Flight::ask(stats, 0, true, false, home).is_some());
    }

    #[test]
    fn without_a_clock_for_calls_an_older_success_does_not_cancel_what_a_server_has_asked_for() {
        let levels = Levels::new(
            Settings { metric: LoadMetric::in_flight(), ..Settings::default() },
            Clock::Manual(AtomicU64::new(0)),
        );
        let stats = Stats::new(EndpointKey::new("a"), levels.clone());
        let [older, newer] = [(); 2].map(|()| Flight::begin(stats.clone(), 0).unwrap());
        newer.end(Outcome::Pushback(Some(std::time::Duration::from_secs(60))));
        older.end(Outcome::Success);
        levels.clock.set(59_000_000_000);
        assert_eq!(stats.admits(0), Admission::No);
        // Later there is one probe, and it ends that.
        levels.clock.set(60_000_000_000);
        assert_eq!((stats.admits(0), stats.admits(0)), (Admission::Probe, Admission::No));
        Flight::begin(stats.clone(), 0).unwrap().end(Outcome::Success);
        assert_eq!(stats.admits(0), Admission::Yes);
    }
}
