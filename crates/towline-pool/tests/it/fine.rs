//! Fine print.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::Service;
use towline_core::{Call, ConnectionPin, Error, Lend, Unwatched};
use towline_pool::{IdleOrder, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{S, capped, endpoint, handle, pool, pool_of, refused, unanswered};

#[tokio::test(start_paused = true)]
async fn an_unlimited_shared_connection_overflows_nothing() {
    let make = ScriptedMaker::shared(usize::MAX);
    let handle = capped(8, &make).await;
    timeout(S, handle.warm(4)).await.expect("in time").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pool_counts_and_closes_an_endpoint_whose_handle_was_closed() {
    let make = ScriptedMaker::exclusive();
    let pool = pool(PoolBuilder::new().max_connections(1).close_deadline(3 * S), &make);
    let old = endpoint(&pool, "a").await;
    let _held = old.lend(None).await.unwrap();
    let mut closing = spawn(old.close());
    assert!(closing.poll().is_pending());
    drop(closing);
    let _new = endpoint(&pool, "a").await;
    let start = Instant::now();
    let stats = pool.stats();
    let closed_in = {
        pool.close().await;
        start.elapsed()
    };
    assert_eq!((stats.in_use, stats.live, closed_in), (1, 1, 3 * S), "open: {}", make.open());
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_half_way_takes_an_unwatched_connection_with_it() {
    let slow = || {
        Unwatched::new(tower::service_fn(|ms: u64| async move {
            sleep(Duration::from_millis(ms)).await;
            Ok::<_, Error>(ms)
        }))
    };
    let handle = pool_of(PoolBuilder::new(), slow).await;
    let mut held = handle.checkout().await.unwrap();
    let _cut = timeout(Duration::from_millis(1), Service::call(&mut *held, 1_000)).await.unwrap_err();
    Service::call(&mut *held, 1).await.unwrap();
    drop(held);
    assert_eq!(handle.stats().idle, 0, "its first answer is still on the wire");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_checkouts_do_well_is_not_suspect_for_ever() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(8, &make).await;
    make.fail(Some(refused()));
    handle.checkout().await.unwrap_err();
    make.fail(None);
    sleep(3 * S).await;
    for _ in 0..1_000 {
        let mut held = handle.checkout().await.unwrap();
        assert!(Service::<u8>::call(&mut *held, 1).await.is_ok());
        held.succeeded();
    }
    make.hold(true);
    let mut waits: Vec<_> = (0..5).map(|_| spawn(handle.lend(None))).collect();
    let _now: Vec<_> = waits.iter_mut().map(|wait| wait.poll()).collect();
    settle().await;
    assert_eq!(handle.stats().dialling, 4, "dials go alone for ever");
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_that_is_kept_for_its_replacement_survives_a_call() {
    let make = ScriptedMaker::exclusive();
    let builder = PoolBuilder::new().min_idle(1).max_connections(4).max_lifetime(100 * S).idle_timeout(None);
    let mut handle = handle(builder, &make).await;
    settle().await;
    make.fail(Some(refused()));
    sleep(200 * S).await;
    assert_eq!(handle.stats().idle, 1, "old ones are better than none");
    handle.call("one").await.unwrap();
    handle.call("two").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shared_connection_that_drains_is_not_cut_while_a_response_is_read() {
    let make = ScriptedMaker::shared(4);
    let handle = capped(4, &make).await;
    let mut checkout = handle.lend(None).await.unwrap();
    let _response = unanswered(&mut checkout, &make.wires()[0]);
    drop(checkout);
    make.wires()[0].drain();
    settle().await;
    assert!(make.wires()[0].is_open(), "{:?}", handle.stats());
}

#[tokio::test(start_paused = true)]
async fn sessions_that_use_their_connections_are_no_surplus() {
    let make = ScriptedMaker::exclusive();
    let builder = PoolBuilder::new().idle_order(IdleOrder::LeastRecent).idle_timeout(10 * S);
    let handle = handle(builder, &make).await;
    let pins: Vec<_> = (0..3).map(|_| ConnectionPin::new()).collect();
    let lend = |pin: &ConnectionPin| handle.lend(Some(Call::new(()).with_pin(pin).context()));
    let held = futures_util::future::try_join_all(pins.iter().map(lend)).await.unwrap();
    drop(held);
    for _ in 0..400 {
        // Two of three are in use at the same time, ten times a second.
        let mut held = Vec::new();
        for pin in pins[1..].iter().rev() {
            held.push(lend(pin).await.expect("its connection is in use all the time"));
        }
        sleep(S / 100).await;
        held.reverse();
        drop(held);
        sleep(S / 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn live_is_in_use_and_idle_also_while_a_response_is_read() {
    let make = ScriptedMaker::shared(4);
    let handle = capped(4, &make).await;
    let mut checkout = handle.lend(None).await.unwrap();
    let _response = unanswered(&mut checkout, &make.wires()[0]);
    drop(checkout);
    let stats = handle.stats();
    assert_eq!(stats.live, stats.in_use.min(1) + stats.idle, "{stats:?}");
}
