//! A second attempt for calls that take long: the layer and its service.

mod future;
mod latencies;
mod policy;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use towline_core::timer::Berth;
use towline_core::{Access, BoxError, ByError, CallContext, Carried, Classify, Error, Replay};

pub use self::future::HedgeFuture;
pub use self::latencies::Hedging;
pub use self::policy::{HedgePolicy, HedgeStats};

/// Sends calls that take long a second time, elsewhere. See [`Hedge`].
///
/// All services made from one layer, and all their clones, share what is known of latencies and the allowance: one layer is
/// for one service.
pub struct HedgeLayer<A = Carried, K = ByError> {
    shared: Arc<Shared<K>>,
    access: A,
}

/// What all services of a layer share.
struct Shared<K> {
    policy: HedgePolicy<K>,
    hedging: Hedging,
    epoch: Instant,
    // One for all clones: layers around this one make a clone for each call, and would park each timer where nobody finds it.
    // It is locked for a moment, by calls that are not answered at their first poll; making a timer locks as well.
    berth: Berth,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    hedges: AtomicU64,
    won: AtomicU64,
    budget_exhausted: AtomicU64,
    not_replayable: AtomicU64,
}

impl<K> Shared<K> {
    fn since_epoch(&self, at: Instant) -> u64 {
        crate::budget::nanos(at.saturating_duration_since(self.epoch))
    }

    fn stats(&self) -> HedgeStats {
        let Counts { hedges, won, budget_exhausted, not_replayable } = &self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        HedgeStats {
            delay: self.hedging.last_delay().map(Duration::from_nanos),
            hedges: read(hedges),
            won: read(won),
            budget_exhausted: read(budget_exhausted),
            not_replayable: read(not_replayable),
        }
    }
}

impl HedgeLayer {
    /// With the default [`HedgePolicy`], for requests that carry a [`CallContext`].
    pub fn new() -> Self {
        Self::with_policy(HedgePolicy::default())
    }
}

impl Default for HedgeLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> HedgeLayer<Carried, K> {
    /// With this policy, for requests that carry a [`CallContext`].
    pub fn with_policy(policy: HedgePolicy<K>) -> Self {
        let (hedging, epoch) = (policy.hedging(), Instant::now());
        let shared = Shared { policy, hedging, epoch, berth: Berth::default(), counts: Counts::default() };
        Self { shared: Arc::new(shared), access: Carried }
    }
}

impl<A, K> HedgeLayer<A, K> {
    /// Reaches the context through `access`. With [`Blind`](towline_core::Blind) any request is taken, and hedged if the
    /// policy says that all may be; the second attempt may meet the first at the same endpoint.
    pub fn with_access<B>(self, access: B) -> HedgeLayer<B, K> {
        HedgeLayer { shared: self.shared, access }
    }

    /// What has happened so far.
    pub fn stats(&self) -> HedgeStats {
        self.shared.stats()
    }
}

impl<A: Clone, K> Clone for HedgeLayer<A, K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), access: self.access.clone() }
    }
}

impl<A, K> fmt::Debug for HedgeLayer<A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeLayer").field("policy", &self.shared.policy).finish_non_exhaustive()
    }
}

impl<S, A: Clone, K> Layer<S> for HedgeLayer<A, K> {
    type Service = Hedge<S, A, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Hedge { inner, shared: self.shared.clone(), access: self.access.clone() }
    }
}

/// A service whose calls are sent a second time when they take long, and answered by whichever attempt succeeds first.
///
/// The second attempt avoids the endpoint of the first. It is made once, not for a call that is pinned to a connection, and not
/// when the deadline would come before it. When either attempt fails the other is waited for; the attempt that is not needed any
/// more is dropped. There is none while fewer than 134 calls (with the default percentile) were answered in the last ten
/// seconds, and as good as none when everything becomes slow: the percentile rises, and the allowance ends.
///
/// Always ready; each attempt readies a clone of the inner service. Dropping a call's future drops both attempts. A second one
/// that was never sent gives its tokens back.
///
/// # Errors
///
/// That of the first attempt when both fail, with [`Sent::Maybe`](towline_core::Sent::Maybe) if either may have been sent;
/// a response of the second attempt that counts as a failure is better than an error of the first.
///
/// ```
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use towline_core::{Call, Error};
/// use towline_retry::HedgeLayer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
/// let layer = HedgeLayer::new();
/// let service = ServiceBuilder::new().layer(layer.clone()).service(service_fn(|call: Call<u64>| async move {
///     Ok::<_, Error>(call.into_message())
/// }));
/// assert_eq!(service.oneshot(Call::new(7).idempotent()).await?, 7);
/// assert_eq!((layer.stats().hedges, layer.stats().delay), (0, None));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
pub struct Hedge<S, A = Carried, K = ByError> {
    inner: S,
    shared: Arc<Shared<K>>,
    access: A,
}

impl<S, A, K> Hedge<S, A, K> {
    /// What has happened so far, in all services of this layer.
    pub fn stats(&self) -> HedgeStats {
        self.shared.stats()
    }
}

// By hand, because a classifier need not be `Clone`.
impl<S: Clone, A: Clone, K> Clone for Hedge<S, A, K> {
    fn clone(&self) -> Self {
        let Self { inner, shared, access } = self;
        Self { inner: inner.clone(), shared: shared.clone(), access: access.clone() }
    }
}

impl<S, A, K> fmt::Debug for Hedge<S, A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge").field("policy", &self.shared.policy).finish_non_exhaustive()
    }
}

impl<S, A, K, Req> Service<Req> for Hedge<S, A, K>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    A: Access<Req>,
    K: Classify<S::Response>,
    Req: Replay,
{
    type Response = S::Response;
    type Error = Error;
    type Future = HedgeFuture<S, A, K, Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let context = self.access.get(&request);
        let is_idempotent = self.shared.policy.all_idempotent || context.is_some_and(CallContext::is_idempotent);
        // What is pinned has only one way to go.
        let is_pinned = context.is_some_and(|context| context.pin().is_some());
        let may_hedge = is_idempotent && !is_pinned;
        HedgeFuture::new(self.inner.clone(), self.shared.clone(), self.access.clone(), request, may_hedge)
    }
}
