//! Drivers that end, stand still, or have to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::Service;
use towline_core::*;
use towline_pool::{Pool, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{Closed, S, endpoint, handle, pool, tasks};

struct PanicsOnce(AtomicBool);
impl Observer for PanicsOnce {
    fn on(&self, event: &Event<'_>) {
        if let Event::Closed { .. } = event {
            if self.0.swap(false, Ordering::SeqCst) {
                panic!("observer");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_in_use_whose_driver_is_gone_gets_another() {
    let make = ScriptedMaker::exclusive();
    let builder = PoolBuilder::new().idle_timeout(10 * S).observers(Observers::new(PanicsOnce(true.into())));
    let mut handle = handle(builder, &make).await;
    let held = handle.lend(None).await.unwrap();
    drop(handle.lend(None).await.unwrap());
    make.wires()[1].close(CloseReason::Peer); // the driver tells an observer, which panics
    settle().await;
    assert_eq!(tasks(), 0, "the driver is gone");
    drop(held);
    for _ in 0..3 {
        handle.call(()).await.unwrap();
    }
    sleep(3_600 * S).await;
    assert_eq!(handle.stats().idle, 0, "idle for an hour, with an idle timeout of 10 s");
}

#[test]
fn after_the_drivers_runtime_ended_what_comes_back_is_looked_after() {
    let make = ScriptedMaker::exclusive();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let first = runtime();
    let mut h = first.block_on(handle(PoolBuilder::new().idle_timeout(10 * S), &make));
    let held = first.block_on(h.lend(None)).unwrap();
    drop(first);
    let second = runtime();
    second.block_on(async {
        drop(held);
        h.call(()).await.unwrap();
        sleep(3_600 * S).await;
        assert_eq!(h.stats().idle, 0);
    });
}

#[test]
fn a_wait_that_moves_to_another_runtime_keeps_its_deadline() {
    let make = ScriptedMaker::exclusive();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let h =
        first.block_on(handle(PoolBuilder::new().max_connections(1).wait_deadline(Duration::from_millis(100)), &make));
    let _held = first.block_on(h.lend(None)).unwrap();
    let mut lend = spawn(Box::pin(h.lend(None)));
    first.block_on(async { assert!(lend.poll().is_pending()) });
    let lend = lend.into_inner();
    let waited = second.block_on(async { timeout(2 * S, lend).await });
    assert!(waited.is_ok(), "nobody keeps its time");
}

mod silent {
    use super::*;
    #[derive(Clone)]
    pub(super) struct Silent(pub Arc<AtomicBool>);
    impl Poolable for Silent {
        fn sharing(&self) -> Sharing {
            Sharing::Shared { limit: 8 }
        }
        fn poll_change(&mut self, seen: State, _: &mut Context<'_>) -> Poll<State> {
            let state = if self.0.load(Ordering::SeqCst) { State::Busy } else { State::Idle };
            if state == seen { Poll::Pending } else { Poll::Ready(state) }
        }
        fn share(&self) -> Option<Self> {
            Some(self.clone())
        }
    }
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_a_response_that_was_read_without_a_wake_up() {
    let busy = Arc::new(AtomicBool::new(false));
    let make = tower::service_fn({
        let busy = busy.clone();
        move |_: &'static str| {
            let busy = busy.clone();
            async move { Ok::<_, Error>(silent::Silent(busy)) }
        }
    });
    let mut p: Pool<_, &'static str> = PoolBuilder::new().close_deadline(1_000 * S).build(make).unwrap();
    let handle = p.call("e").await.unwrap();
    let held = handle.lend(None).await.unwrap();
    busy.store(true, Ordering::SeqCst);
    drop(held);
    let start = Instant::now();
    let mut closing = spawn(Box::pin(handle.close()));
    assert!(closing.poll().is_pending());
    sleep(5 * S).await;
    busy.store(false, Ordering::SeqCst);
    closing.into_inner().await;
    assert!(start.elapsed() < 10 * S, "{:?}", start.elapsed());
}

#[test]
fn a_stale_clock_closes_nothing_that_was_just_used() {
    let make = ScriptedMaker::exclusive();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let mut h = first.block_on(handle(PoolBuilder::new().idle_timeout(Duration::from_millis(400)), &make));
    first.block_on(h.call(1)).unwrap();
    runtime().block_on(async { sleep(Duration::from_millis(600)).await }); // between two blocking calls nothing runs on the first
    assert_eq!(first.block_on(h.call(2)).unwrap().0, 0, "it is handed out, 600 ms old");
    first.block_on(async { sleep(Duration::from_millis(5)).await });
    assert_eq!(h.stats().live, 1, "used 5 ms ago: {:?}", h.stats());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_settles_without_a_driver_is_found() {
    let make = ScriptedMaker::exclusive();
    let builder = PoolBuilder::new().max_connections(2).observers(Observers::new(PanicsOnce(true.into())));
    let handle = handle(builder, &make).await;
    let mut checkout = handle.lend(None).await.unwrap();
    drop(handle.lend(None).await.unwrap());
    make.wires()[0].hold(true);
    let mut response = spawn(Service::<u8>::call(&mut *checkout, 1));
    assert!(response.poll().is_pending());
    make.wires()[1].close(CloseReason::Peer);
    settle().await;
    assert_eq!(tasks(), 0);
    drop(checkout);
    make.wires()[0].hold(false);
    assert!(response.poll().is_ready());
    drop(response);
    settle().await;
    println!("{:?}", handle.stats());
    assert_eq!(handle.stats().idle, 1);
}
#[tokio::test(start_paused = true)]
async fn close_without_a_driver_resolves_when_a_connection_settles() {
    let make = ScriptedMaker::exclusive();
    let builder = PoolBuilder::new().close_deadline(1_000 * S).observers(Observers::new(PanicsOnce(true.into())));
    let handle = handle(builder, &make).await;
    let mut checkout = handle.lend(None).await.unwrap();
    drop(handle.lend(None).await.unwrap());
    make.wires()[0].hold(true);
    let mut response = spawn(Service::<u8>::call(&mut *checkout, 1));
    assert!(response.poll().is_pending());
    make.wires()[1].close(CloseReason::Peer);
    settle().await;
    drop(checkout);
    let start = Instant::now();
    let mut closing = spawn(Box::pin(handle.close()));
    assert!(closing.poll().is_pending());
    make.wires()[0].hold(false);
    assert!(response.poll().is_ready());
    drop(response);
    closing.into_inner().await;
    assert!(start.elapsed() < S, "{:?}", start.elapsed());
}
mod stuck {
    use super::*;
    pub(super) struct Stuck;
    impl Poolable for Stuck {
        fn sharing(&self) -> Sharing {
            Sharing::Exclusive
        }
        fn poll_change(&mut self, seen: State, _: &mut Context<'_>) -> Poll<State> {
            if seen == State::Idle { Poll::Pending } else { Poll::Ready(State::Idle) }
        }
    }
    impl Service<u8> for Stuck {
        type Response = u8;
        type Error = Error;
        type Future = std::future::Ready<Result<u8, Error>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            Poll::Pending
        }
        fn call(&mut self, r: u8) -> Self::Future {
            std::future::ready(Ok(r))
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_connection_is_not_ready_is_cut_too() {
    let make = tower::service_fn(|_: &'static str| async { Ok::<_, Error>(stuck::Stuck) });
    let mut p: Pool<_, &'static str> = PoolBuilder::new().close_deadline(S).build(make).unwrap();
    let mut handle = p.call("e").await.unwrap();
    handle.warm(1).await.unwrap();
    let call = tokio::spawn(handle.call(1));
    settle().await;
    assert_eq!(handle.stats().in_use, 1);
    handle.close().await;
    let error = timeout(100 * S, call).await.expect("it was to be cut").unwrap().map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Closed);
}

#[tokio::test(start_paused = true)]
async fn sums_do_not_keep_a_dial_of_a_pool_that_is_gone() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new(), &make);
    make.hold(true);
    let a = endpoint(&pool, "a").await;
    let mut lend = spawn(a.lend(None));
    assert!(lend.poll().is_pending());
    settle().await;
    drop((lend, a));
    settle().await;
    assert_eq!(tasks(), 0);
    assert_eq!(pool.stats().dialling, 0, "{:?}", pool.stats());
}

#[tokio::test(start_paused = true)]
async fn sums_do_not_keep_a_connection_that_was_settling() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let pool = pool(PoolBuilder::new().observers(closed.observers()), &make);
    let a = endpoint(&pool, "a").await;
    let mut checkout = a.lend(None).await.unwrap();
    make.wires()[0].hold(true);
    let mut response = spawn(Service::<u8>::call(&mut *checkout, 1));
    assert!(response.poll().is_pending());
    drop(checkout); // its response is still being read
    drop(a);
    drop(response);
    settle().await;
    assert_eq!((make.open(), tasks()), (0, 0));
    let stats = pool.stats();
    assert_eq!((stats.live, stats.in_use, stats.closed.total(), closed.reasons().len()), (0, 0, 1, 1), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn sums_do_not_keep_a_shared_connection_that_was_being_read() {
    let (make, closed) = (ScriptedMaker::shared(4), Closed::default());
    let pool = pool(PoolBuilder::new().observers(closed.observers()), &make);
    let a = endpoint(&pool, "a").await;
    let mut checkout = a.lend(None).await.unwrap();
    make.wires()[0].hold(true);
    let mut response = spawn(Service::<u8>::call(&mut *checkout, 1));
    assert!(response.poll().is_pending());
    drop(checkout);
    let s = a.stats();
    println!("while it is read: {s:?}");
    drop(a);
    drop(response);
    settle().await;
    assert_eq!((make.open(), tasks()), (0, 0));
    let stats = pool.stats();
    assert_eq!((stats.live, stats.in_use, stats.closed.total(), closed.reasons().len()), (0, 0, 1, 1), "{stats:?}");
}
