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
use crate::load::{Circuit, Clock, Levels, LoadMetric, Settings};
use crate::making::Making;
use crate::outlier::{Detector, Outliers, PanicMode, SlowStart};
use crate::shared::{Clients, Shared, WhenUnavailable};
use crate::track::AtResponse;
use crate::watch::Watch;

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
    common: Common,
}

/// What does not depend on types.
#[derive(Clone, Debug)]
struct Common {
    metric: LoadMetric,
    outliers: Outliers,
    slow_start: SlowStart,
    circuit: Circuit,
    panic_mode: PanicMode,
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
            common: Common {
                metric: LoadMetric::default(),
                outliers: Outliers::default(),
                slow_start: SlowStart::default(),
                circuit: Circuit::default(),
                panic_mode: PanicMode::default(),
                when_unavailable: WhenUnavailable::default(),
                reports: false,
                warm: 0,
                observers: Observers::default(),
                rng: Rng::new(),
            },
        }
    }
}

impl<P: Policy, A, T> BalanceBuilder<P, A, T> {
    /// Reaches the context through `access`; [`Blind`](towline_core::Blind) takes any request.
    pub fn with_access<B>(self, access: B) -> BalanceBuilder<P, B, T> {
        let Self { policy, track, common, .. } = self;
        BalanceBuilder { policy, access, track, common }
    }

    /// Says when a call has ended and what it says about its endpoint; [`AtResponse`] by default, which takes every
    /// response for a success and every transient error for a failure.
    pub fn track<U>(self, track: U) -> BalanceBuilder<P, A, U> {
        let Self { policy, access, common, .. } = self;
        BalanceBuilder { policy, access, track, common }
    }

    /// What is taken for the load of an endpoint; [`LoadMetric::peak_ewma`] over 10 s by default.
    pub fn load(mut self, metric: LoadMetric) -> Self {
        self.common.metric = metric;
        self
    }

    /// Who is ejected as an outlier; see [`Outliers`] for the rules and their defaults.
    pub fn outliers(mut self, outliers: Outliers) -> Self {
        self.common.outliers = outliers;
        self
    }

    /// How new endpoints, and those that were ejected, come to their share; over 10 s by default.
    pub fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.common.slow_start = slow_start;
        self
    }

    /// Limits of the calls that one endpoint is given at a time; none by default.
    pub fn circuit(mut self, circuit: Circuit) -> Self {
        self.common.circuit = circuit;
        self
    }

    /// What calls do when too few endpoints are eligible; by default they go to those that are ejected when there are no
    /// others.
    pub fn panic_mode(mut self, mode: PanicMode) -> Self {
        self.common.panic_mode = mode;
        self
    }

    /// What a call does when no endpoint can take it; it fails fast by default.
    pub fn when_unavailable(mut self, when: WhenUnavailable) -> Self {
        self.common.when_unavailable = when;
        self
    }

    /// Asks endpoints, after every call, what their servers said about themselves with the answer, for
    /// [`HotCold`](crate::HotCold). Off by default. Where only the response knows, see [`Reporting`](crate::Reporting).
    pub fn reports(mut self, on: bool) -> Self {
        self.common.reports = on;
        self
    }

    /// Connects to endpoints ahead of their first call, to so many at a time; 0 by default: a large set would be
    /// connected to as a whole.
    pub fn warm(mut self, at_a_time: usize) -> Self {
        self.common.warm = at_a_time;
        self
    }

    /// Sends events here.
    pub fn observers(mut self, observers: Observers) -> Self {
        self.common.observers = observers;
        self
    }

    /// Picks by this randomness, for runs that repeat.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.common.rng = rng;
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
        let Common { metric, outliers, slow_start, circuit, panic_mode, .. } = self.common;
        let Common { when_unavailable, reports, warm, observers, mut rng, .. } = self.common;
        let detector = Detector::new(outliers, slow_start, rng.fork());
        let settings = Settings {
            metric,
            circuit,
            is_watched: detector.is_on() || panic_mode.below > 0,
            fails_fast: panic_mode.fails_fast,
            load_bound: self.policy.load_bound(),
        };
        let shared = Arc::new(Shared {
            snapshot: ArcSwapOption::empty(),
            levels: Levels::new(settings, Clock::Tokio(Instant::now())),
            news: Arc::new(Notify::new()),
            abandoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            driving: AtomicBool::new(true),
            waiting: AtomicUsize::new(0),
            seeds: AtomicU64::new(rng.next_u64()),
            discovery_failure: Lock::new(None),
            make_failure: Lock::new(None),
            observers,
            when_unavailable,
            reports,
        });
        let making = Making::new(make, rng.fork());
        let watch = Watch::new(detector, panic_mode);
        let driver = Driver::new(shared.clone(), discover, making, self.policy, warm, watch, rng);
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
