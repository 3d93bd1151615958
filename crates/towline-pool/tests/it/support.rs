//! What the tests have in common: pools of scripted connections and of others, callers who wait, and what is seen of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tokio_test::task::{Spawn, spawn};
use tower::{Service, ServiceExt};
use towline_core::sync::Lock;
use towline_core::{CloseReason, ConnectionId, Error, Event, Kind, Lend, Observer, Observers, Phase, Poolable, State};
use towline_pool::{Handle, HealthCheck, LendFuture, Pool, PoolBuilder};
use towline_test::{ScriptedConnection, ScriptedFuture, ScriptedMaker, Wire, settle};

pub(crate) type Endpoint = Handle<ScriptedConnection>;
pub(crate) type Endpoints = Pool<ScriptedMaker, &'static str>;

pub(crate) const S: Duration = Duration::from_secs(1);

pub(crate) fn pool(builder: PoolBuilder, make: &ScriptedMaker) -> Endpoints {
    builder.build(make.clone()).unwrap()
}

/// A handle to one endpoint of many.
pub(crate) async fn endpoint(pool: &Endpoints, name: &'static str) -> Endpoint {
    pool.clone().call(name).await.unwrap()
}

/// Handles to several of them.
pub(crate) async fn endpoints<const N: usize>(pool: &Endpoints, names: [&'static str; N]) -> [Endpoint; N] {
    let handles = futures_util::future::join_all(names.map(|name| endpoint(pool, name))).await;
    handles.try_into().expect("one for each name")
}

/// A handle to the pool of one endpoint.
pub(crate) async fn handle(builder: PoolBuilder, make: &ScriptedMaker) -> Endpoint {
    let mut pool: Pool<_, &'static str> = builder.build(make.clone()).unwrap();
    pool.ready().await.unwrap().call("endpoint").await.unwrap()
}

/// A handle to a pool of at most `max` connections.
pub(crate) async fn capped(max: usize, make: &ScriptedMaker) -> Endpoint {
    handle(PoolBuilder::new().max_connections(max), make).await
}

/// A handle to a pool whose connections are checked.
pub(crate) async fn checked(
    builder: PoolBuilder,
    make: &ScriptedMaker,
    check: HealthCheck<ScriptedConnection>,
) -> Endpoint {
    let mut pool: Pool<_, &'static str> = builder.build_checked(make.clone(), check).unwrap();
    pool.call("endpoint").await.unwrap()
}

/// A handle to a pool of connections that are not scripted.
pub(crate) async fn pool_of<C: Poolable>(
    builder: PoolBuilder,
    connection: impl Fn() -> C + Clone + Send + 'static,
) -> Handle<C> {
    let make = tower::service_fn(move |_: &'static str| std::future::ready(Ok::<_, Error>(connection())));
    let mut pool: Pool<_, &'static str> = builder.build(make).unwrap();
    pool.call("endpoint").await.unwrap()
}

/// The state of a connection that nothing ever happens to.
pub(crate) fn always_idle(seen: State) -> Poll<State> {
    if seen == State::Idle { Poll::Pending } else { Poll::Ready(State::Idle) }
}

/// A caller who waits, of whom the driver knows.
pub(crate) async fn waiting(handle: &Endpoint) -> Spawn<LendFuture<ScriptedConnection>> {
    let mut lend = spawn(handle.lend(None));
    assert!(lend.poll().is_pending());
    settle().await;
    lend
}

/// A call on the connection at the other end of `wire`, which does not answer.
pub(crate) fn unanswered(connection: &mut ScriptedConnection, wire: &Wire) -> Spawn<ScriptedFuture<u8>> {
    wire.hold(true);
    let mut response = spawn(Service::<u8>::call(connection, 1));
    assert!(response.poll().is_pending());
    response
}

pub(crate) fn refused() -> Error {
    Error::new(Kind::Unavailable, Phase::Dial).with_message("refused")
}

/// Everything is accounted for: each connection is idle, or in use by one call (or, if shared, by none just now).
pub(crate) fn check(handle: &Endpoint) {
    let stats = handle.stats();
    assert_eq!(stats.opened - stats.closed.total(), stats.live as u64, "{stats:?}");
    assert_eq!(stats.idle + stats.in_use, stats.live, "{stats:?}");
}

/// Remembers why connections were closed, and when.
#[derive(Clone, Default)]
pub(crate) struct Closed(pub(crate) Arc<Lock<Vec<(ConnectionId, CloseReason, Instant)>>>);

impl Observer for Closed {
    fn on(&self, event: &Event<'_>) {
        if let Event::Closed { connection, reason, .. } = event {
            self.0.lock().push((*connection, *reason, Instant::now()));
        }
    }
}

impl Closed {
    pub(crate) fn observers(&self) -> Observers {
        Observers::new(self.clone())
    }

    pub(crate) fn reasons(&self) -> Vec<CloseReason> {
        self.0.lock().iter().map(|(_, reason, _)| *reason).collect()
    }
}

/// How many tasks there are.
pub(crate) fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// A runtime of one thread; its clock stands still unless somebody waits.
pub(crate) fn paused_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A runtime of one thread, in real time.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Ends a runtime, from outside of any.
pub(crate) fn end_elsewhere(runtime: Runtime) {
    std::thread::spawn(move || drop(runtime)).join().unwrap();
}

/// Runs what could deadlock in a thread and a runtime of its own.
pub(crate) fn in_time<F: Future<Output = ()>>(run: impl FnOnce() -> F + Send + 'static) {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        paused_runtime().block_on(run());
        done.send(()).unwrap();
    });
    match ended.recv_timeout(Duration::from_secs(5)) {
        Err(RecvTimeoutError::Timeout) => panic!("deadlock"),
        Err(RecvTimeoutError::Disconnected) => panic!("it panicked, see above"),
        Ok(()) => {}
    }
}

/// Panics the first time that it hears of a connection closed for this reason; a driver that tells it is gone then.
pub(crate) struct PanicsOnce(CloseReason, AtomicBool);

impl PanicsOnce {
    pub(crate) fn at(reason: CloseReason) -> Self {
        Self(reason, true.into())
    }
}

impl Observer for PanicsOnce {
    fn on(&self, event: &Event<'_>) {
        let panics = matches!(event, Event::Closed { reason, .. } if *reason == self.0);
        assert!(!(panics && self.1.swap(false, Ordering::SeqCst)), "an observer's bug");
    }
}
