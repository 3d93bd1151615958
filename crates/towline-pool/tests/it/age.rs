//! How long connections live, and how many are kept.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::Service;
use towline_core::{CloseReason, Lend};
use towline_pool::{IdleOrder, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{Closed, S, check, handle, refused};

#[tokio::test(start_paused = true)]
async fn a_connection_is_replaced_after_its_calls_and_not_all_at_once() {
    for make in [ScriptedMaker::exclusive(), ScriptedMaker::shared(4)] {
        let closed = Closed::default();
        let builder = PoolBuilder::new().max_connections(1).max_calls(100).observers(closed.observers());
        let mut handle = handle(builder, &make).await;
        for i in 0..1_000 {
            assert_eq!(handle.call(i).await.unwrap().1, i);
        }
        let calls: Vec<_> = make.wires().iter().map(towline_test::Wire::calls).collect();
        assert!((20..=100).contains(&calls[0]), "a first life is short: {calls:?}");
        let later = &calls[1..calls.len() - 1];
        assert!(later.len() > 7 && later.iter().all(|calls| (90..=110).contains(calls)), "{calls:?}");
        assert!(closed.reasons().iter().all(|reason| *reason == CloseReason::MaxCalls));
        check(&handle);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_connection_that_has_had_its_calls_finishes_those_in_flight() {
    let make = ScriptedMaker::shared(100);
    let handle = handle(PoolBuilder::new().max_calls(10), &make).await;
    let held: Vec<_> = futures_util::future::try_join_all((0..15).map(|_| handle.lend(None))).await.unwrap();
    let opened = make.open(); // lives differ
    assert!((2..=8).contains(&opened) && handle.stats().in_use == 15);
    drop(held);
    let (open, closed) = (make.open() as u64, handle.stats().closed.by(CloseReason::MaxCalls));
    assert!(closed >= 1 && open + closed == opened as u64, "{open} and {closed} of {opened}");
}

#[tokio::test(start_paused = true)]
async fn min_idle_connects_ahead_and_keeps_so_many_idle() {
    let make = ScriptedMaker::exclusive();
    let mut handle = handle(PoolBuilder::new().min_idle(3).max_connections(6), &make).await;
    settle().await;
    assert_eq!(handle.stats().idle, 3, "before the first call");
    let held = (handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap());
    settle().await;
    assert_eq!((handle.stats().idle, handle.stats().live), (3, 5));
    let _more = (handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap());
    settle().await;
    assert_eq!((handle.stats().idle, handle.stats().live), (2, 6), "within the cap");
    drop(held);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(handle.stats().idle, 3, "the idle timeout leaves as many");
    make.wires()[3].close(CloseReason::Peer);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(handle.stats().idle, 3);
    handle.call(()).await.unwrap();
}

// F31
#[tokio::test(start_paused = true)]
async fn where_min_idle_asks_for_it_an_old_connection_stays_until_its_replacement_is_there() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let builder = PoolBuilder::new().min_idle(2).max_connections(4).max_lifetime(Duration::from_secs(100));
    let handle = handle(builder.observers(closed.observers()), &make).await;
    settle().await;
    make.fail(Some(refused()));
    sleep(Duration::from_secs(200)).await;
    assert_eq!((handle.stats().idle, closed.reasons().len()), (2, 0), "old ones are better than none");
    make.fail(None);
    for _ in 0..2_000 {
        sleep(Duration::from_millis(250)).await;
        assert!(handle.stats().idle >= 2, "{:?}", handle.stats());
    }
    let lives = closed.reasons().len();
    assert!(lives >= 8 && closed.reasons().iter().all(|reason| *reason == CloseReason::Lifetime), "{lives}");
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_goes_within_a_second_after_another_is_idle_in_its_stead() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let builder = PoolBuilder::new().min_idle(1).max_connections(4).max_lifetime(100 * S).idle_timeout(None);
    let handle = handle(builder.observers(closed.observers()), &make).await;
    // The first has a successor at some time, which lives for 90 to 110 s. What is opened beside that shortly before lives for
    // 20 s at least, and so ends later.
    while make.dials() < 2 {
        sleep(S / 100).await;
    }
    sleep(S * 899 / 10).await;
    assert_eq!(closed.reasons().len(), 1);
    let old = handle.lend(None).await.unwrap();
    settle().await;
    let young = handle.lend(None).await.unwrap();
    make.fail(Some(refused()));
    settle().await;
    drop(old);
    let dials = make.dials();
    while make.dials() < dials + 2 {
        sleep(S / 4).await;
    }
    assert_eq!((handle.stats().idle, closed.reasons().len()), (1, 1), "it is old by now, and kept");
    drop(young);
    sleep(S).await;
    assert_eq!((handle.stats().idle, closed.reasons()), (1, vec![CloseReason::Lifetime; 2]));
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_an_old_connection_goes_before_its_replacement_comes() {
    let make = ScriptedMaker::exclusive();
    let builder = PoolBuilder::new().min_idle(2).max_connections(2).max_lifetime(Duration::from_secs(100));
    let handle = handle(builder, &make).await;
    sleep(Duration::from_secs(1_000)).await;
    let stats = handle.stats();
    assert!(stats.live == 2 && stats.closed.by(CloseReason::Lifetime) >= 16, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn the_most_recently_used_is_handed_out_first_unless_the_least_recent_is_asked_for() {
    for (order, expected) in [(IdleOrder::MostRecent, [2, 2, 2, 2]), (IdleOrder::LeastRecent, [0, 1, 2, 0])] {
        let make = ScriptedMaker::exclusive();
        let mut handle = handle(PoolBuilder::new().idle_order(order), &make).await;
        handle.warm(3).await.unwrap();
        let mut used = Vec::new();
        for _ in 0..4 {
            used.push(handle.call(()).await.unwrap().0);
        }
        assert_eq!(used, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn with_the_least_recent_first_surplus_connections_are_closed_although_all_are_used() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let builder = PoolBuilder::new().idle_order(IdleOrder::LeastRecent).idle_timeout(Duration::from_secs(10));
    let mut handle = handle(builder.observers(closed.observers()), &make).await;
    handle.warm(8).await.unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(40) {
        // Three at once are needed, and no connection is ever idle for longer than a second.
        let held = (handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap());
        handle.call(()).await.unwrap();
        drop(held);
        sleep(Duration::from_millis(300)).await;
    }
    assert_eq!((handle.stats().live, closed.reasons()), (3, vec![CloseReason::Surplus; 5]));
    assert_eq!(make.dials(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_goes_from_hand_to_hand_is_retired_too() {
    for builder in [PoolBuilder::new().max_calls(10), PoolBuilder::new().max_lifetime(Duration::from_secs(10))] {
        let make = ScriptedMaker::exclusive();
        let handle = handle(builder.max_connections(1), &make).await;
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let handle = handle.clone();
                tokio::spawn(async move {
                    for _ in 0..50 {
                        let held = handle.checkout().await.unwrap();
                        sleep(Duration::from_millis(200)).await;
                        drop(held);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        assert!(make.dials() >= 4, "{:?}", handle.stats());
    }
}
