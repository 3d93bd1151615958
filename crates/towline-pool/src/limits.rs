//! What the pool decides by.

use std::time::Duration;

use towline_core::{Backoff, Error, Kind, Phase};

/// Which idle connection is handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdleOrder {
    /// The one that was used last: it is most surely alive, and those that are not needed stay idle until they close.
    #[default]
    MostRecent,
    /// The one that was idle for longest: use, and load behind a load balancer, spread evenly. Connections that nobody
    /// needed for an [`idle_timeout`](crate::PoolBuilder::idle_timeout) are closed: as many as were idle at the least.
    LeastRecent,
}

/// What the pool's core decides by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    pub(crate) max_total: Option<usize>,
    pub(crate) max_dials: usize,
    pub(crate) max_waiters: usize,
    pub(crate) wait_deadline: Duration,
    pub(crate) dial_deadline: Duration,
    pub(crate) close_deadline: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) idle_order: IdleOrder,
    pub(crate) min_idle: usize,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) max_calls: Option<u64>,
    pub(crate) check_every: Option<Duration>,
    pub(crate) dial_backoff: Backoff,
    pub(crate) warm: usize,
}

impl Limits {
    /// How often the driver looks after the pool while it is used, and by how much the time of a return can be off.
    pub(crate) fn tick(&self) -> Duration {
        const TICK: Duration = Duration::from_secs(1);
        self.idle_timeout.map_or(TICK, |limit| TICK.min(limit / 8).max(Duration::from_millis(1)))
    }

    /// Refuses what can never work, and says what to change.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Self {
            max_connections,
            max_total,
            max_dials,
            max_waiters,
            wait_deadline,
            dial_deadline,
            close_deadline: _,
            idle_timeout,
            idle_order: _,
            min_idle,
            max_lifetime,
            max_calls,
            check_every: _,
            dial_backoff,
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
        if dial_deadline.is_zero() {
            return refuse("dial_deadline is 0: every dial would fail; use a longer one".to_owned());
        }
        if dial_backoff.ceiling(0).is_zero() {
            return refuse(
                "base or cap of dial_backoff is 0: an endpoint that is down would be dialled without a pause; use longer ones"
                    .to_owned(),
            );
        }
        if max_calls == Some(0) {
            return refuse("max_calls is 0: no connection could be used; use None for no limit".to_owned());
        }
        if max_total == Some(0) {
            return refuse("max_total is 0: no call could ever be served; use None for no cap over all".to_owned());
        }
        let (cap, capped_by) = match max_total {
            Some(total) if total < max_connections => (total, "max_total"),
            _ => (max_connections, "max_connections"),
        };
        for (name, ahead) in [("warm", warm), ("min_idle", min_idle)] {
            if ahead > cap {
                return refuse(format!(
                    "{name} is {ahead}, more than {capped_by}, which is {cap}; lower the one or raise the other"
                ));
            }
        }
        Ok(())
    }
}
