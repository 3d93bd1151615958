//! Echo through a pool: many callers over few connections, each used by one caller at a time. Printed with case `echo`.

use std::net::SocketAddr;
use std::ops::DerefMut;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt};
use towline_connect::TcpConnector;
use towline_core::{BoxError, GiveBack, Poolable, Target};
use towline_http::{Http1Layer, Http2Layer, ResponseBody};
use towline_pool::{Handle, PoolBuilder};
use towline_proto::{Request, Response};
use towline_transport::Exclusive;

use super::{Bench, EchoRound};
use crate::dial::{Dial, Io, Tcp};
use crate::measure::{Caller, Round};
use crate::peers::pools::{self, Bb8, Managed, Pool, Semaphored, warm};
use crate::peers::towline::Codec;
use crate::peers::{Hyper, PooledHttp, Visit, each, floor, towline};
use crate::report::{Extra, Row, Table};

const CALLERS: usize = 64;
const CONNECTIONS: usize = 8;
const PAYLOAD: usize = 64;

pub(super) const NOTE: &str = "\
In the pool's table, floor-semaphore is tokio's semaphore and a mutexed vector of the floor's exclusive connections, which \
bb8 and deadpool have too; semaphore-towline-exclusive is the same with the connections that towline-pool has, so that what lies between it and the floor is the connection's, and what is left the pool's. hyper-util's legacy client caps nothing: over HTTP/1 it has a connection per caller, over HTTP/2 \
one; what stands beside it is a pool of hyper's connections.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooled {
    FloorSemaphore,
    SemaphoreTowline,
    Towline,
    Bb8,
    Deadpool,
    HyperHttp1,
    TowlineHttp1,
    HyperHttp2,
    TowlineHttp2,
}

impl Pooled {
    const ALL: [Self; 9] = [
        Self::FloorSemaphore,
        Self::SemaphoreTowline,
        Self::Towline,
        Self::Bb8,
        Self::Deadpool,
        Self::HyperHttp1,
        Self::TowlineHttp1,
        Self::HyperHttp2,
        Self::TowlineHttp2,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::FloorSemaphore => "floor-semaphore",
            Self::SemaphoreTowline => "semaphore-towline-exclusive",
            Self::Towline => "towline-pool",
            Self::Bb8 => "bb8",
            Self::Deadpool => "deadpool-managed",
            Self::HyperHttp1 => "hyper-http1",
            Self::TowlineHttp1 => "towline-http1",
            Self::HyperHttp2 => "hyper-http2",
            Self::TowlineHttp2 => "towline-http2",
        }
    }

    /// What it is measured against: hyper's pools against hyper's own.
    fn floor(self) -> Self {
        match self {
            Self::FloorSemaphore | Self::SemaphoreTowline | Self::Towline | Self::Bb8 | Self::Deadpool => {
                Self::FloorSemaphore
            }
            Self::HyperHttp1 | Self::TowlineHttp1 => Self::HyperHttp1,
            Self::HyperHttp2 | Self::TowlineHttp2 => Self::HyperHttp2,
        }
    }

    /// None for rows that do not share a number of connections.
    fn connections(self) -> Option<usize> {
        (self.floor() == Self::FloorSemaphore).then_some(CONNECTIONS)
    }

    async fn round(self, bench: &Bench) -> Result<Round<'static>> {
        let addresses = &bench.server.addresses;
        let dial = Tcp(addresses);
        let ours = || each(CONNECTIONS, async || Ok(towline::exclusive(dial.ours().await?)));
        let by_hand = || each(CONNECTIONS, async || Ok(floor::Exclusive::new(dial.by_hand().await?)));
        match self {
            Self::FloorSemaphore => through(Semaphored::new(by_hand().await?)).await,
            Self::Bb8 => through(Bb8::new(by_hand().await?).await?).await,
            Self::Deadpool => through(Managed::new(by_hand().await?)?).await,
            Self::SemaphoreTowline => through(Semaphored::new(ours().await?)).await,
            Self::Towline => {
                let pool = pools::towline(ours().await?).await?;
                warm(&pool, CONNECTIONS).await?;
                Ok(echo(pool))
            }
            Self::HyperHttp1 => Ok(echo(Hyper::new(addresses.http1, false)?)),
            Self::HyperHttp2 => Ok(echo(Hyper::new(addresses.http2, true)?)),
            // As many connections as hyper's own pool opens: one for each caller, and one for all.
            Self::TowlineHttp1 => {
                let make = Http1Layer::<Full<Bytes>>::new().layer(TcpConnector::new());
                http(make, addresses.http1, CALLERS, "/echo").await
            }
            Self::TowlineHttp2 => {
                let make = Http2Layer::<Full<Bytes>>::new().layer(TcpConnector::new());
                http(make, addresses.http2, 1, &format!("http://{}/echo", addresses.http2)).await
            }
        }
    }
}

async fn http<M, C>(make: M, address: SocketAddr, connections: usize, uri: &str) -> Result<Round<'static>>
where
    M: Service<Target, Response = C> + Clone + Send + 'static,
    M::Error: Into<BoxError>,
    M::Future: Send + 'static,
    C: Poolable + Service<hyper::Request<Full<Bytes>>, Response = hyper::Response<ResponseBody>>,
    C::Error: GiveBack<hyper::Request<Full<Bytes>>>,
    C::Future: Send,
{
    let mut pool = PoolBuilder::new().max_connections(connections).build(make)?;
    let target: Target = address.to_string().parse()?;
    let handle: Handle<C> = pool.call(target).await?;
    Ok(echo(PooledHttp::new(handle, uri)?))
}

fn echo<C: Caller + Clone>(caller: C) -> Round<'static> {
    EchoRound(PAYLOAD).visit(vec![caller; CALLERS])
}

async fn through<P, C>(pool: P) -> Result<Round<'static>>
where
    P: Pool + for<'a> Pool<Loan<'a>: DerefMut<Target = C>>,
    C: Caller,
{
    warm(&pool, CONNECTIONS).await?;
    Ok(echo(Through(pool)))
}

/// Acquires a connection for each call.
#[derive(Clone)]
struct Through<P>(P);

impl<P, C> Caller for Through<P>
where
    P: Pool + for<'a> Pool<Loan<'a>: DerefMut<Target = C>>,
    C: Caller,
{
    async fn call(&mut self, request: Request) -> Result<Response> {
        self.0.acquire().await?.call(request).await
    }
}

impl<I: Io> Caller for Handle<Exclusive<I, Codec>> {
    async fn call(&mut self, request: Request) -> Result<Response> {
        Ok(Service::call(self.ready().await?, request).await?)
    }
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    eprintln!("  {}", title());
    let names = |row: Pooled| (row.name(), row.floor().name());
    let rows = bench.timed(&Pooled::ALL, names, |row| bench.runtime.block_on(row.round(bench)))?;
    let complete = |(row, pooled): (Row, Pooled)| {
        let extra = Extra { connections: pooled.connections(), ..Extra::default() };
        Row { case: "pool", concurrency: CALLERS, payload: PAYLOAD, extra, ..row }
    };
    Ok(rows.into_iter().zip(Pooled::ALL).map(complete).collect())
}

fn title() -> String {
    format!("{PAYLOAD} B, {CALLERS} callers over {CONNECTIONS} exclusive connections")
}

pub(super) fn table(rows: &[Row]) -> Table {
    Table { detail: false, ..Table::timed(title(), rows) }
}
