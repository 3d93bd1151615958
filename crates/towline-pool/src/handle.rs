//! One endpoint's pool, as its users hold it.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, sleep};
use tower::load::Load;
use tower_service::Service;
use towline_core::{CallContext, EndpointKey, Error, GiveBack, Lend, LoadReport, Poolable, Room};

use crate::call::PooledCall;
use crate::checkout::Checkout;
use crate::core::Core;
use crate::lend::{DRIVES, LendFuture, Wish, announce, nobody_drives};
use crate::shared::Shared;
use crate::stats::Stats;

/// A handle to one endpoint's pool: a `Service` for what its connections serve, and a [`Lend`] for balancers.
///
/// Clones share the pool. When the last is dropped, and the last call and [`Checkout`](crate::Checkout) with it, the
/// connections close and the pool's task ends.
///
/// As a `Service` it takes any request, and reads no [context](CallContext) from it. A balancer does, and so does
/// [`lend`](Lend::lend): deadlines, reports and pins reach the pool that way.
///
/// Ready unless nothing is connected and the first connection is under way or backs off; then it wakes when one is
/// there. Ready or not, it holds nothing: a connection is acquired in the call's future.
pub struct Handle<C: Poolable> {
    shared: Arc<Shared<C>>,
    /// Has said that it is ready, and stays so until its call.
    ready: bool,
    watching: Option<usize>,
    /// How often in a row the driver was found gone.
    drives: u32,
}

impl<C: Poolable> Handle<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>) -> Self {
        Self { shared, ready: false, watching: None, drives: 0 }
    }

    /// A connection to use directly, for any number of calls. Errors and cancellation as of [`LendFuture`].
    ///
    /// It borrows the handle, which saves counting references; [`into_owned`](Checkout::into_owned) and
    /// [`lend`](Lend::lend) do not.
    pub async fn checkout(&self) -> Result<Checkout<'_, C>, Error> {
        // Mostly one is idle, and there is no need for a place to wait in.
        if let Some(checkout) = Checkout::idle(&self.shared) {
            announce(&checkout, None);
            return Ok(checkout);
        }
        LendFuture::wishing(self.shared.clone(), Wish::patient()).await
    }

    /// Connects until at least `connections` are open (at most `max_connections`).
    ///
    /// Dropping the future leaves the dials to the pool, which goes on with them.
    ///
    /// # Errors
    ///
    /// The error of the first dial that fails; the pool goes on trying under backoff.
    pub async fn warm(&self, connections: usize) -> Result<(), Error> {
        let key = self.shared.change(|core, effects| core.start_warming(connections, effects));
        let _warming = Warming { shared: &self.shared, key };
        let mut drives = 0;
        self.wait_until(
            |core| core.is_warm(key),
            || {
                // A driver that is gone with its runtime is replaced, within reason.
                drives += u32::from(!self.shared.is_driven());
                if drives > DRIVES { Err(nobody_drives()) } else { self.shared.drive() }
            },
        )
        .await
        .map_err(|error| error.or_endpoint(&self.shared.name))
    }

    /// Ends the pool: no call gets a connection any more, waiters fail with
    /// [`Kind::Closed`](towline_core::Kind::Closed), calls in flight finish, and are cut off with the same error after
    /// the [`close_deadline`](crate::PoolBuilder::close_deadline). Resolves when the last connection is closed. A
    /// [`Checkout`](crate::Checkout) that is still held by then keeps its connection until it is dropped.
    ///
    /// Dropping the future leaves the pool closed, and calls in flight all the time they want.
    pub async fn close(&self) {
        self.shared.shut_down();
        // What is closed needs no driver but the one that is there: nothing fails here.
        let mut closed = pin!(self.wait_until(|core| core.is_empty().then_some(Ok(())), || Ok(())));
        // Outside of a runtime there is no time to keep.
        let timer = tokio::runtime::Handle::try_current().is_ok();
        let mut timer = pin!(timer.then(|| sleep(self.shared.limits.close_deadline)));
        poll_fn(|cx| {
            if closed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            ready!(timer.as_mut().as_pin_mut().map_or(Poll::Pending, |timer| timer.poll(cx)));
            let now = Instant::now();
            self.shared.change(|core, effects| core.cut(now, effects));
            Poll::Ready(())
        })
        .await;
    }

    /// Closes all its connections, those in use after their call, and dials anew for whoever comes or waits.
    pub fn evict(&self) {
        let now = Instant::now();
        self.shared.change(|core, effects| core.evict(now, effects));
    }

    /// What the pool has and what it did.
    pub fn stats(&self) -> Stats {
        self.shared.read(|core| core.stats())
    }

    /// The target's text, as in errors and events.
    pub fn name(&self) -> &EndpointKey {
        &self.shared.name
    }

    pub(crate) fn drive(&self) -> Result<(), Error> {
        self.shared.drive()
    }

    /// Waits for `done`, which is asked after every change; `wait` is called before each wait.
    async fn wait_until(
        &self,
        done: impl Fn(&Core<C>) -> Option<Result<(), Error>>,
        mut wait: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut watch = Watch { shared: &self.shared, key: None };
        poll_fn(|cx| {
            let (done, replaced) = self.shared.read(|core| match done(core) {
                Some(result) => (Some(result), None),
                None => (None, core.watch(&mut watch.key, cx.waker())),
            });
            drop(replaced);
            match done {
                Some(result) => Poll::Ready(result),
                None => wait().map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending),
            }
        })
        .await
    }
}

/// Ends the wish for warmth when the future that has it is dropped.
struct Warming<'a, C: Poolable> {
    shared: &'a Shared<C>,
    key: usize,
}

impl<C: Poolable> Drop for Warming<'_, C> {
    fn drop(&mut self) {
        self.shared.read(|core| core.end_warming(self.key));
    }
}

/// Stops watching when the future that watches is dropped.
struct Watch<'a, C: Poolable> {
    shared: &'a Shared<C>,
    key: Option<usize>,
}

impl<C: Poolable> Drop for Watch<'_, C> {
    fn drop(&mut self) {
        let watching = self.key.map(|key| self.shared.read(|core| core.unwatch(key)));
        drop(watching);
    }
}

// A clone is not ready and watches nothing: both belong to the task that polls the original.
impl<C: Poolable> Clone for Handle<C> {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl<C: Poolable> Drop for Handle<C> {
    fn drop(&mut self) {
        let watching = self.watching.map(|key| self.shared.read(|core| core.unwatch(key)));
        drop(watching);
    }
}

impl<C: Poolable> fmt::Debug for Handle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("endpoint", &self.shared.name).field("stats", &self.stats()).finish()
    }
}

impl<C: Poolable> Lend for Handle<C> {
    type Checkout = Checkout<'static, C>;
    type Lend = LendFuture<C>;

    fn room(&self) -> Room {
        self.shared.room()
    }

    /// Who lends may have other endpoints to ask, and hears of the first dial that fails.
    fn lend(&self, context: Option<&CallContext>) -> LendFuture<C> {
        LendFuture::new(self.shared.clone(), context)
    }

    /// An idle connection, for a call that asks for no connection in particular.
    fn try_lend(&self, context: Option<&CallContext>) -> Option<Checkout<'static, C>> {
        if context.is_some_and(|context| context.pin().is_some()) {
            return None;
        }
        let checkout = Checkout::idle(&self.shared)?.into_owned_for(context);
        announce(&checkout, None);
        Some(checkout)
    }

    /// The first to ask gets nothing: from then on connections are asked when they come back.
    fn reported(&self) -> Option<LoadReport> {
        self.shared.reported()
    }
}

/// Calls in flight and waiting, over all clones.
impl<C: Poolable> Load for Handle<C> {
    type Metric = usize;

    fn load(&self) -> usize {
        self.shared.read(|core| core.load())
    }
}

impl<C, Req> Service<Req> for Handle<C>
where
    C: Poolable + Service<Req>,
    C::Error: GiveBack<Req>,
{
    type Response = C::Response;
    type Error = Error;
    type Future = PooledCall<C, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { shared, ready, watching, drives } = self;
        // With room there is a connection: nothing to wait for, and no need for the lock.
        if watching.is_none() && shared.room() == Room::Ready {
            (*ready, *drives) = (true, 0);
        }
        if *ready {
            return Poll::Ready(Ok(()));
        }
        let (connecting, replaced) = shared.read(|core| match core.is_connecting() && !core.is_closed() {
            true => (true, core.watch(watching, cx.waker())),
            false => (false, watching.take().map(|key| core.unwatch(key))),
        });
        drop(replaced);
        *drives = if connecting && !shared.is_driven() { *drives + 1 } else { 0 };
        // Somebody has to go on dialling, also after the runtime of the first caller is gone. Where that cannot be,
        // the call says so: an error here would be for good.
        *ready = !connecting || *drives > DRIVES || shared.drive().is_err();
        if *ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.ready = false;
        PooledCall::with_lend(LendFuture::wishing(self.shared.clone(), Wish::patient()), request)
    }
}
