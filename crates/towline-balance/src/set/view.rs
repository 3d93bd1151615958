//! The set as its users see it.

use std::sync::Arc;
use std::time::Duration;

use towline_core::{EjectionRule, Endpoint, Reported, Room};

use crate::load::{Ejected, Nanos};

/// One endpoint as the balancer sees it at present.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointView<L> {
    /// Key, target and attributes, the weight among them.
    pub endpoint: Arc<Endpoint>,
    /// Whether it has room.
    pub room: Room,
    /// Whether it gets single, spaced calls, because it fails or is far slower than the others.
    pub on_probation: bool,
    /// Whether it gets no calls, because it is an outlier.
    pub ejection: Option<EjectionView>,
    /// How many times it was ejected lately: one is forgiven for each base in service.
    pub ejections: u32,
    /// The share of its calls that it gets in slow start, from 0 to 1; `None` when that is over.
    pub slow_start: Option<f32>,
    /// The most calls that it may have in flight at present, `None` without a [`Circuit`](crate::Circuit).
    pub limit: Option<u32>,
    /// Calls that wait for it or are in flight on it.
    pub in_flight: usize,
    /// What a call to it would cost, in the unit of the [metric](crate::LoadMetric).
    pub load: f64,
    /// How long it takes to answer at present; `None` before its first answer, and without
    /// [`LoadMetric::peak_ewma`](crate::LoadMetric::peak_ewma).
    pub latency: Option<Duration>,
    /// What it last said about itself, if that is fresh.
    pub reported: Option<Reported>,
    /// Calls that were sent its way since it was added, retries included.
    pub calls: u64,
    /// What lends: a pool's handle has statistics of its own.
    pub lend: L,
}

/// An ejection as it is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EjectionView {
    /// By which rule.
    pub rule: EjectionRule,
    /// For how long already, failed probes included.
    pub since: Duration,
    /// How long until a call may find out whether it is over; zero when one may.
    pub remaining: Duration,
}

impl EjectionView {
    pub(super) fn new(ejected: Ejected, now: Nanos) -> Self {
        let Ejected { rule, since, until } = ejected;
        let duration = |from: Nanos, to: Nanos| Duration::from_nanos(to.saturating_sub(from));
        Self { rule, since: duration(since, now), remaining: duration(now, until) }
    }
}
