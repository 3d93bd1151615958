//! The cap over all endpoints of a pool.

use std::time::Duration;

use tokio::time::sleep;
use tokio_test::task::spawn;
use tower::Service;
use towline_core::{CloseReason, Kind, Lend, Phase};
use towline_pool::PoolBuilder;
use towline_test::{ScriptedMaker, cancel_at_every_poll, settle};

use crate::support::{Closed, S, check, endpoint, pool};

#[tokio::test(start_paused = true)]
async fn the_cap_over_all_holds_and_counts_dials_in_progress() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(3), &make);
    let endpoints = [endpoint(&pool, "a").await, endpoint(&pool, "b").await];
    for endpoint in &endpoints {
        drop(endpoint.lend(None).await.unwrap());
    }
    make.hold(true);
    let mut waiting: Vec<_> = (0..20).map(|i| spawn(endpoints[i % 2].lend(None))).collect();
    let mut held = Vec::new();
    for _ in 0..100 {
        for place in (0..waiting.len()).rev() {
            if waiting[place].poll().is_ready() {
                drop(waiting.remove(place));
            }
        }
        settle().await;
        held.extend(make.held());
        let stats = pool.stats();
        assert!(stats.live + stats.dialling <= 3, "{stats:?}");
        if held.len() > 1 {
            held.remove(0).open();
        }
        if waiting.is_empty() {
            break;
        }
        held.extend(make.held());
        held.drain(..).for_each(towline_test::DialGate::open);
        settle().await;
    }
    assert!(waiting.is_empty(), "{:?}", pool.stats());
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_a_waiter_has_the_least_recently_used_idle_connection_of_any_endpoint_closed() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let pool = pool(PoolBuilder::new().max_total(3).observers(closed.observers()), &make);
    let (mut a, mut b, mut c) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await, endpoint(&pool, "c").await);
    a.warm(2).await.unwrap();
    b.call(()).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    a.call(()).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    b.call(()).await.unwrap();
    c.call(()).await.unwrap();
    assert_eq!((a.stats().live, b.stats().live, c.stats().live), (1, 1, 1), "the one that a never used");
    sleep(Duration::from_secs(5)).await;
    b.call(()).await.unwrap();
    let _held = c.lend(None).await.unwrap();
    c.call(()).await.unwrap();
    assert_eq!((a.stats().live, b.stats().live, c.stats().live), (0, 1, 2));
    assert_eq!(closed.reasons(), [CloseReason::Evicted; 2]);
}

#[tokio::test(start_paused = true)]
async fn places_go_to_endpoints_in_the_order_in_which_they_asked() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let (a, b, c) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await, endpoint(&pool, "c").await);
    let held = a.lend(None).await.unwrap();
    let (mut second, mut third, mut again) = (spawn(b.lend(None)), spawn(c.lend(None)), spawn(a.lend(None)));
    assert!(second.poll().is_pending());
    settle().await;
    assert!(third.poll().is_pending());
    settle().await;
    drop(held);
    settle().await;
    assert!(third.poll().is_pending());
    let std::task::Poll::Ready(Ok(held)) = second.poll() else { panic!("b asked first") };
    assert!(again.poll().is_pending(), "a comes last");
    settle().await;
    drop(held);
    settle().await;
    let std::task::Poll::Ready(Ok(held)) = third.poll() else { panic!("c asked second") };
    drop(held);
    settle().await;
    assert!(again.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_has_none_is_not_kept_out_by_a_busy_one() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2), &make);
    let (busy, other) = (endpoint(&pool, "busy").await, endpoint(&pool, "other").await);
    let (first, second) = (busy.lend(None).await.unwrap(), busy.lend(None).await.unwrap());
    let mut queue: Vec<_> = (0..4).map(|_| spawn(busy.lend(None))).collect();
    assert!(queue.iter_mut().all(|waiter| waiter.poll().is_pending()));
    let mut waiter = spawn(other.lend(None));
    assert!(waiter.poll().is_pending());
    settle().await;
    drop(first);
    settle().await;
    assert!(waiter.poll().is_ready(), "its place went to the endpoint that had none");
    assert!(queue[0].poll().is_pending());
    drop(second);
    assert!(queue[0].poll().is_ready(), "the last connection of an endpoint stays with it");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_leaves_no_claim_and_endpoints_that_are_gone_no_connection() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let (a, b) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await);
    let held = a.lend(None).await.unwrap();
    let mut leaves = spawn(b.lend(None));
    assert!(leaves.poll().is_pending());
    settle().await;
    drop(leaves);
    settle().await;
    drop(held);
    settle().await;
    assert_eq!((a.stats().live, b.stats().live), (1, 0), "nobody wants its place any more");
    drop(a);
    settle().await;
    let held = b.lend(None).await.unwrap();
    drop(b);
    let c = endpoint(&pool, "c").await;
    let mut waits = spawn(c.lend(None));
    assert!(waits.poll().is_pending());
    settle().await;
    drop(held);
    settle().await;
    assert!(waits.poll().is_ready());
    check(&c);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_place_ends_with_the_wait_deadline_and_says_what_is_there() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1).wait_deadline(Duration::from_secs(1)), &make);
    let (a, b) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await);
    let _held = a.lend(None).await.unwrap();
    let error = b.lend(None).await.unwrap_err();
    assert_eq!((error.kind(), error.phase()), (Kind::Timeout, Phase::Queue));
    assert!(error.to_string().contains("max_total 1"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_a_call_loses_no_place() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let (a, b) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await);
    cancel_at_every_poll(
        || {
            let (mut a, mut b) = (a.clone(), b.clone());
            async move {
                a.call(1).await.unwrap();
                let held = a.lend(None).await.unwrap();
                tokio::spawn(async move {
                    sleep(Duration::from_millis(1)).await;
                    drop(held);
                });
                b.call(2).await.unwrap()
            }
        },
        |polls| {
            let (mut a, mut b, pool) = (a.clone(), b.clone(), pool.clone());
            async move {
                sleep(Duration::from_millis(2)).await;
                assert_eq!((a.call(polls).await.unwrap().1, b.call(polls).await.unwrap().1), (polls, polls));
                settle().await;
                let stats = pool.stats();
                assert_eq!((stats.live, stats.in_use, stats.dialling, stats.waiting), (1, 0, 0, 0), "after {polls}");
            }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_kept_ahead_only_while_there_is_room_for_them() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2).min_idle(1), &make);
    let (mut a, mut b) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await);
    settle().await;
    assert_eq!((a.stats().idle, b.stats().idle), (1, 1));
    let held = (a.lend(None).await.unwrap(), a.lend(None).await.unwrap());
    settle().await;
    assert_eq!((a.stats().live, b.stats().live), (2, 0), "a call goes before what is kept ahead");
    drop(held);
    b.call(()).await.unwrap();
    a.call(()).await.unwrap();
    assert_eq!((a.stats().live, b.stats().live), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_over_all_an_old_connection_goes_before_its_replacement_comes() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2).min_idle(2).max_lifetime(100 * S), &make);
    let a = endpoint(&pool, "a").await;
    sleep(1_000 * S).await;
    let stats = a.stats();
    assert!(stats.live == 2 && stats.closed.by(CloseReason::Lifetime) >= 16, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn warming_closes_nobodys_connection_and_goes_on_once_there_is_a_place() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let (mut a, b) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await);
    a.call(()).await.unwrap();
    let mut warm = spawn(b.warm(1));
    assert!(warm.poll().is_pending());
    sleep(30 * S).await;
    assert!(warm.poll().is_pending());
    assert_eq!((a.stats().idle, b.stats().live), (1, 0));
    a.evict();
    sleep(2 * S).await;
    assert!(warm.poll().is_ready(), "{:?} {:?}", a.stats(), b.stats());
}
