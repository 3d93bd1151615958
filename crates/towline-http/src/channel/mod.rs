//! The channel: deadline, retry, stickiness, balancer, pools and HTTP connections under one name.

mod body;
mod builder;
mod call;
mod connection;
mod dial;
mod either;
mod endpoint;
mod future;
mod grpc;
mod health;
mod hop;
mod outgoing;
mod session;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{Method, Request, Response};
use http_body::Body;
use tokio::sync::watch;
use tokio::time::Instant;
use tower_service::Service;
use towline_balance::{AtBodyEnd, Balance, EjectionView};
use towline_connect::BoxConnector;
use towline_core::sync::after;
use towline_core::timer::Berth;
use towline_core::{BoxError, CallContext, Carried, Endpoint, EndpointKey, Error, Kind, Phase, Room, Sent, Target};
use towline_pool::{Handle, Pool, Stats};
use towline_retry::{Retry, RetryStats};
use towline_sticky::{AffinityPicker, HomeFirstPicker, StickyCounts, StickyStats, TokenService};
use towline_timeout::Deadline;

pub use self::body::ChannelBody;
pub use self::builder::ChannelBuilder;
use self::call::{HttpCall, Route};
use self::connection::Connection;
use self::either::Either;
pub use self::future::ChannelFuture;
pub use self::health::Health;
use self::health::Watched;
use self::outgoing::Outgoing;
pub use self::session::SessionToken;
use self::session::{MayRepeat, Who};
use crate::ByStatus;
use crate::grpc_timeout::{GRPC_TIMEOUT, decode};

type ChannelPool<B> = Pool<BoxConnector<Connection<B>>, Target>;
type Lends<B> = Watched<Handle<Connection<B>>>;
type Balanced<B> = Balance<Lends<B>, HomeFirstPicker<AffinityPicker>, Carried, AtBodyEnd<ByStatus>>;
type Attempt<B> = Either<Deadline<Balanced<B>>, Balanced<B>>;
type Tokened<B> = Either<TokenService<Attempt<B>, SessionToken>, Attempt<B>>;
type Stack<B> = Deadline<Retry<Tokened<B>, Carried, ByStatus>>;

/// HTTP to one of many servers: for clients that tonic generates, and for whoever calls a `Service<http::Request<B>>`.
///
/// It goes where its endpoints are, by HTTP/2 or HTTP/1, and each request says as before what it is for: a method of gRPC, a path.
/// Made by [`grpc`](Self::grpc) and [`http`](Self::http), which differ in what connections speak where TLS does not choose it. `B` is
/// the body of requests, any that is [`Unpin`] (box and pin what is not); for tonic it follows from the client that the channel is
/// given to.
///
/// Cheap to clone; clones share everything, so keep one for its [statistics](Self::endpoints) when you give another to a generated
/// client. When the last is dropped and the last call has ended, all connections close and
/// all its tasks end.
///
/// # Calls
///
/// A request may carry a [`CallContext`] in its extensions: a session, a deadline, the mark that it may be repeated. Besides that:
///
/// - **Deadline.** The response's head has to come within the channel's [deadline](ChannelBuilder::deadline), if it has one, attempts
///   and waiting included. What the caller sets, by the context or by gRPC's `grpc-timeout`, is for the whole call, body included; with gRPC every
///   attempt tells the server what is left of it.
/// - **Retry.** Calls that were never sent go again, and so do those that may be repeated: methods that are
///   [idempotent](Method::is_idempotent), and what is [marked](ChannelBuilder::idempotent_if). [`ByStatus`] says of which responses;
///   none goes again once its response was handed out. The body is kept as it is sent, up to a
///   [limit](ChannelBuilder::replay_limit); beyond that the call is sent once, and [counted](RetryStats::not_replayable).
///   `grpc-previous-rpc-attempts` is set.
/// - **Whom it is for** (`:authority`, `Host`) is what the request's URI says, else its header `Host`, else the
///   [origin](ChannelBuilder::origin), else the endpoint's own name. Whether it is encrypted is the endpoint's to say; a request for `https` is refused by a channel that sends in
///   the clear.
/// - **Headers of one connection** (`Connection`, what it names, `Transfer-Encoding`, `Upgrade` and others) are taken out of requests
///   and responses: connections are the channel's.
/// - **The end.** The endpoint counts as busy until the response's body was read to its end or dropped; trailers say how it went.
///
/// # Errors
///
/// [`Error`] says what happened, in which phase, at which endpoint, and whether the request can have been sent. A call of gRPC, known
/// by its content type, is answered in gRPC's words instead: a response with the `grpc-status` for it, and the [`Error`] in its
/// extensions. So a generated client's `Status` has the right code, whatever its version; also where a proxy has answered in plain
/// HTTP.
///
/// ```
/// use bytes::Bytes;
/// use http::Request;
/// use http_body_util::{BodyExt, Empty};
/// use tower::{Service, ServiceExt};
/// use towline_http::Channel;
/// # use http::Response;
/// # use hyper_util::rt::TokioIo;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let endpoint = format!("http://{}", listener.local_addr()?);
/// # tokio::spawn(async move {
/// #     while let Ok((io, _)) = listener.accept().await {
/// #         let hello = hyper::service::service_fn(async |_request| {
/// #             Ok::<_, hyper::Error>(Response::new("hello".to_owned()))
/// #         });
/// #         tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), hello));
/// #     }
/// # });
/// let mut channel = Channel::http().endpoints([endpoint]).build()?; // "http://10.0.0.1:8080", "http://10.0.0.2:8080", …
/// let request = Request::get("/greeting").body(Empty::<Bytes>::new())?;
/// let response = channel.ready().await?.call(request).await?;
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
/// # Ok::<(), towline_core::BoxError>(())
/// # }).unwrap();
/// ```
pub struct Channel<B: Send + 'static> {
    stack: Stack<B>,
    balance: Balanced<B>,
    pool: ChannelPool<B>,
    common: Arc<Common>,
    berth: Berth,
}

/// What does not depend on types.
struct Common {
    is_encrypted: bool,
    origin: Option<Authority>,
    who: Option<Who>,
    may_repeat: Option<MayRepeat>,
    /// Bodies are kept for another attempt up to so many bytes; `None` when there is none.
    replay_limit: Option<usize>,
    between_frames: Option<Duration>,
    sessions: StickyStats,
    /// Until it is closed; health probes end with it.
    alive: watch::Sender<bool>,
}

/// One endpoint of a channel at present.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelEndpoint {
    /// Its key.
    pub key: EndpointKey,
    /// Its target and attributes, as discovery has them.
    pub endpoint: Arc<Endpoint>,
    /// Whether it has room.
    pub room: Room,
    /// Calls that wait for it or are in flight on it, their bodies included.
    pub in_flight: usize,
    /// Calls that were sent its way since it was added, retries included.
    pub calls: u64,
    /// How long it takes to answer at present, failures counted as slow; `None` before its first answer.
    pub latency: Option<Duration>,
    /// Whether it gets no calls, because it is an outlier.
    pub ejection: Option<EjectionView>,
    /// Its connections.
    pub pool: Stats,
}

impl<B: Send + 'static> Channel<B> {
    /// For gRPC: HTTP/2, also in the clear.
    pub fn grpc() -> ChannelBuilder<B> {
        ChannelBuilder::new(dial::Versions::Http2)
    }

    /// For HTTP: by TLS what both sides agree on, HTTP/1 in the clear.
    pub fn http() -> ChannelBuilder<B> {
        ChannelBuilder::new(dial::Versions::ByAlpn)
    }

    /// The endpoints at present, with their statistics.
    pub fn endpoints(&self) -> Vec<ChannelEndpoint> {
        let views = self.balance.endpoints().into_iter();
        let stats = views.map(|view| ChannelEndpoint {
            key: view.endpoint.key().clone(),
            endpoint: view.endpoint,
            room: view.room,
            in_flight: view.in_flight,
            calls: view.calls,
            latency: view.latency,
            ejection: view.ejection,
            pool: view.lend.get_ref().stats(),
        });
        stats.collect()
    }

    /// Why discovery has nothing new to say, if that is so: it fails, has ended, or answers with nothing. The endpoints are the last
    /// that it said. `None` again when it does well.
    pub fn discovery_error(&self) -> Option<Error> {
        self.balance.discovery_error()
    }

    /// Connects ahead: until every endpoint that is known, once discovery has yielded some, has had this many connections
    /// open at once.
    ///
    /// # Errors
    ///
    /// The first failure to connect to any of them, after all were tried; dialling goes on under backoff.
    pub async fn warm(&self, connections: usize) -> Result<(), Error> {
        self.balance.discovered().await;
        let endpoints = self.balance.endpoints();
        let warmed = join_all(endpoints.iter().map(|view| view.lend.get_ref().warm(connections))).await;
        warmed.into_iter().collect()
    }

    /// What the pools of all endpoints have, and did: also those of endpoints that are gone.
    pub fn stats(&self) -> Stats {
        self.pool.stats()
    }

    /// What became of the calls of sessions: how many followed, went elsewhere, and why.
    pub fn sessions(&self) -> StickyCounts {
        self.common.sessions.counts()
    }

    /// What failed calls led to: attempts, and why there were no more.
    pub fn retries(&self) -> RetryStats {
        self.stack.get_ref().stats()
    }

    /// Ends the channel, and all its clones: no call gets a connection any more, those in flight finish, or are cut off after
    /// the [`close_deadline`](towline_pool::PoolBuilder::close_deadline). Resolves when the last connection is closed.
    pub async fn close(&self) {
        self.common.alive.send_replace(false);
        self.balance.close();
        self.pool.close().await;
    }
}

impl<B: Body + Send + 'static> Channel<B> {
    /// A request with what is known of it, or why it cannot be sent.
    fn prepared(&self, request: Request<B>) -> Result<HttpCall<B>, Error> {
        let common = &*self.common;
        let (mut head, body) = request.into_parts();
        common.check(&head)?;
        hop::remove(&mut head.headers);
        let mut context = head.extensions.remove::<CallContext>().unwrap_or_default();
        let is_grpc = grpc::is_grpc(&head.headers);
        if let Some(limit) = head.headers.get(GRPC_TIMEOUT).filter(|_| is_grpc).and_then(decode) {
            context.limit_deadline(after(Instant::now(), limit));
        }
        if let (Some(who), None) = (&common.who, context.session()) {
            context.set_session(who(&head).filter(|session| !session.as_bytes().is_empty()));
        }
        if !context.is_idempotent() {
            let may_repeat = head.method.is_idempotent() || common.may_repeat.as_ref().is_some_and(|may| may(&head));
            context.set_idempotent(may_repeat);
        }
        let theirs = head.headers.get(HOST).map(|host| Authority::try_from(host.as_bytes()));
        let theirs = theirs.transpose().map_err(|cause| {
            let why = "the header Host is neither a host nor host:port";
            Error::new(Kind::Config, Phase::Call).with_sent(Sent::Never).with_message(why).with_source(cause)
        })?;
        let authority = head.uri.authority().or(theirs.as_ref()).or(common.origin.as_ref()).map(call::without_user);
        let body = match common.replay_limit {
            _ if body.is_end_stream() => Outgoing::full(None),
            Some(limit) => Outgoing::kept(body, limit),
            None => Outgoing::once(body),
        };
        let route = Route { deadline: context.deadline(), context, authority, is_grpc };
        Ok(HttpCall::new(Request::from_parts(head, body), route))
    }
}

impl Common {
    fn check(&self, head: &http::request::Parts) -> Result<(), Error> {
        let refused = |why: &str| {
            // Nothing that could be a secret.
            let host = head.uri.host().unwrap_or_default();
            let why = format!("{} {host}{}: {why}", head.method, head.uri.path());
            Err(Error::new(Kind::Config, Phase::Call).with_sent(Sent::Never).with_message(why))
        };
        if head.method == Method::CONNECT {
            return refused("a channel carries calls, and no tunnels");
        }
        match head.uri.scheme() {
            None => Ok(()),
            Some(scheme) if *scheme == Scheme::HTTPS && !self.is_encrypted => refused(
                "the request is for https, and this channel sends in the clear: give it https endpoints or tls()",
            ),
            Some(scheme) if *scheme != Scheme::HTTPS && *scheme != Scheme::HTTP => {
                refused("the scheme is neither http nor https")
            }
            Some(_) => Ok(()),
        }
    }
}

// The parked timer stays with the original, since a clone may live on another task.
impl<B: Send + 'static> Clone for Channel<B> {
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.clone(),
            balance: self.balance.clone(),
            pool: self.pool.clone(),
            common: self.common.clone(),
            berth: Berth::default(),
        }
    }
}

impl<B: Send + 'static> fmt::Debug for Channel<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("balance", &self.balance).field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for Channel<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ChannelBody>;
    type Error = Error;
    type Future = ChannelFuture<B>;

    /// Always ready: whatever is waited for is waited for in the call.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_grpc = grpc::is_grpc(request.headers());
        let prepared = self.prepared(request);
        let deadline = prepared.as_ref().ok().and_then(|call| call.route().deadline);
        let calling = prepared.map(|call| (&self.stack).call(call));
        ChannelFuture::new(
            calling,
            is_grpc,
            body::Limits::new(deadline, self.common.between_frames, self.berth.clone()),
        )
    }
}
