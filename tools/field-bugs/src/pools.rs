//! The pools, alike for whoever only acquires.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures_util::future::BoxFuture;
use tower::{Service, ServiceExt, service_fn};
use towline_core::Lend;
use towline_pool::{Handle, PoolBuilder};

use crate::network::{Connection, Network};

/// Given back when dropped.
pub(crate) type Loan = Box<dyn Send>;

/// A pool of any kind; clones are the same one.
#[derive(Clone)]
pub(crate) struct Pool {
    pub(crate) name: String,
    acquire: Arc<dyn Fn() -> BoxFuture<'static, Result<Loan>> + Send + Sync>,
    idle: Arc<dyn Fn() -> usize + Send + Sync>,
}

impl Pool {
    pub(crate) fn acquire(&self) -> BoxFuture<'static, Result<Loan>> {
        (self.acquire)()
    }

    /// Connections that nobody uses, as the pool itself has it.
    pub(crate) fn idle(&self) -> usize {
        (self.idle)()
    }
}

/// The name of a dependency with its version.
pub(crate) fn version(name: &str) -> String {
    let manifest = include_str!("../Cargo.toml");
    let line = manifest.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    let version = line.and_then(|line| line.split_once("\"=")?.1.split('"').next()).unwrap_or("(this repository)");
    format!("{name} {version}")
}

pub(crate) fn towline_name() -> String {
    version("towline-pool")
}

/// One endpoint's pool. Nobody gives up before a minute.
pub(crate) async fn handle(network: &Network, connections: usize) -> Result<Handle<Connection>> {
    let network = network.clone();
    let make = service_fn(move |_: &'static str| {
        let network = network.clone();
        async move { Ok::<_, Infallible>(network.dial().await) }
    });
    let builder = PoolBuilder::new().max_connections(connections).wait_deadline(Duration::from_secs(60));
    Ok(builder.build(make)?.ready().await?.call("field").await?)
}

pub(crate) async fn towline(network: &Network, connections: usize) -> Result<Pool> {
    let handle = handle(network, connections).await?;
    let stats = handle.clone();
    Ok(Pool {
        name: towline_name(),
        acquire: Arc::new(move || {
            let checkout = handle.lend(None);
            Box::pin(async move { Ok(Box::new(checkout.await?) as Loan) })
        }),
        idle: Arc::new(move || stats.stats().idle),
    })
}

struct Manager(Network);

impl bb8::ManageConnection for Manager {
    type Connection = Connection;
    type Error = Infallible;

    async fn connect(&self) -> Result<Connection, Infallible> {
        Ok(self.0.dial().await)
    }

    async fn is_valid(&self, _: &mut Connection) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Connection) -> bool {
        false
    }
}

pub(crate) async fn bb8(network: &Network, connections: usize) -> Result<Pool> {
    let builder = bb8::Pool::builder().max_size(connections as u32).connection_timeout(Duration::from_secs(60));
    let pool = builder.build(Manager(network.clone())).await?;
    let state = pool.clone();
    Ok(Pool {
        name: version("bb8"),
        acquire: Arc::new(move || {
            let pool = pool.clone();
            Box::pin(async move { Ok(Box::new(pool.get_owned().await?) as Loan) })
        }),
        idle: Arc::new(move || state.state().idle_connections as usize),
    })
}

impl deadpool::managed::Manager for Manager {
    type Type = Connection;
    type Error = Infallible;

    async fn create(&self) -> Result<Connection, Infallible> {
        Ok(self.0.dial().await)
    }

    async fn recycle(
        &self,
        _: &mut Connection,
        _: &deadpool::managed::Metrics,
    ) -> deadpool::managed::RecycleResult<Infallible> {
        Ok(())
    }
}

pub(crate) fn deadpool(network: &Network, connections: usize) -> Result<Pool> {
    let builder = deadpool::managed::Pool::builder(Manager(network.clone())).max_size(connections);
    let pool: deadpool::managed::Pool<Manager> = builder.build()?;
    let state = pool.clone();
    Ok(Pool {
        name: version("deadpool"),
        acquire: Arc::new(move || {
            let pool = pool.clone();
            Box::pin(async move { Ok(Box::new(pool.get().await.map_err(|error| anyhow!("{error}"))?) as Loan) })
        }),
        idle: Arc::new(move || state.status().available),
    })
}
