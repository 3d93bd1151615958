//! Claims on places, where there is a cap over all endpoints.

use std::task::Poll;

use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::Service;
use towline_core::*;
use towline_pool::{Pool, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{Closed, Endpoint, S, end_elsewhere, endpoint, endpoints, paused_runtime, pool, refused, waiting};

#[tokio::test(start_paused = true)]
async fn idle_is_offered_past_a_claim_whose_waiter_left() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let (a, b, c) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await, endpoint(&pool, "c").await);
    let held = b.lend(None).await.unwrap();
    let mut leaves = spawn(a.lend(None));
    assert!(leaves.poll().is_pending());
    settle().await;
    let mut waits = spawn(c.lend(None));
    assert!(waits.poll().is_pending());
    settle().await;
    drop(leaves);
    settle().await;
    drop(held);
    settle().await;
    assert!(waits.poll().is_ready(), "{:?} {:?}", b.stats(), c.stats());
}

#[tokio::test(start_paused = true)]
async fn idle_is_offered_past_a_claim_of_an_endpoint_that_is_gone() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let (a, b, c) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await, endpoint(&pool, "c").await);
    let held = b.lend(None).await.unwrap();
    let mut leaves = spawn(a.lend(None));
    assert!(leaves.poll().is_pending());
    settle().await;
    drop(leaves);
    drop(a);
    settle().await;
    let mut waits = spawn(c.lend(None));
    assert!(waits.poll().is_pending());
    settle().await;
    drop(held);
    settle().await;
    assert!(waits.poll().is_ready(), "{:?} {:?}", b.stats(), c.stats());
}

#[tokio::test(start_paused = true)]
async fn two_that_become_idle_serve_two_claims() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2), &make);
    let (a, b, c) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await, endpoint(&pool, "c").await);
    let held = (b.lend(None).await.unwrap(), b.lend(None).await.unwrap());
    let mut first = spawn(a.lend(None));
    assert!(first.poll().is_pending());
    settle().await;
    let mut second = spawn(c.lend(None));
    assert!(second.poll().is_pending());
    settle().await;
    drop(held); // both idle, without a pause
    settle().await;
    assert!(first.poll().is_ready());
    assert!(second.poll().is_ready(), "an idle connection of b stays: {:?} {:?}", b.stats(), c.stats());
}

// and no timeout needed: a's own return serves its waiter
#[tokio::test(start_paused = true)]
async fn idle_is_offered_past_a_claim_that_was_served_otherwise() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2), &make);
    let (a, b, c) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await, endpoint(&pool, "c").await);
    let (held_a, held_b) = (a.lend(None).await.unwrap(), b.lend(None).await.unwrap());
    let mut second = spawn(a.lend(None));
    assert!(second.poll().is_pending());
    settle().await;
    let mut waits = spawn(c.lend(None));
    assert!(waits.poll().is_pending());
    settle().await;
    drop(held_a); // to a's own waiter
    let Poll::Ready(Ok(_kept)) = second.poll() else { panic!() };
    settle().await;
    drop(held_b); // idle, while c waits
    settle().await;
    assert!(waits.poll().is_ready(), "{:?} {:?} {:?}", a.stats(), b.stats(), c.stats());
}

#[tokio::test(start_paused = true)]
async fn a_closed_endpoint_takes_no_place() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2), &make);
    let (a, b, c) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await, endpoint(&pool, "c").await);
    let _held_a = a.lend(None).await.unwrap();
    let mut held_b = b.lend(None).await.unwrap();
    let mut waits_a = spawn(a.lend(None));
    assert!(waits_a.poll().is_pending());
    settle().await;
    let mut closing = spawn(a.close());
    assert!(closing.poll().is_pending());
    settle().await;
    let mut waits = spawn(c.lend(None));
    assert!(waits.poll().is_pending());
    settle().await;
    held_b.poison();
    drop(held_b);
    settle().await;
    assert_eq!(b.stats().live, 0);
    assert!(waits.poll().is_ready(), "the place is stuck: {:?}", pool.stats());
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_nobody_closes_no_connection() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2), &make);
    let (a, b) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await);
    let held = b.lend(None).await.unwrap();
    let _other = b.lend(None).await.unwrap();
    let mut leaves = spawn(a.lend(None));
    assert!(leaves.poll().is_pending());
    settle().await;
    drop(leaves);
    settle().await;
    let mut waits = spawn(b.lend(None));
    assert!(waits.poll().is_pending());
    settle().await;
    drop(held);
    assert!(waits.poll().is_ready(), "{:?}", b.stats());
}

#[tokio::test(start_paused = true)]
async fn warm_beyond_the_cap_over_all_resolves() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2), &make);
    let a = endpoint(&pool, "a").await;
    let warm = timeout(3_600 * S, a.warm(3)).await;
    assert!(warm.is_ok(), "{:?}", a.stats());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_down_and_that_nobody_wants_costs_others_no_connection() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let down = tower::service_fn({
        let make = make.clone();
        move |target: &'static str| {
            let mut make = make.clone();
            async move { if target == "down" { Err(refused()) } else { make.call(target).await } }
        }
    });
    let mut p: Pool<_, &'static str> =
        PoolBuilder::new().max_total(2).observers(closed.observers()).build(down).unwrap();
    let (down, busy) = (p.call("down").await.unwrap(), p.call("busy").await.unwrap());
    down.checkout().await.unwrap_err(); // once
    let busy: Vec<_> = (0..4)
        .map(|_| {
            let busy = busy.clone();
            tokio::spawn(async move {
                for _ in 0..600 {
                    let held = busy.lend(None).await.unwrap();
                    sleep(S / 10).await;
                    drop(held);
                }
            })
        })
        .collect();
    for task in busy {
        task.await.unwrap();
    }
    println!("{:?}", p.stats());
    assert_eq!(closed.reasons().len(), 0, "{:?}", p.stats());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_without_connections_gets_that_of_the_next_call_that_ends_elsewhere() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2).wait_deadline(60 * S), &make);
    let (a, b, c) = (endpoint(&pool, "a").await, endpoint(&pool, "b").await, endpoint(&pool, "c").await);
    for busy in [&a, &b] {
        for _ in 0..2 {
            let busy = busy.clone();
            tokio::spawn(async move {
                loop {
                    let held = busy.lend(None).await.unwrap();
                    sleep(S / 100).await;
                    drop(held);
                }
            });
        }
    }
    sleep(S).await;
    let start = Instant::now();
    let got = c.lend(None).await;
    assert!(got.is_ok(), "after {:?} and thousands of returns elsewhere: {}", start.elapsed(), got.unwrap_err());
}

async fn busy_loop(handle: Endpoint, tasks: usize) {
    for _ in 0..tasks {
        let handle = handle.clone();
        tokio::spawn(async move {
            loop {
                let held = handle.lend(None).await.unwrap();
                sleep(S / 100).await;
                drop(held); // and the next call follows at once
            }
        });
    }
    sleep(S).await;
}

#[tokio::test(start_paused = true)]
async fn two_busy_connections_without_a_queue_starve_nobody() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2), &make);
    let (a, c) = (endpoint(&pool, "a").await, endpoint(&pool, "c").await);
    busy_loop(a.clone(), 2).await;
    assert_eq!(a.stats().live, 2);
    let got = c.lend(None).await;
    assert!(got.is_ok(), "{}; a has handed out {}", got.unwrap_err(), a.stats().reused);
}

#[tokio::test(start_paused = true)]
async fn one_busy_connection_without_a_queue_starves_nobody() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let (a, c) = (endpoint(&pool, "a").await, endpoint(&pool, "c").await);
    busy_loop(a.clone(), 1).await;
    let got = c.lend(None).await;
    assert!(got.is_ok(), "{}; a has handed out {}", got.unwrap_err(), a.stats().reused);
}

#[test]
fn a_claim_of_an_endpoint_without_a_driver_blocks_nobody() {
    let make = ScriptedMaker::exclusive();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let second = runtime();
    let (b, c) = second.block_on(async { (endpoint(&pool, "b").await, endpoint(&pool, "c").await) });
    let held = second.block_on(b.lend(None)).unwrap();
    let first = runtime();
    let a = first.block_on(async {
        let a = endpoint(&pool, "a").await;
        let mut lend = spawn(a.lend(None));
        assert!(lend.poll().is_pending());
        settle().await;
        a
    });
    drop(first);
    second.block_on(async {
        let mut waits = spawn(c.lend(None));
        assert!(waits.poll().is_pending());
        settle().await;
        drop(held);
        settle().await;
        assert!(waits.poll().is_ready(), "{:?} {:?} {:?}", a.stats(), b.stats(), c.stats());
    });
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_lose_its_connection_to_another_endpoint() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2), &make);
    let (a, c) = (endpoint(&pool, "a").await, endpoint(&pool, "c").await);
    let pin = ConnectionPin::new();
    let lend = || a.lend(Some(Call::new(()).with_pin(&pin).context()));
    let held = lend().await.unwrap();
    let _other = a.lend(None).await.unwrap();
    let mut waits = spawn(c.lend(None));
    assert!(waits.poll().is_pending());
    settle().await;
    let mut next = spawn(lend());
    assert!(next.poll().is_pending());
    drop(held);
    let next = next.poll();
    assert!(matches!(&next, Poll::Ready(Ok(_))), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_down_and_is_called_gets_a_place_for_its_next_dial() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2), &make);
    let (busy, mut down) = (endpoint(&pool, "busy").await, endpoint(&pool, "down").await);
    make.fail(Some(refused()));
    down.call(()).await.unwrap_err();
    make.fail(None);
    for _ in 0..4 {
        let busy = busy.clone();
        tokio::spawn(async move {
            loop {
                let held = busy.lend(None).await.unwrap();
                sleep(S / 10).await;
                drop(held);
            }
        });
    }
    let asked = async {
        while down.call(()).await.is_err() {
            sleep(S / 100).await;
        }
    };
    tokio::time::timeout(5 * S, asked).await.expect("others have every place, and it is well again");
}

#[test]
fn a_place_for_an_endpoint_whose_driver_ends_before_it_dials_goes_to_the_next() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let (first, second) = (paused_runtime(), paused_runtime());
    let [a, b, c] = second.block_on(endpoints(&pool, ["a", "b", "c"]));
    let held = second.block_on(b.lend(None)).unwrap();
    let _asked_first = first.block_on(waiting(&a));
    second.block_on(async {
        let mut asked_second = waiting(&c).await;
        drop(held); // its place is a's, whose runtime stands still
        settle().await;
        assert!(asked_second.poll().is_pending());
        end_elsewhere(first);
        settle().await;
        assert!(asked_second.poll().is_ready(), "{:?}", pool.stats());
    });
}
