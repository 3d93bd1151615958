//! A server for the echo protocol that can be stopped, started and made to misbehave.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tower_service::Service;
use towline_codec::ProstCodec;
use towline_core::Error;
use towline_proto::{Request, Response};
use towline_transport::{Correlate, serve_connection};

use crate::certs::Certified;
use crate::faults::{Faults, FaultyCodec};

/// Finds the id of echo messages.
#[derive(Clone, Copy, Debug)]
pub struct ById;

impl Correlate<Request, Response> for ById {
    type Original = String;

    fn tag(&self, request: &mut Request, id: u64) -> String {
        std::mem::replace(&mut request.id, id.to_string())
    }

    fn id(&self, response: &Response) -> Option<u64> {
        response.id.parse().ok()
    }

    fn restore(&self, response: &mut Response, original: String) {
        response.id = original;
    }
}

/// A backend that answers each request with its id and payload. Dropping it closes all its connections.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    shared: Shared,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared {
    acceptor: Option<tokio_native_tls::TlsAcceptor>,
    faults: Arc<Faults>,
    served: Arc<AtomicU64>,
    connected: Arc<AtomicU64>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("tls", &self.acceptor.is_some()).finish_non_exhaustive()
    }
}

impl Backend {
    /// Starts to listen on `address`: over TLS with this certificate, else in the clear.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on, or certificate and key do not fit.
    pub async fn start(address: &str, certified: Option<&Certified>) -> io::Result<Self> {
        let acceptor = certified.map(Certified::acceptor).transpose()?;
        let listener = TcpListener::bind(address).await?;
        let shared = Shared { acceptor, faults: Arc::default(), served: Arc::default(), connected: Arc::default() };
        let mut backend = Self { address: listener.local_addr()?, shared, accepting: None };
        backend.serve(listener);
        Ok(backend)
    }

    /// Where it listens, or did before it was stopped.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does wrong.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// How many requests it has answered.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// How many connections it has accepted.
    pub fn connected(&self) -> u64 {
        self.shared.connected.load(Ordering::Relaxed)
    }

    /// Stops listening and cuts all connections, as when the process dies.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await; // Cancelled, which is what was asked for.
        }
    }

    /// Listens again, on the same address.
    ///
    /// # Errors
    ///
    /// When somebody else has taken the address.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener);
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let shared = self.shared.clone();
        self.accepting = Some(tokio::spawn(async move {
            // Dropped with this task, which closes every connection.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => drop(connections.spawn(shared.clone().connection(stream))),
                        // Out of file descriptors, or a connection that was reset in the queue.
                        Err(_) => sleep(Duration::from_millis(10)).await,
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        }));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

impl Shared {
    /// Serves one connection until either side ends it. How it ends is the client's business, which the tests see.
    async fn connection(self, stream: TcpStream) {
        self.connected.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = self.acceptor.clone() else { return self.requests(stream).await };
        sleep(self.faults.handshake_delay()).await;
        if let Ok(stream) = acceptor.accept(stream).await {
            self.requests(stream).await;
        }
    }

    async fn requests<Io: AsyncRead + AsyncWrite + Unpin>(self, io: Io) {
        let codec = FaultyCodec { inner: ProstCodec::default(), faults: self.faults.clone() };
        let answered = Arc::new(tokio::sync::Notify::new());
        let echo = Echo { shared: self.clone(), answered: answered.clone() };
        tokio::select! {
            _ = serve_connection(io, codec, echo, 1_024) => {}
            // A half-sent answer is followed by the end of the connection.
            () = async {
                loop {
                    answered.notified().await;
                    if self.faults.cuts() {
                        sleep(Duration::from_millis(5)).await;
                        return;
                    }
                }
            } => {}
        }
    }
}

#[derive(Clone)]
struct Echo {
    shared: Shared,
    answered: Arc<tokio::sync::Notify>,
}

impl Service<Request> for Echo {
    type Response = Response;
    type Error = Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { shared, answered } = self.clone();
        Box::pin(async move {
            let faults = &shared.faults;
            let delay = faults.answer_delay();
            if !delay.is_zero() {
                sleep(delay).await;
            }
            if faults.stalls() {
                std::future::pending::<()>().await;
            }
            if faults.hangs_up() {
                return Err(io::Error::other("told to hang up").into());
            }
            shared.served.fetch_add(1, Ordering::Relaxed);
            answered.notify_one();
            Ok(Response { id: request.id, payload: request.payload })
        })
    }
}
