//! How old the oldest call is that is still in flight.
//!
//! A call that is stuck has no latency yet. Tracking every call would cost a list; this tracks up to sixteen of them,
//! spaced out in time: a call that finds none begun in the last while writes its start into a free slot and clears it
//! when it ends. The oldest slot is a lower bound for the oldest call's age, less than one spacing too low as long as
//! there are free slots; and when there are none, sixteen calls are stuck, and that is known.

use crate::sync::{AtomicU64, Ordering};

use super::Nanos;

const SLOTS: usize = 16;

/// Up to sixteen calls in flight by when they began.
#[derive(Debug, Default)]
pub(crate) struct Oldest {
    /// Start of the call that holds the slot, plus 1; 0 when it is free. Written by its holder alone once it is held.
    slots: [AtomicU64; SLOTS],
    /// When a slot was last taken.
    taken: AtomicU64,
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

    /// Age of the oldest tracked call, 0 when there is none.
    pub(crate) fn age(&self, now: Nanos) -> Nanos {
        // 0 wraps to the largest, so that free slots lose.
        let start = |slot: &AtomicU64| slot.load(Ordering::Relaxed).wrapping_sub(1);
        let oldest = self.slots.iter().map(start).min().unwrap_or(u64::MAX);
        now.saturating_sub(oldest)
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
