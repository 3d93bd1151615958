//! What the pool guarantees, each test named after the guarantee. All on the paused clock, without sockets.

mod cancel;
mod config;
mod dial;
mod health;
mod lend;
mod limits;
mod runtime;
mod shared;

use tower::{Service, ServiceExt};
use towline_core::{Error, Kind, Phase};
use towline_pool::{Handle, Pool, PoolBuilder};
use towline_test::{ScriptedConnection, ScriptedMaker};

type Endpoint = Handle<ScriptedConnection>;

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
