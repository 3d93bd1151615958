//! Any drop at any poll.

use std::time::Duration;

use tokio::time::sleep;
use tokio_test::task::spawn;
use tower::Service;
use towline_core::Lend;
use towline_test::{ScriptedMaker, cancel_at_every_poll, settle};

use crate::support::{capped, check};

// F28
#[tokio::test(start_paused = true)]
async fn a_waiter_dropped_at_hand_over_passes_the_connection_on() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(1, &make).await;
    let held = handle.lend(None).await.unwrap();
    let (mut first, mut second) = (spawn(handle.lend(None)), spawn(handle.lend(None)));
    assert!(first.poll().is_pending() && second.poll().is_pending());
    drop(held);
    assert!(first.is_woken() && !second.is_woken());
    drop(first);
    assert!(second.is_woken() && second.poll().is_ready());
    drop(second);
    assert_eq!((handle.stats().idle, make.dials()), (1, 1));
}

// F28
#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_a_call_loses_no_connection_and_no_place() {
    for busy in [false, true] {
        let make = ScriptedMaker::exclusive();
        let handle = capped(1, &make).await;
        cancel_at_every_poll(
            || {
                let (mut caller, mut holder) = (handle.clone(), handle.clone());
                async move {
                    if busy {
                        // Somebody holds the only connection for a while.
                        let held = holder.lend(None).await.unwrap();
                        tokio::spawn(async move {
                            sleep(Duration::from_millis(1)).await;
                            drop(held);
                        });
                    } else {
                        holder.call("warm-up").await.unwrap();
                    }
                    caller.call("dropped").await.unwrap()
                }
            },
            |polls| {
                let mut next = handle.clone();
                async move {
                    assert_eq!(next.call(polls).await.unwrap().1, polls);
                    sleep(Duration::from_millis(2)).await;
                    let stats = next.stats();
                    assert_eq!((stats.in_use, stats.waiting, stats.dialling), (0, 0, 0), "after {polls} polls");
                    assert!(stats.live <= 1);
                    check(&next);
                }
            },
        )
        .await;
    }
}

// F1, F3
#[tokio::test(start_paused = true)]
async fn a_call_dropped_half_way_takes_its_connection_along_and_frees_its_place() {
    let make = ScriptedMaker::exclusive();
    let mut handle = capped(1, &make).await;
    handle.call("a").await.unwrap();
    make.wires()[0].hold(true);
    let mut call = spawn(handle.call("half-way"));
    assert!(call.poll().is_pending());
    drop(call);
    assert_eq!(make.open(), 0);
    assert_eq!(handle.call("b").await.unwrap(), (1, "b"));
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_dial_survives_the_caller_it_was_started_for() {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    let handle = capped(4, &make).await;
    let mut caller = spawn(handle.lend(None));
    assert!(caller.poll().is_pending());
    settle().await;
    drop(caller);
    make.held().unwrap().open();
    settle().await;
    assert_eq!((handle.stats().idle, handle.stats().dialling), (1, 0));
    assert!(handle.lend(None).await.is_ok());
    assert_eq!(make.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_warming_leaves_no_wish_and_its_dials_are_used() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(4, &make).await;
    cancel_at_every_poll(
        || handle.warm(2),
        |polls| {
            let handle = handle.clone();
            async move {
                settle().await;
                let stats = handle.stats();
                assert_eq!(
                    (stats.dialling, stats.idle, stats.live),
                    (0, stats.live, stats.idle),
                    "after {polls} polls"
                );
                assert!(stats.live <= 2, "{stats:?}");
                handle.evict();
                settle().await;
                assert_eq!(handle.stats().live, 0, "nobody wishes for any");
            }
        },
    )
    .await;
    assert!(make.dials() >= 2);
}

// F29
#[test]
fn many_threads_one_connection_no_wake_up_is_lost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let make = ScriptedMaker::exclusive();
    runtime.block_on(async {
        let handle = capped(1, &make).await;
        let tasks: Vec<_> = (0..64u64)
            .map(|task| {
                let mut handle = handle.clone();
                tokio::spawn(async move {
                    for i in 0..200 {
                        let request = task * 1_000 + i;
                        if i % 7 == 0 {
                            // Gives up at once, sometimes with the connection in hand.
                            let _ = tokio::time::timeout(Duration::ZERO, handle.call(request)).await;
                        }
                        assert_eq!(handle.call(request).await.unwrap().1, request);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let stats = handle.stats();
        assert_eq!((stats.in_use, stats.waiting, stats.dialling), (0, 0, 0));
        check(&handle);
    });
}
