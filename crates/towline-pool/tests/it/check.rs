//! Health checks.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tower::Service;
use towline_core::{CloseReason, Error, Kind, Lend};
use towline_pool::{Checkout, HealthCheck, PoolBuilder};
use towline_test::{ScriptedConnection, ScriptedMaker};

use crate::support::{self, Closed, Endpoint, tasks};

type Connection = Checkout<'static, ScriptedConnection>;

const EVERY: Duration = Duration::from_secs(10);

async fn checked(builder: PoolBuilder, make: &ScriptedMaker, check: HealthCheck<ScriptedConnection>) -> Endpoint {
    support::checked(builder, make, check.every(EVERY)).await
}

/// Counts how often it ran.
fn ping(count: &Arc<AtomicUsize>) -> HealthCheck<ScriptedConnection> {
    let count = count.clone();
    HealthCheck::new(move |mut connection: Connection| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { connection.call("ping").await.map(drop) }
    })
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_checked_at_intervals_and_those_that_are_well_stay() {
    let (make, count) = (ScriptedMaker::exclusive(), Arc::default());
    let handle = checked(PoolBuilder::new().idle_timeout(None), &make, ping(&count)).await;
    handle.warm(2).await.unwrap();
    sleep(EVERY * 10 + EVERY / 2).await;
    let checks = count.load(Ordering::Relaxed);
    assert!((18..=24).contains(&checks), "{checks} checks of 2 connections");
    assert_eq!((make.dials(), handle.stats().idle, handle.stats().reused), (2, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_use_is_not_checked_and_one_just_used_only_later() {
    let (make, count) = (ScriptedMaker::exclusive(), Arc::default());
    let mut handle = checked(PoolBuilder::new().max_connections(1), &make, ping(&count)).await;
    let held = handle.lend(None).await.unwrap();
    sleep(EVERY * 5).await;
    drop(held);
    for _ in 0..50 {
        sleep(EVERY / 5).await;
        handle.call("used").await.unwrap();
    }
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_check_is_no_use_that_would_keep_a_connection_from_its_idle_timeout() {
    let (make, count) = (ScriptedMaker::exclusive(), Arc::default());
    let handle = checked(PoolBuilder::new().idle_timeout(EVERY * 3), &make, ping(&count)).await;
    handle.warm(1).await.unwrap();
    sleep(EVERY * 4).await;
    assert_eq!(handle.stats().closed.by(CloseReason::IdleTimeout), 1);
    assert!(count.load(Ordering::Relaxed) >= 2);
}

// F9
#[tokio::test(start_paused = true)]
async fn a_connection_whose_check_fails_hangs_or_panics_is_closed_and_the_pool_goes_on() {
    let fail = |_: Connection| async { Err(Error::new(Kind::Server, towline_core::Phase::Read)) };
    let hang = |mut connection: Connection| async move {
        connection.call("ping").await?;
        pending::<Result<(), Error>>().await
    };
    async fn panics(connection: Connection) -> Result<(), Error> {
        panic!("the check of {}", connection.id());
    }
    for check in [HealthCheck::new(fail), HealthCheck::new(hang), HealthCheck::new(panics)] {
        let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
        let builder = PoolBuilder::new().observers(closed.observers());
        let mut handle = checked(builder, &make, check.deadline(Duration::from_secs(1))).await;
        handle.warm(1).await.unwrap();
        sleep(EVERY + Duration::from_secs(3)).await;
        assert_eq!(closed.reasons(), [CloseReason::Unhealthy]);
        assert_eq!(handle.call("after").await.unwrap(), (1, "after"));
        assert_eq!(tasks(), 1);
    }
}

// F9
#[tokio::test(start_paused = true)]
async fn a_peer_that_vanished_is_found_out_without_a_caller() {
    let (make, count) = (ScriptedMaker::exclusive(), Arc::default());
    let mut handle = checked(PoolBuilder::new(), &make, ping(&count).deadline(Duration::from_secs(1))).await;
    handle.warm(1).await.unwrap();
    make.wires()[0].hold(true); // it takes requests, and never answers
    sleep(EVERY + Duration::from_secs(3)).await;
    assert_eq!(handle.stats().live, 0);
    assert_eq!(handle.call("after").await.unwrap(), (1, "after"));
}

#[test]
fn a_check_that_could_not_work_is_refused() {
    let check = || HealthCheck::new(|_: Connection| async { Ok::<_, Error>(()) });
    for (check, why) in [(check().every(Duration::ZERO), "interval"), (check().deadline(Duration::ZERO), "deadline")] {
        let error = PoolBuilder::new().build_checked::<_, &str>(ScriptedMaker::exclusive(), check).unwrap_err();
        assert!(error.kind() == Kind::Config && error.to_string().contains(why), "{error}");
    }
}
