//! Connections, wakers and observers that panic, or call back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio_test::task::spawn;
use tower::Service;
use towline_core::sync::Lock;
use towline_core::{CloseReason, Error, Event, Lend, Observer, Observers, Poolable, Sharing, State, Unwatched};
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
