//! Waiting for a connection, and holding one.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;
use towline_core::sync::after;
use towline_core::{CallContext, ConnectionId, Error, Event, GiveBack, Kind, Phase, Poolable, Report, progress};

use crate::call::PooledCall;
use crate::queue::Place;
use crate::shared::{Shared, Users};
use crate::slot::{Grant, SlotId};

/// Resolves to a [`Checkout`]. Asks for nothing until it is polled; dropped at any point, it leaves the queue, and a
/// connection that was meant for it goes to the next.
///
/// # Errors
///
/// All [`Sent::Never`](towline_core::Sent::Never), with the endpoint: [`Kind::Timeout`] after the wait deadline,
/// saying how many were in use, dialling and waiting; [`Kind::Overloaded`] when the queue is full; the dial's own
/// error when the endpoint cannot be reached; [`Kind::Closed`]; [`Kind::Runtime`] outside a runtime.
pub struct LendFuture<C: Poolable> {
    shared: Arc<Users<C>>,
    wish: Wish,
    state: State,
}

/// What a call asks of whatever connection it gets.
#[derive(Clone, Default)]
pub(crate) struct Wish {
    deadline: Option<Instant>,
    report: Option<Arc<Report>>,
}

enum State {
    Start,
    Waiting { place: Place, since: Instant, sleep: Pin<Box<Sleep>>, drives: u32 },
    Done,
}

/// How often a caller starts a driver that is gone again before it hears that nothing runs it.
pub(crate) const DRIVES: u32 = 3;

impl<C: Poolable> LendFuture<C> {
    pub(crate) fn new(shared: Arc<Users<C>>, context: Option<&CallContext>) -> Self {
        let deadline = context.and_then(CallContext::deadline);
        let report = context.and_then(CallContext::report).cloned();
        Self::again(shared, Wish { deadline, report })
    }

    /// For a request that came back, with what its call asked for.
    pub(crate) fn again(shared: Arc<Users<C>>, wish: Wish) -> Self {
        Self { shared, wish, state: State::Start }
    }

    pub(crate) fn users(&self) -> &Arc<Users<C>> {
        &self.shared
    }

    fn granted(&mut self, grant: Grant<C>) -> Checkout<C> {
        self.state = State::Done;
        let Grant { connection, slot, reused } = grant;
        // First of all in hands that give it back: reports and observers are not ours.
        let checkout = Checkout {
            shared: self.shared.shared().clone(),
            slot,
            connection: Some(connection),
            reused,
            succeeded: false,
            wish: self.wish.clone(),
        };
        if let Some(report) = &self.wish.report {
            report.connected(slot.id, reused);
        }
        if reused {
            let (endpoint, connection) = (&self.shared.name, slot.id);
            self.shared.observers.emit(Event::Reused { endpoint, connection });
        }
        checkout
    }

    /// Ends the wait with an error, unless a connection has come at the last moment.
    fn give_up(&mut self, place: Place, error: Error) -> Poll<Result<Checkout<C>, Error>> {
        self.state = State::Done;
        Poll::Ready(match self.shared.change(|core, _| core.leave(place)) {
            Some(Ok(grant)) => Ok(self.granted(grant)),
            _ => Err(error.or_endpoint(&self.shared.name)),
        })
    }

    fn timed_out(&self, since: Instant) -> Error {
        let (stats, cause) = self.shared.read(|core| (core.stats(), core.last_error().cloned()));
        let error = Error::new(Kind::Timeout, Phase::Queue).with_message(format!(
            "no connection within {} ms: {} in use, {} dialling, {} waiting (max_connections {})",
            since.elapsed().as_millis(),
            stats.in_use,
            stats.dialling,
            stats.waiting,
            self.shared.limits.max_connections,
        ));
        match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        }
    }

    /// Asks for a connection, and joins the queue when there is none.
    fn start(&mut self, cx: &mut Context<'_>) -> Result<Option<Checkout<C>>, Error> {
        progress::enter(Phase::Queue);
        let now = Instant::now();
        let asked = self.shared.change(|core, effects| {
            if let Some(grant) = core.lend(now, effects)? {
                return Ok(Ok(grant));
            }
            if Handle::try_current().is_err() {
                return Err(no_runtime("no tokio runtime to wait on; call from within one"));
            }
            // One step under one lock: a return between "nothing is free" and "I wait" would be lost.
            Ok(Err(core.join(cx.waker().clone(), effects)))
        });
        match asked {
            Err(error) => {
                self.state = State::Done;
                // An endpoint that is down is dialled on, also after the runtime of the first caller is gone.
                let error = match error.kind() {
                    Kind::Closed | Kind::Overloaded | Kind::Runtime => error,
                    _ => self.shared.drive().err().unwrap_or(error),
                };
                Err(error.or_endpoint(&self.shared.name))
            }
            Ok(Ok(grant)) => Ok(Some(self.granted(grant))),
            Ok(Err(place)) => {
                let limit = after(now, self.shared.limits.wait_deadline);
                let until = self.wish.deadline.map_or(limit, |deadline| deadline.min(limit));
                let sleep = Box::pin(sleep_until(until));
                self.state = State::Waiting { place, since: now, sleep, drives: 0 };
                Ok(None)
            }
        }
    }
}

impl<C: Poolable> Future for LendFuture<C> {
    type Output = Result<Checkout<C>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let State::Start = this.state {
            if let Some(checkout) = this.start(cx)? {
                return Poll::Ready(Ok(checkout));
            }
        }
        let State::Waiting { place, since, sleep, drives } = &mut this.state else {
            panic!("polled after completion");
        };
        let (place, since) = (*place, *since);
        if let Some(result) = this.shared.change(|core, _| core.pick_up(place, cx.waker())) {
            this.state = State::Done;
            return Poll::Ready(match result {
                Ok(grant) => Ok(this.granted(grant)),
                Err(error) => Err(error.or_endpoint(&this.shared.name)),
            });
        }
        // Noted first whom to wake: a driver that ends from here on wakes this task, which starts another.
        if !this.shared.is_driven() {
            *drives += 1;
            let driven = if *drives > DRIVES { Err(nobody_drives()) } else { this.shared.drive() };
            if let Err(error) = driven {
                return this.give_up(place, error);
            }
        }
        ready!(pin!(unconstrained(sleep.as_mut())).poll(cx)); // Outside of the task's budget.
        let error = this.timed_out(since);
        this.give_up(place, error)
    }
}

/// What a caller hears who has started the driver again and again.
pub(crate) fn nobody_drives() -> Error {
    no_runtime("the executor drops the pool's task; is its runtime gone?")
}

fn no_runtime(why: &'static str) -> Error {
    Error::new(Kind::Runtime, Phase::Queue).with_message(why)
}

impl<C: Poolable> Drop for LendFuture<C> {
    fn drop(&mut self) {
        let State::Waiting { place, .. } = self.state else { return };
        let now = Instant::now();
        let left = self.shared.change(|core, effects| match core.leave(place) {
            Some(Ok(Grant { connection, slot, .. })) => {
                core.give_back(slot, connection, false, now, effects);
                None
            }
            other => other,
        });
        drop(left);
    }
}

impl<C: Poolable> fmt::Debug for LendFuture<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LendFuture").field("endpoint", &self.shared.name).finish_non_exhaustive()
    }
}

/// A connection for one call, or for as long as it is held; dropping it gives it back.
///
/// It dereferences to the connection, and serves one request as a `Service`.
pub struct Checkout<C: Poolable> {
    shared: Arc<Shared<C>>,
    slot: SlotId,
    /// Present until dropped.
    connection: Option<C>,
    reused: bool,
    succeeded: bool,
    wish: Wish,
}

impl<C: Poolable> Checkout<C> {
    /// Which connection this is.
    pub fn id(&self) -> ConnectionId {
        self.slot.id
    }

    /// Whether it had been used before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<C>> {
        &self.shared
    }

    pub(crate) fn wish(&self) -> &Wish {
        &self.wish
    }

    /// A call on it succeeded: the endpoint is well.
    pub(crate) fn succeeded(&mut self) {
        self.succeeded = true;
    }
}

impl<C: Poolable> Deref for Checkout<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect("present until dropped")
    }
}

impl<C: Poolable> DerefMut for Checkout<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.connection.as_mut().expect("present until dropped")
    }
}

impl<C: Poolable> Drop for Checkout<C> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let (slot, succeeded, now) = (self.slot, self.succeeded, Instant::now());
        self.shared.change(|core, effects| core.give_back(slot, connection, succeeded, now, effects));
    }
}

impl<C: Poolable> fmt::Debug for Checkout<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout")
            .field("endpoint", &self.shared.name)
            .field("connection", &self.slot.id)
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}

/// One request: the call takes the connection, so the service is spent after it.
impl<C, Req> Service<Req> for Checkout<C>
where
    C: Poolable + Service<Req>,
    C::Error: GiveBack<Req>,
{
    type Response = C::Response;
    type Error = Error;
    type Future = PooledCall<C, Req>;

    // The connection is readied in the call's future, where a dead one can be replaced.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(match self.connection {
            Some(_) => Ok(()),
            None => Err(spent()),
        })
    }

    fn call(&mut self, request: Req) -> Self::Future {
        PooledCall::with_checkout(self.take(), request)
    }
}

impl<C: Poolable> Checkout<C> {
    fn take(&mut self) -> Option<Self> {
        let connection = self.connection.take()?;
        Some(Self {
            shared: self.shared.clone(),
            slot: self.slot,
            connection: Some(connection),
            reused: self.reused,
            succeeded: self.succeeded,
            wish: std::mem::take(&mut self.wish),
        })
    }
}

pub(crate) fn spent() -> Error {
    Error::new(Kind::Closed, Phase::Queue).with_message("a checkout serves one request, and this one has")
}
