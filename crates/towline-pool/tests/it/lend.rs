//! Caps, order, waiting, closing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Barrier;
use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::{Service, ServiceExt};
use towline_core::{Call, Kind, Lend, Phase, Room, Sent};
use towline_pool::{Pool, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{S, capped, check, handle, runtime, tasks, unanswered};

#[tokio::test(start_paused = true)]
async fn lazy_by_default_and_reused_after_the_first_call() {
    let make = ScriptedMaker::exclusive();
    let mut handle = capped(8, &make).await;
    settle().await;
    assert_eq!((make.dials(), handle.room()), (0, Room::Cold));
    for _ in 0..3 {
        assert_eq!(handle.call("ping").await.unwrap(), (0, "ping"));
    }
    let stats = handle.stats();
    assert_eq!((stats.opened, stats.reused, stats.idle, handle.room()), (1, 2, 1, Room::Ready));
}

#[tokio::test(start_paused = true)]
async fn the_cap_holds_and_counts_dials_in_progress() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(3, &make).await;
    make.hold(true);
    let mut waiting: Vec<_> = (0..10).map(|_| spawn(handle.lend(None))).collect();
    waiting.iter_mut().for_each(|lend| assert!(lend.poll().is_pending()));
    settle().await;
    assert_eq!(make.dials(), 1, "the first dial goes alone");
    make.held().unwrap().open();
    settle().await;
    assert_eq!(make.dials(), 3);
    let stats = handle.stats();
    assert_eq!((stats.live, stats.dialling, stats.waiting), (1, 2, 9));
    while let Some(dial) = make.held() {
        dial.open();
        settle().await;
    }
    assert_eq!((make.dials(), handle.stats().waiting, handle.room()), (3, 7, Room::Full));
}

#[tokio::test(start_paused = true)]
async fn a_returned_connection_goes_to_the_oldest_waiter_and_no_newcomer_overtakes() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(1, &make).await;
    let first = handle.lend(None).await.unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| spawn(handle.lend(None))).collect();
    waiting.iter_mut().for_each(|lend| assert!(lend.poll().is_pending()));
    drop(first);
    let mut newcomer = spawn(handle.lend(None));
    assert!(newcomer.poll().is_pending());
    for lend in &mut waiting {
        assert!(lend.is_woken());
        let std::task::Poll::Ready(Ok(checkout)) = lend.poll() else { panic!("overtaken") };
        assert!(newcomer.poll().is_pending());
        drop(checkout);
    }
    assert!(newcomer.poll().is_ready());
    assert_eq!(make.dials(), 1);
}

// F25
#[tokio::test(start_paused = true)]
async fn readiness_holds_nothing() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(64, &make).await;
    let mut clones: Vec<_> = (0..512).map(|_| handle.clone()).collect();
    for clone in &mut clones {
        ServiceExt::<u32>::ready(clone).await.unwrap();
    }
    assert_eq!(clones[511].call(7).await.unwrap(), (0, 7));
    // Also when every connection exists and is idle.
    let held = futures_util::future::try_join_all((0..64).map(|_| handle.lend(None))).await.unwrap();
    drop(held);
    for clone in &mut clones {
        ServiceExt::<u32>::ready(clone).await.unwrap();
    }
    assert_eq!(handle.stats().idle, 64);
    assert!(clones[0].call(8).await.is_ok());
}

// F27
#[tokio::test(start_paused = true)]
async fn the_wait_deadline_says_who_holds_what() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().max_connections(2).wait_deadline(Duration::from_secs(3)), &make).await;
    let _held = (handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap());
    let start = Instant::now();
    let (a, b) = tokio::join!(handle.lend(None), handle.lend(None));
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    for error in [a.unwrap_err(), b.unwrap_err()] {
        assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Timeout, Phase::Queue, Sent::Never));
        let said = error.to_string();
        assert!(said.contains("within 3000 ms: 2 in use, 0 dialling") && said.contains("endpoint endpoint"), "{said}");
    }
    assert_eq!(handle.stats().waiting, 0);
}

// F27
#[tokio::test(start_paused = true)]
async fn tasks_that_hold_one_and_ask_for_another_wait_for_each_other_unless_there_is_one_more() {
    const TASKS: usize = 4;
    // Tasks × (connections per task − 1) + 1 are enough.
    for connections in [TASKS, TASKS + 1] {
        let make = ScriptedMaker::exclusive();
        let handle = handle(PoolBuilder::new().max_connections(connections), &make).await;
        let all_have_one = Arc::new(Barrier::new(TASKS));
        let task = |_| {
            let (handle, all_have_one) = (handle.clone(), all_have_one.clone());
            tokio::spawn(async move {
                let _first = handle.checkout().await.unwrap();
                all_have_one.wait().await;
                let second = handle.checkout().await.map(drop);
                all_have_one.wait().await; // so that nobody is saved by another who gave up
                second
            })
        };
        let start = Instant::now();
        let seconds = join_all((0..TASKS).map(task)).await.into_iter().map(Result::unwrap);
        if connections > TASKS {
            assert!(seconds.into_iter().all(|second| second.is_ok()));
            assert_eq!(start.elapsed(), Duration::ZERO);
        } else {
            for error in seconds.map(Result::unwrap_err) {
                assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Timeout, Phase::Queue, Sent::Never));
                assert!(error.to_string().contains("4 in use, 0 dialling"), "{error}");
            }
            assert_eq!(start.elapsed(), 5 * S);
        }
        settle().await;
        assert_eq!((handle.stats().in_use, handle.stats().waiting), (0, 0));
        check(&handle);
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_of_the_call_ends_the_wait() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(1, &make).await;
    let _held = handle.lend(None).await.unwrap();
    let start = Instant::now();
    let call = Call::new(()).with_deadline(start + Duration::from_millis(20));
    assert!(handle.lend(Some(call.context())).await.unwrap_err().is_timeout());
    assert_eq!(start.elapsed(), Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().max_connections(1).max_waiters(1), &make).await;
    let _held = handle.lend(None).await.unwrap();
    let mut waiting = spawn(handle.lend(None));
    assert!(waiting.poll().is_pending());
    let error = handle.lend(None).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Overloaded, Sent::Never));
}

#[tokio::test(start_paused = true)]
async fn a_report_tells_which_connection_served_and_whether_it_was_reused() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(1, &make).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let call = Call::new(()).with_report();
        drop(handle.lend(Some(call.context())).await.unwrap());
        let report = call.context().report().unwrap();
        seen.push((report.connection().unwrap(), report.reused().unwrap()));
    }
    assert_eq!(seen[0].0, seen[1].0);
    assert_eq!((seen[0].1, seen[1].1), (false, true));
}

#[tokio::test(start_paused = true)]
async fn close_refuses_newcomers_fails_waiters_and_lets_calls_in_flight_finish() {
    let make = ScriptedMaker::exclusive();
    let mut pool: Pool<_, &str> = PoolBuilder::new().max_connections(1).build(make.clone()).unwrap();
    let mut handle = pool.call("a").await.unwrap();
    drop(handle.lend(None).await.unwrap());
    make.wires()[0].hold(true);
    let mut call = spawn(handle.call("in flight"));
    assert!(call.poll().is_pending());
    let mut waiter = spawn(handle.lend(None));
    assert!(waiter.poll().is_pending());
    let mut closing = spawn(pool.close());
    assert!(closing.poll().is_pending());
    let std::task::Poll::Ready(Err(error)) = waiter.poll() else { panic!("the waiter waits on") };
    assert_eq!(error.kind(), Kind::Closed);
    assert_eq!(handle.lend(None).await.unwrap_err().kind(), Kind::Closed);
    assert_eq!(pool.clone().call("b").await.unwrap_err().kind(), Kind::Closed);
    make.wires()[0].hold(false);
    assert!(matches!(call.poll(), std::task::Poll::Ready(Ok((0, "in flight")))));
    drop(call);
    assert!(closing.is_woken());
    assert!(closing.poll().is_ready());
    assert_eq!(make.open(), 0);
}

// F16
#[tokio::test(start_paused = true)]
async fn after_the_last_handle_calls_finish_connections_close_and_a_new_life_begins() {
    let make = ScriptedMaker::exclusive();
    let mut pool: Pool<_, &str> = PoolBuilder::new().build(make.clone()).unwrap();
    let handle = pool.call("a").await.unwrap();
    let held = handle.lend(None).await.unwrap();
    drop(handle.lend(None).await.unwrap());
    drop(handle);
    settle().await;
    assert_eq!(make.open(), 2, "what is held keeps the pool open");
    drop(held);
    settle().await;
    assert_eq!(make.open(), 0);
    assert_eq!(tasks(), 0, "nobody is left to drive for");
    let again = pool.call("a").await.unwrap();
    assert_eq!(again.stats().live, 0, "a new life");
    drop(again.lend(None).await.unwrap());
    check(&again);
    assert_eq!(tasks(), 1, "one driver, for the new life");
}

#[tokio::test(start_paused = true)]
async fn one_target_has_one_set_of_connections_and_two_have_two() {
    let make = ScriptedMaker::exclusive();
    let mut pool: Pool<_, &str> = PoolBuilder::new().build(make.clone()).unwrap();
    let (a, same, b) = (pool.call("a").await.unwrap(), pool.call("a").await.unwrap(), pool.call("b").await.unwrap());
    drop(a.lend(None).await.unwrap());
    assert_eq!((same.stats().live, b.stats().live), (1, 0));
}

// F40
#[test]
fn a_handle_works_on_a_second_runtime_and_says_so_without_one() {
    let make = ScriptedMaker::exclusive();
    let first = runtime();
    let mut on_first = first.block_on(capped(1, &make));
    first.block_on(async { on_first.call("one").await.unwrap() });
    drop(first);
    assert_eq!(make.open(), 0, "what lived on the first runtime is gone");
    let second = runtime();
    let answer = second.block_on(async { on_first.call("two").await.unwrap() });
    assert_eq!(answer, (1, "two"));
}

#[tokio::test(start_paused = true)]
async fn a_call_outlives_the_handle_it_was_made_with() {
    let make = ScriptedMaker::exclusive();
    assert_eq!(capped(1, &make).await.oneshot("ping").await.unwrap(), (0, "ping"));
    settle().await;
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_timed_out_and_is_not_dropped_yet_takes_no_connection() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().max_connections(1).wait_deadline(Duration::from_secs(1)), &make).await;
    let held = handle.lend(None).await.unwrap();
    let mut late = std::pin::pin!(handle.lend(None));
    assert!(late.as_mut().await.unwrap_err().is_timeout());
    drop(held);
    handle.lend(None).await.expect("the connection is free");
}

#[tokio::test(start_paused = true)]
async fn a_handed_back_request_goes_to_another_connection_also_without_a_handle() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(8, &make).await;
    handle.warm(2).await.unwrap();
    make.wires()[1].refuse();
    assert_eq!(handle.oneshot("ping").await.unwrap().1, "ping");
}

#[tokio::test(start_paused = true)]
async fn a_request_handed_back_keeps_its_deadline() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(2, &make).await;
    handle.warm(2).await.unwrap();
    let _other = handle.lend(None).await.unwrap();
    make.wires()[0].refuse();
    make.hold(true);
    let start = Instant::now();
    let call = Call::new(()).with_deadline(start + Duration::from_millis(20));
    let mut checkout = handle.lend(Some(call.context())).await.unwrap();
    let error = checkout.call("x").await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(start.elapsed(), Duration::from_millis(20));
}
#[tokio::test(start_paused = true)]
async fn a_request_handed_back_reports_who_served_it() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(2, &make).await;
    handle.warm(2).await.unwrap();
    make.wires()[1].refuse();
    let call = Call::new(()).with_report();
    let mut checkout = handle.lend(Some(call.context())).await.unwrap();
    let dead = checkout.id();
    assert_eq!(checkout.call("x").await.unwrap(), (0, "x"));
    assert_ne!(call.context().report().unwrap().connection(), Some(dead));
}

#[tokio::test(start_paused = true)]
async fn a_closed_pool_has_no_room() {
    let make = ScriptedMaker::shared(8);
    let handle = capped(2, &make).await;
    let _held = handle.lend(None).await.unwrap();
    let mut closing = spawn(handle.close());
    assert!(closing.poll().is_pending());
    assert_eq!(handle.lend(None).await.unwrap_err().kind(), Kind::Closed);
    assert_eq!(handle.room(), Room::Down);
}

#[tokio::test(start_paused = true)]
async fn close_resolves_although_a_connection_settles_after_it() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(1, &make).await;
    let mut checkout = handle.lend(None).await.unwrap();
    let mut response = unanswered(&mut checkout, &make.wires()[0]);
    drop(checkout); // its response is still being read: settling
    let mut closing = spawn(handle.close());
    assert!(closing.poll().is_pending());
    settle().await;
    make.wires()[0].hold(false);
    assert!(response.poll().is_ready());
    drop(response);
    sleep(Duration::from_secs(3600)).await;
    assert!(closing.poll().is_ready(), "{:?}", handle.stats());
}

#[tokio::test(start_paused = true)]
async fn a_checkout_borrows_its_handle_or_owns_its_pool_and_comes_back_either_way() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(1, &make).await;
    let borrowed = handle.checkout().await.unwrap();
    let id = borrowed.id();
    drop(borrowed);
    let again = handle.checkout().await.unwrap();
    assert!(again.is_reused() && again.id() == id);
    let owned = again.into_owned();
    assert_eq!(handle.stats().in_use, 1);
    drop(handle);
    settle().await;
    assert_eq!(make.open(), 1);
    tokio::spawn(async move { drop(owned) }).await.unwrap();
    settle().await;
    assert_eq!(make.open(), 0);
}

// F28
#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_a_checkout_loses_no_connection() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(1, &make).await;
    towline_test::cancel_at_every_poll(
        || async {
            let held = handle.lend(None).await.unwrap();
            tokio::spawn(async move {
                sleep(Duration::from_millis(1)).await;
                drop(held);
            });
            drop(handle.checkout().await.unwrap());
        },
        |polls| {
            let handle = handle.clone();
            async move {
                sleep(Duration::from_millis(2)).await;
                let stats = handle.stats();
                assert_eq!((stats.live, stats.idle, stats.waiting), (stats.idle, stats.live, 0), "after {polls}");
                assert!(handle.checkout().await.is_ok());
            }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_begins_when_the_driver_has_nothing_to_do_ends_in_time() {
    let make = ScriptedMaker::exclusive();
    let builder = PoolBuilder::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let handle = handle(builder.wait_deadline(3 * S), &make).await;
    let _held = handle.lend(None).await.unwrap();
    sleep(100 * S).await;
    let start = Instant::now();
    let waited = timeout(60 * S, handle.lend(None)).await.expect("nobody keeps its time");
    assert!(waited.unwrap_err().is_timeout());
    assert_eq!((start.elapsed(), handle.stats().waiting), (3 * S, 0));
}
