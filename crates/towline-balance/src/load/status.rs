//! What picks look at first: failures in a row, and whether the endpoint is ejected or in slow start, in one word. 0 is
//! what nearly all endpoints have nearly always.
//!
//! An ejection is begun and timed by the driver alone; calls only take the probe, and say how it went. So a pick needs no
//! clock, and the number of ejected endpoints has one writer.

use crate::sync::{AtomicU32, Ordering};

/// Failures in a row, up to 65,535.
const FAILURES: u32 = 0xffff;
/// Dials in a row that failed, up to 15.
const DIALS: u32 = 0xf << DIALS_SHIFT;
const DIALS_SHIFT: u32 = 16;
/// Asked to be left alone.
const PUSHBACK: u32 = 1 << 20;
/// In slow start.
const SLOW_START: u32 = 1 << 21;
/// See [`Ejection`].
const EJECTION: u32 = 0x7 << EJECTION_SHIFT;
const EJECTION_SHIFT: u32 = 22;
/// The number of the last probe of an ejection: which one ends, and whether the driver has seen it before.
const PROBE: u32 = 0x7f << PROBE_SHIFT;
const PROBE_SHIFT: u32 = 25;

/// How far an endpoint is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ejection {
    /// Not at all.
    None,
    /// No call goes there while there is another endpoint.
    Out,
    /// An idempotent call may be the probe.
    DueIfIdempotent,
    /// Any call may.
    Due,
    /// A pick has chosen the endpoint for the probe, which is about to begin.
    Claimed,
    /// The probe is under way.
    Probing,
    /// The probe has failed: the driver ejects it again.
    Failed,
}

impl Ejection {
    const ALL: [Self; 7] =
        [Self::None, Self::Out, Self::DueIfIdempotent, Self::Due, Self::Claimed, Self::Probing, Self::Failed];

    const fn of(word: u32) -> Self {
        // What does not fit is never stored.
        let index = ((word & EJECTION) >> EJECTION_SHIFT) as usize;
        if index < Self::ALL.len() { Self::ALL[index] } else { Self::None }
    }

    /// Who is not ejected has no probe.
    const fn put(self, word: u32) -> u32 {
        let word = word & !EJECTION | (self as u32) << EJECTION_SHIFT;
        if matches!(self, Self::None) { word & !PROBE } else { word }
    }
}

/// One of the probes of an endpoint, up to 128 of which are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probe(u8);

#[derive(Debug)]
pub(crate) struct Status(AtomicU32);

/// One reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(u32);

impl Seen {
    /// Failures in a row, dials not counted.
    #[inline]
    pub(crate) fn failures(self) -> u32 {
        self.0 & FAILURES
    }

    /// Dials in a row that failed.
    pub(crate) fn dials(self) -> u32 {
        (self.0 & DIALS) >> DIALS_SHIFT
    }

    /// Whether it fails in one way or another so many times in a row, or asked to be left alone.
    #[inline]
    pub(crate) fn fails(self, times: u32) -> bool {
        self.0 & PUSHBACK != 0 || self.failures() + self.dials() >= times
    }

    /// Whether there is any such reason.
    #[inline]
    pub(crate) fn fails_at_all(self) -> bool {
        self.0 & (FAILURES | DIALS | PUSHBACK) != 0
    }

    /// Whether there is nothing to say about it.
    #[inline]
    pub(crate) fn is_nothing(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(crate) fn in_slow_start(self) -> bool {
        self.0 & SLOW_START != 0
    }

    #[inline]
    pub(crate) fn is_ejected(self) -> bool {
        self.0 & EJECTION != 0
    }

    pub(crate) fn ejection(self) -> Ejection {
        Ejection::of(self.0)
    }

    /// The number of the last probe.
    pub(crate) fn probe(self) -> Probe {
        Probe(((self.0 & PROBE) >> PROBE_SHIFT) as u8)
    }

    #[inline]
    pub(crate) fn is_pushed_back(self) -> bool {
        self.0 & PUSHBACK != 0
    }
}

impl Status {
    pub(crate) fn new(in_slow_start: bool) -> Self {
        Self(AtomicU32::new(if in_slow_start { SLOW_START } else { 0 }))
    }

    #[inline]
    pub(crate) fn get(&self) -> Seen {
        Seen(self.0.load(Ordering::Relaxed))
    }

    /// A call has failed; or could not be made, which is a failure of its own kind.
    pub(crate) fn failed(&self, was_dial: bool) {
        self.change(|word| {
            let (failures, dials) = (word & FAILURES, (word & DIALS) >> DIALS_SHIFT);
            if was_dial {
                word & !DIALS | (dials + 1).min(0xf) << DIALS_SHIFT
            } else {
                word & !(DIALS | FAILURES) | (failures + 1).min(FAILURES)
            }
        });
    }

    pub(crate) fn pushed_back(&self) {
        self.change(|word| word | PUSHBACK);
    }

    /// Ends a row of failures.
    pub(crate) fn is_well(&self) {
        if self.get().fails_at_all() {
            self.change(|word| word & !(FAILURES | DIALS | PUSHBACK));
        }
    }

    /// The driver: whoever begins slow start, and ends it.
    pub(crate) fn set_slow_start(&self, on: bool) {
        if self.get().in_slow_start() != on {
            self.change(|word| if on { word | SLOW_START } else { word & !SLOW_START });
        }
    }

    /// The driver: from one state to the next.
    pub(crate) fn set_ejection(&self, ejection: Ejection) {
        self.change(|word| ejection.put(word));
    }

    /// Goes on to the next state, unless somebody else was faster.
    pub(crate) fn step(&self, from: Ejection, to: Ejection) {
        self.change(|word| if Ejection::of(word) == from { to.put(word) } else { word });
    }

    /// A pick wants to be the probe; one of all that ask gets it.
    pub(crate) fn claim(&self, is_idempotent: bool) -> bool {
        let seen = self.get();
        let is_due = match seen.ejection() {
            Ejection::Due => true,
            Ejection::DueIfIdempotent => is_idempotent,
            _ => false,
        };
        let next = seen.0 & !PROBE | seen.0.wrapping_add(1 << PROBE_SHIFT) & PROBE;
        is_due && self.swap(seen, Ejection::Claimed.put(next))
    }

    /// Whoever has claimed the probe does not begin it.
    pub(crate) fn unclaim(&self) {
        if self.get().is_ejected() {
            self.step(Ejection::Claimed, Ejection::Due);
        }
    }

    /// A call begins: which probe it is, if one was claimed.
    #[inline]
    pub(crate) fn begin(&self) -> Option<Probe> {
        let seen = self.get();
        if !seen.is_ejected() {
            return None;
        }
        let begins = seen.ejection() == Ejection::Claimed && self.swap(seen, Ejection::Probing.put(seen.0));
        begins.then(|| seen.probe())
    }

    /// The probe went well: it is ejected no more, and begins slowly.
    pub(crate) fn probe_passed(&self, probe: Probe, slow_start: bool) {
        self.change(
            |word| {
                if Self::is_under_way(word, probe) { if slow_start { SLOW_START } else { 0 } } else { word }
            },
        );
    }

    /// The probe has ended otherwise; should the driver have taken the endpoint back meanwhile, or have given it up, that
    /// counts.
    pub(crate) fn probe_ended(&self, probe: Probe, then: Ejection) {
        self.change(|word| if Self::is_under_way(word, probe) { then.put(word) } else { word });
    }

    fn is_under_way(word: u32, probe: Probe) -> bool {
        Ejection::of(word) == Ejection::Probing && Seen(word).probe() == probe
    }

    fn swap(&self, seen: Seen, to: u32) -> bool {
        self.0.compare_exchange(seen.0, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn change(&self, change: impl Fn(u32) -> u32) {
        let _always_some = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| Some(change(word)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_dials_are_counted_apart_and_end_together() {
        let status = Status::new(false);
        assert_eq!(status.get(), Seen(0));
        status.failed(false);
        status.failed(true);
        status.failed(true);
        let seen = status.get();
        assert_eq!((seen.failures(), seen.dials(), seen.fails(3), seen.fails(4)), (1, 2, true, false));
        // A call that failed was made: the endpoint was reached.
        status.failed(false);
        assert_eq!((status.get().failures(), status.get().dials()), (2, 0));
        (0..100_000).for_each(|n| status.failed(n % 2 == 0));
        assert!(status.get().failures() <= FAILURES && status.get().ejection() == Ejection::None);
        status.is_well();
        assert_eq!(status.get(), Seen(0));
    }

    // F24
    #[test]
    fn one_of_all_that_ask_gets_the_probe_and_idempotent_calls_come_first() {
        let status = Status::new(false);
        status.set_ejection(Ejection::Out);
        assert!(!status.claim(true));
        status.set_ejection(Ejection::DueIfIdempotent);
        assert!(!status.claim(false));
        assert!(status.claim(true));
        assert!(!status.claim(true), "claimed");
        let probe = status.begin().expect("claimed");
        assert_eq!(status.begin(), None, "a second call is no probe");
        status.probe_ended(probe, Ejection::Due);
        assert!(status.claim(false), "whoever gives up leaves it to the next");
    }

    #[test]
    fn a_probe_that_ends_late_changes_nothing_for_who_was_taken_back_or_ejected_anew() {
        for now in [Ejection::None, Ejection::Out] {
            let status = Status::new(false);
            status.set_ejection(Ejection::Due);
            assert!(status.claim(false));
            let probe = status.begin().unwrap();
            status.set_ejection(now);
            status.probe_ended(probe, Ejection::Failed);
            status.probe_passed(probe, true);
            assert_eq!(status.get().ejection(), now);
            assert!(!status.get().in_slow_start());
        }
    }

    #[test]
    fn a_probe_that_was_given_up_does_not_end_the_next_one() {
        let status = Status::new(false);
        status.set_ejection(Ejection::Due);
        assert!(status.claim(false));
        let first = status.begin().unwrap();
        // The driver has lost its patience.
        status.step(Ejection::Probing, Ejection::Due);
        assert!(status.claim(false));
        let second = status.begin().unwrap();
        status.probe_passed(first, false);
        status.probe_ended(first, Ejection::Failed);
        assert_eq!(status.get().ejection(), Ejection::Probing);
        status.probe_passed(second, false);
        assert_eq!(status.get(), Seen(0));
        (0..300).for_each(|_| status.failed(false));
        status.set_ejection(Ejection::Due);
        for _ in 0..300 {
            assert!(status.claim(false));
            status.unclaim();
        }
        assert_eq!((status.get().ejection(), status.get().failures()), (Ejection::Due, 300));
    }

    #[test]
    fn who_passes_begins_slowly_with_nothing_held_against_it() {
        let status = Status::new(false);
        (0..5).for_each(|_| status.failed(false));
        status.set_ejection(Ejection::Due);
        assert!(status.claim(false));
        status.probe_passed(status.begin().unwrap(), true);
        let seen = status.get();
        assert!(seen.in_slow_start() && !seen.is_ejected() && seen.failures() == 0);
        status.set_slow_start(false);
        assert_eq!(status.get(), Seen(0));
    }
}
