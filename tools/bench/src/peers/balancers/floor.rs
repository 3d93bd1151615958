//! The floor: two endpoints at random, the one with fewer calls in flight, counted while it is called. The least that can
//! spread calls over a set that changes: it knows no dead endpoints and no slow ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::tower::Service;
use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use towline_core::Rng;

use super::Noop;
use crate::cases::batched::Callee;

pub(crate) struct Floor {
    endpoints: Arc<ArcSwap<Vec<Arc<Endpoint>>>>,
    rng: Rng,
}

#[derive(Default)]
struct Endpoint {
    in_flight: AtomicUsize,
    service: Noop,
}

/// Counts on its endpoint, wherever the call is dropped.
struct Busy(Arc<Endpoint>);

impl Busy {
    fn begin(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Floor {
    pub(crate) fn new(endpoints: usize) -> Self {
        let endpoints = (0..endpoints).map(|_| Arc::default()).collect();
        Self { endpoints: Arc::new(ArcSwap::from_pointee(endpoints)), rng: Rng::new() }
    }

    fn pick(&mut self) -> Option<Busy> {
        // Given back before the call: a thread can hold only a few of these at their full speed.
        let endpoints = self.endpoints.load();
        let len = endpoints.len();
        let first = self.rng.below(len);
        let second = self.rng.below(len.saturating_sub(1));
        let second = if second >= first && len > 1 { second + 1 } else { second };
        let (first, second) = (endpoints.get(first)?, endpoints.get(second)?);
        let in_flight = |endpoint: &Endpoint| endpoint.in_flight.load(Ordering::Relaxed);
        Some(Busy::begin(if in_flight(second) < in_flight(first) { second } else { first }))
    }

    /// Adds one and removes one, for all clones.
    pub(crate) fn change(&self) {
        let mut endpoints = Vec::clone(&self.endpoints.load());
        endpoints.swap_remove(0);
        endpoints.push(Arc::default());
        self.endpoints.store(Arc::new(endpoints));
    }
}

impl Callee for Floor {
    async fn call(&mut self, request: u64) -> Result<u64> {
        let busy = self.pick().context("there are no endpoints")?;
        let mut service = busy.0.service;
        Ok(service.call(request).await?)
    }
}

// Each clone draws its own randomness.
impl Clone for Floor {
    fn clone(&self) -> Self {
        Self { endpoints: self.endpoints.clone(), rng: Rng::new() }
    }
}
