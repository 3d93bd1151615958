//! One life of an endpoint, counted.

mod flight;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use towline_core::sync::Lock;
use towline_core::{EndpointId, EndpointKey, Outcome, Reported, Room};

use super::ewma::Ewma;
use super::limit::Limit;
use super::measure::NEEDED;
use super::oldest::Oldest;
use super::probation::Probation;
use super::record::{Ejected, Ended, Record};
use super::report::Report;
use super::status::{Ejection, Probe, Seen, Status};
use super::{Entry, Levels, Measure, Nanos, PEERS, nanos};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

pub use self::flight::Flight;

/// What calls have left behind on one life of an endpoint. Outlives its removal for as long as calls are in flight: a
/// late event of an old life changes the old life's numbers and nobody else's.
pub struct Stats {
    id: EndpointId,
    key: EndpointKey,
    levels: Arc<Levels>,
    /// Calls in flight in the low 24 bits, calls begun above.
    calls: AtomicU64,
    status: Status,
    /// What share of the calls that are its by its load it gets in slow start, a float from 0 to 1.
    share: AtomicU32,
    /// Calls that have failed, ever.
    failed: AtomicU64,
    /// Calls that ended and say nothing about success.
    ignored: AtomicU64,
    /// Calls that wait for it to lend.
    pending: AtomicU32,
    limit: Limit,
    record: Lock<Record>,
    /// Of answers, and of what was given up: what the median of the set is made of. No failure is in it that was fast.
    latency: Ewma,
    /// When the last failure was.
    failed_at: AtomicU64,
    /// Until when it has asked to be left alone, by the clock.
    held_until: AtomicU64,
    oldest: Oldest,
    probation: Probation,
    report: Report,
    /// Where it is in the snapshot that was published last, or [`NOWHERE`].
    index: AtomicU32,
    /// Whom its latency is compared with.
    peers: AtomicU32,
}

/// The index of who is in no snapshot.
const NOWHERE: u32 = u32::MAX;

const IN_FLIGHT_BITS: u32 = 24;
const IN_FLIGHT: u64 = (1 << IN_FLIGHT_BITS) - 1;
/// What a call adds: one in flight, one begun.
const CALL: u64 = 1 << IN_FLIGHT_BITS | 1;

/// Failures in a row that put an endpoint on probation. One alone is no news: with one call in a hundred failing
/// everywhere, half of the set would be avoided at any time.
const FAILURES: u32 = 2;
/// The longest that a server's wish to be left alone is respected.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(300);
/// Answers before an endpoint's latency is compared with the set's.
const SAMPLES: u64 = 3;
/// A call that is older, in nanoseconds, and far above the set's latency, is a reason to ask for another.
const LATE: f32 = 4.8e9;
/// Times the usual latency that are late: for the queue, not for a call.
const LATE_TIMES: f32 = 4.0;
/// Tracked calls per median latency.
const TRACKED: f32 = 16.0;
/// Latencies within this factor of the median count as the median: what differs by less is noise, and would outweigh
/// the weights.
const ALIKE: f32 = 1.25;
/// Who is avoided costs this many times as much: more than any other, and comparable among themselves.
const AVOIDED: f64 = 1e9;

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Like the others.
    Fine,
    /// Has not answered yet, while others have.
    New,
    /// Fails, or is far slower than the others.
    OnProbation,
    /// An outlier, out for a while.
    Ejected,
}

/// Whether a call may go to an endpoint that is not ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Yes,
    /// As the probe of an endpoint on probation: one of all that ask.
    Probe,
    No,
}

impl Stats {
    pub(crate) fn new(key: EndpointKey, levels: Arc<Levels>) -> Arc<Self> {
        let now = levels.clock.now();
        let share = levels.newborn();
        Arc::new(Self {
            id: EndpointId::fresh(),
            key,
            calls: AtomicU64::new(0),
            status: Status::new(share < 1.0),
            share: AtomicU32::new(share.to_bits()),
            failed: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            pending: AtomicU32::new(0),
            limit: Limit::new(levels.circuit.adaptive.map_or(u32::MAX, |adaptive| adaptive.initial)),
            record: Lock::new(Record::new(now)),
            levels,
            latency: Ewma::default(),
            failed_at: AtomicU64::new(0),
            held_until: AtomicU64::new(0),
            oldest: Oldest::default(),
            probation: Probation::default(),
            report: Report::default(),
            index: AtomicU32::new(NOWHERE),
            peers: AtomicU32::new(0),
        })
    }

    /// This life of the endpoint.
    #[inline]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Its key.
    #[inline]
    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    pub(crate) fn moved_to(&self, index: usize, peers: u8) {
        self.index.store(u32::try_from(index).unwrap_or(NOWHERE), Ordering::Relaxed);
        self.peers.store(u32::from(peers), Ordering::Relaxed);
    }

    /// It is in no snapshot from the next on: whatever calls say that are still there is not to be taken for its successor's.
    pub(crate) fn left(&self) {
        self.index.store(NOWHERE, Ordering::Relaxed);
    }

    /// Where it is in the snapshot that was published last.
    fn place(&self) -> Option<usize> {
        let index = self.index.load(Ordering::Relaxed);
        (index != NOWHERE).then_some(index as usize)
    }

    /// Their number, below [`PEERS`].
    #[inline]
    pub(crate) fn peers(&self) -> usize {
        (self.peers.load(Ordering::Relaxed) as usize).min(PEERS - 1)
    }

    /// How its peers do.
    #[inline]
    pub(crate) fn measure(&self) -> &Measure {
        &self.levels.measures[self.peers()]
    }

    /// Calls that have not ended.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        (self.calls.load(Ordering::Relaxed) & IN_FLIGHT) as u32
    }

    /// Calls that have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.calls.load(Ordering::Relaxed) >> IN_FLIGHT_BITS
    }

    /// The average latency at `now`, in nanoseconds, `None` before the first answer.
    pub(crate) fn average(&self, now: Nanos) -> Option<f32> {
        self.latency.read().map(|reading| reading.at(now, self.measure().median(), self.levels.rate))
    }

    /// Age of the oldest tracked call in flight after which none has succeeded.
    pub(crate) fn oldest_age(&self, now: Nanos) -> Nanos {
        self.oldest.age(now)
    }

    #[inline]
    pub(crate) fn seen(&self) -> Seen {
        self.status.get()
    }

    /// Whether it is an outlier, and out.
    pub fn is_ejected(&self) -> bool {
        self.status.get().is_ejected()
    }

    /// Whether it is out for failing, or on probation for that or because it has asked for it.
    pub(crate) fn fails(&self) -> bool {
        let seen = self.status.get();
        seen.is_ejected() || seen.fails(FAILURES)
    }

    /// For the driver: it alone begins and ends ejections and slow start.
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// For the driver.
    pub(crate) fn record(&self) -> &Lock<Record> {
        &self.record
    }

    /// The ejection under way, and how many there were lately.
    pub(crate) fn ejected(&self) -> (Option<Ejected>, u32) {
        let record = self.record.lock();
        (record.ejected, record.ejections)
    }

    /// The probe of the ejected endpoint that was given to this call goes to another.
    pub(crate) fn leave_probe(&self) {
        self.status.unclaim();
    }

    /// And that of the endpoint on probation.
    pub(crate) fn leave_trial(&self, now: Nanos) {
        self.probation.inconclusive(self.by_clock(now));
    }

    /// For what is timed whatever the metric: rare enough to read the clock, for metrics without one.
    fn by_clock(&self, now: Nanos) -> Nanos {
        if self.levels.is_timed() { now } else { self.levels.clock.now() }
    }

    /// Until when it has asked to be left alone.
    pub(crate) fn held_until(&self) -> Nanos {
        self.held_until.load(Ordering::Relaxed)
    }

    /// What share of its calls it gets in slow start.
    pub(crate) fn share(&self) -> f32 {
        f32::from_bits(self.share.load(Ordering::Relaxed))
    }

    pub(crate) fn set_share(&self, share: f32) {
        self.share.store(share.to_bits(), Ordering::Relaxed);
        self.status.set_slow_start(share < 1.0);
    }

    /// Ends what only the driver would end.
    pub(crate) fn set_free(&self) {
        self.status.set_ejection(Ejection::None);
        self.set_share(1.0);
        self.record.lock().ejected = None;
    }

    /// Calls that have ended, ever.
    pub(crate) fn ended(&self) -> Ended {
        // Failures first: what ends between the two readings is a call that failed later.
        let failures = self.failed.load(Ordering::Relaxed);
        let ignored = self.ignored.load(Ordering::Relaxed);
        let calls = self.calls.load(Ordering::Relaxed);
        let ended = (calls >> IN_FLIGHT_BITS).saturating_sub(calls & IN_FLIGHT);
        Ended { calls: ended.saturating_sub(ignored), failures }
    }

    /// Whether it is at a limit of calls in flight, or of calls that wait for it if this one would have to.
    #[inline]
    pub(crate) fn is_full(&self, room: Room) -> bool {
        let circuit = &self.levels.circuit;
        self.levels.is_limited
            && (self.in_flight() >= circuit.in_flight.min(self.limit.get())
                || room != Room::Ready && self.pending.load(Ordering::Relaxed) >= circuit.pending)
    }

    /// Whether one more call is, beside so many in flight and so many that wait. If so, the load bound has counted it.
    fn is_within_limits(&self, in_flight: u32, waiting: u32, entry: Entry) -> bool {
        let circuit = &self.levels.circuit;
        in_flight < circuit.in_flight.min(self.limit.get())
            && waiting < circuit.pending
            && self.levels.bound.as_ref().is_none_or(|bound| bound.enter(entry, in_flight))
    }

    /// A call that was counted and may not begin.
    #[cold]
    fn take_back(&self, is_granted: bool) {
        self.calls.fetch_sub(CALL, Ordering::Relaxed);
        if !is_granted {
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The most calls that it may have in flight, `None` without a limit.
    pub(crate) fn limit(&self) -> Option<u32> {
        Some(self.levels.circuit.in_flight.min(self.limit.get())).filter(|limit| *limit != u32::MAX)
    }

    /// How it stands at `now`.
    #[inline]
    pub(crate) fn standing(&self, now: Nanos) -> Standing {
        let seen = self.status.get();
        if seen.is_ejected() {
            Standing::Ejected
        } else if self.levels.is_timed() {
            self.timed_standing(seen, now)
        } else {
            Standing::Fine
        }
    }

    // Not inline, like `full_load`: who counts calls in flight alone shall not pay for what he does not use.
    #[inline(never)]
    fn timed_standing(&self, seen: Seen, now: Nanos) -> Standing {
        if seen.fails(FAILURES) {
            return Standing::OnProbation;
        }
        let median = self.measure().median();
        match self.latency.read() {
            None if median > 0.0 => Standing::New,
            // What is below the limit stays below it: it comes back to the median, and needs no closer look.
            Some(reading) if reading.samples >= SAMPLES && reading.average > self.measure().limit() => {
                let average = reading.at(now, median, self.levels.rate);
                if average > self.measure().limit() { Standing::OnProbation } else { Standing::Fine }
            }
            _ if self.is_late(now) => Standing::OnProbation,
            _ => Standing::Fine,
        }
    }

    /// Whether its oldest call has kept everybody else away for long enough: by its cost nobody would ever find out that
    /// the endpoint answers others.
    #[inline]
    fn is_late(&self, now: Nanos) -> bool {
        let limit = self.measure().limit().max(LATE);
        self.oldest.at_most(now) as f32 > limit && self.oldest_age(now) as f32 > limit
    }

    /// Whether an endpoint that stands like this may not be called now. One on probation may when its pause is over;
    /// a new one when nobody is calling it, and once more for every median latency that its answer is late.
    #[inline]
    pub(crate) fn is_avoided(&self, standing: Standing, now: Nanos) -> bool {
        match standing {
            Standing::Fine => false,
            Standing::New => self.in_flight() as f32 > self.oldest_age(now) as f32 / self.measure().median(),
            Standing::OnProbation => !self.probation.is_due(now) && !self.is_needed(),
            Standing::Ejected => !matches!(self.status.get().ejection(), Ejection::Due | Ejection::DueIfIdempotent),
        }
    }

    /// Whether its peers cannot do without it, though it is on probation. Who has asked to be left alone is.
    fn is_needed(&self) -> bool {
        self.measure().needs_all() && !self.status.get().is_pushed_back()
    }

    /// Whether an endpoint that is ejected may be called now: of those who ask when a probe is due, one gets it.
    pub(crate) fn admits_probe(&self, is_idempotent: bool) -> bool {
        self.status.claim(is_idempotent)
    }

    /// Whether it may be called now; of those who ask about one on probation, one gets the probe.
    #[inline]
    pub(crate) fn admits(&self, now: Nanos) -> Admission {
        self.admission(now, Probation::begin)
    }

    /// Whether it would be, for who does not want the probe.
    pub(crate) fn would_admit(&self, now: Nanos) -> bool {
        self.admission(now, Probation::is_due) != Admission::No
    }

    #[inline]
    fn admission(&self, now: Nanos, may_probe: impl FnOnce(&Probation, Nanos) -> bool) -> Admission {
        let seen = self.status.get();
        let standing = if self.levels.is_timed() {
            self.timed_standing(seen, now)
        } else if seen.is_pushed_back() {
            Standing::OnProbation
        } else {
            return Admission::Yes;
        };
        match standing {
            Standing::OnProbation if may_probe(&self.probation, self.by_clock(now)) => Admission::Probe,
            standing if self.is_avoided(standing, now) => Admission::No,
            _ => Admission::Yes,
        }
    }

    /// What a call to it costs now; each in flight counts `per_call`.
    #[inline]
    pub(crate) fn load(&self, now: Nanos, per_call: f64) -> f64 {
        let in_flight = f64::from(self.in_flight()) * per_call;
        if self.levels.is_timed() || self.status.get().is_ejected() {
            self.full_load(now, in_flight)
        } else {
            in_flight
        }
    }

    #[inline(never)]
    fn full_load(&self, now: Nanos, in_flight: f64) -> f64 {
        // Where too few are left, nobody is better than anybody but by what a call costs.
        let standing = if self.levels.panics() { Standing::Fine } else { self.standing(now) };
        let times = match standing {
            standing if self.is_avoided(standing, now) => AVOIDED,
            // Its probe is due: nobody goes before it.
            Standing::Ejected => return 0.0,
            Standing::OnProbation if self.probation.is_due(now) => return 0.0,
            Standing::OnProbation if self.fails() => NEEDED,
            _ => 1.0,
        };
        let median = self.measure().median();
        // Before anything is known about the set there is no latency that could be compared.
        let latency = if median == 0.0 { 1.0 } else { self.relative_latency(now, median) };
        latency * (1.0 + in_flight) * times
    }

    /// The latency to expect in terms of the median: the average or the age of the oldest call; what is slower than the
    /// median counts twice.
    fn relative_latency(&self, now: Nanos, median: f32) -> f64 {
        let average = self.average(now).unwrap_or(median);
        let relative = average / median;
        let relative = if (1.0 / ALIKE..=ALIKE).contains(&relative) { 1.0 } else { relative };
        // Whoever succeeds shows that no call is stuck that began before: mostly that was just now, and there is no older.
        let age = if self.oldest.at_most(now) as f32 > average { self.oldest_age(now) as f32 } else { 0.0 };
        let relative = if age > average { relative.max(age / median) } else { relative };
        f64::from(relative * relative.max(1.0))
    }

    pub(crate) fn reported(&self, now: Nanos) -> Option<Reported> {
        self.report.read(now, self.in_flight())
    }

    /// Forgets what is too old.
    pub(crate) fn sweep(&self, now: Nanos) {
        self.report.sweep(now);
    }

    /// A call that began then was answered: that ends a row of failures, unless the last of them came later. An endpoint
    /// that begins to fail still answers what it had taken before. Where nothing is timed nobody knows which came first; then
    /// what the endpoint has asked for holds as long as it asked.
    #[inline]
    fn is_well_since(&self, began: Nanos) -> bool {
        let seen = self.status.get();
        !seen.fails_at_all() || self.is_well_again(seen, began)
    }

    #[inline(never)]
    fn is_well_again(&self, seen: Seen, began: Nanos) -> bool {
        let is_well = if self.levels.is_timed() || !seen.is_pushed_back() {
            began >= self.failed_at.load(Ordering::Relaxed)
        } else {
            self.levels.clock.now() >= self.held_until()
        };
        if is_well {
            self.status.is_well();
        }
        is_well
    }

    /// A call that was given up so late, and nobody has been answered meanwhile, is a failure: that was no impatience. Where
    /// all have queues it is nobody's.
    fn unanswered(&self, began: Nanos, now: Nanos, end: End) -> End {
        let measure = self.measure();
        let is_silent =
            || took(began, now) > measure.limit() && !self.oldest.is_proven_since(began) && !measure.is_overloaded();
        if matches!(end, End::GivenUp) && is_silent() { End::Outcome(Outcome::Failure) } else { end }
    }

    /// Counts how a call has ended; whether the endpoint is well as far as that call can say.
    fn count(&self, began: Nanos, now: Nanos, end: End) -> bool {
        match end {
            End::Outcome(Outcome::Success) => return self.is_well_since(began),
            End::Outcome(Outcome::Failure) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.status.failed(false);
                self.failed_at.fetch_max(now, Ordering::Relaxed);
                return false;
            }
            End::Outcome(Outcome::Pushback(hint)) => {
                let by_clock = self.by_clock(now);
                let pause = nanos(hint.unwrap_or_default().min(LONGEST_PUSHBACK));
                self.held_until.fetch_max(by_clock.saturating_add(pause), Ordering::Relaxed);
                self.probation.failed(by_clock);
                self.probation.hold(by_clock, pause);
                self.status.pushed_back();
                self.failed_at.fetch_max(now, Ordering::Relaxed);
            }
            End::Unreachable => {
                self.status.failed(true);
                self.failed_at.fetch_max(now, Ordering::Relaxed);
            }
            End::GivenUp | End::Outcome(_) => {}
        }
        self.ignored.fetch_add(1, Ordering::Relaxed);
        // How long a wrong argument takes to be refused says nothing, but that somebody is there.
        matches!(end, End::Outcome(Outcome::Ignore)) && self.is_well_since(began)
    }

    /// What the call says about latency, and about an endpoint on probation, whose probe it may be.
    fn learn(&self, began: Nanos, now: Nanos, end: End, was_bad: bool, is_well: bool, is_trial: bool) {
        let (median, limit, rate) = (self.measure().median(), self.measure().limit(), self.levels.rate);
        let took = took(began, now);
        match end {
            End::Outcome(Outcome::Success) => {
                self.oldest.succeeded(began);
                if was_bad && is_well && took <= limit {
                    // One fast answer of a slow endpoint may be luck; a second one hardly is.
                    if self.standing(now) == Standing::OnProbation && !self.probation.is_confirmed(now) {
                        return;
                    }
                    // What was before is over.
                    self.latency.restart(now, took.max(median));
                    return self.probation.passed();
                }
                self.latency.answered(now, took, rate);
            }
            End::Outcome(Outcome::Ignore) => {
                if self.latency.read().is_none() {
                    self.latency.restart(now, took.max(median));
                }
                return if is_well && self.standing(now) != Standing::OnProbation {
                    self.probation.passed();
                } else if is_trial {
                    self.leave_trial(now);
                };
            }
            End::GivenUp => {
                self.latency.at_least(now, took, median, rate);
                if took <= limit {
                    return if is_trial {
                        self.leave_trial(now)
                    };
                }
            }
            End::Outcome(Outcome::Pushback(_)) => return,
            End::Outcome(_) | End::Unreachable => self.latency.at_least(now, took, median, rate),
        }
        if self.standing(now) == Standing::OnProbation {
            self.probation.failed(now);
        }
    }

    /// How the probe of an ejected endpoint has ended.
    fn probed(&self, probe: Probe, began: Nanos, now: Nanos, end: End) {
        match end {
            End::Outcome(Outcome::Success) => {
                self.latency.restart(now, took(began, now).max(self.measure().median()));
                self.probation.passed();
                self.status.probe_passed(probe, self.share() < 1.0);
            }
            // Whoever gave up, or asked the wrong thing, leaves the probe to the next.
            End::GivenUp | End::Outcome(Outcome::Ignore) => self.status.probe_ended(probe, Ejection::Due),
            End::Outcome(_) | End::Unreachable => self.status.probe_ended(probe, Ejection::Failed),
        }
    }

    /// What the call says about how many the endpoint takes at a time.
    fn adapt(&self, serial: u32, in_flight: u32, end: End, was_late: bool) {
        let Some(adaptive) = &self.levels.circuit.adaptive else { return };
        match end {
            End::Outcome(Outcome::Pushback(_)) => self.limit.dropped(serial, self.begun() as u32, adaptive),
            End::Outcome(Outcome::Success) | End::GivenUp if was_late => {
                self.limit.late(serial, self.begun() as u32, adaptive);
            }
            End::Outcome(Outcome::Success) => self.limit.answered(in_flight, adaptive),
            _ => {}
        }
    }
}

/// What takes no time, as on a paused clock, is not the same as what is unknown.
fn took(began: Nanos, now: Nanos) -> f32 {
    (now.saturating_sub(began) as f32).max(1.0)
}

/// How a call has ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Outcome(Outcome),
    /// It never began: the endpoint could not be reached.
    Unreachable,
    /// The caller did not wait for it.
    GivenUp,
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stats").field("key", &self.key).field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}
