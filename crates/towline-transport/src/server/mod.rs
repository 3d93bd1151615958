//! The other side of the wire: a server for the same frames, small and bounded.

mod handling;
mod listener;
mod session;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use towline_core::{BoxError, Call, Error, Kind, Phase};

pub use self::listener::{Choosing, Handshaking, HeaderChoice, Listener};
use self::session::{Format, Session, SessionConfig};
use crate::ServerLoad;

/// Serves requests that come as frames of a codec, on many connections, within limits.
///
/// A request is answered as soon as its answer is there, in any order, which suits multiplexed and exclusive clients; for
/// pipelined ones ask for answers [`in_order`](Self::in_order).
///
/// A handler's `Err` means that the request could not be served; its text does not travel. Errors that callers should see
/// belong into the response. With a [frame header](Self::with_header) a handler that fails or panics, or whose answer is
/// too large, costs its own call only: its client gets [`Kind::Server`](towline_core::Kind::Server), and repeats what is
/// idempotent. Without one there is no way to say it, and a client must not wait for ever: the connection takes no more
/// requests, finishes the others, and closes. In order, those behind it cannot be answered either.
///
/// ```
/// use bytes::Bytes;
/// use tokio::net::{TcpListener, TcpStream};
/// use tower::{Service, service_fn};
/// use towline_codec::FrameCodec;
/// use towline_transport::{Exclusive, Server};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let address = listener.local_addr()?;
/// let echo = service_fn(|request: Bytes| async move { Ok::<_, std::io::Error>(request) });
///
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let server = Server::new(FrameCodec::default()).in_flight(64).serve_until(listener, echo, async {
///     let _ = stopped.await;
/// });
/// let server = tokio::spawn(server);
///
/// let mut client = Exclusive::new(TcpStream::connect(address).await?, FrameCodec::default());
/// assert_eq!(client.call(Bytes::from("ping")).await.unwrap(), "ping");
/// stop.send(()).unwrap();
/// server.await.unwrap();
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
pub struct Server<C: Decoder, Req = <C as Decoder>::Item> {
    codec: C,
    format: Format<C::Item, Req>,
    limits: Limits,
    on_error: OnError,
}

/// Hears what goes wrong.
pub(super) type OnError = Option<Arc<dyn Fn(&Error) + Send + Sync>>;

#[derive(Clone, Debug)]
struct Limits {
    session: SessionConfig,
    connections: usize,
    handshake_timeout: Duration,
    grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let session = SessionConfig {
            in_flight: 128,
            in_order: false,
            idle_timeout: None,
            write_timeout: crate::DEFAULT_WRITE_TIMEOUT,
        };
        let (handshake_timeout, grace) = (Duration::from_secs(10), Duration::from_secs(10));
        Self { session, connections: 1_024, handshake_timeout, grace }
    }
}

impl<C: Decoder> Server<C> {
    /// A server that gives each connection a clone of this codec. By default 1,024 connections with 128 requests in
    /// flight each, 10 seconds for a handshake, 20 for a client to accept the next byte of an answer, 10 to finish when
    /// the server stops, and no limit to how long a connection may be idle.
    pub fn new(codec: C) -> Self {
        Self { codec, format: Format::plain(), limits: Limits::default(), on_error: None }
    }

    /// Expects a frame header with each request, and sends one with each answer: see
    /// [`HeaderLayer`](crate::HeaderLayer). Handlers get a [`Call`], whose context has the client's deadline, and are
    /// dropped when that is over, or the client has cancelled the call. Answers say how many other requests this server
    /// works on, unless [`load`](Self::load) says something else.
    pub fn with_header(self) -> Server<C, Call<C::Item>> {
        Server { codec: self.codec, format: Format::headed(), limits: self.limits, on_error: self.on_error }
    }
}

impl<C: Decoder, Req> Server<C, Req> {
    /// What answers say of this server's load, with a [frame header](Self::with_header).
    #[must_use]
    pub fn load(mut self, load: impl Fn() -> ServerLoad + Send + Sync + 'static) -> Self {
        self.format.load = Some(Arc::new(load));
        self
    }

    /// Tells of everything that goes wrong, to be logged: handlers that fail or panic, answers that cannot be sent,
    /// clients that break the protocol or the connection. Nobody else is told of most of it.
    #[must_use]
    pub fn on_error(mut self, tell: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_error = Some(Arc::new(tell));
        self
    }

    /// The most connections at once; further ones wait in the listener's backlog. 0 counts as 1.
    #[must_use]
    pub fn connections(mut self, limit: usize) -> Self {
        self.limits.connections = limit.max(1);
        self
    }

    /// The most requests in flight on a connection; further ones are not read. 0 counts as 1.
    #[must_use]
    pub fn in_flight(mut self, limit: usize) -> Self {
        self.limits.session.in_flight = limit.max(1);
        self
    }

    /// Answers the requests of a connection in the order in which they came.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        self.limits.session.in_order = true;
        self
    }

    /// Closes a connection on which no request was in flight and no byte came for so long.
    #[must_use]
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.limits.session.idle_timeout = Some(limit);
        self
    }

    /// How long a handshake may take.
    #[must_use]
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.limits.handshake_timeout = limit;
        self
    }

    /// How long a client may take to accept the next byte of an answer.
    #[must_use]
    pub fn write_timeout(mut self, limit: Duration) -> Self {
        self.limits.session.write_timeout = limit;
        self
    }

    /// How long connections may go on once the server is to stop.
    #[must_use]
    pub fn grace(mut self, limit: Duration) -> Self {
        self.limits.grace = limit;
        self
    }

    /// Serves for ever. Dropping the future cuts all connections. Its tasks, one per connection, run on the current tokio
    /// runtime.
    pub async fn serve<L, S>(self, listener: L, service: S)
    where
        L: Listener,
        C: Encoder<S::Response> + Clone + Send + 'static,
        <C as Decoder>::Error: Into<BoxError>,
        <C as Encoder<S::Response>>::Error: Into<BoxError>,
        C::Item: Send + 'static,
        S: Service<Req> + Clone + Send + 'static,
        S::Response: Send,
        S::Error: Into<BoxError> + Send,
        S::Future: Send,
        Req: Send + 'static,
    {
        self.serve_until(listener, service, std::future::pending()).await;
    }

    /// Serves until `stop` resolves, then ends gracefully: nobody is let in, clients are asked to go where a frame header
    /// can say so, what is in flight is answered, and every connection is closed in good order. What is left after the
    /// [grace](Self::grace) is cut.
    pub async fn serve_until<L, S>(self, mut listener: L, service: S, stop: impl Future<Output = ()>)
    where
        L: Listener,
        C: Encoder<S::Response> + Clone + Send + 'static,
        <C as Decoder>::Error: Into<BoxError>,
        <C as Encoder<S::Response>>::Error: Into<BoxError>,
        C::Item: Send + 'static,
        S: Service<Req> + Clone + Send + 'static,
        S::Response: Send,
        S::Error: Into<BoxError> + Send,
        S::Future: Send,
        Req: Send + 'static,
    {
        let Self { codec, format, limits, on_error } = self;
        let stopping = CancellationToken::new();
        // Dropped with this future, which cuts every connection.
        let mut sessions = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        let header = listener.header_choice();
        loop {
            let full = sessions.len() >= limits.connections;
            tokio::select! {
                () = &mut stop => break,
                Some(_ended) = sessions.join_next() => {}
                accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)), if !full => match accepted {
                    Ok(handshake) => {
                        let (codec, format, service) = (codec.clone(), format.clone(), service.clone());
                        let (config, stopping, header) = (limits.session.clone(), stopping.clone(), header.clone());
                        let (patience, on_error) = (limits.handshake_timeout, on_error.clone());
                        sessions.spawn(async move {
                            let io = match timeout(patience, handshake).await {
                                Ok(Ok(io)) => io,
                                Ok(Err(error)) => return tell(&on_error, &Error::io(Phase::Handshake, error)),
                                Err(_) => return tell(&on_error, &Error::new(Kind::Timeout, Phase::Handshake)),
                            };
                            let format = format.for_connection(header.map(|choose| choose(&io)));
                            let session = Session::new(io, codec, service, format, config, on_error);
                            let _ended = session.run(&stopping).await; // Which was told.
                        });
                    }
                    // Out of file descriptors, or a connection that was reset in the backlog.
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        }
        drop(listener);
        stopping.cancel();
        let finished = async { while sessions.join_next().await.is_some() {} };
        let _cut = timeout(limits.grace, finished).await;
    }
}

// By hand, so that requests need not be Clone or Debug.
impl<C: Decoder + Clone, Req> Clone for Server<C, Req> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec.clone(),
            format: self.format.clone(),
            limits: self.limits.clone(),
            on_error: self.on_error.clone(),
        }
    }
}

impl<C: Decoder + fmt::Debug, Req> fmt::Debug for Server<C, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("codec", &self.codec).field("limits", &self.limits).finish_non_exhaustive()
    }
}

fn tell(on_error: &OnError, error: &Error) {
    if let Some(tell) = on_error {
        tell(error);
    }
}

/// Serves one connection until the peer closes it: up to `in_flight` requests at once, each answered as soon as its
/// answer is there, in any order. See [`Server`] for everything that this leaves out.
///
/// Dropping the future closes the connection.
///
/// # Errors
///
/// The first failure of the stream, the codec or the service; after the latter what was in flight is still answered.
///
/// ```
/// use bytes::Bytes;
/// use tower::service_fn;
/// use towline_codec::FrameCodec;
/// use towline_transport::serve_connection;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let (ours, theirs) = tokio::io::duplex(1024);
/// let echo = service_fn(|request: Bytes| async move { Ok::<_, std::io::Error>(request) });
/// drop(ours); // the peer hangs up
/// serve_connection(theirs, FrameCodec::default(), echo, 16).await?;
/// # Ok::<(), towline_core::Error>(())
/// # }).unwrap();
/// ```
pub async fn serve_connection<Io, C, S>(io: Io, codec: C, service: S, in_flight: usize) -> Result<(), Error>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Decoder + Encoder<S::Response>,
    <C as Decoder>::Error: Into<BoxError>,
    <C as Encoder<S::Response>>::Error: Into<BoxError>,
    S: Service<<C as Decoder>::Item> + Clone,
    S::Error: Into<BoxError>,
{
    let config = SessionConfig { in_flight: in_flight.max(1), ..Limits::default().session };
    Session::new(io, codec, service, Format::plain(), config, None).run(&CancellationToken::new()).await
}
