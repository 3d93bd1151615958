//! Settings, checked once.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{Backoff, Error, Observers, Poolable, SharedExecutor, TokioExecutor};

use crate::Pool;
use crate::check::HealthCheck;
use crate::limits::{IdleOrder, Limits};
use crate::shared::Common;
use crate::stats::Stats;
use crate::total::Total;

/// Settings of a [`Pool`]: per endpoint, but for [`max_total`](Self::max_total).
///
/// ```
/// use std::time::Duration;
/// use towline_pool::PoolBuilder;
///
/// let settings = PoolBuilder::new().max_connections(8).warm(2).wait_deadline(Duration::from_secs(1));
/// # drop(settings);
/// ```
#[derive(Clone)]
#[must_use]
pub struct PoolBuilder {
    limits: Limits,
    executor: SharedExecutor,
    observers: Observers,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            limits: Limits {
                max_connections: 32,
                max_total: None,
                max_dials: 4,
                max_waiters: 1_024,
                wait_deadline: Duration::from_secs(5),
                dial_deadline: Duration::from_secs(10),
                close_deadline: Duration::from_secs(10),
                idle_timeout: Some(Duration::from_secs(55)),
                idle_order: IdleOrder::default(),
                min_idle: 0,
                max_lifetime: Some(Duration::from_secs(30 * 60)),
                max_calls: None,
                check_every: None,
                dial_backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
                warm: 0,
            },
            executor: Arc::new(TokioExecutor::current()),
            observers: Observers::default(),
        }
    }
}

impl PoolBuilder {
    /// Starts from the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The most connections, dials in progress included. Default: 32.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.limits.max_connections = max;
        self
    }

    /// The most connections over all endpoints of the pool, dials in progress included; `None` for no such cap. Default:
    /// `None`.
    ///
    /// At the cap, a call that needs a new connection has the idle connection closed that was used least recently, of
    /// any endpoint. When none is idle, places that become free go to endpoints in the order in which they asked. An
    /// endpoint that has no connection at all gets that of the next call that ends at one with several, or at one where
    /// nobody has waited for longer.
    pub fn max_total(mut self, max: impl Into<Option<usize>>) -> Self {
        self.limits.max_total = max.into();
        self
    }

    /// The most dials at once. The first dial to an endpoint always goes alone. Default: 4.
    pub fn max_dials(mut self, max: usize) -> Self {
        self.limits.max_dials = max;
        self
    }

    /// The most callers that wait; one more is refused at once, with
    /// [`Kind::Overloaded`](towline_core::Kind::Overloaded). Default: 1,024.
    pub fn max_waiters(mut self, max: usize) -> Self {
        self.limits.max_waiters = max;
        self
    }

    /// How long a caller waits for a connection at the most. Default: 5 s.
    pub fn wait_deadline(mut self, limit: Duration) -> Self {
        self.limits.wait_deadline = limit;
        self
    }

    /// How long a dial may take at the most, whatever the maker does; it then counts as failed. Default: 10 s, above the
    /// 5 s of towline's own connectors, which know better what they were waiting for.
    pub fn dial_deadline(mut self, limit: Duration) -> Self {
        self.limits.dial_deadline = limit;
        self
    }

    /// How long [`close`](Pool::close) waits for calls in flight before it cuts them off. Default: 10 s.
    pub fn close_deadline(mut self, limit: Duration) -> Self {
        self.limits.close_deadline = limit;
        self
    }

    /// Closes a connection that nobody used for so long, or up to a second earlier (an eighth of it, if that is less);
    /// `None` keeps it. Default: 55 s, below the 60 s after which common servers and load balancers close it from their
    /// side.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.idle_timeout = limit.into();
        self
    }

    /// Which idle connection is handed out. Default: the most recently used one.
    pub fn idle_order(mut self, order: IdleOrder) -> Self {
        self.limits.idle_order = order;
        self
    }

    /// Keeps so many connections idle: dials ahead as soon as a target is known and whenever there are fewer, leaves
    /// that many open after the idle timeout, and opens the replacement of an old one before it is closed. Never beyond
    /// a cap, and never at the cost of a call. Default: 0.
    pub fn min_idle(mut self, connections: usize) -> Self {
        self.limits.min_idle = connections;
        self
    }

    /// Replaces a connection after so many calls, never in the middle of one; `None` for no limit. Jittered as
    /// [`max_lifetime`](Self::max_lifetime) is. Default: `None`.
    pub fn max_calls(mut self, max: impl Into<Option<u64>>) -> Self {
        self.limits.max_calls = max.into();
        self
    }

    /// Replaces a connection of this age once no call is on it; `None` keeps it. Lives are drawn from 20–100 %
    /// of it, or from 90–110 % where a connection replaces one whose time was over, so that connections opened together do not
    /// end together. Default: 30 min.
    pub fn max_lifetime(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.max_lifetime = limit.into();
        self
    }

    /// How long to wait between failed dials. Default: full jitter from 50 ms to 2 s.
    pub fn dial_backoff(mut self, backoff: Backoff) -> Self {
        self.limits.dial_backoff = backoff;
        self
    }

    /// Connects this many ahead, once, as soon as a target is known, instead of at its first call. Default: 0, lazy.
    /// See [`min_idle`](Self::min_idle) for more than once.
    pub fn warm(mut self, connections: usize) -> Self {
        self.limits.warm = connections;
        self
    }

    /// Runs the pool's tasks here. Default: the tokio runtime of the first caller.
    pub fn executor(mut self, executor: SharedExecutor) -> Self {
        self.executor = executor;
        self
    }

    /// Sends events here.
    pub fn observers(mut self, observers: Observers) -> Self {
        self.observers = observers;
        self
    }

    /// A pool of what `make` makes.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) when a cap or a duration is zero, or more connections are to be warm than may be open.
    pub fn build<M, T>(self, make: M) -> Result<Pool<M, T>, Error>
    where
        M: Service<T>,
        M::Response: Poolable,
        T: Clone + Eq + Hash,
    {
        self.build_with(make, None)
    }

    /// A pool whose idle connections are checked; see [`HealthCheck`]. Errors as of [`build`](Self::build).
    pub fn build_checked<M, T>(mut self, make: M, check: HealthCheck<M::Response>) -> Result<Pool<M, T>, Error>
    where
        M: Service<T>,
        M::Response: Poolable,
        T: Clone + Eq + Hash,
    {
        check.validate()?;
        self.limits.check_every = Some(check.every);
        self.build_with(make, Some(check))
    }

    fn build_with<M, T>(self, make: M, check: Option<HealthCheck<M::Response>>) -> Result<Pool<M, T>, Error>
    where
        M: Service<T>,
        M::Response: Poolable,
        T: Clone + Eq + Hash,
    {
        let Self { limits, executor, observers } = self;
        limits.check()?;
        let total = limits.max_total.map(|max| Arc::new(Total::new(max)));
        let past = Arc::new(Lock::new(Stats::default()));
        Ok(Pool::new(make, check, Common { limits, observers, total, past }, executor))
    }
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limits, executor, observers } = self;
        f.debug_struct("PoolBuilder")
            .field("limits", limits)
            .field("executor", executor)
            .field("observers", observers)
            .finish()
    }
}
