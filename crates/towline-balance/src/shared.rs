//! What the balancer's clones, their calls and the driver share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use towline_core::sync::Lock;
use towline_core::{Error, Kind, Observers, Phase};

use crate::load::Levels;
use crate::set::Snapshot;

/// What a call does when no endpoint can take it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenUnavailable {
    /// Fails at once, with the cause of every endpoint that it asked. Endpoints recover by themselves, without calls.
    #[default]
    FailFast,
    /// Waits until one can, or the caller gives up: to be used under a deadline. At most 1,024 calls wait; further ones
    /// fail with [`Kind::Overloaded`]. Looked at every 25 ms.
    Wait,
}

/// Calls that may wait for a first set, or for an endpoint to come up.
const MAX_WAITING: usize = 1_024;

pub(crate) struct Shared<L, P> {
    /// `None` until discovery has yielded something.
    pub(crate) snapshot: ArcSwapOption<Snapshot<L, P>>,
    pub(crate) levels: Arc<Levels>,
    /// Told when a snapshot is published, an endpoint that was down is not any more, or the driver is gone.
    pub(crate) news: Arc<Notify>,
    pub(crate) abandoned: AtomicBool,
    pub(crate) closed: AtomicBool,
    /// Whether the driver lives.
    pub(crate) driving: AtomicBool,
    /// Calls that wait for a first set, or for an endpoint to come up.
    pub(crate) waiting: AtomicUsize,
    /// Where clones get their randomness from.
    pub(crate) seeds: AtomicU64,
    /// Why discovery failed last, while it has not brought anything since.
    pub(crate) discovery_failure: Lock<Option<Error>>,
    /// Why an endpoint could not be made, while none has been since.
    pub(crate) make_failure: Lock<Option<Error>>,
    pub(crate) observers: Observers,
    pub(crate) when_unavailable: WhenUnavailable,
    /// Whether endpoints are asked for what their servers say.
    pub(crate) reports: bool,
}

impl<L, P> Shared<L, P> {
    pub(crate) fn is_driven(&self) -> bool {
        self.driving.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Resolves at the next news. What came before is not waited for: look again after asking for this.
    pub(crate) fn next_news(&self) -> OwnedNotified {
        self.news.clone().notified_owned()
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.levels.driver.wake();
        self.news.notify_waiters();
    }

    /// Why there is nobody to call.
    pub(crate) fn no_endpoints(&self, why: &str) -> Error {
        let error = Error::new(Kind::NoEndpoints, Phase::Pick).with_message(format!("no endpoint to call: {why}"));
        let making = self.make_failure.lock().clone();
        let failure = making.or_else(|| self.discovery_failure.lock().clone());
        match failure {
            // What makes endpoints is closed: so is the client.
            Some(closed) if closed.kind() == Kind::Closed && closed.phase() == Phase::Queue => closed,
            Some(cause) => error.with_source(cause),
            None => error,
        }
    }
}

/// Replaces what is there, and lets go of it outside of the lock: it may be anybody's.
pub(crate) fn replace(failure: &Lock<Option<Error>>, new: Option<Error>) {
    let old = std::mem::replace(&mut *failure.lock(), new);
    drop(old);
}

pub(crate) fn closed() -> Error {
    Error::new(Kind::Closed, Phase::Pick).with_message("the balancer is closed")
}

/// What calls that have yet to find an endpoint hold: the driver works as long as one of them, or of the [`Clients`], is
/// there.
///
/// There are several of these per balancer, each with a count of its own, and every thread uses one of them: a count that
/// all calls change would cost more than the rest of a call as soon as there are two threads. They lie apart in memory, for
/// the same reason.
#[repr(align(128))]
pub(crate) struct Users<L, P> {
    shared: Arc<Shared<L, P>>,
    _alive: Arc<Alive<L, P>>,
}

impl<L, P> std::ops::Deref for Users<L, P> {
    type Target = Shared<L, P>;

    fn deref(&self) -> &Shared<L, P> {
        &self.shared
    }
}

/// Tells the driver when nobody is left.
struct Alive<L, P>(Arc<Shared<L, P>>);

impl<L, P> Drop for Alive<L, P> {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.0.levels.driver.wake();
    }
}

const STRIPES: usize = 8;

/// What clones of the balancer hold.
pub(crate) struct Clients<L, P>([Arc<Users<L, P>>; STRIPES]);

impl<L, P> Clients<L, P> {
    pub(crate) fn new(shared: &Arc<Shared<L, P>>) -> Arc<Self> {
        let alive = Arc::new(Alive(shared.clone()));
        let users = || Arc::new(Users { shared: shared.clone(), _alive: alive.clone() });
        Arc::new(Self(std::array::from_fn(|_| users())))
    }

    /// Those that this thread uses.
    #[inline]
    pub(crate) fn users(&self) -> &Arc<Users<L, P>> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static STRIPE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
        }
        // While a thread ends, any will do.
        &self.0[STRIPE.try_with(|stripe| *stripe).unwrap_or(0)]
    }
}

impl<L, P> std::ops::Deref for Clients<L, P> {
    type Target = Shared<L, P>;

    fn deref(&self) -> &Shared<L, P> {
        &self.0[0].shared
    }
}

/// A call that waits for a first set or for an endpoint to come up, counted.
pub(crate) struct Waiting<L, P>(Arc<Users<L, P>>);

impl<L, P> Waiting<L, P> {
    /// `None` when too many wait already.
    pub(crate) fn begin(users: &Arc<Users<L, P>>) -> Option<Self> {
        let before = users.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(users.clone());
        // The driver looks for endpoints that come up only while somebody waits.
        users.levels.driver.wake();
        (before < MAX_WAITING).then_some(waiting)
    }
}

impl<L, P> Drop for Waiting<L, P> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
