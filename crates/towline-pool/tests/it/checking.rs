//! What health checks must not do.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::Service;
use towline_core::{CloseReason, Error, Lend, Observers};
use towline_pool::{Checkout, HealthCheck, Pool, PoolBuilder};
use towline_test::{ScriptedConnection, ScriptedMaker, settle};

use crate::support::{Closed, PanicsOnce, S, tasks};

type Connection = Checkout<'static, ScriptedConnection>;

#[tokio::test(start_paused = true)]
async fn more_hanging_checks_than_max_dials() {
    let make = ScriptedMaker::exclusive();
    let ping = HealthCheck::new(|mut c: Connection| async move { c.call("ping").await.map(drop) });
    let mut p: Pool<_, &'static str> =
        PoolBuilder::new().build_checked(make.clone(), ping.every(10 * S).deadline(2 * S)).unwrap();
    let handle = p.call("e").await.unwrap();
    handle.warm(5).await.unwrap();
    make.wires().iter().for_each(|w| w.hold(true));
    sleep(20 * S).await;
    assert_eq!(handle.stats().live, 0);
}

#[tokio::test(start_paused = true)]
async fn checks_do_not_keep_a_pool_alive_for_ever() {
    let make = ScriptedMaker::exclusive();
    let slow = HealthCheck::new(|c: Connection| async move {
        sleep(Duration::from_millis(1_500)).await;
        drop(c);
        Ok::<_, Error>(())
    });
    let mut p: Pool<_, &'static str> =
        PoolBuilder::new().idle_timeout(None).build_checked(make.clone(), slow.every(S).deadline(2 * S)).unwrap();
    let handle = p.call("e").await.unwrap();
    handle.warm(1).await.unwrap();
    sleep(2 * S).await;
    drop(handle);
    drop(p);
    sleep(1_000 * S).await;
    assert_eq!((make.open(), tasks()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn checks_of_many_do_not_keep_a_pool_alive() {
    let make = ScriptedMaker::exclusive();
    let slow = HealthCheck::new(|c: Connection| async move {
        sleep(Duration::from_millis(1_000)).await;
        drop(c);
        Ok::<_, Error>(())
    });
    let mut p: Pool<_, &'static str> = PoolBuilder::new()
        .max_dials(32)
        .idle_timeout(None)
        .build_checked(make.clone(), slow.every(10 * S).deadline(2 * S))
        .unwrap();
    let handle = p.call("e").await.unwrap();
    handle.warm(32).await.unwrap();
    sleep(25 * S).await;
    let start = Instant::now();
    drop(handle);
    drop(p);
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
    for checked in [false, true] {
        let make = ScriptedMaker::exclusive();
        let ping = HealthCheck::new(|mut c: Connection| async move { c.call("ping").await.map(drop) });
        let builder = PoolBuilder::new().idle_timeout(30 * S);
        let mut p: Pool<_, &'static str> = match checked {
            true => builder.build_checked(make.clone(), ping.every(10 * S)).unwrap(),
            false => builder.build(make.clone()).unwrap(),
        };
        let mut handle = p.call("e").await.unwrap();
        handle.warm(5).await.unwrap();
        for _ in 0..600 {
            handle.call("one at a time").await.unwrap();
            sleep(S / 2).await;
        }
        assert_eq!(handle.stats().live, 1, "checked: {checked}, {:?}", handle.stats());
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_does_not_make_a_connection_the_most_recently_used() {
    let make = ScriptedMaker::exclusive();
    let ping = HealthCheck::new(|mut c: Connection| async move { c.call("ping").await.map(drop) });
    let mut p: Pool<_, &'static str> =
        PoolBuilder::new().idle_timeout(None).build_checked(make.clone(), ping.every(10 * S)).unwrap();
    let mut handle = p.call("e").await.unwrap();
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
    let slow = HealthCheck::new(|c: Connection| async move {
        sleep(15 * S).await;
        drop(c);
        Ok::<_, Error>(())
    });
    let mut p: Pool<_, &'static str> = PoolBuilder::new()
        .idle_timeout(20 * S)
        .observers(closed.observers())
        .build_checked(make.clone(), slow.every(10 * S).deadline(20 * S))
        .unwrap();
    let mut handle = p.call("e").await.unwrap();
    handle.warm(1).await.unwrap();
    sleep(20 * S).await;
    handle.call("used").await.unwrap();
    let used = Instant::now();
    sleep(10 * S).await;
    assert_eq!(closed.0.lock().iter().map(|(_, r, at)| (*r, *at - used)).collect::<Vec<_>>(), []);
}

#[tokio::test(start_paused = true)]
async fn a_check_of_a_connection_kept_ahead_opens_no_other() {
    let make = ScriptedMaker::exclusive();
    let ping = HealthCheck::new(|mut c: Connection| async move {
        sleep(Duration::from_millis(5)).await; // a round trip
        c.call("ping").await.map(drop)
    });
    let mut p: Pool<_, &'static str> = PoolBuilder::new()
        .min_idle(2)
        .max_lifetime(None)
        .idle_timeout(30 * S)
        .build_checked(make.clone(), ping.every(10 * S))
        .unwrap();
    let handle = p.call("e").await.unwrap();
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
    let mut p: Pool<_, &'static str> = PoolBuilder::new()
        .idle_timeout(None)
        .observers(Observers::new(PanicsOnce::at(CloseReason::Peer)))
        .build_checked(make.clone(), hangs.every(10 * S).deadline(100 * S))
        .unwrap();
    let handle = p.call("e").await.unwrap();
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
