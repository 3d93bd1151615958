//! Whole stacks over three servers: what a client needs to spread calls, beside three connections by hand in turn.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower::balance::p2c::Balance;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PendingRequestsDiscover};
use tower::{Service, ServiceExt};
use towline::{Call, Client, SessionKey};
use towline_proto::{Request, Response};
use towline_testbed::ById;

use super::{Tonic, floor, tokio_tower};
use crate::measure::{Caller, MAX_CALLERS};
use crate::server::BACKENDS;

/// A session per caller, as `measure` numbers them.
fn session(request: &Request) -> Option<SessionKey> {
    let caller = request.id.parse::<u64>().ok()? % MAX_CALLERS;
    Some(SessionKey::new(caller.to_le_bytes()))
}

/// The client as the builder makes it: deadline, retry, sessions, balancer and a pool per server, over connections that all
/// callers share.
#[derive(Clone)]
pub(crate) struct Towline(Client<Request, Response>);

impl Towline {
    pub(crate) async fn connect(backends: &[SocketAddr]) -> Result<Self> {
        let client = Client::builder()
            .endpoints(backends.iter().map(SocketAddr::to_string))
            .plaintext()
            .multiplexed(ById)
            .sticky_by(session)
            .idempotent_if(|_| true)
            .build()?;
        client.warm(1).await?;
        Ok(Self(client))
    }
}

impl Caller for Towline {
    async fn call(&mut self, request: Request) -> Result<Response> {
        Ok(self.0.send(Call::new(request)).await?)
    }
}

/// A connection to each server, one after the other.
pub(crate) struct InTurn {
    connections: [floor::Multiplexed; BACKENDS],
    next: usize,
}

impl InTurn {
    pub(crate) async fn all(backends: &[SocketAddr], callers: usize, read_room: usize) -> Result<Vec<Self>> {
        let mut connections = Vec::new();
        for backend in backends {
            let stream = TcpStream::connect(backend).await.context("dialling a server")?;
            stream.set_nodelay(true)?;
            connections.push(floor::Multiplexed::all(stream, callers, read_room).into_iter());
        }
        let of_one = |caller| {
            let theirs = connections.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>();
            let connections = theirs.try_into().map_err(|_| anyhow!("a connection has too few callers"))?;
            Ok(Self { connections, next: caller })
        };
        (0..callers).map(of_one).collect()
    }
}

impl Caller for InTurn {
    async fn call(&mut self, request: Request) -> Result<Response> {
        self.next = (self.next + 1) % BACKENDS;
        self.connections[self.next].call(request).await
    }
}

type Connections = ServiceList<Vec<tokio_tower::Multiplexed<TcpStream>>>;
type Balanced = Balance<PendingRequestsDiscover<Connections, CompleteOnResponse>, Request>;

/// tower's `Buffer` around its balancer of tokio-tower's connections.
#[derive(Clone)]
pub(crate) struct Tower(Buffer<Request, <Balanced as Service<Request>>::Future>);

impl Tower {
    pub(crate) async fn connect(backends: &[SocketAddr]) -> Result<Self> {
        let mut connections = Vec::new();
        for backend in backends {
            let stream = TcpStream::connect(backend).await.context("dialling a server")?;
            stream.set_nodelay(true)?;
            connections.push(tokio_tower::multiplexed(stream));
        }
        let services = ServiceList::new::<Request>(connections);
        let discover = PendingRequestsDiscover::new::<Request>(services, CompleteOnResponse::default());
        Ok(Self(Buffer::new(Balance::new(discover), MAX_CALLERS as usize)))
    }
}

impl Caller for Tower {
    async fn call(&mut self, request: Request) -> Result<Response> {
        let ready = self.0.ready().await.map_err(|error| anyhow!(error))?;
        ready.call(request).await.map_err(|error| anyhow!(error))
    }
}

/// tonic's balanced channel.
pub(crate) fn tonic(backends: &[SocketAddr]) -> Result<Tonic> {
    let endpoint = |backend: &SocketAddr| -> Result<_> {
        Ok(Endpoint::from_shared(format!("http://{backend}"))?.connect_timeout(Duration::from_secs(5)))
    };
    let endpoints: Vec<_> = backends.iter().map(endpoint).collect::<Result<_>>()?;
    Ok(Tonic::over(Channel::balance_list(endpoints.into_iter())))
}
