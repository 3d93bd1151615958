//! When an endpoint that nobody should use may be tried.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Nanos, nanos};

/// The first pause between probes; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// Short enough that an endpoint which recovers has its share again within five seconds.
const LONGEST: Duration = Duration::from_millis(4_500);

/// When the next probe may begin, and the pause after it, packed: the time in 2^16 ns above, the number of probes that
/// failed in a row in the low 8 bits.
#[derive(Debug, Default)]
pub(crate) struct Probation(AtomicU64);

const TICK: u32 = 16;

fn pause(failed: u64) -> Nanos {
    let pause = nanos(FIRST).saturating_mul(1 << failed.min(8));
    pause.min(nanos(LONGEST))
}

impl Probation {
    /// Whether a probe may begin now.
    pub(crate) fn is_due(&self, now: Nanos) -> bool {
        now >> TICK >= self.0.load(Ordering::Relaxed) >> 8
    }

    /// Begins a probe: true for one of all that ask, until the next is due.
    pub(crate) fn begin(&self, now: Nanos) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        if now >> TICK < word >> 8 {
            return false;
        }
        let failed = word & 0xff;
        let next = (now + pause(failed)) >> TICK;
        let new = next << 8 | (failed + 1).min(0xff);
        self.0.compare_exchange(word, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// It does well again. The pauses before were not for nothing: one that comes back soon begins with half of the
    /// last.
    pub(crate) fn passed(&self) {
        let halve = |word: u64| {
            let failed = word & 0xff;
            (word != 0).then(|| failed.min(8) / 2)
        };
        let _unchanged = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, halve);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn probes_are_spaced_by_one_second_then_two_then_four_and_a_half() {
        let probation = Probation::default();
        let mut begun = Vec::new();
        for tenth in 0..200 {
            if probation.begin(tenth * SECOND / 10) {
                begun.push(tenth);
            }
        }
        assert_eq!(begun, [0, 10, 30, 70, 115, 160]);
    }

    #[test]
    fn one_of_many_that_ask_at_once_begins() {
        let probation = Probation::default();
        assert!(probation.is_due(5 * SECOND));
        assert!(probation.begin(5 * SECOND));
        assert!(!probation.is_due(5 * SECOND));
        assert!(!probation.begin(5 * SECOND));
    }

    #[test]
    fn passing_allows_the_next_at_once_and_remembers_half() {
        let probation = Probation::default();
        for time in [0, 1, 3, 7] {
            assert!(probation.begin(time * SECOND));
        }
        probation.passed();
        assert!(probation.begin(8 * SECOND));
        assert!(!probation.is_due(11 * SECOND), "two failures remembered: four seconds");
        assert!(probation.is_due(12 * SECOND + 1_000_000));
    }
}
