//! When an endpoint that nobody should use may be tried.

use std::time::Duration;

use super::{Nanos, nanos};
use crate::sync::{AtomicU64, Ordering};

/// The pause after the first failure; it triples with every probe that fails.
const FIRST: Duration = Duration::from_secs(1);
/// Between the beginnings of two probes, however the pauses have grown: an endpoint that recovers has its share again
/// within five seconds.
const LONGEST: Duration = Duration::from_millis(4_800);

/// When the next probe may begin, whether one is under way, and how many have failed in a row, in one word.
#[derive(Debug, Default)]
pub(crate) struct Probation(AtomicU64);

#[derive(Clone, Copy)]
struct Word {
    /// In ticks of 2^16 ns, 55 bits.
    next: u64,
    is_probing: bool,
    /// The last probe went well.
    has_passed: bool,
    /// Up to 127.
    failed: u64,
}

const TICK: u32 = 16;

impl Word {
    fn unpack(word: u64) -> Self {
        Self { next: word >> 9, is_probing: word & 0x100 != 0, has_passed: word & 0x80 != 0, failed: word & 0x7f }
    }

    fn pack(self) -> u64 {
        let flags = u64::from(self.is_probing) << 8 | u64::from(self.has_passed) << 7;
        self.next << 9 | flags | self.failed.min(0x7f)
    }

    /// The first tick after a pause that begins now.
    fn after_pause(self, now: Nanos) -> u64 {
        let pause = nanos(FIRST).saturating_mul(3u64.pow(self.failed.min(8) as u32));
        now.saturating_add(pause.min(nanos(LONGEST))) >> TICK
    }
}

impl Probation {
    /// Whether a probe may begin now.
    pub(crate) fn is_due(&self, now: Nanos) -> bool {
        now >> TICK >= Word::unpack(self.0.load(Ordering::Relaxed)).next
    }

    /// Begins a probe: true for one of all that ask, until the next is due.
    pub(crate) fn begin(&self, now: Nanos) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        let old = Word::unpack(word);
        if now >> TICK < old.next {
            return false;
        }
        // Should the probe never end, there is another.
        let next = now.saturating_add(nanos(LONGEST)) >> TICK;
        let new = Word { next, is_probing: true, ..old }.pack();
        self.0.compare_exchange(word, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A call has failed, or took too long. If it was a probe the pause until the next one grows; others were begun
    /// before and say nothing new, but the first pause begins with the last of them.
    pub(crate) fn failed(&self, now: Nanos) {
        self.change(|old| {
            if old.is_probing {
                let new = Word { is_probing: false, has_passed: false, failed: old.failed + 1, ..old };
                Word { next: new.after_pause(now).min(old.next), ..new }
            } else {
                Word { next: old.after_pause(now).max(old.next), has_passed: false, ..old }
            }
        });
    }

    /// No probe before this pause is over: the server has asked for it.
    pub(crate) fn hold(&self, now: Nanos, pause: Nanos) {
        let next = now.saturating_add(pause) >> TICK;
        self.change(|old| Word { next: old.next.max(next), ..old });
    }

    /// A probe was given up before it could say anything: the next call may be one.
    pub(crate) fn inconclusive(&self, now: Nanos) {
        self.change(|old| Word { next: if old.is_probing { now >> TICK } else { old.next }, is_probing: false, ..old });
    }

    /// A probe went well: whether the one before did, too. If not, the next call is another.
    pub(crate) fn is_confirmed(&self, now: Nanos) -> bool {
        let has_passed = Word::unpack(self.0.load(Ordering::Relaxed)).has_passed;
        if !has_passed {
            self.change(|old| Word { next: now >> TICK, is_probing: false, has_passed: true, ..old });
        }
        has_passed
    }

    /// It does well again. The pauses before were not for nothing: one that comes back soon begins with half of the
    /// failures.
    pub(crate) fn passed(&self) {
        self.change(|old| Word { next: 0, is_probing: false, has_passed: false, failed: old.failed.min(8) / 2 });
    }

    fn change(&self, change: impl Fn(Word) -> Word) {
        let new = |word: u64| Some(change(Word::unpack(word)).pack());
        let _always_some = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;
    const SECOND: Nanos = 1_000 * MS;

    /// When probes begin that each fail after `takes`, in tenths of a second.
    fn begun(takes: Nanos) -> Vec<u64> {
        let probation = Probation::default();
        probation.failed(0);
        let (mut begun, mut ends) = (Vec::new(), None);
        for time in (0..200).map(|tenth| tenth * SECOND / 10 + MS) {
            if ends.is_some_and(|ends| ends <= time) {
                probation.failed(time);
                ends = None;
            }
            if ends.is_none() && probation.begin(time) {
                begun.push(time * 10 / SECOND);
                ends = Some(time + takes);
            }
        }
        begun
    }

    #[test]
    fn pauses_triple_from_one_second_until_probes_begin_every_four_point_eight() {
        assert_eq!(begun(0), [10, 41, 89, 137, 185]);
    }

    #[test]
    fn the_pause_begins_when_a_slow_probe_ends_but_probes_begin_as_often() {
        assert_eq!(begun(2 * SECOND), [10, 58, 106, 154]);
    }

    #[test]
    fn one_of_many_that_ask_at_once_begins() {
        let probation = Probation::default();
        assert!(probation.is_due(5 * SECOND));
        assert!(probation.begin(5 * SECOND));
        assert!(!probation.is_due(5 * SECOND));
        assert!(!probation.begin(5 * SECOND));
    }

    // F24
    #[test]
    fn a_probe_that_is_given_up_leaves_the_next_to_the_next_call_and_one_that_never_ends_too() {
        let probation = Probation::default();
        assert!(probation.begin(SECOND));
        probation.inconclusive(SECOND + MS);
        assert!(probation.begin(SECOND + MS));
        assert!(!probation.is_due(5 * SECOND));
        assert!(probation.begin(6 * SECOND));
    }

    #[test]
    fn a_server_that_asks_to_be_left_alone_is() {
        let probation = Probation::default();
        probation.failed(SECOND);
        probation.hold(SECOND, 60 * SECOND);
        assert!(!probation.is_due(60 * SECOND));
        assert!(probation.is_due(61 * SECOND));
        probation.hold(61 * SECOND, 0);
        assert!(probation.is_due(61 * SECOND));
    }

    #[test]
    fn what_fails_again_soon_after_passing_remembers_half_of_its_failures() {
        let probation = Probation::default();
        for time in [0, 10, 20, 30] {
            assert!(probation.begin(time * SECOND));
            probation.failed(time * SECOND);
        }
        probation.passed();
        assert!(probation.begin(40 * SECOND));
        probation.failed(40 * SECOND);
        assert!(!probation.is_due(44 * SECOND), "two failures remembered: more than the longest pause");
        assert!(probation.is_due(45 * SECOND));
        probation.failed(45 * SECOND);
        assert!(probation.is_due(50 * SECOND), "and no pause is longer, of whatever call");
    }
}
