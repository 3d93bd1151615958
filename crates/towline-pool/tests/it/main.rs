//! What the pool guarantees, each test named after the guarantee. All on the paused clock, without sockets.

mod age;
mod cancel;
mod check;
mod checking;
mod claims;
mod config;
mod dial;
mod driving;
mod ending;
mod fates;
mod fine;
mod foreign;
mod health;
mod lend;
mod limits;
mod maker;
mod pin;
mod runtime;
mod shared;
mod stats;
mod total;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tower::{Service, ServiceExt};
use towline_core::sync::Lock;
use towline_core::{CloseReason, ConnectionId, Error, Event, Kind, Observer, Observers, Phase};
use towline_pool::{Handle, Pool, PoolBuilder};
use towline_test::{ScriptedConnection, ScriptedMaker};

type Endpoint = Handle<ScriptedConnection>;
type Endpoints = Pool<ScriptedMaker, &'static str>;

const S: Duration = Duration::from_secs(1);

fn pool(builder: PoolBuilder, make: &ScriptedMaker) -> Endpoints {
    builder.build(make.clone()).unwrap()
}

/// A handle to one endpoint of many.
async fn endpoint(pool: &Endpoints, name: &'static str) -> Endpoint {
    pool.clone().call(name).await.unwrap()
}

/// A handle to the pool of one endpoint.
async fn handle(builder: PoolBuilder, make: &ScriptedMaker) -> Endpoint {
    let mut pool: Pool<_, &'static str> = builder.build(make.clone()).unwrap();
    pool.ready().await.unwrap().call("endpoint").await.unwrap()
}

/// A handle to a pool of at most `max` connections.
async fn capped(max: usize, make: &ScriptedMaker) -> Endpoint {
    handle(PoolBuilder::new().max_connections(max), make).await
}

fn refused() -> Error {
    Error::new(Kind::Unavailable, Phase::Dial).with_message("refused")
}

/// Everything is accounted for.
fn check(handle: &Endpoint) {
    let stats = handle.stats();
    assert_eq!(stats.opened - stats.closed.total(), stats.live as u64, "{stats:?}");
    assert!(stats.idle + stats.in_use >= stats.live, "{stats:?}");
}

/// Remembers why connections were closed, and when.
#[derive(Clone, Default)]
struct Closed(Arc<Lock<Vec<(ConnectionId, CloseReason, Instant)>>>);

impl Observer for Closed {
    fn on(&self, event: &Event<'_>) {
        if let Event::Closed { connection, reason, .. } = event {
            self.0.lock().push((*connection, *reason, Instant::now()));
        }
    }
}

impl Closed {
    fn observers(&self) -> Observers {
        Observers::new(self.clone())
    }

    fn reasons(&self) -> Vec<CloseReason> {
        self.0.lock().iter().map(|(_, reason, _)| *reason).collect()
    }
}

/// How many tasks there are.
fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}
