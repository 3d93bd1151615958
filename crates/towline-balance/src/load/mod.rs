//! How loaded an endpoint is: what a call leaves behind, and what the next pick reads.
//!
//! Everything here is a handful of atomics and takes `now`: no clock, no lock, no allocation. A number read while
//! another thread writes it is the one before or the one after, and a pick is a guess anyway.
//!
//! # Peak EWMA
//!
//! The load of an endpoint is `latency × max(1, latency / median) × (1 + in flight / weight)`, where `latency` is an
//! exponentially weighted moving average that jumps to every peak and comes down slowly (Finagle's `PeakEwma`), and the
//! median is that of the set. Where the well-known forms go wrong, this one differs:
//!
//! - **A failure is never a short latency.** It is none at all; and two in a row put the endpoint on probation.
//! - **A call that the caller gave up is a lower bound**: it can raise the average, never lower it.
//! - **A call that is stuck counts while it is stuck**, not when it ends: the age of the oldest call is part of the
//!   estimate, until one that began later has succeeded.
//! - **What is not used decays to the median of the set**, not to zero, so an endpoint that was slow does not become the
//!   cheapest by being left alone; and what is new begins there.
//! - **The median is that of its [peers](towline_core::Policy::peers)**, for policies that prefer some: all others are far.
//! - **Being slower than the median counts twice**: a client with a call or two in flight would otherwise send a third
//!   of their share to endpoints that are several times slower (the simulator's S5). Within a quarter of the median all
//!   count as equal.
//! - **The weight divides the calls in flight and not the latency**: of two idle endpoints the heavier would otherwise
//!   win every time, and not in proportion.
//!
//! # Probation
//!
//! Balancing by cost leaves an endpoint that is `s` times slower `1/s²` of its share, each of these calls slow. An
//! endpoint whose average is far above the set's (more than four times the median, and more than six median absolute
//! deviations above it), that fails twice in a row, or that asks to be left alone is on *probation*: single calls, after
//! a pause of one second, then of three, then every 4.8 s, or as long as it asked for. The first that is answered
//! in time ends it.
//!
//! Where most of a set fails and those that do not have more than they can do, nobody is kept from calls: see
//! [`measure`].
//!
//! A new endpoint has one call in flight until it has answered, as soon as there is a set to compare it with, and another
//! for every median latency that its answer is late.

mod bound;
mod circuit;
mod ewma;
mod limit;
mod measure;
mod oldest;
mod probation;
mod record;
mod report;
mod stats;
mod status;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use towline_core::{Error, Kind, Phase};

pub(crate) use self::bound::{Allowance, Bound, Entry};
pub use self::circuit::Circuit;
pub(crate) use self::measure::Measure;
pub(crate) use self::record::{Ejected, Record};
pub(crate) use self::stats::{Admission, Standing};
pub use self::stats::{Flight, Stats};
pub(crate) use self::status::Ejection;
pub use self::sweep::{PERIOD, Sweep};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicWaker, Ordering};

/// Nanoseconds since the balancer was made.
pub type Nanos = u64;

/// A duration in nanoseconds, up to 584 years.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// What a balancer takes for the load of an endpoint. By default the peak EWMA over 10 s.
///
/// ```
/// use std::time::Duration;
/// use towline_balance::LoadMetric;
///
/// assert_eq!(LoadMetric::default(), LoadMetric::peak_ewma(Duration::from_secs(10))?);
/// assert!(LoadMetric::peak_ewma(Duration::ZERO).is_err());
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadMetric {
    /// `None` counts calls in flight alone.
    decay: Option<Duration>,
}

impl LoadMetric {
    /// Calls in flight, by weight. Reads no clock and is the cheapest. An endpoint that fails fast looks fast until it is
    /// ejected; one that never answers is not told from one with long calls, and is not ejected.
    pub const fn in_flight() -> Self {
        Self { decay: None }
    }

    /// Latency times calls in flight, with failures, stuck and cancelled calls counted for what they are, and probation
    /// for endpoints far slower than the rest. `decay` is how long a peak takes to be forgotten, to 37 %. Reads the clock
    /// twice per call.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when `decay` is less than a millisecond.
    pub fn peak_ewma(decay: Duration) -> Result<Self, Error> {
        if decay < Duration::from_millis(1) {
            let message = format!("the decay of a peak EWMA is at least 1 ms, not {decay:?}");
            return Err(Error::new(Kind::Config, Phase::Build).with_message(message));
        }
        Ok(Self { decay: Some(decay) })
    }
}

impl Default for LoadMetric {
    fn default() -> Self {
        Self { decay: Some(Duration::from_secs(10)) }
    }
}

/// Where time comes from.
#[derive(Debug)]
pub enum Clock {
    /// Tokio's, counted from here.
    Tokio(Instant),
    /// Set by hand, for simulations.
    Manual(AtomicU64),
}

impl Clock {
    /// Nanoseconds since the beginning.
    #[inline]
    pub fn now(&self) -> Nanos {
        match self {
            Self::Tokio(start) => nanos(Instant::now().saturating_duration_since(*start)),
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Sets a manual clock; tokio's goes its own way.
    pub fn set(&self, time: Nanos) {
        if let Self::Manual(now) = self {
            now.store(time, Ordering::Relaxed);
        }
    }
}

/// What calls need to know of how a balancer is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// What is taken for load.
    pub metric: LoadMetric,
    /// Limits.
    pub circuit: Circuit,
    /// Whether the driver looks for outliers, or sets slow start.
    pub is_watched: bool,
    /// Whether calls fail when too few endpoints are eligible.
    pub fails_fast: bool,
    /// The policy's [`load_bound`](towline_core::Policy::load_bound).
    pub load_bound: Option<f64>,
}

/// Groups of endpoints whose latencies are compared with each other.
const PEERS: usize = 16;

/// What all endpoints of a balancer share: the settings, and how the set does as a whole. Written by the sweep.
#[derive(Debug)]
pub struct Levels {
    pub(crate) clock: Clock,
    pub(crate) metric: LoadMetric,
    pub(crate) circuit: Circuit,
    pub(crate) bound: Option<Bound>,
    /// Whether there is any limit at all.
    pub(crate) is_limited: bool,
    /// Whether the driver looks over the set even if nothing is timed.
    is_watched: bool,
    /// Whether calls fail when too few endpoints are eligible.
    pub(crate) fails_fast: bool,
    /// 1 over the decay, in nanoseconds.
    pub(crate) rate: f32,
    /// By peers.
    measures: [Measure; PEERS],
    /// Requests in flight at or above which a server is hot.
    pub(crate) hot: AtomicU32,
    /// Counts sweeps.
    pub(crate) epoch: AtomicU64,
    /// Set by a call when nothing has swept since it last was cleared: how the sweep knows that there is traffic.
    pub(crate) touched: AtomicBool,
    /// A report has come: they grow old.
    has_reports: AtomicBool,
    recent: report::Recent,
    /// What share of its calls an endpoint gets that joins now, a float from 0 to 1.
    newborn: AtomicU32,
    /// Too few endpoints are eligible.
    pub(crate) panics: AtomicBool,
    /// Woken when a call comes after a sweep, when a call needs the driver, and when nobody needs it any more.
    pub(crate) driver: AtomicWaker,
}

impl Levels {
    /// Before any call.
    pub fn new(settings: Settings, clock: Clock) -> Arc<Self> {
        let Settings { metric, circuit, is_watched, fails_fast, load_bound } = settings;
        Arc::new(Self {
            clock,
            metric,
            circuit,
            bound: load_bound.map(Bound::new),
            is_limited: circuit.is_limited() || load_bound.is_some(),
            is_watched,
            fails_fast,
            rate: metric.decay.map_or(0.0, |decay| 1.0 / nanos(decay) as f32),
            measures: std::array::from_fn(|_| Measure::default()),
            hot: AtomicU32::new(u32::MAX),
            epoch: AtomicU64::new(0),
            touched: AtomicBool::new(false),
            has_reports: AtomicBool::new(false),
            recent: report::Recent::default(),
            newborn: AtomicU32::new(1f32.to_bits()),
            panics: AtomicBool::new(false),
            driver: AtomicWaker::new(),
        })
    }

    /// There is traffic: the next sweep is due in a while, if there are any.
    #[inline]
    pub(crate) fn touch(&self) {
        if self.is_watched || self.is_clocked() {
            self.ask_for_sweep();
        }
    }

    #[inline]
    fn ask_for_sweep(&self) {
        // Read first: the flag is every caller's, and nearly always set.
        if !self.touched.load(Ordering::Relaxed) && !self.touched.swap(true, Ordering::Relaxed) {
            self.driver.wake();
        }
    }

    /// Whether anything that is measured needs the clock.
    #[inline]
    pub(crate) fn is_timed(&self) -> bool {
        self.metric.decay.is_some()
    }

    /// Changes with every sweep. Who asks wants another: without a measure of latency nobody else does.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.ask_for_sweep();
        self.epoch.load(Ordering::Acquire)
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether anybody needs the clock.
    #[inline]
    pub(crate) fn is_clocked(&self) -> bool {
        self.is_timed() || self.has_reports.load(Ordering::Relaxed)
    }

    /// The time, if anybody needs it.
    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        if self.is_clocked() { self.clock.now() } else { 0 }
    }

    /// The endpoint at this index of the snapshot has reported.
    pub(crate) fn reported(&self, index: usize) {
        if !self.has_reports.load(Ordering::Relaxed) {
            self.has_reports.store(true, Ordering::Relaxed);
        }
        self.recent.push(index);
    }

    /// Requests in flight at or above which a server is hot.
    pub(crate) fn hot(&self) -> u32 {
        self.hot.load(Ordering::Relaxed)
    }

    /// The `n`th from the last that reported, by its index in the snapshot.
    pub(crate) fn recent(&self, n: usize) -> Option<usize> {
        self.recent.get(n)
    }

    /// The set has changed: indices mean others now.
    pub(crate) fn moved(&self) {
        self.recent.clear();
    }

    /// What share of its calls an endpoint gets that joins now.
    pub(crate) fn newborn(&self) -> f32 {
        f32::from_bits(self.newborn.load(Ordering::Relaxed))
    }

    pub(crate) fn set_newborn(&self, share: f32) {
        self.newborn.store(share.to_bits(), Ordering::Relaxed);
    }

    /// Whether too few endpoints are eligible.
    #[inline]
    pub(crate) fn panics(&self) -> bool {
        self.panics.load(Ordering::Relaxed)
    }
}
