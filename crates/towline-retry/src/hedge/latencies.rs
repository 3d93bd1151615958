//! How long calls take at present, and from when on one takes long. No clock, no lock: nanoseconds since any beginning in,
//! and everything is an atomic.
//!
//! Latencies are counted in buckets that grow with them, 32 to each doubling, as in Gil Tene's HdrHistogram: a percentile is
//! at most a thirty-second too high, and never too low, so no more calls lie above it than it says. Eleven windows of a second
//! take turns; the percentile is of the ten before the present one.
//!
//! Whoever begins the first call of a second turns the windows and finds the percentile, once for everybody. A latency that is
//! recorded at that very moment may go with a window that is cleared: one sample less.

use std::fmt;
use std::iter;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use towline_core::Error;

use crate::budget::{Budget, Permit};

const SECOND: u64 = 1_000_000_000;
const WINDOWS: usize = 11;
/// Buckets of one doubling, as a power of two.
const BITS: u32 = 5;
/// From a microsecond, in which nothing is told apart, to 69 seconds, from which on nothing is.
const LEAST: u32 = 10;
const MOST: u32 = 36;
const BUCKETS: usize = ((MOST - LEAST) as usize) << BITS;
/// A percentile that says anything has so many calls above it.
const LEAST_ABOVE: f64 = 2.0;
/// And is of so many calls.
const LEAST_CALLS: u64 = 20;
/// Timers are no finer.
const LEAST_DELAY: u64 = 1_000_000;

type Window = [AtomicU32; BUCKETS];

/// The synchronous core of [`Hedge`](crate::Hedge): latencies, and the allowance for hedges.
pub struct Hedging {
    latencies: Latencies,
    allowance: Budget,
}

impl Hedging {
    /// Hedges come after this percentile, and are at most `extra_load` of all calls.
    ///
    /// # Errors
    ///
    /// `extra_load` is no ratio.
    pub fn new(percentile: f64, extra_load: f64) -> Result<Self, Error> {
        Ok(Self { latencies: Latencies::new(percentile), allowance: Budget::new(extra_load, 0)? })
    }

    /// A call begins; how long until a second attempt is due, if that is known.
    pub fn begin(&self, now: u64) -> Option<u64> {
        self.allowance.deposit();
        self.delay(now)
    }

    /// After how long a second attempt is due, at the earliest a millisecond; `None` while too little is known, or calls take
    /// longer than is told apart.
    pub fn delay(&self, now: u64) -> Option<u64> {
        self.latencies.delay(now)
    }

    /// The delay that was last found.
    pub(crate) fn last_delay(&self) -> Option<u64> {
        self.latencies.last_delay()
    }

    /// A call has taken so long, or had when it was left.
    pub fn record(&self, latency: u64) {
        self.latencies.record(latency);
    }

    /// Takes from the allowance, if there is anything.
    pub fn may_hedge(&self) -> Option<Permit> {
        // It earns nothing from time.
        self.allowance.withdraw_nanos(0)
    }
}

impl fmt::Debug for Hedging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedging")
            .field("delay", &self.last_delay())
            .field("allowance", &self.allowance)
            .finish_non_exhaustive()
    }
}

/// Latencies of the last ten seconds.
struct Latencies {
    percentile: f64,
    least_calls: u64,
    windows: Box<[Window; WINDOWS]>,
    current: AtomicUsize,
    /// When the present window ends; at the end of time while somebody turns them.
    turns_at: AtomicU64,
    /// Zero while it is not known.
    delay: AtomicU64,
}

impl Latencies {
    fn new(percentile: f64) -> Self {
        let windows: Box<[Window]> =
            iter::repeat_with(|| [const { AtomicU32::new(0) }; BUCKETS]).take(WINDOWS).collect();
        Self {
            percentile,
            least_calls: ((LEAST_ABOVE / (1.0 - percentile)).ceil() as u64).max(LEAST_CALLS),
            windows: windows.try_into().unwrap_or_else(|_| unreachable!("as many as were taken")),
            current: AtomicUsize::new(0),
            turns_at: AtomicU64::new(0),
            delay: AtomicU64::new(0),
        }
    }

    #[inline]
    fn record(&self, latency: u64) {
        let window = &self.windows[self.current.load(Ordering::Relaxed)];
        window[bucket(latency)].fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    fn delay(&self, now: u64) -> Option<u64> {
        if now >= self.turns_at.load(Ordering::Relaxed) {
            self.turn(now);
        }
        self.last_delay()
    }

    fn last_delay(&self) -> Option<u64> {
        Some(self.delay.load(Ordering::Relaxed)).filter(|delay| *delay > 0)
    }

    #[cold]
    fn turn(&self, now: u64) {
        let end = self.turns_at.load(Ordering::Relaxed);
        // The store at the end releases what was done here to whoever turns next. Only who has just moved `turns_at` to the
        // end of time gets past this.
        if now < end || self.turns_at.compare_exchange(end, u64::MAX, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        let passed = (now - end) / SECOND + 1;
        let mut current = self.current.load(Ordering::Relaxed);
        for _ in 0..passed.min(WINDOWS as u64) {
            current = (current + 1) % WINDOWS;
            self.windows[current].iter().for_each(|count| count.store(0, Ordering::Relaxed));
        }
        self.current.store(current, Ordering::Relaxed);
        self.delay.store(self.find().unwrap_or(0), Ordering::Relaxed);
        self.turns_at.store(now.saturating_add(SECOND).min(u64::MAX - 1), Ordering::Release);
    }

    /// The percentile of all windows.
    fn find(&self) -> Option<u64> {
        let mut counts = [0u64; BUCKETS];
        for window in self.windows.iter() {
            for (sum, count) in counts.iter_mut().zip(window) {
                *sum += u64::from(count.load(Ordering::Relaxed));
            }
        }
        let calls: u64 = counts.iter().sum();
        if calls < self.least_calls {
            return None;
        }
        let rank = (calls as f64 * self.percentile).ceil() as u64;
        let below = counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        let bucket = below.take_while(|sum| *sum < rank).count();
        // Those in the last bucket may have taken any time.
        (bucket + 1 < BUCKETS).then(|| upper_end(bucket).max(LEAST_DELAY))
    }
}

#[inline]
fn bucket(latency: u64) -> usize {
    let latency = latency.clamp(1 << LEAST, (1 << MOST) - 1);
    let exponent = latency.ilog2();
    let within = (latency >> (exponent - BITS)) as usize & ((1 << BITS) - 1);
    (((exponent - LEAST) as usize) << BITS) + within
}

/// The first latency that is in a later bucket.
fn upper_end(bucket: usize) -> u64 {
    let (exponent, within) = (LEAST + (bucket >> BITS) as u32, bucket as u64 & ((1 << BITS) - 1));
    ((1 << BITS) + within + 1) << (exponent - BITS)
}

#[cfg(test)]
mod tests;
