//! Health checks: any async function on an idle connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use towline_core::{BoxError, Error, Kind, Phase, Poolable};

use crate::Checkout;

pub(crate) type BoxCheck = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Looks into idle connections from time to time, with a function of one's own: a ping, a trivial query.
///
/// The pool sees by itself when a peer closes or resets an idle connection, or sends what nobody asked for. A check finds
/// what makes no sound: a peer that vanished, or hangs. It runs on connections that are idle, and were since the last
/// check; callers do not wait for it, unless it is the last free connection. One that fails, panics or takes too long
/// closes its connection, as [`CloseReason::Unhealthy`](towline_core::CloseReason::Unhealthy).
///
/// ```
/// use std::time::Duration;
/// use tower::Service;
/// use towline_pool::{Checkout, HealthCheck, PoolBuilder};
/// # use towline_test::{ScriptedConnection as Connection, ScriptedMaker};
/// # use towline_pool::Pool;
///
/// # let make = ScriptedMaker::exclusive();
/// let ping = HealthCheck::new(|mut connection: Checkout<'_, Connection>| async move {
///     connection.call("ping").await.map(drop)
/// });
/// let pool = PoolBuilder::new().build_checked(make, ping.every(Duration::from_secs(10)))?;
/// # let pool: Pool<_, &str> = pool;
/// # Ok::<(), towline_core::Error>(())
/// ```
pub struct HealthCheck<C: Poolable> {
    check: Arc<dyn Fn(Checkout<'static, C>) -> BoxCheck + Send + Sync>,
    pub(crate) every: Duration,
    pub(crate) deadline: Duration,
}

impl<C: Poolable> HealthCheck<C> {
    /// A check by this function, which fails when the connection is unfit.
    pub fn new<F, E>(check: impl Fn(Checkout<'static, C>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let check = Arc::new(move |connection| -> BoxCheck {
            let checking = check(connection);
            Box::pin(async move { checking.await.map_err(Into::into) })
        });
        Self { check, every: Duration::from_secs(30), deadline: Duration::from_secs(2) }
    }

    /// How long a connection is idle before it is checked, and between checks; ±10 %, so that connections are not
    /// checked all at once. Default: 30 s.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = interval;
        self
    }

    /// How long a check may take. Default: 2 s.
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    pub(crate) fn begin(&self, connection: Checkout<'static, C>) -> BoxCheck {
        (self.check)(connection)
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let refuse = |what: &'static str| Err(Error::new(Kind::Config, Phase::Build).with_message(what));
        if self.every.is_zero() {
            return refuse("the health check's interval (every) is 0: it would never end; use a longer one");
        }
        if self.deadline.is_zero() {
            return refuse("the health check's deadline is 0: every check would fail; use a longer one");
        }
        Ok(())
    }
}

// By hand, so that connections need not be Clone.
impl<C: Poolable> Clone for HealthCheck<C> {
    fn clone(&self) -> Self {
        Self { check: self.check.clone(), every: self.every, deadline: self.deadline }
    }
}

impl<C: Poolable> fmt::Debug for HealthCheck<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthCheck")
            .field("every", &self.every)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
