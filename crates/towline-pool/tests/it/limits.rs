//! Settings without end.

use std::time::Duration;

use tokio::time::timeout;
use tower::Service;
use towline_core::{Backoff, Kind, Lend};
use towline_pool::PoolBuilder;
use towline_test::ScriptedMaker;

use crate::support::{handle, refused};

#[tokio::test(start_paused = true)]
async fn a_wait_without_limit_is_no_panic() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().wait_deadline(Duration::MAX), &make).await;
    handle.lend(None).await.unwrap();
}
#[tokio::test(start_paused = true)]
async fn an_endless_idle_timeout_is_no_panic() {
    let make = ScriptedMaker::exclusive();
    let mut handle = handle(PoolBuilder::new().idle_timeout(Duration::MAX), &make).await;
    handle.call(()).await.unwrap();
    timeout(Duration::from_secs(60), handle.warm(2)).await.expect("the driver is dead").unwrap();
}
#[tokio::test(start_paused = true)]
async fn an_endless_lifetime_is_no_panic() {
    let make = ScriptedMaker::exclusive();
    let mut handle = handle(PoolBuilder::new().max_lifetime(Duration::MAX), &make).await;
    handle.call(()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_endless_backoff_is_no_panic() {
    let make = ScriptedMaker::exclusive();
    make.fail(Some(refused()));
    let backoff = Backoff::new(Duration::MAX, Duration::MAX);
    let handle = handle(PoolBuilder::new().dial_backoff(backoff), &make).await;
    assert_eq!(handle.lend(None).await.unwrap_err().kind(), Kind::Unavailable);
}
