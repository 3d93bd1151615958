//! What health checks must not do.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::Service;
use towline_core::{CloseReason, Error, Lend, Observers};
use towline_pool::{Checkout, HealthCheck, PoolBuilder};
use towline_test::{ScriptedConnection, ScriptedMaker, settle};

use crate::support::{Closed, PanicsOnce, S, checked, handle, tasks};

type Connection = Checkout<'static, ScriptedConnection>;

/// Asks.
fn ping() -> HealthCheck<ScriptedConnection> {
    let check = HealthCheck::new(|mut connection: Connection| async move { connection.call("ping").await.map(drop) });
    check.every(10 * S).deadline(2 * S)
}

/// Takes its time.
fn slow(time: Duration) -> HealthCheck<ScriptedConnection> {
    HealthCheck::new(move |connection: Connection| async move {
        sleep(time).await;
        drop(connection);
        Ok::<_, Error>(())
    })
}

#[tokio::test(start_paused = true)]
async fn more_hanging_checks_than_max_dials_leave_no_dead_connection() {
    let make = ScriptedMaker::exclusive();
    let handle = checked(PoolBuilder::new(), &make, ping()).await;
    handle.warm(5).await.unwrap();
    make.wires().iter().for_each(|wire| wire.hold(true));
    sleep(20 * S).await;
    assert_eq!(handle.stats().live, 0);
}

#[tokio::test(start_paused = true)]
async fn checks_do_not_keep_a_pool_alive_for_ever() {
    let make = ScriptedMaker::exclusive();
    let check = slow(S * 3 / 2).every(S).deadline(2 * S);
    let handle = checked(PoolBuilder::new().idle_timeout(None), &make, check).await;
    handle.warm(1).await.unwrap();
    sleep(2 * S).await;
    drop(handle);
    sleep(1_000 * S).await;
    assert_eq!((make.open(), tasks()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn checks_of_many_do_not_keep_a_pool_alive() {
    let make = ScriptedMaker::exclusive();
    let builder = PoolBuilder::new().max_dials(32).idle_timeout(None);
    let handle = checked(builder, &make, slow(S).every(10 * S).deadline(2 * S)).await;
    handle.warm(32).await.unwrap();
    sleep(25 * S).await;
    let start = Instant::now();
    drop(handle);
    for _ in 0..10_000 {
        if tasks() == 0 {
            break;
        }
        sleep(S / 10).await;
    }
    assert!(start.elapsed() < 3 * S, "alive for {:?}; open {}", start.elapsed(), make.open());
}

#[tokio::test(start_paused = true)]
async fn checked_connections_idle_out_when_fewer_are_needed() {
    for is_checked in [false, true] {
        let make = ScriptedMaker::exclusive();
        let builder = PoolBuilder::new().idle_timeout(30 * S);
        let mut handle = if is_checked { checked(builder, &make, ping()).await } else { handle(builder, &make).await };
        handle.warm(5).await.unwrap();
        for _ in 0..600 {
            handle.call("one at a time").await.unwrap();
            sleep(S / 2).await;
        }
        assert_eq!(handle.stats().live, 1, "checked: {is_checked}, {:?}", handle.stats());
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_does_not_make_a_connection_the_most_recently_used() {
    let make = ScriptedMaker::exclusive();
    let mut handle = checked(PoolBuilder::new().idle_timeout(None), &make, ping()).await;
    handle.warm(2).await.unwrap();
    assert_eq!(handle.call(()).await.unwrap().0, 1);
    for _ in 0..15 {
        sleep(S).await;
        assert_eq!(handle.call(()).await.unwrap().0, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_during_a_check_counts_as_use() {
    let (make, closed) = (ScriptedMaker::shared(8), Closed::default());
    let builder = PoolBuilder::new().idle_timeout(20 * S).observers(closed.observers());
    let mut handle = checked(builder, &make, slow(15 * S).every(10 * S).deadline(20 * S)).await;
    handle.warm(1).await.unwrap();
    sleep(20 * S).await;
    handle.call("used").await.unwrap();
    sleep(10 * S).await;
    assert_eq!(closed.reasons(), []);
}

#[tokio::test(start_paused = true)]
async fn a_check_of_a_connection_kept_ahead_opens_no_other() {
    let make = ScriptedMaker::exclusive();
    let builder = PoolBuilder::new().min_idle(2).max_lifetime(None).idle_timeout(30 * S);
    let round_trip = Duration::from_millis(5);
    let handle = checked(builder, &make, slow(round_trip).every(10 * S)).await;
    sleep(600 * S).await;
    assert_eq!(make.dials(), 2, "{:?}", handle.stats());
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_lost_with_the_driver_is_not_the_last_of_its_connection() {
    let (make, checks) = (ScriptedMaker::shared(8), Arc::new(AtomicUsize::new(0)));
    let count = checks.clone();
    let hangs = HealthCheck::new(move |c: Connection| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let _under_way = c;
            pending::<Result<(), Error>>().await
        }
    });
    let builder = PoolBuilder::new().idle_timeout(None).observers(Observers::new(PanicsOnce::at(CloseReason::Peer)));
    let handle = checked(builder, &make, hangs.every(10 * S).deadline(100 * S)).await;
    handle.warm(2).await.unwrap();
    sleep(12 * S).await;
    let held = handle.lend(None).await.unwrap(); // keeps the first, when the driver is gone
    make.wires()[1].close(CloseReason::Peer);
    settle().await;
    assert_eq!((tasks(), handle.stats().live, checks.load(Ordering::Relaxed)), (0, 1, 2));
    drop(held);
    sleep(30 * S).await;
    assert_eq!((tasks(), checks.load(Ordering::Relaxed)), (1, 3));
}
