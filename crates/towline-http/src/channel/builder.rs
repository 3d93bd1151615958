//! How a channel is put together.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request;
use http::uri::Authority;
use http_body::Body;
use hyper::client::conn::http1;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;
use towline_balance::{
    AtBodyEnd, BalanceBuilder, Circuit, LoadMetric, Outliers, PanicMode, SlowStart, Update, Updates, WhenUnavailable,
    fixed, updates,
};
use towline_connect::BoxConnector;
use towline_core::{
    BoxError, Endpoint, EndpointSet, Error, Kind, Observer, Observers, Phase, SessionKey, SharedExecutor, Target,
    TokioExecutor,
};
use towline_discover::{IntoOrigin, Origin, Refresh, Schemes};
use towline_pool::PoolBuilder;
use towline_retry::{RetryLayer, RetryPolicy};
use towline_sticky::{Affinity, HomeFirst, Rendezvous, TokenLayer, Tokens};
use towline_timeout::{AttemptTimeoutLayer, DeadlineLayer};

use super::dial::{Dialling, Encryption, Versions};
use super::either::Either;
use super::endpoint::{self, Scheme};
use super::health::{Asking, Health, Watching};
use super::session::{self, MayRepeat, SessionToken, Who};
use super::{Berth, Channel, ChannelPool, Common};
use crate::{ByStatus, Http2Config};

/// Settings of a [`Channel`]; whatever is wrong with them is said by [`build`](Self::build).
///
/// | setting | default |
/// |---|---|
/// | encryption | what the endpoints' scheme says; TLS with the system's roots where there is none |
/// | connections | connected at the first call; HTTP/1: at most 32 per endpoint |
/// | deadline until the response's head | HTTP: 30 s; gRPC: none, set one per call |
/// | deadline of establishing a connection | 5 s over resolving, dialling, TLS and HTTP/2's SETTINGS |
/// | time between two frames of a response's body | no limit: streams may be quiet |
/// | retry | 3 attempts, budget 10 % + 10/s, only what was not sent or may be repeated |
/// | a request's body that is kept for another attempt | up to 64 KiB |
/// | balancing | P2C over latency and calls in flight |
/// | sessions | none unless asked for; then by rendezvous hash, elsewhere while their endpoint cannot take them |
/// | health probes, attempt timeout | none |
/// | no endpoint can be reached | calls fail at once |
#[must_use]
pub struct ChannelBuilder<B> {
    versions: Versions,
    endpoints: Vec<Endpoint>,
    /// Of the endpoints that have one.
    scheme: Option<Scheme>,
    discover: Option<Origin<Updates>>,
    schemes: Schemes,
    encryption: Encryption,
    connect: Option<BoxConnector>,
    connect_deadline: Duration,
    http1: http1::Builder,
    http2: Http2Config,
    pool: PoolBuilder,
    health: Option<Health>,
    retry: RetryPolicy,
    replay_limit: usize,
    attempt_timeout: Option<Duration>,
    deadline: Option<Duration>,
    body_timeout: Option<Duration>,
    origin: Option<Authority>,
    who: Option<Who>,
    may_repeat: Option<MayRepeat>,
    sessions: Affinity,
    tokens: Option<(Tokens, SessionToken)>,
    balancing: Balancing,
    observers: Observers,
    executor: SharedExecutor,
    error: Option<Error>,
    _body: std::marker::PhantomData<fn(B)>,
}

/// How the balancer is set.
#[derive(Default)]
struct Balancing {
    load: LoadMetric,
    outliers: Outliers,
    slow_start: SlowStart,
    circuit: Circuit,
    panic_mode: PanicMode,
    when_unavailable: WhenUnavailable,
}

/// As linkerd keeps of a request that it may have to send again.
const REPLAY_LIMIT: usize = 64 * 1024;

impl<B: Send + 'static> ChannelBuilder<B> {
    pub(super) fn new(versions: Versions) -> Self {
        Self {
            versions,
            endpoints: Vec::new(),
            scheme: None,
            discover: None,
            schemes: schemes(),
            encryption: Encryption::Default,
            connect: None,
            connect_deadline: Duration::from_secs(5),
            http1: http1::Builder::new(),
            http2: Http2Config::default(),
            pool: PoolBuilder::new(),
            health: None,
            retry: RetryPolicy::default(),
            replay_limit: REPLAY_LIMIT,
            attempt_timeout: None,
            // gRPC's servers send the head with the first message, and a stream may have none for long.
            deadline: (versions != Versions::Http2).then_some(Duration::from_secs(30)),
            body_timeout: None,
            origin: None,
            who: None,
            may_repeat: None,
            sessions: Rendezvous::new().unbounded().into(),
            tokens: None,
            balancing: Balancing::default(),
            observers: Observers::default(),
            executor: Arc::new(TokioExecutor::current()),
            error: None,
            _body: std::marker::PhantomData,
        }
    }

    fn failed(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// Calls go to these, each written as `http://host:port`, `https://host`, `host:port` or `unix:/path`. The scheme says whether they are
    /// encrypted, and has to be the same for all that have one.
    pub fn endpoints<E: AsRef<str>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        for text in endpoints {
            match endpoint::parse(text.as_ref()) {
                Ok((endpoint, scheme)) => {
                    self.endpoints.push(endpoint);
                    if let (Some(one), Some(other)) = (self.scheme, scheme) {
                        if one != other {
                            self.failed(refused(
                                "endpoints are given with http and with https: use a channel for each, or one scheme",
                            ));
                        }
                    }
                    self.scheme = self.scheme.or(scheme);
                }
                Err(error) => self.failed(error),
            }
        }
        self
    }

    /// Calls go to this endpoint as well, which can have a TLS name, a weight and other attributes of its own.
    pub fn endpoint(mut self, endpoint: impl Into<Endpoint>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// Calls go to what this says, instead of a fixed list: a URL of a source (`dns:///api.example:443`, `file:/etc/towline/api`,
    /// `static:10.0.0.1:443,10.0.0.2:443`; see [`Schemes`]), a [`Source`](towline_discover::Source), or any stream of sets or changes. Calls
    /// made before there is anything wait for it. Whether calls are encrypted it does not say: TLS is the default.
    ///
    /// An endpoint is known by its key: said again, its attributes change in place, and with another target it starts afresh. One that stays
    /// keeps its connections. When discovery fails, ends, or answers with nothing, the last set stays. Where a connection cannot be made,
    /// the source is asked to look again.
    pub fn discover<M, O>(mut self, from: O) -> Self
    where
        O: IntoOrigin<M>,
        O::Update: Into<Update>,
    {
        self.discover = Some(from.into_origin().map(updates));
        self
    }

    /// Knows this kind of URL, too, in [`discover`](Self::discover), or in place of one with the same name.
    pub fn scheme(mut self, scheme: impl towline_discover::Scheme) -> Self {
        self.schemes = self.schemes.with(scheme);
        self
    }

    /// Encrypts by this configuration, which has to [offer](towline_tls::TlsConfigBuilder::alpn) `h2` for gRPC, and `h2` and
    /// `http/1.1` for HTTP of both versions.
    #[cfg(feature = "tls")]
    pub fn tls(self, config: towline_tls::TlsConfig) -> Self {
        self.encrypted_by(Encryption::Tls(config))
    }

    /// Sends everything in the clear: for loopback, Unix sockets, and networks that encrypt below. Said by `http://` as well.
    pub fn plaintext(self) -> Self {
        self.encrypted_by(Encryption::Plaintext)
    }

    fn encrypted_by(mut self, encryption: Encryption) -> Self {
        let same = std::mem::discriminant(&self.encryption) == std::mem::discriminant(&encryption);
        if !same && !matches!(self.encryption, Encryption::Default) {
            self.failed(refused(
                "more than one of tls(), plaintext() and encrypted_connector() is set: use one of them",
            ));
        }
        self.encryption = encryption;
        self
    }

    /// Dials with this connector instead of [`TcpConnector`](towline_connect::TcpConnector): a proxy, a simulated network, hyper's by
    /// [`UriConnector`](crate::UriConnector). TLS goes over it; for one that has it within there is
    /// [`encrypted_connector`](Self::encrypted_connector).
    pub fn connector<C>(mut self, connector: C) -> Self
    where
        C: Service<Target> + Clone + Send + Sync + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        self.connect = Some(BoxConnector::new(connector));
        self
    }

    /// Dials with this connector, which encrypts by itself, such as hyper-rustls by [`UriConnector::https`](crate::UriConnector::https).
    ///
    /// What it has agreed on by ALPN is not known here: it is taken for HTTP/2 where that is [needed](Self::http2_only), and else for
    /// HTTP/1. It must not offer what is not spoken.
    pub fn encrypted_connector<C>(self, connector: C) -> Self
    where
        C: Service<Target> + Clone + Send + Sync + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        self.connector(connector).encrypted_by(Encryption::Elsewhere)
    }

    /// How long establishing a connection may take, from resolving to a connection that takes calls.
    pub fn connect_deadline(mut self, limit: Duration) -> Self {
        self.connect_deadline = limit;
        self
    }

    /// Speaks HTTP/1 only, with these settings of hyper's.
    pub fn http1_only(mut self, settings: http1::Builder) -> Self {
        self.versions = Versions::Http1;
        self.http1 = settings;
        self
    }

    /// Speaks HTTP/2 only, also in the clear (prior knowledge).
    pub fn http2_only(mut self) -> Self {
        self.versions = Versions::Http2;
        self
    }

    /// Settings of HTTP/2 connections.
    pub fn http2(mut self, config: Http2Config) -> Self {
        self.http2 = config;
        self
    }

    /// Settings of each endpoint's pool. Its observers and executor are the channel's.
    pub fn pool(mut self, pool: PoolBuilder) -> Self {
        self.pool = pool;
        self
    }

    /// Asks every endpoint for its health, and sends calls elsewhere while it is not well.
    pub fn health(mut self, health: Health) -> Self {
        self.health = Some(health);
        self
    }

    /// When failed calls go again; [`ByStatus`] says which have failed. Its observers are the channel's.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How many bytes of a request's body are kept for another attempt; 64 KiB by default.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.replay_limit = bytes;
        self
    }

    /// The most time that one attempt may take until its response's head; none by default. It is for calls that may be repeated:
    /// an attempt that took too long may have been executed.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = Some(limit);
        self
    }

    /// The most time until the response's head, waiting and retries included, or no limit. 30 s by default for HTTP, and none for gRPC,
    /// where servers send the head of a stream with its first message, whenever that comes. A call can ask for less, and then means its
    /// body, too.
    pub fn deadline(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.deadline = limit.into();
        self
    }

    /// The most time that may pass while a response's body is waited for and nothing of it comes; no limit by default.
    pub fn body_timeout(mut self, limit: Duration) -> Self {
        self.body_timeout = Some(limit);
        self
    }

    /// Whom requests are for that do not say so themselves, such as `api.example` or `api.example:8443`; the endpoint's own name
    /// by default. A scheme before it is passed over: the endpoints say whether calls are encrypted.
    pub fn origin(mut self, origin: &str) -> Self {
        let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority.trim_end_matches('/'));
        match authority.parse::<Authority>() {
            Ok(authority) if endpoint::is_origin(&authority) => self.origin = Some(authority),
            _ => self.failed(refused(format!("{origin:?} is no origin: write a host, or host:port"))),
        }
        self
    }

    /// Keeps the calls of a session together: `who` says whose a request is, unless its context does. An empty key is none.
    pub fn sticky_by(mut self, who: impl Fn(&request::Parts) -> Option<SessionKey> + Send + Sync + 'static) -> Self {
        self.who = Some(Arc::new(who));
        self
    }

    /// Keeps calls together that have the same value in this header: in gRPC's metadata.
    pub fn sticky_by_header(mut self, name: &str) -> Self {
        match session::header_name(name) {
            Ok(name) => self.sticky_by(move |head| head.headers.get(&name).map(SessionKey::new)),
            Err(error) => {
                self.failed(error);
                self
            }
        }
    }

    /// Keeps calls together that have the same value in this cookie.
    pub fn sticky_by_cookie(mut self, name: impl Into<Arc<str>>) -> Self {
        match session::cookie_name(name.into()) {
            Ok(name) => self.sticky_by(move |head| session::cookie(&head.headers, &name).map(SessionKey::new)),
            Err(error) => {
                self.failed(error);
                self
            }
        }
    }

    /// Where the calls of a session go, and what becomes of them when that endpoint cannot take them: by [`Rendezvous`] hashing,
    /// and elsewhere while it cannot, by default.
    pub fn sessions(mut self, affinity: impl Into<Affinity>) -> Self {
        self.sessions = affinity.into();
        self
    }

    /// Keeps sessions by signed tokens: a call goes to the endpoint that the token in its request names, and a response has one
    /// where the request had none that was good.
    pub fn session_tokens(mut self, tokens: Tokens, place: SessionToken) -> Self {
        self.tokens = Some((tokens, place));
        self
    }

    /// Says which requests may be repeated although they may have been executed, besides those of idempotent methods. Every call of
    /// gRPC is a POST, so there it names the methods that may be executed twice; without it, a call that is on a server when that dies
    /// fails.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::Full;
    /// use towline_http::Channel;
    ///
    /// // The path of a gRPC call is `/package.Service/Method`.
    /// let builder = Channel::<Full<Bytes>>::grpc().idempotent_if(|head| head.uri.path() == "/helloworld.Greeter/SayHello");
    /// # drop(builder);
    /// ```
    pub fn idempotent_if(mut self, may_repeat: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.may_repeat = Some(Arc::new(may_repeat));
        self
    }

    /// What calls without a session are balanced by: latency and calls in flight by default.
    pub fn load(mut self, metric: LoadMetric) -> Self {
        self.balancing.load = metric;
        self
    }

    /// Which endpoints are ejected because they fail; see [`Outliers`] for the rules and defaults.
    pub fn outliers(mut self, outliers: Outliers) -> Self {
        self.balancing.outliers = outliers;
        self
    }

    /// How endpoints that are new, or were ejected, come to their share: over 10 s by default.
    pub fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.balancing.slow_start = slow_start;
        self
    }

    /// Limits of the calls that one endpoint is given at a time; none by default, beside the pool's.
    pub fn circuit(mut self, circuit: Circuit) -> Self {
        self.balancing.circuit = circuit;
        self
    }

    /// What calls do when too few endpoints are neither ejected nor down; by default they go to those that are ejected when
    /// there are no others.
    pub fn panic_mode(mut self, mode: PanicMode) -> Self {
        self.balancing.panic_mode = mode;
        self
    }

    /// What calls do when no endpoint can be reached: they fail at once by default. The deadline covers a wait.
    pub fn when_unavailable(mut self, when: WhenUnavailable) -> Self {
        self.balancing.when_unavailable = when;
        self
    }

    /// Tells of dials, reuse, closed connections, retries and sessions that move.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers = Observers::new(observer);
        self
    }

    /// Runs the channel's tasks here. Default: the tokio runtime on which it is built and first used.
    pub fn executor(mut self, executor: SharedExecutor) -> Self {
        self.executor = executor;
        self
    }

    /// The channel. Spawns the balancer's task, and one per endpoint if their health is asked for; connects to nothing before the first
    /// call unless the pool is to be warm or health is asked for. With TLS and no configuration of your own it reads the system's roots here, which takes tens of milliseconds.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] for the first setting that cannot work: an endpoint that cannot be parsed, no endpoint at all, schemes that
    /// contradict each other, a cap or deadline of zero. [`Kind::Runtime`] outside a runtime.
    pub fn build(mut self) -> Result<Channel<B>, Error>
    where
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let limits = [self.deadline, Some(self.connect_deadline), self.attempt_timeout, self.body_timeout];
        if limits.into_iter().flatten().any(|limit| limit.is_zero()) {
            return Err(refused("a deadline of 0 leaves no time for anything; use a longer one"));
        }
        self.health.as_ref().map_or(Ok(()), Health::validate)?;
        let endpoints = EndpointSet::distinct(std::mem::take(&mut self.endpoints))?.into_vec();
        let (discover, refresh) = match (endpoints.is_empty(), self.discover.take()) {
            (true, None) => return Err(refused("there are no endpoints: call endpoints(), endpoint() or discover()")),
            (false, Some(_)) => {
                return Err(refused("endpoints are given both as a list and by discover(): use one of them"));
            }
            (true, Some(discover)) => discover.open(&self.schemes, updates)?,
            (false, None) => (updates(fixed(endpoints)), Refresh::default()),
        };
        if refresh.is_heard() {
            self.observers = self.observers.and(refresh);
        }
        let dialling = Dialling {
            scheme: self.scheme,
            encryption: self.encryption,
            versions: self.versions,
            connect: self.connect,
            deadline: self.connect_deadline,
            http1: self.http1,
            http2: self.http2,
            executor: self.executor.clone(),
        };
        let (make, scheme) = dialling.connector()?;

        let Self { pool, observers, executor, retry, sessions, balancing, .. } = self;
        let pool: ChannelPool<B> = pool.observers(observers.clone()).executor(executor.clone()).build(make)?;
        let counts = sessions.stats().clone();
        let policy = HomeFirst::new(sessions.observers(observers.clone()));
        let policy = policy.with_stats(counts.clone()).observers(observers.clone());
        let Balancing { load, outliers, slow_start, circuit, panic_mode, when_unavailable } = balancing;
        let balance = BalanceBuilder::new(policy)
            .track(AtBodyEnd::new(ByStatus))
            .observers(observers.clone())
            .load(load)
            .outliers(outliers)
            .slow_start(slow_start)
            .circuit(circuit)
            .panic_mode(panic_mode)
            .when_unavailable(when_unavailable);
        let (alive, is_alive) = watch::channel(true);
        let health = self.health.map(|health| Asking::new(health, self.origin.clone(), executor.clone(), is_alive));
        let watching = Watching::new(pool.clone(), health);
        let balance = balance.spawn(discover, watching, &*executor)?;

        let replays = retry.max_attempts() > 1;
        let attempt = match self.attempt_timeout {
            Some(limit) => Either::With(AttemptTimeoutLayer::new(limit).layer(balance.clone())),
            None => Either::Without(balance.clone()),
        };
        let attempt = match self.tokens {
            Some((tokens, place)) => {
                let layer =
                    TokenLayer::carried_by(tokens, place).observers(observers.clone()).with_stats(counts.clone());
                Either::With(layer.layer(attempt))
            }
            None => Either::Without(attempt),
        };
        let retry = RetryLayer::with_policy(retry.observers(observers).classify(ByStatus));
        let common = Common {
            is_encrypted: scheme == Scheme::Https,
            origin: self.origin,
            who: self.who,
            may_repeat: self.may_repeat,
            replay_limit: replays.then_some(self.replay_limit),
            between_frames: self.body_timeout,
            sessions: counts,
            alive,
        };
        let deadline = self.deadline.unwrap_or(Duration::MAX);
        let stack = DeadlineLayer::new(deadline).layer(retry.layer(attempt));
        Ok(Channel { stack, balance, pool, common: Arc::new(common), berth: Berth::default() })
    }
}

/// Those that this build knows.
fn schemes() -> Schemes {
    #[cfg(feature = "dns")]
    return towline_discover_dns::register(Schemes::default());
    #[cfg(not(feature = "dns"))]
    Schemes::default()
}

pub(super) fn refused(why: impl Into<Cow<'static, str>>) -> Error {
    Error::new(Kind::Config, Phase::Build).with_message(why)
}

impl<B> fmt::Debug for ChannelBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBuilder")
            .field("versions", &self.versions)
            .field("endpoints", &self.endpoints)
            .field("connect_deadline", &self.connect_deadline)
            .field("pool", &self.pool)
            .field("retry", &self.retry)
            .field("deadline", &self.deadline)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}
