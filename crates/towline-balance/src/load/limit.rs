//! How many calls an endpoint takes at a time, learned from what it does not take: additive increase, multiplicative
//! decrease, as TCP does (Jacobson, "Congestion Avoidance and Control", 1988).
//!
//! A gradient of the latency, which servers use, would mislead a client: it sees the load of others only as calls that are
//! pushed back or come too late, and its own calls are too few to tell a queue from noise.

use super::Adaptive;
use crate::sync::{AtomicU64, Ordering};

/// By how much it shrinks.
const SHRINKS_TO: f32 = 0.9;

/// The limit as a float in the upper half; in the lower, the number of the call that was begun last when it shrank.
#[derive(Debug)]
pub(crate) struct Limit(AtomicU64);

fn pack(limit: f32, serial: u32) -> u64 {
    u64::from(limit.to_bits()) << 32 | u64::from(serial)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

impl Limit {
    pub(crate) fn new(initial: u32) -> Self {
        Self(AtomicU64::new(pack(initial as f32, 0)))
    }

    /// Calls at a time.
    pub(crate) fn get(&self) -> u32 {
        unpack(self.0.load(Ordering::Relaxed)).0 as u32
    }

    /// A call was answered, with so many in flight, itself included. One more for every limit's worth of answers, while at
    /// least half of it is used: what is not used says nothing.
    pub(crate) fn answered(&self, in_flight: u32, settings: &Adaptive) {
        let word = self.0.load(Ordering::Relaxed);
        let (limit, serial) = unpack(word);
        let most = settings.most as f32;
        if in_flight as f32 * 2.0 >= limit && limit < most {
            let new = pack((limit + 1.0 / limit).min(most), serial);
            // Who loses the race has counted for nothing: the next does.
            let _lost = self.0.compare_exchange(word, new, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A call, the `serial`th, was pushed back or came too late, when `begun` had been begun. Only once for all that were
    /// under way together.
    pub(crate) fn dropped(&self, serial: u32, begun: u32, settings: &Adaptive) {
        let shrink = |word| {
            let (limit, last) = unpack(word);
            let is_news = serial.wrapping_sub(last) as i32 > 0;
            is_news.then(|| pack((limit * SHRINKS_TO).max(settings.least as f32), begun))
        };
        let _no_news = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, shrink);
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
        assert_eq!(limit.get(), 9);
        limit.dropped(11, 12, &SETTINGS);
        assert_eq!(limit.get(), 8);
        (13..1_000).for_each(|serial| limit.dropped(serial, serial, &SETTINGS));
        assert_eq!(limit.get(), 2);
    }

    #[test]
    fn the_number_of_a_call_may_wrap() {
        let limit = Limit::new(10);
        limit.dropped(u32::MAX, u32::MAX, &SETTINGS);
        assert_eq!(limit.get(), 10, "half of all numbers lie before the first");
        for serial in [0x7fff_0000, 0xfffe_0000, 5] {
            limit.dropped(serial, serial, &SETTINGS);
        }
        assert_eq!(limit.get(), 7, "10 × 0.9³");
    }
}
