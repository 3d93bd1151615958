//! A server for the echo protocol that can be stopped, started and made to misbehave.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_service::Service;
use towline_codec::ProstCodec;
use towline_core::{Call, Error};
use towline_proto::{Request, Response};
use towline_transport::{Correlate, HEADER_ALPN, Listener, Server};

use crate::certs::Certified;
use crate::faults::{Faults, FaultyCodec, Stream};

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
    /// Starts to listen on `address`: over TLS with this certificate, where clients may ask for frame headers by ALPN, else
    /// in the clear.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on, or certificate and key do not fit.
    pub async fn start(address: &str, certified: Option<&Certified>) -> io::Result<Self> {
        let acceptor = certified.map(|certified| certified.acceptor_with_alpn(&[HEADER_ALPN])).transpose()?;
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
        let codec = FaultyCodec { inner: ProstCodec::default(), faults: shared.faults.clone() };
        let echo = Echo { shared: shared.clone() };
        let listener = listener.with_handshake(move |stream| shared.clone().handshake(stream));
        let listener = listener.with_header_if(|stream| stream.headed);
        let server = Server::new(codec).in_flight(1_024).with_header();
        // Dropped with this task, the server cuts every connection.
        self.accepting = Some(tokio::spawn(server.serve(listener, echo)));
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
    async fn handshake(self, stream: TcpStream) -> io::Result<Stream> {
        self.connected.fetch_add(1, Ordering::Relaxed);
        let faults = self.faults;
        let Some(acceptor) = self.acceptor else {
            return Ok(Stream { io: Box::new(stream), headed: false, faults, cut: false });
        };
        sleep(faults.handshake_delay()).await;
        let stream = acceptor.accept(stream).await.map_err(io::Error::other)?;
        let alpn = stream.get_ref().negotiated_alpn().ok().flatten();
        let headed = alpn.is_some_and(|alpn| alpn == HEADER_ALPN.as_bytes());
        Ok(Stream { io: Box::new(stream), headed, faults, cut: false })
    }
}

#[derive(Clone)]
struct Echo {
    shared: Shared,
}

impl Service<Call<Request>> for Echo {
    type Response = Response;
    type Error = Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<Request>) -> Self::Future {
        let shared = self.shared.clone();
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
            let Request { id, payload } = call.into_message();
            Ok(Response { id, payload })
        })
    }
}
