//! How a balancer is put together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use arc_swap::ArcSwapOption;
use futures_core::Stream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{BoxError, Carried, Error, Executor, Lend, Observers, Policy, Rng, Target};

use crate::balance::Balance;
use crate::discover::Update;
use crate::driver::Driver;
use crate::load::{Clock, Levels, LoadMetric};
use crate::making::Making;
use crate::shared::{Clients, Shared, WhenUnavailable};
use crate::track::AtResponse;

/// The [`Balance`] over what `M` makes, by what `P` picks.
pub type Balanced<M, P, A = Carried, T = AtResponse> =
    Balance<<M as Service<Target>>::Response, <P as Policy>::Picker, A, T>;

/// A balancer and its driver.
pub type Pair<D, M, P, A = Carried, T = AtResponse> = (Balanced<M, P, A, T>, Driver<D, M, P>);

/// Settings of a [`Balance`].
#[derive(Clone, Debug)]
#[must_use]
pub struct BalanceBuilder<P, A = Carried, T = AtResponse> {
    policy: P,
    access: A,
    track: T,
    metric: LoadMetric,
    when_unavailable: WhenUnavailable,
    reports: bool,
    warm: usize,
    observers: Observers,
    rng: Rng,
}

impl<P: Policy> BalanceBuilder<P> {
    /// Picks by `policy`, for requests that carry a context.
    pub fn new(policy: P) -> Self {
        Self {
            policy,
            access: Carried,
            track: AtResponse::default(),
            metric: LoadMetric::default(),
            when_unavailable: WhenUnavailable::default(),
            reports: false,
            warm: 0,
            observers: Observers::default(),
            rng: Rng::new(),
        }
    }
}

impl<P: Policy, A, T> BalanceBuilder<P, A, T> {
    /// Reaches the context through `access`; [`Blind`](towline_core::Blind) takes any request.
    pub fn with_access<B>(self, access: B) -> BalanceBuilder<P, B, T> {
        let Self { policy, track, metric, when_unavailable, reports, warm, observers, rng, .. } = self;
        BalanceBuilder { policy, access, track, metric, when_unavailable, reports, warm, observers, rng }
    }

    /// Says when a call has ended and what it says about its endpoint; [`AtResponse`] by default, which takes every
    /// response for a success and every transient error for a failure.
    pub fn track<U>(self, track: U) -> BalanceBuilder<P, A, U> {
        let Self { policy, access, metric, when_unavailable, reports, warm, observers, rng, .. } = self;
        BalanceBuilder { policy, access, track, metric, when_unavailable, reports, warm, observers, rng }
    }

    /// What is taken for the load of an endpoint; [`LoadMetric::peak_ewma`] over 10 s by default.
    pub fn load(mut self, metric: LoadMetric) -> Self {
        self.metric = metric;
        self
    }

    /// What a call does when no endpoint can take it; it fails fast by default.
    pub fn when_unavailable(mut self, when: WhenUnavailable) -> Self {
        self.when_unavailable = when;
        self
    }

    /// Asks endpoints, after every call, what their servers said about themselves with the answer, for
    /// [`HotCold`](crate::HotCold). Off by default. Where only the response knows, see [`Reporting`](crate::Reporting).
    pub fn reports(mut self, on: bool) -> Self {
        self.reports = on;
        self
    }

    /// Connects to endpoints ahead of their first call, to so many at a time; 0 by default: a large set would be
    /// connected to as a whole.
    pub fn warm(mut self, at_a_time: usize) -> Self {
        self.warm = at_a_time;
        self
    }

    /// Sends events here.
    pub fn observers(mut self, observers: Observers) -> Self {
        self.observers = observers;
        self
    }

    /// Picks by this randomness, for runs that repeat.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// A balancer over the endpoints that `discover` yields, each made by `make`, and its driver. Items are
    /// [`Change`](crate::Change)s, whole sets as `Vec<Endpoint>`, or [`Update`]s. The driver must be polled for changes
    /// to arrive; it ends when the last clone of the balancer is dropped.
    pub fn pair<D, U, E, M>(self, discover: D, make: M) -> Pair<D, M, P, A, T>
    where
        D: Stream<Item = Result<U, E>>,
        U: Into<Update>,
        E: Into<BoxError>,
        M: Service<Target> + Clone,
        M::Response: Lend,
        M::Error: Into<BoxError>,
    {
        let mut rng = self.rng;
        let shared = Arc::new(Shared {
            snapshot: ArcSwapOption::empty(),
            levels: Levels::new(self.metric, Clock::Tokio(Instant::now())),
            news: Arc::new(Notify::new()),
            abandoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            driving: AtomicBool::new(true),
            waiting: AtomicUsize::new(0),
            seeds: AtomicU64::new(rng.next_u64()),
            discovery_failure: Lock::new(None),
            make_failure: Lock::new(None),
            observers: self.observers,
            when_unavailable: self.when_unavailable,
            reports: self.reports,
        });
        let making = Making::new(make, rng.fork());
        let driver = Driver::new(shared.clone(), discover, making, self.policy, self.warm, rng);
        (Balance::new(Clients::new(&shared), self.access, self.track), driver)
    }

    /// As [`pair`](Self::pair), with the driver spawned on `executor`.
    ///
    /// # Errors
    ///
    /// [`Kind::Runtime`](towline_core::Kind::Runtime) when the executor has nothing to run it on.
    pub fn spawn<D, U, E, M>(self, discover: D, make: M, executor: &dyn Executor) -> Result<Balanced<M, P, A, T>, Error>
    where
        D: Stream<Item = Result<U, E>> + Send + 'static,
        U: Into<Update>,
        E: Into<BoxError>,
        M: Service<Target> + Clone + Send + 'static,
        M::Response: Lend<Lend: Send> + Send + Sync + 'static,
        M::Error: Into<BoxError>,
        M::Future: Send + 'static,
    {
        let (balance, driver) = self.pair(discover, make);
        executor.spawn(Box::pin(driver))?;
        Ok(balance)
    }
}
