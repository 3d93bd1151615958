//! Waiting for a connection.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{consume_budget, unconstrained};
use tokio::time::{Instant, Sleep, sleep_until};
use towline_core::sync::after;
use towline_core::{CallContext, ConnectionPin, Error, Event, Kind, Phase, Poolable, Report, progress};

use crate::checkout::Checkout;
use crate::core::{Core, Lent, Use};
use crate::effects::Effects;
use crate::queue::{Place, Wait};
use crate::shared::Shared;
use crate::slot::Grant;

pin_project_lite::pin_project! {
    /// Resolves to a [`Checkout`]. Asks for nothing until it is polled; dropped at any point, it leaves the queue, and a
    /// connection that was meant for it goes to the next.
    ///
    /// # Errors
    ///
    /// All [`Sent::Never`](towline_core::Sent::Never), with the endpoint: [`Kind::Timeout`] after the wait deadline,
    /// saying how many were in use, dialling and waiting; [`Kind::Overloaded`] when the queue is full; the dial's own
    /// error when the endpoint cannot be reached; [`Kind::PinLost`] when the connection that the call is pinned to is
    /// gone; [`Kind::Closed`]; [`Kind::Runtime`] outside a runtime.
    pub struct LendFuture<C>
    where
        C: Poolable,
    {
        // Present until it resolves.
        shared: Option<Arc<Shared<C>>>,
        wish: Wish,
        waiting: Option<Waiting>,
        // Why there will be none, until the task has told.
        refused: Option<Error>,
        // Of a caller who leaves before the others do, or whose runtime is not the driver's: the driver looks after
        // everybody else.
        #[pin]
        timer: Option<Sleep>,
    }

    impl<C> PinnedDrop for LendFuture<C>
    where
        C: Poolable,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let (Some(shared), Some(Waiting { place, .. })) = (&this.shared, this.waiting) {
                let left = shared.change(|core, effects| match core.leave(*place, effects) {
                    (Some(Ok(Grant { connection, slot, .. })), waker) => {
                        (core.give_back(slot, connection, Use::default(), Instant::now, effects), None, waker)
                    }
                    (refused, waker) => (None, refused, waker),
                });
                drop(left);
            }
        }
    }
}

/// What a call asks of whatever connection it gets.
#[derive(Clone, Default)]
pub(crate) struct Wish {
    deadline: Option<Instant>,
    pub(crate) pin: Option<ConnectionPin>,
    /// Has no other endpoint to ask: one dial that fails does not end the wait.
    patient: bool,
    report: Option<Arc<Report>>,
}

impl Wish {
    pub(crate) fn of(context: &CallContext) -> Self {
        let (deadline, pin, report) = (context.deadline(), context.pin().cloned(), context.report().cloned());
        Self { deadline, pin, report, patient: false }
    }

    /// Of somebody who asks this endpoint and no other.
    pub(crate) fn patient() -> Self {
        Self { patient: true, ..Self::default() }
    }
}

struct Waiting {
    place: Place,
    wait: Wait,
    drives: u32,
}

/// How often a caller starts a driver that is gone again before it hears that nothing runs it.
pub(crate) const DRIVES: u32 = 3;

impl<C: Poolable> LendFuture<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, context: Option<&CallContext>) -> Self {
        Self::wishing(shared, context.map(Wish::of).unwrap_or_default())
    }

    /// For somebody who wishes this, such as a call whose request came back.
    pub(crate) fn wishing(shared: Arc<Shared<C>>, wish: Wish) -> Self {
        Self { shared: Some(shared), wish, waiting: None, refused: None, timer: None }
    }
}

impl<C: Poolable> Future for LendFuture<C> {
    type Output = Result<Checkout<'static, C>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if this.refused.is_some() {
                // Somebody who asks again and again without a pause would keep the driver from ever mending it.
                ready!(pin!(consume_budget()).poll(cx));
            }
            if let Some(error) = this.refused.take() {
                return Poll::Ready(Err(error));
            }
            let shared = this.shared.as_ref().expect("polled after completion");
            let lent = match this.waiting {
                Some(waiting) => ready!(wait(shared, waiting, this.timer.as_mut(), cx)),
                None => match ask(shared, this.wish, cx) {
                    Ok(Asked::Granted(grant)) => Ok((grant, None)),
                    Ok(Asked::Waits { waiting, timer, driven_here }) => {
                        *this.waiting = Some(waiting);
                        // Whom to wake is noted: a driver that ends from here on wakes this task.
                        if timer.is_none() && driven_here && shared.is_driven() {
                            return Poll::Pending;
                        }
                        this.timer.set(timer.map(sleep_until));
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            *this.waiting = None;
            let shared = this.shared.take().expect("seen above");
            let (grant, waited) = match lent {
                Ok(lent) => lent,
                Err(error) => {
                    *this.refused = Some(error.or_endpoint(&shared.name));
                    continue;
                }
            };
            // First of all in hands that give it back: pins, reports and observers are not ours.
            let checkout = Checkout::new(shared, grant, std::mem::take(this.wish));
            if checkout.is_bound() {
                announce(&checkout, waited);
                return Poll::Ready(Ok(checkout));
            }
            // It goes back, and the call goes where another has bound its session meanwhile.
            (*this.shared, *this.wish) = (Some(checkout.shared().clone()), checkout.wish().clone());
        }
    }
}

/// Tells whoever wants to know which connection it is.
#[inline]
pub(crate) fn announce<C: Poolable>(checkout: &Checkout<'_, C>, waited: Option<Duration>) {
    let (connection, reused, shared) = (checkout.id(), checkout.is_reused(), checkout.shared());
    let endpoint = &shared.name;
    if let Some(report) = &checkout.wish().report {
        report.connected(connection, reused, shared.peer(checkout.slot()));
    }
    if let Some(took) = waited {
        shared.observers.emit(Event::Waited { endpoint, connection, took });
    }
    if reused {
        shared.observers.emit(Event::Reused { endpoint, connection });
    }
}

enum Asked<C> {
    Granted(Grant<C>),
    /// `driven_here` says that the driver runs on this runtime, and keeps the time.
    Waits {
        waiting: Waiting,
        timer: Option<Instant>,
        driven_here: bool,
    },
}

/// Asks for a connection, and joins the queue when there is none.
fn ask<C: Poolable>(shared: &Shared<C>, wish: &Wish, cx: &mut Context<'_>) -> Result<Asked<C>, Error> {
    progress::enter(Phase::Queue);
    let pin = wish.pin.as_ref().and_then(ConnectionPin::connection);
    let lend_or_join = |core: &mut Core<C>, effects: &mut Effects<C>| {
        let slot = match core.lend(pin, wish.patient, Instant::now, effects)? {
            Lent::Granted(grant) => return Ok(Asked::Granted(grant)),
            Lent::Wait(slot) => slot,
        };
        let none = |_| no_runtime("no tokio runtime to wait on; call from within one");
        let driven_here = core.is_driven_on(Handle::try_current().map_err(none)?.id());
        let since = Instant::now();
        let until = after(since, shared.limits.wait_deadline);
        let timer = wish.deadline.filter(|deadline| *deadline < until);
        let wait = Wait { since, until, patient: wish.patient };
        let place = core.join(slot, wait, cx.waker().clone(), effects);
        Ok(Asked::Waits { waiting: Waiting { place, wait, drives: 0 }, timer, driven_here })
    };
    let mut connection = None;
    let asked = match pin {
        None => match shared.take_idle_or(&mut connection, lend_or_join) {
            Ok((slot, reused)) => {
                let connection = connection.expect("just taken");
                return Ok(Asked::Granted(Grant { connection, slot, reused }));
            }
            Err(asked) => asked,
        },
        Some(_) => shared.change(lend_or_join),
    };
    asked.map_err(|error: Error| match error.kind() {
        Kind::Closed | Kind::Overloaded | Kind::Runtime | Kind::PinLost => error,
        // An endpoint that is down is dialled on, also after the runtime of the first caller is gone.
        _ => shared.drive().err().unwrap_or(error),
    })
}

type Waited<C> = Result<(Grant<C>, Option<Duration>), Error>;

fn wait<C: Poolable>(
    shared: &Shared<C>,
    waiting: &mut Waiting,
    mut timer: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<Waited<C>> {
    let Waiting { place, wait, .. } = *waiting;
    let (picked_up, _old) = shared.read(|core| core.pick_up(place, cx.waker(), Instant::now));
    if let Some(result) = picked_up {
        return Poll::Ready(result.map(|(grant, waited)| (grant, Some(waited))));
    }
    // Noted first whom to wake: a driver that ends from here on wakes this task, which starts another.
    if !shared.is_driven() {
        waiting.drives += 1;
        let driven = if waiting.drives > DRIVES { Err(nobody_drives()) } else { shared.drive() };
        if let Err(error) = driven {
            return Poll::Ready(give_up(shared, place, error));
        }
    }
    if timer.is_none() {
        // The driver's runtime may be another, which may stand still; and a wait may move from one to the other.
        let here = Handle::try_current().map(|runtime| runtime.id());
        if here.is_ok_and(|here| shared.read(|core| !core.is_driven_on(here))) {
            timer.set(Some(sleep_until(wait.until)));
        }
    }
    let Some(timer) = timer.as_pin_mut() else { return Poll::Pending };
    ready!(pin!(unconstrained(timer)).poll(cx)); // Outside of the task's budget.
    let error = shared.read(|core| core.waited_in_vain(wait.since.elapsed()));
    Poll::Ready(give_up(shared, place, error))
}

/// Ends the wait with an error, unless a connection has come at the last moment.
fn give_up<C: Poolable>(shared: &Shared<C>, place: Place, error: Error) -> Waited<C> {
    let (left, _waker) = shared.change(|core, effects| core.leave(place, effects));
    match left {
        Some(Ok(grant)) => Ok((grant, None)),
        _ => Err(error),
    }
}

/// What a caller hears who has started the driver again and again.
pub(crate) fn nobody_drives() -> Error {
    no_runtime("the executor drops the pool's task; is its runtime gone?")
}

fn no_runtime(why: &'static str) -> Error {
    Error::new(Kind::Runtime, Phase::Queue).with_message(why)
}

impl<C: Poolable> fmt::Debug for LendFuture<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.shared.as_ref().map(|shared| &shared.name);
        f.debug_struct("LendFuture").field("endpoint", &endpoint).finish_non_exhaustive()
    }
}
