//! Runtimes that are missing or end, executors that refuse, and foreign code that misbehaves.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_test::task::spawn;
use tower::{Service, ServiceExt};
use towline_core::sync::Lock;
use towline_core::{BoxTask, Error, Event, Executor, Kind, Lend, Observer, Observers, Phase, Poolable, Sharing, State};
use towline_pool::{Pool, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{S, capped, end_elsewhere, handle, in_time, paused_runtime, pool_of, refused};

// F40
#[test]
fn whoever_waits_to_be_ready_survives_the_runtime_of_the_driver() {
    let make = ScriptedMaker::exclusive();
    make.fail(Some(refused()));
    let first = paused_runtime();
    let handle = first.block_on(capped(1, &make));
    first.block_on(async { handle.lend(None).await.unwrap_err() }); // down: the driver backs off
    let second = paused_runtime();
    second.block_on(async {
        let mut other = handle.clone();
        let mut ready = spawn(ServiceExt::<u8>::ready(&mut other));
        assert!(ready.poll().is_pending());
        end_elsewhere(first);
        make.fail(None);
        assert!(ready.is_woken(), "nobody dials any more, and nobody is told");
        timeout(Duration::from_secs(60), ready).await.expect("nobody dials").unwrap();
    });
}

#[test]
fn warm_survives_the_runtime_of_the_driver() {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    let first = paused_runtime();
    let handle = first.block_on(capped(1, &make));
    let other = handle.clone();
    first.block_on(async {
        let mut warm = spawn(other.warm(1));
        assert!(warm.poll().is_pending());
        settle().await;
    });
    let second = paused_runtime();
    second.block_on(async {
        let mut warm = spawn(handle.warm(1));
        assert!(warm.poll().is_pending());
        end_elsewhere(first);
        make.hold(false);
        timeout(Duration::from_secs(3600), warm).await.expect("warm waits for nobody").ok();
    });
}

#[test]
fn outside_a_runtime_a_wait_is_a_typed_error_and_nobody_waits_after_it() {
    let make = ScriptedMaker::exclusive();
    let mut pool: Pool<_, &'static str> = PoolBuilder::new().build(make).unwrap();
    let handle = futures_util::FutureExt::now_or_never(pool.call("endpoint")).unwrap().unwrap();
    let lent = futures_util::FutureExt::now_or_never(handle.lend(None)).unwrap();
    assert_eq!(lent.unwrap_err().kind(), Kind::Runtime);
    assert_eq!(handle.stats().waiting, 0);
}

/// Fails its first spawn, and runs `during` meanwhile.
struct Flaky(Lock<Option<Box<dyn FnOnce() + Send>>>);
impl std::fmt::Debug for Flaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flaky")
    }
}
impl Executor for Flaky {
    fn spawn(&self, task: BoxTask) -> Result<(), Error> {
        let first = self.0.lock().take();
        match first {
            Some(during) => {
                during();
                Err(Error::new(Kind::Runtime, Phase::Build))
            }
            None => {
                tokio::spawn(task);
                Ok(())
            }
        }
    }
}

type Lending = std::pin::Pin<Box<towline_pool::LendFuture<towline_test::ScriptedConnection>>>;
#[tokio::test(start_paused = true)]
async fn a_failed_spawn_strands_nobody_who_came_meanwhile() {
    let make = ScriptedMaker::exclusive();
    let executor = Arc::new(Flaky(Lock::new(None)));
    let handle = handle(PoolBuilder::new().executor(executor.clone()), &make).await;
    let other: Arc<Lock<Lending>> = Arc::new(Lock::new(Box::pin(handle.lend(None))));
    let during = other.clone();
    *executor.0.lock() = Some(Box::new(move || {
        // Another thread, within a runtime, asks at this moment.
        assert!(during.lock().as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }));
    assert_eq!(handle.lend(None).await.unwrap_err().kind(), Kind::Runtime);
    let lent = poll_fn(|cx| other.lock().as_mut().poll(cx)).await;
    lent.unwrap_or_else(|error| panic!("{error}; dials: {}", make.dials()));
}

/// A shared connection whose handles, when dropped, look at the pool.
struct Peeking {
    peek: Peek,
    closed: Arc<Lock<bool>>,
    master: bool,
}
type Peek = Arc<Lock<Option<Box<dyn Fn() + Send>>>>;
impl Drop for Peeking {
    fn drop(&mut self) {
        if let (false, Some(peek)) = (self.master, &*self.peek.lock()) {
            peek();
        }
    }
}
impl Poolable for Peeking {
    fn sharing(&self) -> Sharing {
        Sharing::Shared { limit: 8 }
    }
    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        let state = if *self.closed.lock() { State::Closed } else { State::Idle };
        if state == seen { Poll::Pending } else { Poll::Ready(state) }
    }
    fn share(&self) -> Option<Self> {
        Some(Self { peek: self.peek.clone(), closed: self.closed.clone(), master: false })
    }
}
#[test]
fn a_share_is_not_dropped_under_the_lock() {
    in_time(|| async {
        let peek = Peek::default();
        let its = peek.clone();
        let connection = move || Peeking { peek: its.clone(), closed: Arc::default(), master: true };
        let handle = pool_of(PoolBuilder::new(), connection).await;
        let lent = handle.lend(None).await.unwrap();
        let seen = handle.clone();
        *peek.lock() = Some(Box::new(move || {
            let _ = seen.stats();
        }));
        drop(lent);
        *peek.lock() = None;
    });
}

struct Bomb;
impl Observer for Bomb {
    fn on(&self, event: &Event<'_>) {
        if let Event::Reused { .. } = event {
            panic!("an observer's bug");
        }
    }
}
#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_costs_no_connection() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().max_connections(1).observers(Observers::new(Bomb)), &make).await;
    drop(handle.lend(None).await.unwrap());
    let again = handle.clone();
    tokio::spawn(async move { drop(again.lend(None).await) }).await.unwrap_err();
    assert_eq!(handle.stats().in_use, 0);
}

/// A waker that drops what it holds when it is dropped.
struct Holding(#[allow(dead_code, reason = "held to be dropped")] Lock<Option<Box<dyn Send>>>);
impl std::task::Wake for Holding {
    fn wake(self: Arc<Self>) {}
}
#[test]
fn a_waker_is_not_dropped_under_the_lock() {
    in_time(|| async {
        let make = ScriptedMaker::exclusive();
        make.hold(true);
        let handle = capped(1, &make).await;
        let mut waiting = spawn(handle.lend(None));
        assert!(waiting.poll().is_pending());
        settle().await;
        let (mut one, mut other) = (handle.clone(), handle.clone());
        let noop = &mut Context::from_waker(Waker::noop());
        assert!(Service::<u8>::poll_ready(&mut other, noop).is_pending());
        {
            // A task that owns a handle (with simple executors the waker owns the task).
            let waker = Waker::from(Arc::new(Holding(Lock::new(Some(Box::new(other))))));
            assert!(Service::<u8>::poll_ready(&mut one, &mut Context::from_waker(&waker)).is_pending());
        }
        // The handle moves to another task.
        assert!(Service::<u8>::poll_ready(&mut one, noop).is_pending());
    });
}

#[test]
fn a_wait_ends_in_time_while_the_drivers_runtime_stands_still() {
    let make = ScriptedMaker::exclusive();
    let (first, second) = (paused_runtime(), paused_runtime());
    let handle = first.block_on(handle(PoolBuilder::new().max_connections(1).wait_deadline(3 * S), &make));
    let _held = first.block_on(handle.lend(None)).unwrap();
    second.block_on(async {
        let start = Instant::now();
        let waited = timeout(60 * S, handle.lend(None)).await.expect("nobody keeps its time");
        assert!(waited.unwrap_err().is_timeout());
        assert_eq!((start.elapsed(), handle.stats().waiting), (3 * S, 0));
    });
}
