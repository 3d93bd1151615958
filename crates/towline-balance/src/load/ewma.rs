//! A peak-sensitive moving average in one word.

use super::Nanos;
use crate::sync::{AtomicU64, Ordering};

/// Average, stamp and the number of samples, packed: 32 bits of nanoseconds as a float, 28 bits of ticks, 4 bits of
/// count. Changed by compare-and-swap, read without writing.
#[derive(Debug, Default)]
pub(crate) struct Ewma(AtomicU64);

/// A tick is 2^20 ns, about a millisecond; 28 bits of them are three days, and whoever is idle for longer is read as
/// idle for what is left over.
const TICK: u32 = 20;
const TICKS: u64 = (1 << 28) - 1;
const COUNT: u64 = 15;
/// Another thread's sample may be newer than our `now`, by four seconds at most.
const AHEAD: u64 = TICKS - (1 << 12);

/// What an [`Ewma`] says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    /// In nanoseconds.
    pub(crate) average: f32,
    /// Ticks at the last sample.
    stamp: u64,
    /// How many samples, up to 15.
    pub(crate) samples: u64,
}

impl Reading {
    fn unpack(word: u64) -> Self {
        Self { average: f32::from_bits((word >> 32) as u32), stamp: (word >> 4) & TICKS, samples: word & COUNT }
    }

    fn pack(self) -> u64 {
        u64::from(self.average.to_bits()) << 32 | (self.stamp & TICKS) << 4 | self.samples.min(COUNT)
    }

    /// Nanoseconds since the last sample, to the tick.
    fn elapsed(self, now: Nanos) -> f32 {
        let ticks = (now >> TICK).wrapping_sub(self.stamp) & TICKS;
        let ticks = if ticks > AHEAD { 0 } else { ticks };
        (ticks << TICK) as f32
    }

    /// The average at `now`: what is not refreshed comes back to `median`.
    pub(crate) fn at(self, now: Nanos, median: f32, rate: f32) -> f32 {
        let elapsed = self.elapsed(now);
        // Mostly it is a moment ago.
        if elapsed == 0.0 { self.average } else { median + (self.average - median) * decay(elapsed * rate) }
    }
}

impl Ewma {
    /// `None` before the first sample.
    pub(crate) fn read(&self) -> Option<Reading> {
        let reading = Reading::unpack(self.0.load(Ordering::Relaxed));
        (reading.samples > 0).then_some(reading)
    }

    /// Replaces the average by what `next` makes of it, if anything.
    fn update(&self, now: Nanos, next: impl Fn(Option<Reading>) -> Option<(f32, u64)>) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let old = Reading::unpack(word);
            let Some((average, samples)) = next((old.samples > 0).then_some(old)) else { return };
            // An older `now` than another thread's must not turn the stamp back.
            let behind = old.samples > 0 && old.elapsed(now) == 0.0;
            let stamp = if behind { old.stamp } else { now >> TICK };
            let new = Reading { average, stamp, samples: old.samples + samples }.pack();
            match self.0.compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(changed) => word = changed,
            }
        }
    }

    /// An answer that took `sample`: a peak counts at once and in full, anything else by how much time has passed.
    pub(crate) fn answered(&self, now: Nanos, sample: f32, rate: f32) {
        self.update(now, |old| match old {
            Some(old) if sample < old.average => {
                let weight = decay(old.elapsed(now) * rate);
                Some((old.average * weight + sample * (1.0 - weight), 1))
            }
            _ => Some((sample, 1)),
        });
    }

    /// It took at least `sample`: never lowers what is there at `now`, is no answer, and says nothing before the first.
    pub(crate) fn at_least(&self, now: Nanos, sample: f32, median: f32, rate: f32) {
        self.update(now, |old| old.filter(|old| sample > old.at(now, median, rate)).map(|_| (sample, 0)));
    }

    /// Forgets what was and begins with `sample`.
    pub(crate) fn restart(&self, now: Nanos, sample: f32) {
        self.update(now, |_| Some((sample, 1)));
    }
}

/// `e^−x` for `x ≥ 0`, as `(1 + x/16)^−16`: a few multiplications where the real one costs more than a pick. Never off
/// by more than 0.017.
pub(crate) fn decay(x: f32) -> f32 {
    let y = 1.0 + x * (1.0 / 16.0);
    let (y2, one) = (y * y, 1.0);
    let y4 = y2 * y2;
    let y8 = y4 * y4;
    one / (y8 * y8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;
    const RATE: f32 = 1.0 / 10e9;

    fn average(ewma: &Ewma) -> f32 {
        ewma.read().unwrap().average
    }

    #[test]
    fn the_decay_is_near_the_exponential_and_ends_at_zero() {
        for x in 0..1_000 {
            let x = x as f32 / 50.0;
            assert!((decay(x) - (-x).exp()).abs() < 0.017, "{x}");
        }
        assert_eq!(decay(0.0), 1.0);
        assert_eq!(decay(f32::INFINITY), 0.0);
    }

    #[test]
    fn a_peak_counts_at_once_and_falls_by_the_time_that_has_passed() {
        let ewma = Ewma::default();
        assert_eq!(ewma.read(), None);
        ewma.answered(0, 100.0, RATE);
        ewma.answered(0, 900.0, RATE);
        assert_eq!(average(&ewma), 900.0);
        ewma.answered(0, 100.0, RATE);
        assert_eq!(average(&ewma), 900.0, "no time has passed");
        ewma.answered(10_000 * MS, 100.0, RATE);
        assert!((average(&ewma) - (100.0 + 800.0 * 0.379)).abs() < 2.0, "{}", average(&ewma));
    }

    #[test]
    fn what_is_idle_comes_back_to_the_median_from_above_and_from_below() {
        let (high, low) = (Ewma::default(), Ewma::default());
        high.answered(0, 900.0, RATE);
        low.answered(0, 1.0, RATE);
        let at = |ewma: &Ewma, seconds: u64| ewma.read().unwrap().at(seconds * 1_000 * MS, 100.0, RATE);
        assert!(at(&high, 1) < 900.0 && at(&high, 100) < 101.0 && at(&high, 100) >= 100.0);
        assert!(at(&low, 1) > 1.0 && at(&low, 100) > 99.0 && at(&low, 100) <= 100.0);
        assert_eq!(average(&high), 900.0, "reading changes nothing");
    }

    #[test]
    fn a_lower_bound_never_lowers() {
        let ewma = Ewma::default();
        ewma.answered(0, 500.0, RATE);
        ewma.at_least(MS, 10.0, 500.0, RATE);
        assert_eq!(average(&ewma), 500.0);
        ewma.at_least(MS, 700.0, 500.0, RATE);
        assert_eq!(average(&ewma), 700.0);
    }

    #[test]
    fn a_lower_bound_before_the_first_answer_says_nothing() {
        let ewma = Ewma::default();
        ewma.at_least(MS, 10.0, 500.0, RATE);
        assert_eq!(ewma.read(), None);
    }

    #[test]
    fn a_weekend_without_calls_is_forgotten_like_any_other_pause() {
        let hour = 3_600_000 * MS;
        let ewma = Ewma::default();
        ewma.answered(0, 900.0, RATE);
        for hours in [1, 39, 62, 74] {
            assert!(ewma.read().unwrap().at(hours * hour, 100.0, RATE) < 101.0, "{hours}");
        }
        ewma.answered(62 * hour, 200.0, RATE);
        assert_eq!(ewma.read().unwrap().stamp, ((62 * hour) >> TICK) & TICKS);
    }

    #[test]
    fn a_late_clock_does_not_turn_the_stamp_back() {
        let ewma = Ewma::default();
        ewma.answered(5_000 * MS, 100.0, RATE);
        ewma.answered(4_000 * MS, 900.0, RATE);
        let reading = ewma.read().unwrap();
        assert_eq!((reading.average, reading.stamp), (900.0, (5_000 * MS) >> TICK));
    }

    #[test]
    fn samples_are_counted_up_to_fifteen() {
        let ewma = Ewma::default();
        (0..100).for_each(|_| ewma.answered(0, 1.0, RATE));
        assert_eq!(ewma.read().unwrap().samples, 15);
    }
}
