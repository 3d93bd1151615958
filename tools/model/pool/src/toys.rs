//! Connections, callers and drivers.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use loom::future::block_on;
use loom::thread::{self, JoinHandle};
use tokio::time::Instant;
use towline_core::{Backoff, CloseReason, EndpointKey, Error, Observers, Poolable, Sharing, State};

use crate::core::{Lent, Use};
use crate::limits::{IdleOrder, Limits};
use crate::queue::{Place, Wait};
use crate::shared::{Common, Shared};
use crate::slot::{Grant, SlotId};
use crate::sync::{AtomicBool, AtomicWaker, Lock, Ordering};
use crate::total::Total;

pub(crate) type Endpoint = Arc<Shared<Toy>>;

/// A connection that its peer may close.
pub(crate) struct Toy(Arc<Wire>);

pub(crate) struct Wire {
    closed: AtomicBool,
    watcher: AtomicWaker,
    /// Somebody has it. No part of the model: a check.
    held: std::sync::atomic::AtomicBool,
}

impl Toy {
    fn new() -> Self {
        let (closed, watcher) = (AtomicBool::new(false), AtomicWaker::new());
        Self(Arc::new(Wire { closed, watcher, held: false.into() }))
    }

    pub(crate) fn wire(&self) -> Arc<Wire> {
        self.0.clone()
    }
}

impl Wire {
    /// The peer closes it.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.watcher.wake();
    }
}

impl Poolable for Toy {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        self.0.watcher.register(cx.waker());
        match (self.0.closed.load(Ordering::Acquire), seen) {
            (true, _) => Poll::Ready(State::Closed),
            (false, State::Idle) => Poll::Pending,
            (false, _) => Poll::Ready(State::Idle),
        }
    }

    fn close_reason(&self) -> CloseReason {
        CloseReason::Peer
    }
}

pub(crate) fn endpoint(max_connections: usize, total: Option<&Arc<Total>>) -> Endpoint {
    let limits = Limits {
        max_connections,
        max_total: None,
        max_dials: 4,
        max_waiters: 8,
        wait_deadline: Duration::MAX,
        dial_deadline: Duration::MAX,
        close_deadline: Duration::MAX,
        idle_timeout: None,
        idle_order: IdleOrder::MostRecent,
        min_idle: 0,
        max_lifetime: None,
        max_calls: None,
        check_every: None,
        dial_backoff: Backoff::new(Duration::ZERO, Duration::ZERO),
        warm: 0,
    };
    let past = Arc::<Lock<_>>::default();
    let common = Common { limits, observers: Observers::default(), total: total.cloned(), past };
    let endpoint = Shared::new(EndpointKey::new("endpoint"), &common, Box::new(|_| Ok(())));
    endpoint.drive().unwrap(); // The model's own driver, if it needs one.
    endpoint
}

/// Opens a connection ahead.
pub(crate) fn open(endpoint: &Endpoint) -> Arc<Wire> {
    let toy = Toy::new();
    let wire = toy.wire();
    let now = Instant::now();
    let _wish = endpoint.change(|core, effects| core.start_warming(1, effects));
    let place = endpoint.place(crate::core::Need::Warmth, now).expect("room");
    let permit = endpoint.change(|core, _| core.start_dial(place, now)).ok().expect("it is wanted");
    endpoint.change(|core, effects| core.dial_succeeded(permit, (toy, Sharing::Exclusive), None, now, effects));
    wire
}

/// What a checkout is.
pub(crate) struct Held {
    endpoint: Endpoint,
    slot: SlotId,
    toy: Option<Toy>,
}

impl Held {
    fn new(endpoint: &Endpoint, slot: SlotId, toy: Toy) -> Self {
        assert!(!toy.0.held.swap(true, Ordering::AcqRel), "two have one connection");
        Self { endpoint: endpoint.clone(), slot, toy: Some(toy) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(toy) = &self.toy {
            toy.0.held.store(false, Ordering::Release);
        }
        self.endpoint.give_back(self.slot, &mut self.toy, Use { used: true, ..Use::default() });
    }
}

/// What a `LendFuture` is, without its timer.
pub(crate) struct Lending {
    endpoint: Endpoint,
    place: Option<Place>,
}

impl Lending {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self { endpoint: endpoint.clone(), place: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Held, Error>> {
        let endpoint = &self.endpoint;
        let Some(place) = self.place else {
            let mut toy = None;
            if let Some((slot, _)) = endpoint.take_idle(&mut toy) {
                return Poll::Ready(Ok(Held::new(endpoint, slot, toy.expect("taken"))));
            }
            let now = Instant::now();
            let asked = endpoint.change(|core, effects| match core.lend(None, false, Instant::now, effects)? {
                Lent::Granted(grant) => Ok(Ok(grant)),
                Lent::Wait(slot) => {
                    let wait =
                        Wait { since: now, until: towline_core::sync::after(now, Duration::MAX), patient: false };
                    Ok(Err(core.join(slot, wait, cx.waker().clone(), effects)))
                }
            });
            return match asked {
                Err(error) => Poll::Ready(Err(error)),
                Ok(Ok(Grant { connection, slot, .. })) => Poll::Ready(Ok(Held::new(endpoint, slot, connection))),
                Ok(Err(place)) => {
                    self.place = Some(place);
                    Poll::Pending
                }
            };
        };
        let (picked_up, _old) = endpoint.read(|core| core.pick_up(place, cx.waker(), Instant::now));
        match picked_up {
            None => Poll::Pending,
            Some(picked_up) => {
                self.place = None;
                let held = |(Grant { connection, slot, .. }, _)| Held::new(endpoint, slot, connection);
                Poll::Ready(picked_up.map(held))
            }
        }
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let left = self.endpoint.change(|core, effects| match core.leave(place, effects) {
                (Some(Ok(Grant { connection, slot, .. })), waker) => {
                    (core.give_back(slot, connection, Use::default(), Instant::now, effects), waker)
                }
                (_, waker) => (None, waker),
            });
            drop(left);
        }
    }
}

pub(crate) fn acquire(endpoint: &Endpoint) -> Result<Held, Error> {
    let mut lending = Lending::new(endpoint);
    block_on(std::future::poll_fn(|cx| lending.poll(cx)))
}

/// Polls once.
pub(crate) fn ask(lending: &mut Lending) -> Poll<Result<Held, Error>> {
    block_on(std::future::poll_fn(|cx| Poll::Ready(lending.poll(cx))))
}

/// What the driver is: its dials succeed at once.
pub(crate) fn drive(endpoint: &Endpoint) -> JoinHandle<()> {
    let endpoint = endpoint.clone();
    thread::spawn(move || {
        block_on(std::future::poll_fn(|cx| {
            endpoint.bell.register(cx.waker());
            let now = Instant::now();
            let rung = endpoint.bell.take();
            let closed = endpoint.change(|core, effects| {
                rung.into_iter().for_each(|slot| core.rang(slot, now, effects));
                core.is_closed()
            });
            if closed {
                return Poll::Ready(());
            }
            loop {
                let Some(need) = endpoint.read(|core| core.need(now)) else {
                    endpoint.wants_no_place();
                    return Poll::Pending;
                };
                let Some(place) = endpoint.place(need, now) else { return Poll::Pending };
                if let Ok(permit) = endpoint.change(|core, _| core.start_dial(place, now)) {
                    endpoint.change(|core, effects| {
                        core.dial_succeeded(permit, (Toy::new(), Sharing::Exclusive), None, now, effects)
                    });
                }
            }
        }));
        endpoint.undriven(Vec::new());
    })
}

/// Waits until the last connection is closed, as `close` does.
pub(crate) fn until_empty(endpoint: &Endpoint) {
    let mut key = None;
    block_on(std::future::poll_fn(|cx| {
        let (empty, replaced) = endpoint.read(|core| match core.is_empty() {
            true => (true, None),
            false => (false, core.watch(&mut key, cx.waker())),
        });
        drop(replaced);
        if empty { Poll::Ready(()) } else { Poll::Pending }
    }));
}

/// Everything is accounted for, and nobody has or wants anything.
pub(crate) fn assert_at_rest(endpoint: &Endpoint, live: usize) {
    let stats = endpoint.read(|core| core.stats());
    assert_eq!((stats.in_use, stats.waiting, stats.dialling), (0, 0, 0), "{stats:?}");
    assert_eq!((stats.live, stats.idle), (live, live), "{stats:?}");
    assert_eq!(stats.opened - stats.closed.total(), live as u64, "{stats:?}");
}
