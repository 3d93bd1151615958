//! A server whose faults are switched while it runs.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use towline_proto::{Request as Ping, Response as Pong};

use crate::echo_server::{Echo, EchoServer};

/// A tonic server on a runtime of its own, so that it can be killed with all its connections.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    /// Until it is killed.
    listener: Option<std::net::TcpListener>,
    faults: Faults,
    runtime: Option<Runtime>,
    leave: Option<oneshot::Sender<()>>,
}

/// What goes wrong at a [`Backend`], and what it has seen; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Switches>);

#[derive(Debug, Default)]
struct Switches {
    delay_micros: AtomicU64,
    code: AtomicI32,
    failures_left: AtomicU64,
    calls: AtomicU64,
}

impl Faults {
    /// Every answer takes so long.
    pub fn delay(&self, delay: Duration) {
        self.0.delay_micros.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// The next so many calls fail with this code.
    pub fn fail(&self, code: Code, times: u64) {
        self.0.code.store(code as i32, Ordering::Relaxed);
        self.0.failures_left.store(times, Ordering::Relaxed);
    }

    /// How many calls have come.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::Relaxed)
    }

    async fn pass(&self) -> Result<(), Status> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let delay = self.0.delay_micros.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        let left = self.0.failures_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(Status::new(Code::from_i32(self.0.code.load(Ordering::Relaxed)), "switched to fail")),
            Err(_) => Ok(()),
        }
    }
}

impl Backend {
    /// Serves on this address, with port 0 on one that is free.
    ///
    /// # Errors
    ///
    /// When it cannot listen there.
    pub fn start(address: &str) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // Not by tokio's own, which a runtime would have to wait for: whoever starts this may be on one.
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let (address, faults) = (listener.local_addr()?, Faults::default());
        let mut backend = Self { address, listener: Some(listener), faults, runtime: Some(runtime), leave: None };
        backend.serve()?;
        Ok(backend)
    }

    /// Serves until it is told to leave.
    fn serve(&mut self) -> io::Result<()> {
        let (Some(runtime), Some(listener)) = (&self.runtime, &self.listener) else {
            return Err(io::Error::other("the backend was killed"));
        };
        let (leave, left) = oneshot::channel::<()>();
        self.leave = Some(leave);
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener.try_clone()?)?
        };
        let (echo, address) = (EchoServer::new(self.faults.clone()), self.address);
        let echo = echo.accept_compressed(CompressionEncoding::Gzip).send_compressed(CompressionEncoding::Gzip);
        runtime.spawn(async move {
            let gone = async move { drop(left.await) };
            // What is written is a whole answer.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = Server::builder().add_service(echo).serve_with_incoming_shutdown(incoming, gone);
            if let Err(error) = server.await {
                eprintln!("the backend at {address} has ended: {error}");
            }
        });
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its faults.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Says goodbye to the connections that it has: it takes no more calls over them, and finishes those that are on them (GOAWAY).
    /// New connections are served.
    ///
    /// # Errors
    ///
    /// When it was killed.
    pub fn say_goodbye(&mut self) -> io::Result<()> {
        let leave = self.leave.take();
        self.serve()?;
        if let Some(leave) = leave {
            let _gone = leave.send(());
        }
        Ok(())
    }

    /// Ends at once, with its connections.
    pub fn kill(&mut self) {
        // Kept until then: dropped, it would say goodbye.
        let leave = self.leave.take();
        self.listener = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        drop(leave);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pong(ping: Ping) -> Pong {
    Pong { id: ping.id, payload: ping.payload }
}

type Pongs = Pin<Box<dyn Stream<Item = Result<Pong, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Faults {
    type ManyStream = Pongs;
    type DuplexStream = Pongs;

    async fn unary(&self, request: Request<Ping>) -> Result<Response<Pong>, Status> {
        self.pass().await?;
        Ok(Response::new(pong(request.into_inner())))
    }

    async fn many(&self, request: Request<Ping>) -> Result<Response<Pongs>, Status> {
        self.pass().await?;
        let Ping { id, payload } = request.into_inner();
        let length = payload.len();
        let one = move |at| Ok(Pong { id: id.clone(), payload: payload.slice(at..=at) });
        Ok(Response::new(stream::iter((0..length).map(one)).boxed()))
    }

    async fn gather(&self, request: Request<Streaming<Ping>>) -> Result<Response<Pong>, Status> {
        self.pass().await?;
        let (mut requests, mut id, mut payload) = (request.into_inner(), String::new(), Vec::new());
        while let Some(ping) = requests.message().await? {
            id = ping.id;
            payload.extend_from_slice(&ping.payload);
        }
        Ok(Response::new(Pong { id, payload: payload.into() }))
    }

    async fn duplex(&self, request: Request<Streaming<Ping>>) -> Result<Response<Pongs>, Status> {
        self.pass().await?;
        Ok(Response::new(request.into_inner().map(|ping| ping.map(pong)).boxed()))
    }
}
