//! How many calls an endpoint takes at a time, learned from what it does not take: additive increase, multiplicative
//! decrease, as TCP does (Jacobson, "Congestion Avoidance and Control", 1988).
//!
//! A gradient of the latency, which servers use, would mislead a client: it sees the load of others only as calls that are
//! pushed back or late, and its own calls are too few to tell a slight rise from noise. So what counts is many times the usual
//! latency, which is a queue, and most calls together: one slow call in ten is how some services are.

use super::circuit::Adaptive;
use crate::sync::{AtomicU64, Ordering};

/// To what part it shrinks: TCP CUBIC's.
const SHRINKS_TO: f32 = 0.7;
/// Late calls, less those in time, that make a queue.
const LATE: u8 = 4;

#[derive(Debug)]
pub(crate) struct Limit(AtomicU64);

#[derive(Clone, Copy)]
struct Word {
    limit: f32,
    /// Of the call that was begun last when it shrank, 24 bits.
    serial: u32,
    /// Late calls, less those in time.
    late: u8,
}

impl Word {
    fn unpack(word: u64) -> Self {
        Self { limit: f32::from_bits((word >> 32) as u32), serial: word as u32 >> 8, late: word as u8 }
    }

    fn pack(self) -> u64 {
        u64::from(self.limit.to_bits()) << 32 | u64::from(self.serial << 8) | u64::from(self.late)
    }

    /// Whether a call was begun after the last time that it shrank.
    fn is_news(self, serial: u32) -> bool {
        ((serial.wrapping_sub(self.serial) << 8) as i32) > 0
    }

    fn shrunk(self, begun: u32, settings: &Adaptive) -> Self {
        Self { limit: (self.limit * SHRINKS_TO).max(settings.least as f32), serial: begun, late: 0 }
    }
}

impl Limit {
    pub(crate) fn new(initial: u32) -> Self {
        Self(AtomicU64::new(Word { limit: initial as f32, serial: 0, late: 0 }.pack()))
    }

    /// Calls at a time.
    #[inline]
    pub(crate) fn get(&self) -> u32 {
        Word::unpack(self.0.load(Ordering::Relaxed)).limit as u32
    }

    /// A call was answered in time, with so many in flight, itself included. One more for every limit's worth of answers,
    /// while at least half of it is used: what is not used says nothing.
    pub(crate) fn answered(&self, in_flight: u32, settings: &Adaptive) {
        self.change(|word| {
            let grows = in_flight as f32 * 2.0 >= word.limit;
            let limit = if grows { (word.limit + 1.0 / word.limit).min(settings.most as f32) } else { word.limit };
            Word { limit, late: word.late.saturating_sub(1), ..word }
        });
    }

    /// A call, the `serial`th, was late, when `begun` had been begun.
    pub(crate) fn late(&self, serial: u32, begun: u32, settings: &Adaptive) {
        self.change(|word| match word {
            word if !word.is_news(serial) => word,
            word if word.late + 1 >= LATE => word.shrunk(begun, settings),
            word => Word { late: word.late + 1, ..word },
        });
    }

    /// A call, the `serial`th, was pushed back, when `begun` had been begun. Only once for all that were under way
    /// together.
    pub(crate) fn dropped(&self, serial: u32, begun: u32, settings: &Adaptive) {
        self.change(|word| if word.is_news(serial) { word.shrunk(begun, settings) } else { word });
    }

    fn change(&self, change: impl Fn(Word) -> Word) {
        let new = |word: u64| Some(change(Word::unpack(word)).pack()).filter(|new| *new != word);
        let _unchanged = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Adaptive = Adaptive { initial: 10, least: 2, most: 20 };

    #[test]
    fn it_grows_by_one_for_as_many_answers_as_it_allows_while_it_is_used() {
        let limit = Limit::new(10);
        (0..100).for_each(|_| limit.answered(4, &SETTINGS));
        assert_eq!(limit.get(), 10);
        (0..11).for_each(|_| limit.answered(6, &SETTINGS));
        assert_eq!(limit.get(), 11);
        (0..1_000).for_each(|_| limit.answered(20, &SETTINGS));
        assert_eq!(limit.get(), 20);
    }

    #[test]
    fn calls_that_were_under_way_together_shrink_it_once() {
        let limit = Limit::new(10);
        (1..=10).for_each(|serial| limit.dropped(serial, 10, &SETTINGS));
        assert_eq!(limit.get(), 7);
        limit.dropped(11, 12, &SETTINGS);
        assert_eq!(limit.get(), 4);
        (13..1_000).for_each(|serial| limit.dropped(serial, serial, &SETTINGS));
        assert_eq!(limit.get(), 2);
    }

    #[test]
    fn it_shrinks_when_most_calls_are_late_and_not_because_some_always_are() {
        let limit = Limit::new(10);
        (1..=3).for_each(|serial| limit.late(serial, 10, &SETTINGS));
        assert_eq!(limit.get(), 10);
        limit.late(4, 10, &SETTINGS);
        (5..=10).for_each(|serial| limit.late(serial, 10, &SETTINGS));
        assert_eq!(limit.get(), 7, "once");

        let limit = Limit::new(10);
        for serial in 1..10_000 {
            if serial % 10 < 3 { limit.late(serial, serial, &SETTINGS) } else { limit.answered(1, &SETTINGS) }
        }
        assert_eq!(limit.get(), 10);
    }

    #[test]
    fn the_number_of_a_call_may_wrap() {
        let limit = Limit::new(10);
        for serial in [0x7f_0000, 0xfe_0000, 0x100_0005] {
            limit.dropped(serial, serial, &SETTINGS);
        }
        assert_eq!(limit.get(), 3, "10 × 0.7³");
    }
}
