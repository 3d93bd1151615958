//! How old the oldest call is that is still in flight.
//!
//! A call that is stuck has no latency yet. Tracking every call would cost a list; this tracks up to sixteen of them,
//! spaced out in time: a call that finds none begun in the last while writes its start into a free slot and clears it
//! when it ends. Calls that come close together are tracked as one, and of these the others are not seen; but whoever
//! comes next to an endpoint that hangs is. When there is no free slot sixteen calls are stuck, and that is known.
//!
//! A long call is not a stuck endpoint: once a call has succeeded that began later, an earlier one counts no more.

use super::Nanos;
use crate::sync::{AtomicU64, Ordering};

const SLOTS: usize = 16;

/// Up to sixteen calls in flight by when they began.
#[derive(Debug, Default)]
pub(crate) struct Oldest {
    /// Start of the call that holds the slot, plus 1; 0 when it is free. Written by its holder alone once it is held.
    slots: [AtomicU64; SLOTS],
    /// When a slot was last taken.
    taken: AtomicU64,
    /// The latest start of a call that succeeded, plus 1.
    proof: AtomicU64,
}

/// Which slot a call holds.
#[derive(Debug)]
pub(crate) struct Slot(u8);

impl Oldest {
    /// A call begins; it holds a slot if the last was taken `spacing` ago.
    pub(crate) fn begin(&self, now: Nanos, spacing: Nanos) -> Option<Slot> {
        let taken = self.taken.load(Ordering::Relaxed);
        if taken != 0 && now.saturating_sub(taken) < spacing {
            return None;
        }
        let free = |slot: &AtomicU64| {
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let index = self.slots.iter().position(free)?;
        self.taken.store(now.max(1), Ordering::Relaxed);
        Some(Slot(index as u8))
    }

    /// The call that holds `slot` has ended.
    pub(crate) fn end(&self, slot: Slot) {
        self.slots[usize::from(slot.0)].store(0, Ordering::Relaxed);
    }

    /// A call that began then has succeeded.
    pub(crate) fn succeeded(&self, began: Nanos) {
        // Most calls end in the order in which they began; whoever does not, changes nothing.
        if began >= self.proof.load(Ordering::Relaxed) {
            self.proof.fetch_max(began + 1, Ordering::Relaxed);
        }
    }

    /// Whether a call has succeeded that began later.
    pub(crate) fn is_proven_since(&self, began: Nanos) -> bool {
        self.proof.load(Ordering::Relaxed) > began
    }

    /// No call that counts is older than this.
    pub(crate) fn at_most(&self, now: Nanos) -> Nanos {
        now.saturating_sub(self.proof.load(Ordering::Relaxed))
    }

    /// Age of the oldest tracked call after which none has succeeded, 0 when there is none.
    pub(crate) fn age(&self, now: Nanos) -> Nanos {
        let proof = self.proof.load(Ordering::Relaxed);
        let starts = self.slots.iter().map(|slot| slot.load(Ordering::Relaxed));
        // Free slots are 0, and nobody began before the proof that counts.
        let oldest = starts.filter(|start| *start > proof).min();
        oldest.map_or(0, |start| now.saturating_sub(start - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_that_of_the_oldest_call_that_has_not_ended() {
        let oldest = Oldest::default();
        assert_eq!(oldest.age(1_000), 0);
        let first = oldest.begin(0, 10).unwrap();
        let second = oldest.begin(20, 10).unwrap();
        assert_eq!(oldest.age(100), 100);
        oldest.end(first);
        assert_eq!(oldest.age(100), 80);
        oldest.end(second);
        assert_eq!(oldest.age(100), 0);
    }

    #[test]
    fn a_long_call_counts_until_a_later_one_succeeds() {
        let oldest = Oldest::default();
        let long = oldest.begin(100, 10).unwrap();
        oldest.succeeded(50);
        assert_eq!(oldest.age(1_000), 900, "that one began before it");
        let next = oldest.begin(200, 10).unwrap();
        oldest.succeeded(150);
        assert_eq!(oldest.age(1_000), 800);
        oldest.end(long);
        oldest.end(next);
        assert_eq!(oldest.age(1_000), 0);
    }

    #[test]
    fn calls_that_begin_close_together_are_tracked_once() {
        let oldest = Oldest::default();
        let slot = oldest.begin(100, 10);
        assert!(slot.is_some());
        assert!(oldest.begin(105, 10).is_none());
        assert!(oldest.begin(110, 10).is_some());
    }

    #[test]
    fn stuck_calls_that_hold_all_slots_stay_known() {
        let oldest = Oldest::default();
        let slots: Vec<_> = (1..=16).map(|n| oldest.begin(n * 10, 10).unwrap()).collect();
        assert!(oldest.begin(1_000, 10).is_none());
        assert_eq!(oldest.age(1_000), 990);
        slots.into_iter().for_each(|slot| oldest.end(slot));
        assert!(oldest.begin(2_000, 10).is_some());
    }
}
