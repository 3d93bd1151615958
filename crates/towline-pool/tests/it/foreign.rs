//! Connections, wakers and observers that panic, or call back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio_test::task::spawn;
use tower::Service;
use towline_core::sync::Lock;
use towline_core::{
    CloseReason, Error, Event, Lend, LoadReport, Observer, Observers, Poolable, Sharing, State, Unwatched,
};
use towline_pool::{Handle, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{Closed, PanicsOnce, S, always_idle, capped, handle, in_time, pool_of};

/// A waker that looks at the pool when it is dropped, as one does whose task holds a handle.
struct Nosy<C: Poolable> {
    handle: Lock<Option<Handle<C>>>,
    drops: Arc<AtomicUsize>,
}

/// The waker, and how often one was dropped.
fn nosy<C: Poolable>(handle: &Handle<C>) -> (Waker, Arc<AtomicUsize>) {
    let drops = Arc::<AtomicUsize>::default();
    (Arc::new(Nosy { handle: Lock::new(Some(handle.clone())), drops: drops.clone() }).into(), drops)
}

impl<C: Poolable> Wake for Nosy<C> {
    fn wake(self: Arc<Self>) {}
}

impl<C: Poolable> Drop for Nosy<C> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.lock().take() {
            let _seen = handle.stats();
        }
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_waiters_waker_is_not_dropped_under_the_lock() {
    in_time(|| async {
        let handle = capped(1, &ScriptedMaker::exclusive()).await;
        let _held = handle.lend(None).await.unwrap();
        let (waker, drops) = nosy(&handle);
        let mut wait = Box::pin(handle.lend(None));
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        drop(wait); // leaves: its waker goes with the entry
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_waiters_old_waker_is_not_dropped_under_the_lock() {
    in_time(|| async {
        let handle = capped(1, &ScriptedMaker::exclusive()).await;
        let _held = handle.lend(None).await.unwrap();
        let (waker, drops) = nosy(&handle);
        let mut wait = Box::pin(handle.lend(None));
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()); // moved to another task
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_calls_waker_is_not_dropped_under_the_lock() {
    in_time(|| async {
        let keeps_no_waker = || {
            Unwatched::new(tower::service_fn(|_: u8| async {
                tokio::task::yield_now().await;
                Ok::<_, Error>(())
            }))
        };
        let mut handle = pool_of(PoolBuilder::new(), keeps_no_waker).await;
        handle.warm(1).await.unwrap();
        let (waker, drops) = nosy(&handle);
        let mut call = Box::pin(handle.call(1));
        assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        settle().await;
        assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        drop((call, waker));
        handle.evict();
        settle().await;
        assert_eq!((drops.load(Ordering::SeqCst), handle.stats().live), (1, 0));
    });
}

/// A connection that panics when it is next looked at after a call, or when it is dropped.
#[derive(Clone, Default)]
struct Fragile {
    looked_at: Arc<AtomicBool>,
    dropped: Arc<AtomicBool>,
}

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(!self.dropped.swap(false, Ordering::SeqCst), "dropped");
    }
}

impl Poolable for Fragile {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        assert!(seen != State::Busy || !self.looked_at.swap(false, Ordering::SeqCst), "looked at");
        always_idle(seen)
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_connection_that_comes_back_loses_no_slot() {
    let fragile = Fragile::default();
    let looked_at = fragile.looked_at.clone();
    let handle = pool_of(PoolBuilder::new().max_connections(1), move || fragile.clone()).await;
    let held = handle.checkout().await.unwrap();
    looked_at.store(true, Ordering::SeqCst);
    drop(held);
    assert!(!looked_at.load(Ordering::SeqCst), "it has panicked");
    let next = handle.checkout().await;
    assert!(next.is_ok(), "{:?} {:?}", next.unwrap_err(), handle.stats());
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_connections_drop_loses_no_wake_up() {
    let fragile = Fragile::default();
    let dropped = fragile.dropped.clone();
    let handle = pool_of(PoolBuilder::new().close_deadline(1_000 * S), move || fragile.clone()).await;
    let held = handle.lend(None).await.unwrap();
    let mut closing = spawn(handle.close());
    assert!(closing.poll().is_pending());
    let mut second = spawn(handle.close());
    assert!(second.poll().is_pending());
    dropped.store(true, Ordering::SeqCst);
    let caught = catch_unwind(AssertUnwindSafe(move || drop(held)));
    assert!(caught.is_err(), "it is told to whoever dropped it");
    assert_eq!(handle.stats().live, 0);
    assert!(closing.is_woken() && second.is_woken(), "close() hears nothing until its deadline");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_observer_loses_no_event_and_no_wake_up() {
    struct Both(Closed, PanicsOnce);
    impl Observer for Both {
        fn on(&self, event: &Event<'_>) {
            self.0.on(event);
            self.1.on(event);
        }
    }
    let closed = Closed::default();
    let both = Both(closed.clone(), PanicsOnce::at(CloseReason::Evicted));
    let handle = handle(PoolBuilder::new().observers(Observers::new(both)), &ScriptedMaker::exclusive()).await;
    handle.warm(3).await.unwrap();
    let caught = catch_unwind(AssertUnwindSafe(|| handle.evict()));
    assert!(caught.is_err(), "it is told to whoever evicted them");
    assert_eq!((handle.stats().closed.total(), closed.reasons().len()), (3, 3));
}

/// What a connection is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Sharing,
    Share,
    CloseReason,
    Trim,
    Reported,
}

/// A connection that panics when it is next asked this.
#[derive(Clone)]
struct Touchy {
    panics_at: Arc<Lock<Option<Asked>>>,
    shared: bool,
    closed: Arc<AtomicBool>,
}

impl Touchy {
    fn ask(&self, asked: Asked) {
        let panics = self.panics_at.lock().take_if(|at| *at == asked).is_some();
        assert!(!panics, "asked for {asked:?}");
    }
}

impl Poolable for Touchy {
    fn sharing(&self) -> Sharing {
        self.ask(Asked::Sharing);
        if self.shared { Sharing::Shared { limit: 1 } } else { Sharing::Exclusive }
    }

    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        if self.closed.load(Ordering::SeqCst) { Poll::Ready(State::Closed) } else { always_idle(seen) }
    }

    fn share(&self) -> Option<Self> {
        self.ask(Asked::Share);
        Some(self.clone())
    }

    fn trim(&mut self) {
        self.ask(Asked::Trim);
    }

    fn close_reason(&self) -> CloseReason {
        self.ask(Asked::CloseReason);
        CloseReason::Peer
    }

    fn reported(&self) -> Option<LoadReport> {
        self.ask(Asked::Reported);
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_panics_whatever_it_is_asked_takes_no_place_along() {
    for asked in [Asked::Sharing, Asked::Share, Asked::CloseReason, Asked::Trim, Asked::Reported] {
        for shared in [false, true] {
            let (panics_at, closed) = (Arc::<Lock<_>>::default(), Arc::<AtomicBool>::default());
            let touchy = Touchy { panics_at: panics_at.clone(), shared, closed: closed.clone() };
            let handle = pool_of(PoolBuilder::new().max_connections(1), move || touchy.clone()).await;
            assert!(handle.reported().is_none());
            let mut held = handle.checkout().await.unwrap();
            held.succeeded();
            closed.store(asked == Asked::CloseReason, Ordering::SeqCst);
            *panics_at.lock() = Some(asked);
            let returned = catch_unwind(AssertUnwindSafe(|| drop(held)));
            assert!(returned.is_ok(), "{asked:?}, shared: {shared}");
            closed.store(false, Ordering::SeqCst);
            settle().await;
            tokio::time::sleep(5 * S).await; // in which it is trimmed
            let next = handle.checkout().await;
            assert!(next.is_ok(), "{asked:?}, shared: {shared}: {:?} {:?}", next.unwrap_err(), handle.stats());
            drop(next);
            let panicked = panics_at.lock().take().is_none();
            let is_asked = match asked {
                Asked::Sharing | Asked::Share => shared,
                Asked::Trim => !shared,
                Asked::CloseReason | Asked::Reported => true,
            };
            assert_eq!(panicked, is_asked, "{asked:?}, shared: {shared}");
            let stats = handle.stats();
            assert_eq!((stats.in_use, stats.idle, stats.live), (0, 1, 1), "{asked:?}, shared: {shared}");
            assert_eq!(stats.opened, 1 + u64::from(panicked), "what panicked is not used again: {asked:?}, {shared}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_that_panics_is_a_dial_that_failed() {
    let panics_at = Arc::new(Lock::new(Some(Asked::Sharing)));
    let touchy = Touchy { panics_at, shared: true, closed: Arc::default() };
    let handle = pool_of(PoolBuilder::new().max_connections(1), move || touchy.clone()).await;
    let error = handle.warm(1).await.unwrap_err();
    assert!(error.to_string().contains("panicked: asked for Sharing"), "{error}");
    tokio::time::sleep(S).await;
    assert!(handle.checkout().await.is_ok());
    assert_eq!((handle.stats().dials_failed, handle.stats().live), (1, 1));
}
