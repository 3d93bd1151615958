//! Connections, wakers and observers that panic, or call back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio_test::task::spawn;
use tower::Service;
use towline_core::*;
use towline_pool::{Handle, Pool, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{Closed, Endpoint, S, capped, handle};

struct Nosy(std::sync::Mutex<Option<Endpoint>>, Arc<AtomicUsize>);
impl Wake for Nosy {
    fn wake(self: Arc<Self>) {}
}
impl Drop for Nosy {
    fn drop(&mut self) {
        // What the last waker of a task drops: its future, and what that holds.
        if let Some(handle) = self.0.lock().unwrap().take() {
            let _ = handle.stats();
        }
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

fn in_time(run: impl FnOnce() + Send + 'static) -> bool {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run();
        let _ = done.send(());
    });
    match finished.recv_timeout(Duration::from_secs(5)) {
        Ok(()) => true,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => false,
        Err(_) => panic!("the test itself panicked"),
    }
}

#[test]
fn a_waiters_waker_is_not_dropped_under_the_lock() {
    assert!(
        in_time(|| {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            rt.block_on(async {
                let make = ScriptedMaker::exclusive();
                let handle = capped(1, &make).await;
                let _held = handle.lend(None).await.unwrap();
                let count = Arc::new(AtomicUsize::new(0));
                let waker: Waker = Arc::new(Nosy(Some(handle.clone()).into(), count.clone())).into();
                let mut wait = Box::pin(handle.lend(None));
                assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                drop(waker);
                drop(wait); // leaves: its waker goes with the entry
                assert_eq!(count.load(Ordering::SeqCst), 1);
            });
        }),
        "deadlock: Queue::leave drops the waker under the lock"
    );
}

#[test]
fn a_waiters_old_waker_is_not_dropped_under_the_lock() {
    assert!(
        in_time(|| {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            rt.block_on(async {
                let make = ScriptedMaker::exclusive();
                let handle = capped(1, &make).await;
                let _held = handle.lend(None).await.unwrap();
                let count = Arc::new(AtomicUsize::new(0));
                let waker: Waker = Arc::new(Nosy(Some(handle.clone()).into(), count.clone())).into();
                let mut wait = Box::pin(handle.lend(None));
                assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                drop(waker);
                assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()); // moved to another task
                assert_eq!(count.load(Ordering::SeqCst), 1);
            });
        }),
        "deadlock: Queue::pick_up replaces the waker under the lock"
    );
}

#[test]
fn a_calls_waker_is_not_dropped_under_the_lock() {
    assert!(
        in_time(|| {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            rt.block_on(async {
                // a connection that keeps no waker
                let make = tower::service_fn(|_: &'static str| async {
                    let _first = true;
                    let slow = tower::service_fn(|_: u8| async {
                        tokio::task::yield_now().await;
                        Ok::<_, Error>(())
                    });
                    Ok::<_, Error>(Unwatched::new(slow))
                });
                let mut p: Pool<_, &'static str> = PoolBuilder::new().build(make).unwrap();
                let mut handle = p.call("e").await.unwrap();
                handle.warm(1).await.unwrap();
                let count = Arc::new(AtomicUsize::new(0));
                struct Nosy2<C: Poolable>(std::sync::Mutex<Option<Handle<C>>>, Arc<AtomicUsize>);
                impl<C: Poolable> Wake for Nosy2<C> {
                    fn wake(self: Arc<Self>) {}
                }
                impl<C: Poolable> Drop for Nosy2<C> {
                    fn drop(&mut self) {
                        if let Some(handle) = self.0.lock().unwrap().take() {
                            let _ = handle.stats();
                        }
                        self.1.fetch_add(1, Ordering::SeqCst);
                    }
                }
                let waker: Waker = Arc::new(Nosy2(Some(handle.clone()).into(), count.clone())).into();
                let mut call = Box::pin(handle.call(1));
                assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                settle().await;
                assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
                drop((call, waker));
                handle.evict();
                settle().await;
                assert_eq!((count.load(Ordering::SeqCst), handle.stats().live), (1, 0));
            });
        }),
        "deadlock: Core::end drops the slot's Ring, and the call's waker in it, under the lock"
    );
}

mod fragile {
    use super::*;
    pub(super) static PANIC: AtomicBool = AtomicBool::new(false);
    pub(super) struct Fragile;
    impl Poolable for Fragile {
        fn sharing(&self) -> Sharing {
            Sharing::Exclusive
        }
        fn poll_change(&mut self, seen: State, _: &mut Context<'_>) -> Poll<State> {
            if seen == State::Busy && PANIC.swap(false, Ordering::SeqCst) {
                panic!("foreign code");
            }
            if seen == State::Idle { Poll::Pending } else { Poll::Ready(State::Idle) }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_connection_that_comes_back_loses_no_slot() {
    let make = tower::service_fn(|_: &'static str| async { Ok::<_, Error>(fragile::Fragile) });
    let mut p: Pool<_, &'static str> = PoolBuilder::new().max_connections(1).build(make).unwrap();
    let handle = p.call("e").await.unwrap();
    let held = handle.checkout().await.unwrap();
    fragile::PANIC.store(true, Ordering::SeqCst);
    drop(held);
    let next = handle.checkout().await;
    assert!(next.is_ok(), "{:?} {:?}", next.unwrap_err(), handle.stats());
}

struct Explodes(Arc<AtomicBool>);
impl Drop for Explodes {
    fn drop(&mut self) {
        if self.0.swap(false, Ordering::SeqCst) {
            panic!("drop");
        }
    }
}
impl Poolable for Explodes {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }
    fn poll_change(&mut self, seen: State, _: &mut Context<'_>) -> Poll<State> {
        if seen == State::Idle { Poll::Pending } else { Poll::Ready(State::Idle) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_connections_drop_loses_no_wake_up() {
    let explode = Arc::new(AtomicBool::new(false));
    let make = tower::service_fn({
        let explode = explode.clone();
        move |_: &'static str| {
            let explode = explode.clone();
            async move { Ok::<_, Error>(Explodes(explode)) }
        }
    });
    let mut p: Pool<_, &'static str> = PoolBuilder::new().close_deadline(1_000 * S).build(make).unwrap();
    let handle = p.call("e").await.unwrap();
    let held = handle.lend(None).await.unwrap();
    let mut closing = spawn(handle.close());
    assert!(closing.poll().is_pending());
    let mut second = spawn(handle.close());
    assert!(second.poll().is_pending());
    explode.store(true, Ordering::SeqCst);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(held)));
    assert!(caught.is_err(), "it is told to whoever dropped it");
    assert_eq!(handle.stats().live, 0);
    assert!(closing.is_woken() && second.is_woken(), "close() hears nothing until its deadline");
}

struct Panics(CloseReason, AtomicBool);
impl Observer for Panics {
    fn on(&self, event: &Event<'_>) {
        if let Event::Closed { reason, .. } = event {
            if *reason == self.0 && self.1.swap(false, Ordering::SeqCst) {
                panic!("observer");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_observer_loses_no_event_and_no_wake_up() {
    let make = ScriptedMaker::exclusive();
    let closed = Closed::default();
    struct Both(Closed, Panics);
    impl Observer for Both {
        fn on(&self, event: &Event<'_>) {
            self.0.on(event);
            self.1.on(event);
        }
    }
    let both = Both(closed.clone(), Panics(CloseReason::Evicted, true.into()));
    let handle = handle(PoolBuilder::new().observers(Observers::new(both)), &make).await;
    handle.warm(3).await.unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle.evict()));
    println!("evict panicked: {}", caught.is_err());
    assert_eq!((handle.stats().closed.total(), closed.reasons().len()), (3, 3));
}
