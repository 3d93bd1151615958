//! The one task of an endpoint's pool: dials, watches idle connections, retires old ones, ends waits that are over.
//!
//! It starts with the first caller who has to wait and survives every caller. It does not keep the pool open: it ends
//! when that is closed, or dropped by whoever held it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;
use towline_core::sync::{Lock, after};
use towline_core::{
    BoxError, ConnectionId, Error, Event, Kind, Phase, Poolable, ReadyCall, Sent, Sharing, TlsPeer, peer,
};

use crate::bell::Bell;
use crate::check::{BoxCheck, HealthCheck};
use crate::checkout::Checkout;
use crate::core::{DialPermit, Need};
use crate::limits::Limits;
use crate::shared::Shared;
use crate::sync::Ordering;

/// How often the driver goes on at once, because dials or checks have ended, before others have their turn.
const ROUNDS: u32 = 32;

pub(crate) struct Driver<M: Service<T>, T>
where
    M::Response: Poolable,
{
    shared: Weak<Shared<M::Response>>,
    bell: Arc<Bell>,
    limits: Limits,
    /// Shared with the pool, which need not be `Sync` for it.
    make: Arc<Lock<M>>,
    target: T,
    check: Option<HealthCheck<M::Response>>,
    dials: Vec<Dial<M, T>>,
    checks: Vec<Check>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Has looked after what it found at its start.
    started: bool,
}

struct Dial<M: Service<T>, T> {
    /// Taken when the dial ends.
    permit: Option<DialPermit>,
    started: Instant,
    deadline: Instant,
    /// At the other end, once that is known.
    peer: Option<Arc<TlsPeer>>,
    /// None when the maker panicked at once.
    future: Result<Pin<Box<ReadyCall<M, T>>>, Error>,
}

struct Check {
    connection: ConnectionId,
    deadline: Instant,
    future: Option<BoxCheck>,
}

// Dials, checks and the timer are boxed; nothing else is pinned.
impl<M: Service<T>, T> Unpin for Driver<M, T> where M::Response: Poolable {}

impl<M, T> Driver<M, T>
where
    M: Service<T> + Clone,
    M::Response: Poolable,
    M::Error: Into<BoxError>,
    T: Clone,
{
    pub(crate) fn new(
        shared: &Arc<Shared<M::Response>>,
        make: Arc<Lock<M>>,
        target: T,
        check: Option<HealthCheck<M::Response>>,
    ) -> Self {
        Self {
            bell: shared.bell.clone(),
            limits: shared.limits,
            shared: Arc::downgrade(shared),
            make,
            target,
            check,
            dials: Vec::new(),
            checks: Vec::new(),
            sleep: None,
            started: false,
        }
    }

    /// Looks after connections that rang, and does what is due. Whether the pool is closed, and has connections left.
    fn look(&mut self, shared: &Shared<M::Response>, now: Instant) -> (bool, bool) {
        let rung = self.bell.take();
        let first = !std::mem::replace(&mut self.started, true);
        let runtime = Handle::try_current().ok().filter(|_| first);
        shared.change(|core, effects| {
            if let Some(runtime) = runtime {
                core.driven_on(runtime.id());
            }
            rung.into_iter().for_each(|slot| core.rang(slot, now, effects));
            if first || core.looks_at().is_some_and(|at| at <= now) {
                core.look(now, effects);
            }
            (core.is_closed(), core.has_live())
        })
    }

    // === Dials ===

    /// Starts what is due. When to try again, if there is no room for what is wanted ahead.
    fn start_dials(&mut self, shared: &Shared<M::Response>, now: Instant) -> Option<Instant> {
        loop {
            let Some(need) = shared.read(|core| core.need(now)) else {
                shared.wants_no_place();
                return None;
            };
            let Some(place) = shared.place(need, now) else {
                return (need != Need::Waiter).then(|| after(now, self.limits.tick()));
            };
            match shared.change(|core, _| core.start_dial(place, now)) {
                Ok(permit) => {
                    let future = guard(|| {
                        let make = self.make.lock().clone();
                        Box::pin(ReadyCall::new(make, self.target.clone()))
                    });
                    let deadline = after(now, self.limits.dial_deadline);
                    self.dials.push(Dial { permit: Some(permit), started: now, deadline, peer: None, future });
                }
                Err(unused) => drop(unused),
            }
        }
    }

    /// The pool is closed: dropping the dials closes what they had opened.
    fn give_up(&mut self, shared: &Shared<M::Response>) {
        self.checks.clear();
        for permit in self.dials.drain(..).filter_map(|dial| dial.permit) {
            shared.change(|core, effects| core.dial_given_up(permit, effects));
        }
    }

    /// Whether a dial has ended.
    fn poll_dials(&mut self, shared: &Shared<M::Response>, cx: &mut Context<'_>) -> bool {
        let mut ended = false;
        for dial in &mut self.dials {
            let Poll::Ready(result) = dial.poll(self.limits, cx) else { continue };
            let Some(permit) = dial.permit.take() else { continue };
            ended = true;
            let now = Instant::now();
            match result {
                Ok(made) => {
                    let peer = dial.peer.take();
                    let connection =
                        shared.change(|core, effects| core.dial_succeeded(permit, made, peer, now, effects));
                    let took = now.saturating_duration_since(dial.started);
                    shared.observers.emit(Event::Dialled { endpoint: &shared.name, connection, took });
                }
                Err(error) => {
                    // Whatever a foreign maker fails with, no request was sent.
                    let error = error.with_sent(Sent::Never).or_endpoint(&shared.name);
                    let next = shared.change(|core, effects| core.dial_failed(permit, error.clone(), now, effects));
                    let next_in = next.saturating_duration_since(now);
                    shared.observers.emit(Event::DialFailed { endpoint: &shared.name, error: &error, next_in });
                }
            }
        }
        self.dials.retain(|dial| dial.permit.is_some());
        ended
    }

    // === Health checks ===

    fn start_checks(&mut self, shared: &Arc<Shared<M::Response>>, now: Instant) {
        let Some(check) = &self.check else { return };
        while self.checks.len() < self.limits.max_dials {
            let Some(grant) = shared.change(|core, effects| core.start_check(now, effects)) else { return };
            let connection = grant.slot.id;
            let checkout = Checkout::to_look_into(shared.clone(), grant);
            let future = guard(|| check.begin(checkout)).ok();
            self.checks.push(Check { connection, deadline: after(now, check.deadline), future });
        }
    }

    /// Whether a check has ended.
    fn poll_checks(&mut self, shared: &Shared<M::Response>, cx: &mut Context<'_>) -> bool {
        let before = self.checks.len();
        self.checks.retain_mut(|check| {
            let Poll::Ready(healthy) = check.poll(cx) else { return true };
            let now = Instant::now();
            // Judged before it is given back.
            shared.change(|core, effects| core.checked(check.connection, !healthy, now, effects));
            check.future = None;
            false
        });
        self.checks.len() < before
    }
}

impl<M, T> Dial<M, T>
where
    M: Service<T>,
    M::Response: Poolable,
    M::Error: Into<BoxError>,
{
    /// The connection, and how it is shared.
    fn poll(&mut self, limits: Limits, cx: &mut Context<'_>) -> Poll<Result<(M::Response, Sharing), Error>> {
        let future = match &mut self.future {
            Ok(future) => future.as_mut(),
            Err(panicked) => return Poll::Ready(Err(panicked.clone())),
        };
        match guard(|| peer::hear(&mut self.peer, || future.poll(cx))) {
            Ok(Poll::Ready(Ok(made))) => Poll::Ready(guard(|| made.sharing()).map(|sharing| (made, sharing))),
            Ok(Poll::Ready(Err(error))) => Poll::Ready(Err(Error::unreachable(error))),
            Ok(Poll::Pending) if Instant::now() < self.deadline => Poll::Pending,
            Ok(Poll::Pending) => Poll::Ready(Err(Error::new(Kind::Timeout, Phase::Dial).with_message(format!(
                "the maker made no connection within {} ms (dial_deadline)",
                limits.dial_deadline.as_millis()
            )))),
            Err(panicked) => Poll::Ready(Err(panicked)),
        }
    }
}

impl Check {
    /// Whether the connection is well, once that is known.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(future) = &mut self.future else { return Poll::Ready(false) };
        match guard(|| future.as_mut().poll(cx)) {
            Ok(Poll::Ready(result)) => Poll::Ready(result.is_ok()),
            Ok(Poll::Pending) if Instant::now() < self.deadline => Poll::Pending,
            Ok(Poll::Pending) | Err(_) => Poll::Ready(false),
        }
    }
}

/// Runs foreign code; its panic is an error of the dial or check that it belongs to, not the end of the pool.
fn guard<R>(run: impl FnOnce() -> R) -> Result<R, Error> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Error::new(Kind::Other, Phase::Dial).with_message(format!("the maker panicked: {text}"))
    })
}

impl<M, T> Future for Driver<M, T>
where
    M: Service<T> + Clone,
    M::Response: Poolable,
    M::Error: Into<BoxError>,
    T: Clone,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.bell.register(cx.waker());
        // Held for the time of this poll: if it becomes the last, dropping it calls this task again.
        let Some(shared) = this.shared.upgrade() else { return Poll::Ready(()) };
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let (closed, live) = this.look(&shared, now);
            // Nobody else holds it but the checks that this task runs.
            let forsaken = Arc::strong_count(&shared) <= 1 + shared.checks.load(Ordering::Acquire);
            if closed || forsaken {
                this.give_up(&shared);
                shared.wants_no_place();
            }
            if forsaken || (closed && !live) {
                return Poll::Ready(());
            }
            let mut again = None;
            if !closed {
                again = this.start_dials(&shared, now);
                this.start_checks(&shared, now);
            }
            if this.poll_dials(&shared, cx) | this.poll_checks(&shared, cx) {
                continue;
            }
            let dials = this.dials.iter().map(|dial| dial.deadline);
            let checks = this.checks.iter().map(|check| check.deadline);
            let look = shared.read(|core| core.looks_at());
            let Some(next) = look.into_iter().chain(again).chain(dials).chain(checks).min() else {
                this.sleep = None;
                return Poll::Pending;
            };
            let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(next)));
            if sleep.deadline() != next {
                sleep.as_mut().reset(next);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<M: Service<T>, T> Drop for Driver<M, T>
where
    M::Response: Poolable,
{
    fn drop(&mut self) {
        let lost = self.dials.drain(..).filter_map(|dial| dial.permit).collect();
        // Their connections go back, or close.
        self.checks.clear();
        if let Some(shared) = self.shared.upgrade() {
            shared.undriven(lost);
        }
    }
}
