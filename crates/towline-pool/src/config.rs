//! Settings, checked once.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tower_service::Service;
use towline_core::{Backoff, Error, Kind, Observers, Phase, Poolable, SharedExecutor, TokioExecutor};

use crate::Pool;

/// What the pool's core decides by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    pub(crate) max_dials: usize,
    pub(crate) max_waiters: usize,
    pub(crate) wait_deadline: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) dial_backoff: Backoff,
    pub(crate) warm: usize,
}

/// Settings of a [`Pool`], all per endpoint.
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
                max_dials: 4,
                max_waiters: 1_024,
                wait_deadline: Duration::from_secs(5),
                idle_timeout: Some(Duration::from_secs(55)),
                max_lifetime: Some(Duration::from_secs(30 * 60)),
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

    /// The most dials at once. The first dial to an endpoint always goes alone. Default: 4.
    pub fn max_dials(mut self, max: usize) -> Self {
        self.limits.max_dials = max;
        self
    }

    /// The most callers that wait; one more is refused at once with [`Kind::Overloaded`]. Default: 1,024.
    pub fn max_waiters(mut self, max: usize) -> Self {
        self.limits.max_waiters = max;
        self
    }

    /// How long a caller waits for a connection at the most. Default: 5 s.
    pub fn wait_deadline(mut self, limit: Duration) -> Self {
        self.limits.wait_deadline = limit;
        self
    }

    /// Closes a connection that nobody used for so long; `None` keeps it. Default: 55 s, below the 60 s after which
    /// common servers and load balancers close it from their side.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.idle_timeout = limit.into();
        self
    }

    /// Replaces a connection of this age once no call is on it; `None` keeps it. First lives are drawn from 50–100 %
    /// of it and later ones from 90–110 %, so that connections opened together do not end together. Default: 30 min.
    pub fn max_lifetime(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.max_lifetime = limit.into();
        self
    }

    /// How long to wait between failed dials. Default: full jitter from 50 ms to 2 s.
    pub fn dial_backoff(mut self, backoff: Backoff) -> Self {
        self.limits.dial_backoff = backoff;
        self
    }

    /// Connects this many ahead, as soon as a target is known, instead of at its first call. Default: 0, lazy.
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
    /// [`Kind::Config`] when a cap or a duration is zero, or more connections are to be warm than may be open.
    pub fn build<M, T>(self, make: M) -> Result<Pool<M, T>, Error>
    where
        M: Service<T>,
        M::Response: Poolable,
        T: Clone + Eq + Hash,
    {
        let Self { limits, executor, observers } = self;
        limits.check()?;
        Ok(Pool::new(make, limits, executor, observers))
    }
}

impl Limits {
    fn check(&self) -> Result<(), Error> {
        let Self {
            max_connections,
            max_dials,
            max_waiters,
            wait_deadline,
            idle_timeout,
            max_lifetime,
            dial_backoff: _,
            warm,
        } = *self;
        let refuse = |what: String| Err(Error::new(Kind::Config, Phase::Build).with_message(what));
        if max_connections == 0 {
            return refuse("max_connections is 0: no call could ever be served; use at least 1".to_owned());
        }
        if max_dials == 0 {
            return refuse("max_dials is 0: no connection could ever be made; use at least 1".to_owned());
        }
        if max_waiters == 0 {
            return refuse("max_waiters is 0: no call could ever wait for the first dial; use at least 1".to_owned());
        }
        if wait_deadline.is_zero() {
            return refuse("wait_deadline is 0: every call that waits would fail; use a longer one".to_owned());
        }
        if idle_timeout.is_some_and(|limit| limit.is_zero()) {
            return refuse("idle_timeout is 0: no connection could be reused; use None for no timeout".to_owned());
        }
        if max_lifetime.is_some_and(|limit| limit.is_zero()) {
            return refuse("max_lifetime is 0: no connection could be reused; use None for no limit".to_owned());
        }
        if warm > max_connections {
            return refuse(format!("warm is {warm}, more than max_connections, which is {max_connections}"));
        }
        Ok(())
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
