//! A network of pipes, a pool over it, and what is seen of them.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tower::{Layer, Service, ServiceExt};
use towline_core::{BoxTask, CloseReason, Error, Event, Executor, Observer, Observers, Poolable, TokioExecutor};
use towline_http::{Http1Layer, Http2, Http2Config, Http2Layer, MakeHttp1, MakeHttp2, ResponseBody};
use towline_pool::{Handle, PoolBuilder};

pub(crate) type Body = Full<Bytes>;

/// Dials pipes; the test gets the other ends.
#[derive(Clone)]
pub(crate) struct Dials(mpsc::Sender<DuplexStream>);

pub(crate) fn net() -> (Dials, mpsc::Receiver<DuplexStream>) {
    let (ours, theirs) = mpsc::channel(64);
    (Dials(ours), theirs)
}

impl Service<&'static str> for Dials {
    type Response = DuplexStream;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<DuplexStream>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _target: &'static str) -> Self::Future {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let refused = |_| io::ErrorKind::ConnectionRefused.into();
        std::future::ready(self.0.try_send(server).map(|()| client).map_err(refused))
    }
}

/// Why connections were closed, in order.
#[derive(Default)]
pub(crate) struct Closings(Mutex<Vec<CloseReason>>);

impl Closings {
    pub(crate) fn seen(&self) -> Vec<CloseReason> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Closings {
    fn on(&self, event: &Event<'_>) {
        if let Event::Closed { reason, .. } = event {
            self.0.lock().unwrap().push(*reason);
        }
    }
}

pub(crate) async fn pool<M>(make: M, max: usize) -> (Handle<M::Response>, Arc<Closings>)
where
    M: Service<&'static str> + Clone + Send + Sync + 'static,
    M::Response: Poolable,
    M::Error: Into<towline_core::BoxError>,
    M::Future: Send,
{
    let closings = Arc::<Closings>::default();
    let observers = Observers::new(closings.clone());
    let mut pool = PoolBuilder::new().max_connections(max).observers(observers).build(make).unwrap();
    (pool.ready().await.unwrap().call("peer").await.unwrap(), closings)
}

pub(crate) fn http1(dials: Dials) -> MakeHttp1<Dials, Body> {
    Http1Layer::new().layer(dials)
}

pub(crate) fn http2(dials: Dials) -> MakeHttp2<Dials, Body> {
    Http2Layer::new().layer(dials)
}

/// An HTTP/2 connection without a pool.
pub(crate) async fn connect(io: DuplexStream, config: Http2Config) -> Result<Http2<Body>, Error> {
    Http2::handshake(io, config, &TokioExecutor::current()).await
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://peer{path}")).body(Body::default()).unwrap()
}

pub(crate) async fn text(response: Response<ResponseBody>) -> String {
    read(response).await.unwrap()
}

pub(crate) async fn read(response: Response<ResponseBody>) -> Result<String, Error> {
    Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec()).unwrap())
}

/// Asks, and reads the whole answer.
pub(crate) fn ask<S>(service: &S, path: &str) -> JoinHandle<Result<String, Error>>
where
    S: Service<Request<Body>, Response = Response<ResponseBody>, Error: Into<Error>, Future: Send + 'static> + Clone,
{
    let call = service.clone().call(get(path));
    tokio::spawn(async move { read(call.await.map_err(Into::into)?).await })
}

/// Reads one request without a body; its path.
pub(crate) async fn request(io: &mut DuplexStream) -> String {
    next_request(io).await.expect("a request")
}

/// Reads one request without a body; its path, unless the other end is closed.
pub(crate) async fn next_request(io: &mut DuplexStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    Some(head.split(' ').nth(1)?.trim_start_matches("http://peer").to_owned())
}

pub(crate) async fn say(io: &mut DuplexStream, bytes: &str) {
    let _closed = io.write_all(bytes.as_bytes()).await;
}

/// A response with this body.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Waits until the other end is closed; what came before.
pub(crate) async fn rest(io: &mut DuplexStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _reset = io.read_to_end(&mut rest).await;
    rest
}

/// An executor that counts the tasks which have not ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counting(Arc<AtomicUsize>);

impl Counting {
    pub(crate) fn running(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Executor for Counting {
    fn spawn(&self, task: BoxTask) -> Result<(), Error> {
        struct Counted(BoxTask, Arc<AtomicUsize>);
        impl Future for Counted {
            type Output = ();
            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
                self.0.as_mut().poll(cx)
            }
        }
        impl Drop for Counted {
            fn drop(&mut self) {
                self.1.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.0.fetch_add(1, Ordering::SeqCst);
        TokioExecutor::current().spawn(Box::pin(Counted(task, self.0.clone())))
    }
}

/// An executor that drops what it gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropping;

impl Executor for Dropping {
    fn spawn(&self, task: BoxTask) -> Result<(), Error> {
        drop(task);
        Ok(())
    }
}

// === HTTP/2 peers ===

/// An HTTP/2 connection, and its server that allows so many calls at once.
pub(crate) async fn pair(max_streams: u32) -> (Http2<Body>, Server) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = Server::start(theirs, max_streams);
    (connect(ours, Http2Config::default()).await.unwrap(), server)
}

/// A server whose answers are the test's business.
pub(crate) struct Server {
    calls: mpsc::Receiver<Call>,
    orders: mpsc::Sender<Order>,
}

/// A call that waits for its answer.
pub(crate) struct Call {
    pub(crate) path: String,
    respond: SendResponse<Bytes>,
}

enum Order {
    GoAway,
    GoAwayBecause(Reason),
    HangUp,
}

impl Server {
    /// One that allows so many calls at once.
    pub(crate) fn start(io: DuplexStream, max_streams: u32) -> Self {
        let ((sender, calls), (orders, mut received)) = (mpsc::channel(64), mpsc::channel(4));
        tokio::spawn(async move {
            let mut settings = h2::server::Builder::new();
            let handshake = settings.max_concurrent_streams(max_streams).handshake::<_, Bytes>(io);
            let Ok(mut connection) = handshake.await else { return };
            loop {
                tokio::select! {
                    accepted = connection.accept() => {
                        let Some(Ok((request, respond))) = accepted else { return };
                        let path = request.uri().path().to_owned();
                        let _unwanted = sender.send(Call { path, respond }).await;
                    }
                    Some(order) = received.recv() => match order {
                        Order::GoAway => connection.graceful_shutdown(),
                        Order::GoAwayBecause(reason) => connection.abrupt_shutdown(reason),
                        Order::HangUp => return,
                    },
                }
            }
        });
        Self { calls, orders }
    }

    pub(crate) async fn call(&mut self) -> Call {
        self.next_call().await.expect("a call")
    }

    /// The next call, unless the connection is over.
    pub(crate) async fn next_call(&mut self) -> Option<Call> {
        self.calls.recv().await
    }

    /// Whether no call has come.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    pub(crate) async fn go_away(&self) {
        let _gone = self.orders.send(Order::GoAway).await;
    }

    pub(crate) async fn go_away_because(&self, reason: Reason) {
        let _gone = self.orders.send(Order::GoAwayBecause(reason)).await;
    }

    pub(crate) async fn hang_up(&self) {
        let _gone = self.orders.send(Order::HangUp).await;
    }

    /// Answers each call with its path.
    pub(crate) fn echo(mut self) {
        tokio::spawn(async move {
            while let Some(call) = self.next_call().await {
                let path = call.path.clone();
                call.answer(&path);
            }
        });
    }
}

impl Call {
    /// Answers with the head, and keeps the body.
    pub(crate) fn head(mut self) -> SendStream<Bytes> {
        self.respond.send_response(Response::new(()), false).unwrap()
    }

    pub(crate) fn answer(self, body: &str) {
        let _cancelled = self.head().send_data(Bytes::copy_from_slice(body.as_bytes()), true);
    }

    pub(crate) fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Waits until the client resets the stream.
    pub(crate) async fn was_reset(mut self) -> Reason {
        std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await.unwrap()
    }
}

/// A SETTINGS frame that allows so many calls at once.
pub(crate) fn settings(max_streams: u32) -> Vec<u8> {
    let mut frame = vec![0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3];
    frame.extend(max_streams.to_be_bytes());
    frame
}

/// Sends every body back.
pub(crate) async fn echo_server() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let echo = hyper::service::service_fn(async |request: http::Request<hyper::body::Incoming>| {
                Ok::<_, hyper::Error>(http::Response::new(request.into_body()))
            });
            let io = hyper_util::rt::TokioIo::new(io);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, echo));
        }
    });
    address
}
