//! Drivers that end, stand still, or have to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::Service;
use towline_core::{CloseReason, Error, Kind, Lend, Observers, Poolable, Sharing, State};
use towline_pool::PoolBuilder;
use towline_test::{ScriptedMaker, settle};

use crate::support::{
    Closed, Endpoint, PanicsOnce, S, always_idle, endpoint, handle, paused_runtime, pool, pool_of, runtime, tasks,
    unanswered, waiting,
};

/// A pool whose driver panics when the peer closes a connection.
async fn frail(builder: PoolBuilder, make: &ScriptedMaker) -> Endpoint {
    handle(builder.observers(Observers::new(PanicsOnce::at(CloseReason::Peer))), make).await
}

/// Ends its driver, with a connection of its own.
async fn lose_driver(handle: &Endpoint, make: &ScriptedMaker) {
    drop(handle.lend(None).await.unwrap());
    make.wires().last().unwrap().close(CloseReason::Peer);
    settle().await;
    assert_eq!(tasks(), 0, "the driver is gone");
}

#[tokio::test(start_paused = true)]
async fn a_pool_in_use_whose_driver_is_gone_gets_another() {
    let make = ScriptedMaker::exclusive();
    let mut handle = frail(PoolBuilder::new().idle_timeout(10 * S), &make).await;
    let held = handle.lend(None).await.unwrap();
    lose_driver(&handle, &make).await;
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
    let first = paused_runtime();
    let mut h = first.block_on(handle(PoolBuilder::new().idle_timeout(10 * S), &make));
    let held = first.block_on(h.lend(None)).unwrap();
    drop(first);
    paused_runtime().block_on(async {
        drop(held);
        h.call(()).await.unwrap();
        sleep(3_600 * S).await;
        assert_eq!(h.stats().idle, 0);
    });
}

#[test]
fn a_wait_that_moves_to_another_runtime_keeps_its_deadline() {
    let make = ScriptedMaker::exclusive();
    let (first, second) = (runtime(), runtime());
    let builder = PoolBuilder::new().max_connections(1).wait_deadline(Duration::from_millis(100));
    let h = first.block_on(handle(builder, &make));
    let _held = first.block_on(h.lend(None)).unwrap();
    let mut lend = spawn(Box::pin(h.lend(None)));
    first.block_on(async { assert!(lend.poll().is_pending()) });
    let lend = lend.into_inner();
    let waited = second.block_on(async { timeout(2 * S, lend).await });
    assert!(waited.is_ok(), "nobody keeps its time");
}

/// A shared connection that tells nobody when a response was read.
#[derive(Clone, Default)]
struct Silent(Arc<AtomicBool>);

impl Poolable for Silent {
    fn sharing(&self) -> Sharing {
        Sharing::Shared { limit: 8 }
    }

    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        let state = if self.0.load(Ordering::SeqCst) { State::Busy } else { State::Idle };
        if state == seen { Poll::Pending } else { Poll::Ready(state) }
    }

    fn share(&self) -> Option<Self> {
        Some(self.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_a_response_that_was_read_without_a_wake_up() {
    let connection = Silent::default();
    let busy = connection.0.clone();
    let handle = pool_of(PoolBuilder::new().close_deadline(1_000 * S), move || connection.clone()).await;
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
    let first = runtime();
    let mut h = first.block_on(handle(PoolBuilder::new().idle_timeout(Duration::from_millis(400)), &make));
    first.block_on(h.call(1)).unwrap();
    runtime().block_on(sleep_for(600)); // between two blocking calls nothing runs on the first
    assert_eq!(first.block_on(h.call(2)).unwrap().0, 0, "it is handed out, 600 ms old");
    first.block_on(sleep_for(5));
    assert_eq!(h.stats().live, 1, "used 5 ms ago: {:?}", h.stats());
}

async fn sleep_for(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_settles_without_a_driver_is_found() {
    let make = ScriptedMaker::exclusive();
    let handle = frail(PoolBuilder::new(), &make).await;
    let mut checkout = handle.lend(None).await.unwrap();
    let mut response = unanswered(&mut checkout, &make.wires()[0]);
    lose_driver(&handle, &make).await;
    drop(checkout);
    make.wires()[0].hold(false);
    assert!(response.poll().is_ready());
    drop(response);
    settle().await;
    assert_eq!(handle.stats().idle, 1, "{:?}", handle.stats());
}

#[tokio::test(start_paused = true)]
async fn close_without_a_driver_resolves_when_a_connection_settles() {
    let make = ScriptedMaker::exclusive();
    let handle = frail(PoolBuilder::new().close_deadline(1_000 * S), &make).await;
    let mut checkout = handle.lend(None).await.unwrap();
    let mut response = unanswered(&mut checkout, &make.wires()[0]);
    lose_driver(&handle, &make).await;
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

/// A connection that is never ready for a call.
struct Stuck;

impl Poolable for Stuck {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        always_idle(seen)
    }
}

impl Service<u8> for Stuck {
    type Response = u8;
    type Error = Error;
    type Future = std::future::Ready<Result<u8, Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Pending
    }

    fn call(&mut self, request: u8) -> Self::Future {
        std::future::ready(Ok(request))
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_connection_is_not_ready_is_cut_too() {
    let mut handle = pool_of(PoolBuilder::new().close_deadline(S), || Stuck).await;
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
    drop((waiting(&a).await, a));
    settle().await;
    assert_eq!(tasks(), 0);
    assert_eq!(pool.stats().dialling, 0, "{:?}", pool.stats());
}

#[tokio::test(start_paused = true)]
async fn sums_do_not_keep_a_connection_whose_response_was_being_read() {
    for make in [ScriptedMaker::exclusive(), ScriptedMaker::shared(4)] {
        let closed = Closed::default();
        let pool = pool(PoolBuilder::new().observers(closed.observers()), &make);
        let a = endpoint(&pool, "a").await;
        let mut checkout = a.lend(None).await.unwrap();
        let response = unanswered(&mut checkout, &make.wires()[0]);
        drop(checkout);
        drop(a);
        drop(response);
        settle().await;
        assert_eq!((make.open(), tasks()), (0, 0));
        let stats = pool.stats();
        assert_eq!((stats.live, stats.in_use, stats.closed.total(), closed.reasons().len()), (0, 0, 1, 1), "{stats:?}");
    }
}
