//! How pools, and single connections, are ended.

use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_test::task::spawn;
use tower::Service;
use towline_core::{CloseReason, Kind, Lend, Sent};
use towline_pool::{Pool, PoolBuilder};
use towline_test::{ScriptedMaker, cancel_at_every_poll, settle};

use crate::support::{Closed, capped, check, handle, tasks};

#[tokio::test(start_paused = true)]
async fn close_waits_for_calls_in_flight_until_its_deadline_and_then_cuts_them_off() {
    for make in [ScriptedMaker::exclusive(), ScriptedMaker::shared(4)] {
        let mut handle = handle(PoolBuilder::new().close_deadline(Duration::from_secs(3)), &make).await;
        handle.call("first").await.unwrap();
        make.wires()[0].hold(true);
        let mut call = spawn(handle.call("stuck"));
        assert!(call.poll().is_pending());
        let start = Instant::now();
        handle.close().await;
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        assert!(call.is_woken());
        let Poll::Ready(Err(error)) = call.poll() else { panic!("it was to be cut off") };
        assert_eq!(error.sent(), Sent::Maybe);
        assert!(matches!(error.kind(), Kind::Closed | Kind::UnexpectedEof), "{error}");
        settle().await;
        assert_eq!((make.open(), handle.stats().live, tasks()), (0, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_longer_for_a_checkout_that_is_kept() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().close_deadline(Duration::from_secs(3)), &make).await;
    let mut held = handle.lend(None).await.unwrap();
    handle.close().await;
    settle().await;
    assert_eq!((handle.stats().live, tasks()), (0, 0));
    assert_eq!(Service::call(&mut *held, "still").await.unwrap(), (0, "still"));
    drop(held);
    assert_eq!(make.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn closing_a_pool_closes_all_endpoints_within_one_deadline() {
    let make = ScriptedMaker::exclusive();
    let mut pool: Pool<_, &str> =
        PoolBuilder::new().close_deadline(Duration::from_secs(3)).build(make.clone()).unwrap();
    let mut held = Vec::new();
    for target in ["a", "b", "c"] {
        held.push(pool.call(target).await.unwrap().lend(None).await.unwrap());
    }
    let start = Instant::now();
    pool.close().await;
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    assert_eq!(pool.call("d").await.unwrap_err().kind(), Kind::Closed);
    assert_eq!(pool.stats().live, 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_close_leaves_a_closed_pool() {
    let make = ScriptedMaker::exclusive();
    let mut target = 0;
    let mut pool: Pool<_, usize> = PoolBuilder::new().build(make.clone()).unwrap();
    let mut handles = Vec::new();
    for target in 0..20 {
        let handle = pool.call(target).await.unwrap();
        let held = handle.lend(None).await.unwrap();
        handles.push((handle, held));
    }
    cancel_at_every_poll(
        || {
            let (handle, held) = handles.pop().expect("enough");
            target += 1;
            async move {
                tokio::spawn(async move {
                    sleep(Duration::from_secs(1)).await;
                    drop(held);
                });
                handle.close().await;
            }
        },
        |_| async {},
    )
    .await;
    drop(handles);
    sleep(Duration::from_secs(2)).await;
    assert!(target > 1);
    assert_eq!((make.open(), tasks()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn evicting_closes_idle_connections_at_once_and_used_ones_after_their_call() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let mut pool: Pool<_, &str> = PoolBuilder::new().observers(closed.observers()).build(make.clone()).unwrap();
    let mut handle = pool.call("a").await.unwrap();
    handle.warm(3).await.unwrap();
    let held = handle.lend(None).await.unwrap();
    assert!(pool.evict(&"a") && !pool.evict(&"b"));
    assert_eq!(make.open(), 1);
    assert_eq!(handle.call("next").await.unwrap(), (3, "next"), "on a new connection");
    drop(held);
    assert_eq!((make.open(), closed.reasons()), (1, vec![CloseReason::Evicted; 3]));
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_checkout_is_not_reused() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(2, &make).await;
    let mut held = handle.lend(None).await.unwrap();
    held.poison();
    drop(held);
    assert!(!handle.lend(None).await.unwrap().is_reused());
    assert_eq!(handle.stats().closed.by(CloseReason::Poisoned), 1);
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_share_keeps_new_calls_off_its_connection_and_cuts_no_other() {
    let make = ScriptedMaker::shared(8);
    let mut handle = capped(2, &make).await;
    let (mut poisoned, mut other) = (handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap());
    poisoned.poison();
    drop(poisoned);
    assert_eq!(handle.call("next").await.unwrap(), (1, "next"), "on a new connection");
    assert_eq!(Service::call(&mut *other, "still").await.unwrap(), (0, "still"));
    drop(other);
    assert!(!make.wires()[0].is_open());
    assert_eq!((handle.stats().live, handle.stats().closed.by(CloseReason::Poisoned)), (1, 1));
    check(&handle);
}

// F16
#[tokio::test(start_paused = true)]
async fn after_the_last_handle_and_the_last_call_no_task_is_alive() {
    let make = ScriptedMaker::exclusive();
    let mut handle = handle(PoolBuilder::new().min_idle(2), &make).await;
    handle.call("first").await.unwrap();
    make.hold(true);
    let waits: Vec<_> = (0..5).map(|_| handle.lend(None)).collect();
    let mut waits: Vec<_> = waits.into_iter().map(spawn).collect();
    let held: Vec<_> = waits.iter_mut().map(|wait| wait.poll()).collect();
    settle().await;
    assert!(make.held().is_some(), "a dial is in progress");
    drop(handle);
    settle().await;
    assert_eq!(tasks(), 1);
    drop((waits, held));
    settle().await;
    assert_eq!((make.open(), tasks()), (0, 0));
}
