//! Claims on places, where there is a cap over all endpoints.

use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::Service;
use towline_core::{Call, ConnectionPin, Lend};
use towline_pool::{Pool, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{
    Closed, Endpoint, Endpoints, S, end_elsewhere, endpoint, endpoints, paused_runtime, pool, refused, waiting,
};

/// A pool of at most `max` connections to all its endpoints.
fn capped_over_all(max: usize) -> Endpoints {
    pool(PoolBuilder::new().max_total(max), &ScriptedMaker::exclusive())
}

/// Callers who use a connection for this long, and then at once the next.
fn keep_busy(handle: &Endpoint, callers: usize, call: Duration) {
    for _ in 0..callers {
        let handle = handle.clone();
        tokio::spawn(async move {
            loop {
                let held = handle.lend(None).await.unwrap();
                sleep(call).await;
                drop(held);
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn idle_is_offered_past_a_claim_whose_waiter_left() {
    let [a, b, c] = endpoints(&capped_over_all(1), ["a", "b", "c"]).await;
    let held = b.lend(None).await.unwrap();
    let leaves = waiting(&a).await;
    let mut waits = waiting(&c).await;
    drop(leaves);
    settle().await;
    drop(held);
    settle().await;
    assert!(waits.poll().is_ready(), "{:?} {:?}", b.stats(), c.stats());
}

#[tokio::test(start_paused = true)]
async fn idle_is_offered_past_a_claim_of_an_endpoint_that_is_gone() {
    let [a, b, c] = endpoints(&capped_over_all(1), ["a", "b", "c"]).await;
    let held = b.lend(None).await.unwrap();
    drop((waiting(&a).await, a));
    settle().await;
    let mut waits = waiting(&c).await;
    drop(held);
    settle().await;
    assert!(waits.poll().is_ready(), "{:?} {:?}", b.stats(), c.stats());
}

#[tokio::test(start_paused = true)]
async fn two_that_become_idle_serve_two_claims() {
    let [a, b, c] = endpoints(&capped_over_all(2), ["a", "b", "c"]).await;
    let held = (b.lend(None).await.unwrap(), b.lend(None).await.unwrap());
    let mut first = waiting(&a).await;
    let mut second = waiting(&c).await;
    drop(held); // both idle, without a pause
    settle().await;
    assert!(first.poll().is_ready());
    assert!(second.poll().is_ready(), "an idle connection of b stays: {:?} {:?}", b.stats(), c.stats());
}

// and no timeout needed: a's own return serves its waiter
#[tokio::test(start_paused = true)]
async fn idle_is_offered_past_a_claim_that_was_served_otherwise() {
    let [a, b, c] = endpoints(&capped_over_all(2), ["a", "b", "c"]).await;
    let (held_a, held_b) = (a.lend(None).await.unwrap(), b.lend(None).await.unwrap());
    let mut second = waiting(&a).await;
    let mut waits = waiting(&c).await;
    drop(held_a); // to a's own waiter
    let Poll::Ready(Ok(_kept)) = second.poll() else { panic!() };
    settle().await;
    drop(held_b); // idle, while c waits
    settle().await;
    assert!(waits.poll().is_ready(), "{:?} {:?} {:?}", a.stats(), b.stats(), c.stats());
}

#[tokio::test(start_paused = true)]
async fn a_closed_endpoint_takes_no_place() {
    let pool = capped_over_all(2);
    let [a, b, c] = endpoints(&pool, ["a", "b", "c"]).await;
    let _held_a = a.lend(None).await.unwrap();
    let mut held_b = b.lend(None).await.unwrap();
    let _waits_a = waiting(&a).await;
    let mut closing = spawn(a.close());
    assert!(closing.poll().is_pending());
    settle().await;
    let mut waits = waiting(&c).await;
    held_b.poison();
    drop(held_b);
    settle().await;
    assert_eq!(b.stats().live, 0);
    assert!(waits.poll().is_ready(), "the place is stuck: {:?}", pool.stats());
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_nobody_closes_no_connection() {
    let [a, b] = endpoints(&capped_over_all(2), ["a", "b"]).await;
    let held = b.lend(None).await.unwrap();
    let _other = b.lend(None).await.unwrap();
    drop(waiting(&a).await);
    settle().await;
    let mut waits = waiting(&b).await;
    drop(held);
    assert!(waits.poll().is_ready(), "{:?}", b.stats());
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_an_endpoint_that_is_gone_closes_no_connection() {
    let [a, b] = endpoints(&capped_over_all(1), ["a", "b"]).await;
    let held = b.lend(None).await.unwrap();
    drop((waiting(&a).await, a));
    settle().await;
    drop(held);
    assert_eq!(b.stats().idle, 1);
}

#[test]
fn a_claim_that_ended_with_its_driver_closes_no_connection() {
    let (first, second) = (paused_runtime(), paused_runtime());
    let [a, b] = second.block_on(endpoints(&capped_over_all(1), ["a", "b"]));
    let held = second.block_on(b.lend(None)).unwrap();
    let _waits = first.block_on(waiting(&a));
    drop(first);
    second.block_on(async { drop(held) });
    assert_eq!(b.stats().idle, 1);
}

#[tokio::test(start_paused = true)]
async fn warm_beyond_the_cap_over_all_resolves() {
    let a = endpoint(&capped_over_all(2), "a").await;
    let warm = timeout(3_600 * S, a.warm(3)).await;
    assert!(warm.is_ok(), "{:?}", a.stats());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_down_and_that_nobody_wants_costs_others_no_connection() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let down = tower::service_fn(move |target: &'static str| {
        let mut make = make.clone();
        async move { if target == "down" { Err(refused()) } else { make.call(target).await } }
    });
    let mut pool: Pool<_, &'static str> =
        PoolBuilder::new().max_total(2).observers(closed.observers()).build(down).unwrap();
    let (down, busy) = (pool.call("down").await.unwrap(), pool.call("busy").await.unwrap());
    down.checkout().await.unwrap_err(); // once
    keep_busy(&busy, 4, S / 10);
    sleep(120 * S).await;
    let stats = busy.stats();
    assert!(closed.reasons().is_empty() && stats.reused > 2_000 && stats.waiting == 2, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_without_connections_gets_that_of_the_next_call_that_ends_elsewhere() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(2).wait_deadline(60 * S), &make);
    let [a, b, c] = endpoints(&pool, ["a", "b", "c"]).await;
    keep_busy(&a, 2, S / 100);
    keep_busy(&b, 2, S / 100);
    sleep(S).await;
    let start = Instant::now();
    let got = c.lend(None).await;
    assert!(got.is_ok(), "after {:?} and thousands of returns elsewhere: {}", start.elapsed(), got.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn busy_connections_without_a_queue_starve_nobody() {
    for connections in [1, 2] {
        let [a, c] = endpoints(&capped_over_all(connections), ["a", "c"]).await;
        keep_busy(&a, connections, S / 100);
        sleep(S).await;
        assert_eq!(a.stats().live, connections);
        let got = c.lend(None).await;
        assert!(got.is_ok(), "{}; a has handed out {}", got.unwrap_err(), a.stats().reused);
    }
}

#[test]
fn a_claim_of_an_endpoint_without_a_driver_blocks_nobody() {
    let (first, second) = (paused_runtime(), paused_runtime());
    let [a, b, c] = second.block_on(endpoints(&capped_over_all(1), ["a", "b", "c"]));
    let held = second.block_on(b.lend(None)).unwrap();
    drop(first.block_on(waiting(&a)));
    drop(first);
    second.block_on(async {
        let mut waits = waiting(&c).await;
        drop(held);
        settle().await;
        assert!(waits.poll().is_ready(), "{:?} {:?} {:?}", a.stats(), b.stats(), c.stats());
    });
}

#[test]
fn a_place_for_an_endpoint_whose_driver_ends_before_it_dials_goes_to_the_next() {
    let (first, second) = (paused_runtime(), paused_runtime());
    let pool = capped_over_all(1);
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

#[tokio::test(start_paused = true)]
async fn a_session_does_not_lose_its_connection_to_another_endpoint() {
    let [a, c] = endpoints(&capped_over_all(2), ["a", "c"]).await;
    let pin = ConnectionPin::new();
    let lend = || a.lend(Some(Call::new(()).with_pin(&pin).context()));
    let held = lend().await.unwrap();
    let _other = a.lend(None).await.unwrap();
    let _waits = waiting(&c).await;
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
    let [busy, mut down] = endpoints(&pool, ["busy", "down"]).await;
    make.fail(Some(refused()));
    down.call(()).await.unwrap_err();
    make.fail(None);
    keep_busy(&busy, 4, S / 10);
    let asked = async {
        while down.call(()).await.is_err() {
            sleep(S / 100).await;
        }
    };
    timeout(5 * S, asked).await.expect("others have every place, and it is well again");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_down_claims_a_place_as_soon_as_it_is_called() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_total(1), &make);
    let [busy, mut down] = endpoints(&pool, ["busy", "down"]).await;
    make.fail(Some(refused()));
    down.call(()).await.unwrap_err();
    make.fail(None);
    let held = busy.lend(None).await.unwrap();
    sleep(10 * S).await;
    down.call(()).await.unwrap_err();
    settle().await;
    drop(held);
    settle().await;
    assert_eq!((busy.stats().live, down.stats().live), (0, 1));
}
