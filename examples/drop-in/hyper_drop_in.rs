//! A program that calls by hyper, before and after its client was exchanged: [`before`] and [`after`] are all that
//! differs.
//!
//! Everything happens in this process, first over hyper-util's client with a round robin written by hand and then over
//! towline's channel, each with three fresh servers: for 2.5 s 40 tasks send GET requests, each one every 25 ms unless
//! the one before is still on. After 0.8 s a server becomes slow, after 1.6 s another is killed, with requests in
//! flight on it. Every answer is checked against its request. Requests may fail over hyper-util's client, which knows
//! of no other server to go to, but not over towline's channel.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tower::util::BoxCloneService;
use tower::{Service, ServiceExt, service_fn};
use towline_examples::{BoxError, conclude, init_tracing};
use towline_examples_drop_in::{Server, comparison, endure, three_servers};
use towline_http::Channel;

type Get = Request<Empty<Bytes>>;

fn before(servers: &[String]) -> Result<BoxCloneService<Get, Response<Incoming>, BoxError>, BoxError> {
    let (servers, next) = (servers.to_vec(), Arc::new(AtomicUsize::new(0)));
    let client = Client::builder(TokioExecutor::new()).build_http();
    Ok(BoxCloneService::new(service_fn(move |mut request: Get| {
        let server = &servers[next.fetch_add(1, Ordering::Relaxed) % servers.len()];
        let (client, uri) = (client.clone(), format!("{server}{}", request.uri()));
        async move {
            *request.uri_mut() = uri.parse()?;
            Ok(client.request(request).await?)
        }
    })))
}

fn after(servers: &[String]) -> Result<Channel<Empty<Bytes>>, BoxError> {
    Ok(Channel::http().endpoints(servers).build()?)
}

#[tokio::main]
async fn main() -> ExitCode {
    init_tracing();
    conclude(run().await)
}

async fn run() -> Result<(), BoxError> {
    let before = endure("before: hyper-util", three_servers::<HttpServer>()?, before, call).await?;
    let after = endure("after: towline", three_servers::<HttpServer>()?, after, call).await?;
    println!("{}", comparison(&[&before, &after]));
    after.without_failure()
}

/// Sends a request, whatever carries it, and checks the answer.
async fn call<C, B>(client: C, number: u64) -> Result<(), BoxError>
where
    C: Service<Get, Response = Response<B>, Error: Into<BoxError>>,
    B: Body<Error: Into<BoxError>>,
{
    let request = Request::get(format!("/{number}")).body(Empty::new())?;
    let response = client.oneshot(request).await.map_err(Into::into)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(Into::into)?.to_bytes();
    if (status, &body[..]) != (StatusCode::OK, answer_to(&format!("/{number}")).as_bytes()) {
        return Err(format!("got {status} and {:?}", body.escape_ascii().to_string()).into());
    }
    Ok(())
}

fn answer_to(path: &str) -> String {
    format!("the answer to {path}")
}

/// A server of HTTP/1 and HTTP/2.
struct HttpServer {
    address: SocketAddr,
    faults: Arc<Faults>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Faults {
    delay_micros: AtomicU64,
    calls: AtomicU64,
}

impl Faults {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<String>, BoxError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let delay = Duration::from_micros(self.delay_micros.load(Ordering::Relaxed));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Ok(Response::new(answer_to(request.uri().path())))
    }
}

impl Server for HttpServer {
    fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (address, faults) = (listener.local_addr()?, Arc::<Faults>::default());
        let serving = tokio::spawn(serve(TcpListener::from_std(listener)?, faults.clone()));
        Ok(Self { address, faults, serving })
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn slow_down(&self, delay: Duration) {
        self.faults.delay_micros.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    fn kill(&mut self) {
        self.serving.abort();
    }

    fn calls(&self) -> u64 {
        self.faults.calls.load(Ordering::Relaxed)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Until it is aborted, and its connections with it.
async fn serve(listener: TcpListener, faults: Arc<Faults>) {
    let mut connections = JoinSet::new();
    while let Ok((io, _)) = listener.accept().await {
        let faults = faults.clone();
        connections.spawn(async move {
            let answer = hyper::service::service_fn(move |request| faults.clone().answer(request));
            let server = auto::Builder::new(TokioExecutor::new());
            // Ends with an error when the client goes away.
            let _ended = server.serve_connection(TokioIo::new(io), answer).await;
        });
    }
}
