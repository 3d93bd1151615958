//! Makers that panic, never return, or return what is dead.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::Service;
use towline_core::sync::Lock;
use towline_core::{CloseReason, Error, Kind, Phase, Sent};
use towline_pool::{Handle, Pool, PoolBuilder};
use towline_test::{ScriptedConnection, ScriptedMaker};

use crate::support::{capped, check, handle, refused, tasks};

/// What becomes of a dial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    Succeeds,
    TakesLong,
    Fails,
    /// Connects to a peer that is gone at once.
    IsDead,
    PanicsAtOnce,
    PanicsLater,
    NeverEnds,
}

impl Fate {
    pub(super) const ALL: [Self; 7] = [
        Self::Succeeds,
        Self::TakesLong,
        Self::Fails,
        Self::IsDead,
        Self::PanicsAtOnce,
        Self::PanicsLater,
        Self::NeverEnds,
    ];
}

#[derive(Clone)]
pub(super) struct Fateful {
    pub(super) make: ScriptedMaker,
    pub(super) fate: Arc<Lock<Fate>>,
}

impl Fateful {
    pub(super) fn new(fate: Fate) -> Self {
        Self { make: ScriptedMaker::exclusive(), fate: Arc::new(Lock::new(fate)) }
    }

    pub(super) fn set(&self, fate: Fate) {
        *self.fate.lock() = fate;
    }
}

impl Service<&'static str> for Fateful {
    type Response = ScriptedConnection;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<ScriptedConnection, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: &'static str) -> Self::Future {
        let fate = *self.fate.lock();
        assert_ne!(fate, Fate::PanicsAtOnce, "at once");
        let (make, dial) = (self.make.clone(), self.make.call(target));
        Box::pin(async move {
            match fate {
                Fate::Succeeds | Fate::PanicsAtOnce => {}
                Fate::TakesLong => sleep(Duration::from_millis(100)).await,
                Fate::Fails => return Err(refused()),
                Fate::PanicsLater => {
                    tokio::task::yield_now().await;
                    panic!("later");
                }
                Fate::NeverEnds => std::future::pending().await,
                Fate::IsDead => {
                    let connection = dial.await;
                    make.wires().last().expect("just made").close(CloseReason::Peer);
                    return connection;
                }
            }
            dial.await
        })
    }
}

async fn fateful(fate: Fate) -> (Fateful, Handle<ScriptedConnection>) {
    let make = Fateful::new(fate);
    let builder = PoolBuilder::new().max_connections(2).dial_deadline(Duration::from_secs(2));
    let mut pool: Pool<_, &'static str> = builder.build(make.clone()).unwrap();
    let handle = pool.call("endpoint").await.unwrap();
    (make, handle)
}

#[tokio::test(start_paused = true)]
async fn whatever_the_maker_does_callers_get_a_typed_error_and_the_pool_recovers() {
    for (fate, kind, said) in [
        (Fate::Fails, Kind::Unavailable, "refused"),
        (Fate::IsDead, Kind::Unavailable, "closed the last connection before it served a call"),
        (Fate::PanicsAtOnce, Kind::Other, "the maker panicked: assertion"),
        (Fate::PanicsLater, Kind::Other, "the maker panicked: later"),
        (Fate::NeverEnds, Kind::Timeout, "no connection within 2000 ms (dial_deadline)"),
    ] {
        let (make, mut handle) = fateful(fate).await;
        let error = handle.call("a").await.unwrap_err();
        assert_eq!((error.kind(), error.phase(), error.sent()), (kind, Phase::Dial, Sent::Never), "{error}");
        assert!(error.to_string().contains(said) && error.to_string().contains("endpoint endpoint"), "{error}");
        make.set(Fate::Succeeds);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(handle.call("b").await.unwrap().1, "b");
        assert_eq!((handle.stats().dialling, handle.stats().waiting, tasks()), (0, 0, 1));
        check(&handle);
        drop(handle);
        tokio::task::yield_now().await;
    }
}

// F11
#[tokio::test(start_paused = true)]
async fn a_dial_that_never_ends_has_a_deadline_of_its_own() {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    let builder = PoolBuilder::new().dial_deadline(Duration::from_secs(2)).wait_deadline(Duration::from_secs(60));
    let handle = handle(builder, &make).await;
    let start = Instant::now();
    let error = handle.checkout().await.unwrap_err();
    assert_eq!((start.elapsed(), error.kind()), (Duration::from_secs(2), Kind::Timeout));
    assert_eq!(handle.stats().dials_failed, 1);
}

// F26
#[tokio::test(start_paused = true)]
async fn a_task_that_never_yields_finds_what_is_free() {
    let make = ScriptedMaker::exclusive();
    let mut handle = capped(1, &make).await;
    for i in 0..2_000 {
        assert_eq!(handle.call(i).await.unwrap(), (0, i));
    }
    assert_eq!(make.dials(), 1);
}
