//! How a client is put together.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;
use towline_balance::{
    BalanceBuilder, Circuit, LoadMetric, Outliers, PanicMode, SlowStart, Update, Updates, WhenUnavailable, fixed,
    updates,
};
use towline_connect::{BoxConnector, ConnectDeadlineLayer, TcpConnector};
use towline_core::{
    BoxError, Call, Endpoint, EndpointSet, Error, Observer, Observers, Phase, ReadyCall, SessionKey, SharedExecutor,
    Target, TokioExecutor,
};
use towline_discover::{IntoOrigin, Origin, Scheme, Schemes};
use towline_pool::{Checkout, HealthCheck, PoolBuilder};
use towline_retry::{HedgePolicy, RetryLayer, RetryPolicy};
use towline_sticky::{Affinity, Rendezvous};
use towline_timeout::DeadlineLayer;
use towline_transport::{Correlate, SharedConfig};

use crate::attempts::Attempts;
use crate::client::{Client, ClientPool, MayRepeat, Prepare, Who};
use crate::codec_box::{BoxCodec, MessageCodec};
use crate::connection::{Connecting, Connection, Headers, Kind};

/// Settings of a [`Client`]; whatever is wrong with them is said by [`build`](Self::build).
///
/// | setting | default |
/// |---|---|
/// | encryption | TLS with the system's roots; `plaintext()` turns it off |
/// | connections | exclusive, at most 32 per endpoint, connected at the first call |
/// | deadline of a call | 30 s |
/// | deadline of establishing a connection | 5 s over resolving, dialling and handshake |
/// | retry | 3 attempts, budget 10 % + 10/s, only what was not sent or is idempotent |
/// | balancing | calls by P2C over latency and calls in flight |
/// | sessions | by rendezvous hash, elsewhere while their endpoint cannot take them |
/// | hedges, attempt timeouts | none |
/// | no endpoint can be reached | calls fail at once |
#[must_use]
pub struct ClientBuilder<Req, Res> {
    codec: BoxCodec<Req, Res>,
    endpoints: Vec<Endpoint>,
    discover: Option<Origin<Updates>>,
    schemes: Schemes,
    encryption: Encryption,
    connect: Option<BoxConnector>,
    connect_deadline: Duration,
    kind: Kind<Req, Res>,
    headers: Headers,
    connection: SharedConfig,
    pool: PoolBuilder,
    check: Option<Check<Req>>,
    retry: RetryPolicy,
    attempt_timeout: Option<Duration>,
    hedge: Option<HedgePolicy>,
    deadline: Duration,
    who: Option<Who<Req>>,
    sessions: Affinity,
    may_repeat: Option<MayRepeat<Req>>,
    observers: Observers,
    balancing: Balancing,
    executor: SharedExecutor,
    error: Option<Error>,
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

/// How idle connections are looked into.
struct Check<Req> {
    every: Duration,
    limit: Duration,
    probe: Box<dyn Fn() -> Req + Send + Sync>,
}

enum Encryption {
    /// Nothing was said: TLS with the system's roots.
    Default,
    #[cfg(feature = "tls")]
    Tls(towline_tls::TlsConfig),
    Plaintext,
}

impl<Req, Res> ClientBuilder<Req, Res>
where
    Req: Send + 'static,
    Res: Send + 'static,
{
    pub(crate) fn new(codec: impl MessageCodec<Req, Res> + Sync) -> Self {
        Self {
            codec: BoxCodec::new(codec),
            endpoints: Vec::new(),
            discover: None,
            schemes: schemes(),
            encryption: Encryption::Default,
            connect: None,
            connect_deadline: Duration::from_secs(5),
            kind: Kind::Exclusive,
            headers: Headers::None,
            connection: SharedConfig::default(),
            pool: PoolBuilder::new(),
            check: None,
            retry: RetryPolicy::default(),
            attempt_timeout: None,
            hedge: None,
            deadline: Duration::from_secs(30),
            who: None,
            sessions: Rendezvous::new().unbounded().into(),
            may_repeat: None,
            observers: Observers::default(),
            balancing: Balancing::default(),
            executor: Arc::new(TokioExecutor::current()),
            error: None,
        }
    }

    /// Calls go to these, each written as `host:port`, `1.2.3.4:port`, `[v6]:port` or `unix:/path`.
    pub fn endpoints<E: AsRef<str>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        for endpoint in endpoints {
            match endpoint.as_ref().parse() {
                Ok(endpoint) => self.endpoints.push(endpoint),
                Err(error) => drop(self.error.get_or_insert(error)),
            }
        }
        self
    }

    /// Calls go to this endpoint as well, which can have a TLS name, a weight and other attributes of its own.
    pub fn endpoint(mut self, endpoint: impl Into<Endpoint>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// Calls go to what this says, instead of a fixed list: a URL of a source (`dns:///db.example:7000`, `file:/etc/towline/db`,
    /// `static:10.0.0.1:7000,10.0.0.2:7000`; see [`Schemes`]), a [`Source`](towline_discover::Source), or any stream of sets or changes. Calls made before there is
    /// anything wait for it.
    ///
    /// An endpoint is known by its key: said again, its attributes change in place, and with another target it starts afresh. One that stays keeps its
    /// connections. When discovery fails, ends, or answers with nothing, the last set stays. Where a connection cannot be made, the source is
    /// asked to look again.
    ///
    /// ```
    /// use towline::{Client, Error};
    /// use towline_proto::{Request, Response};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let client: Client<Request, Response> =
    ///     Client::builder().discover("dns:///localhost:7000").plaintext().build()?;
    ///
    /// let wrong = Client::<Request, Response>::builder().discover("zookeeper:/db").plaintext().build();
    /// assert!(wrong.unwrap_err().to_string().contains("known are dns:///name:port"));
    /// # drop(client);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// By changes, as your own code learns of them:
    ///
    /// ```
    /// use towline::{Change, Client, Endpoint, EndpointKey, Error};
    /// use towline_proto::{Request, Response};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let (changes, mut receiver) = tokio::sync::mpsc::channel::<Result<Change<EndpointKey, Endpoint>, Error>>(16);
    /// let client: Client<Request, Response> = Client::builder()
    ///     .discover(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)))
    ///     .plaintext()
    ///     .build()?;
    ///
    /// // Later, as pods come and go:
    /// let endpoint = "10.0.0.7:7000".parse::<Endpoint>()?;
    /// changes.send(Ok(Change::Insert("pod-7".into(), endpoint))).await.unwrap();
    /// changes.send(Ok(Change::Remove("pod-7".into()))).await.unwrap();
    /// # drop(client);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn discover<M, O>(mut self, from: O) -> Self
    where
        O: IntoOrigin<M>,
        O::Update: Into<Update>,
    {
        self.discover = Some(from.into_origin().map(updates));
        self
    }

    /// Knows this kind of URL, too, in [`discover`](Self::discover), or in place of one with the same name.
    pub fn scheme(mut self, scheme: impl Scheme) -> Self {
        self.schemes = self.schemes.with(scheme);
        self
    }

    /// Encrypts by this configuration.
    #[cfg(feature = "tls")]
    pub fn tls(self, config: towline_tls::TlsConfig) -> Self {
        self.encrypted_by(Encryption::Tls(config))
    }

    /// Sends everything in the clear: for loopback, Unix sockets, and networks that encrypt below.
    pub fn plaintext(self) -> Self {
        self.encrypted_by(Encryption::Plaintext)
    }

    fn encrypted_by(mut self, encryption: Encryption) -> Self {
        let same = std::mem::discriminant(&self.encryption) == std::mem::discriminant(&encryption);
        if !same && !matches!(self.encryption, Encryption::Default) {
            let both = refused("both tls() and plaintext() are set: use one of them");
            self.error.get_or_insert(both);
        }
        self.encryption = encryption;
        self
    }

    /// Dials with this connector instead of [`TcpConnector`]: a proxy, a simulated network.
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

    /// How long establishing a connection may take, from resolving to the end of the handshake.
    pub fn connect_deadline(mut self, limit: Duration) -> Self {
        self.connect_deadline = limit;
        self
    }

    /// Sends many calls over one connection, matched by `correlate`, instead of one at a time.
    pub fn multiplexed(mut self, correlate: impl Correlate<Req, Res> + Clone + Sync) -> Self {
        self.kind = Kind::multiplexed(correlate);
        self
    }

    /// Sends many calls over one connection to servers that answer every request, once, and in the order of requests:
    /// with others callers would get each other's answers.
    pub fn pipelined(mut self) -> Self {
        self.kind = Kind::Pipelined;
        self
    }

    /// Sends a [frame header](towline_transport::HeaderLayer) with each message: calls share connections without an id of
    /// their own, their deadlines go along, servers learn of calls that are given up and can ask for no more. Servers
    /// must be set to use it as well. Takes the place of `multiplexed` and `pipelined`.
    pub fn with_header(mut self) -> Self {
        self.headers = Headers::All;
        self
    }

    /// Uses a [frame header](towline_transport::HeaderLayer) with servers that agree to it by ALPN, and what is set
    /// beside with the others. The TLS configuration must [offer](towline_tls::TlsConfigBuilder::alpn)
    /// [`HEADER_ALPN`](towline_transport::HEADER_ALPN).
    #[cfg(feature = "tls")]
    pub fn header_by_alpn(mut self) -> Self {
        self.headers = Headers::ByAlpn;
        self
    }

    /// Settings of connections that calls share. Of these only the write timeout concerns exclusive ones.
    pub fn connection(mut self, config: SharedConfig) -> Self {
        self.connection = config;
        self
    }

    /// Settings of each endpoint's pool. Its observers and executor are the client's.
    pub fn pool(mut self, pool: PoolBuilder) -> Self {
        self.pool = pool;
        self
    }

    /// Sends a request of this kind over connections that are idle, each after so long, and closes those that do not
    /// answer within `limit`; see [`HealthCheck`]. Default: none, since closed connections are noticed without it.
    pub fn health_check(
        mut self,
        every: Duration,
        limit: Duration,
        probe: impl Fn() -> Req + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(Check { every, limit, probe: Box::new(probe) });
        self
    }

    /// When failed calls go again. Its observers are the client's.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// The most time that one attempt of a call may take, waiting for a connection included; none by default. It is for calls
    /// that may be repeated: an attempt that took too long may have been executed.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = Some(limit);
        self
    }

    /// Sends calls that may be repeated, and take long, a second time, to another endpoint; see [`HedgePolicy`]. Off by default.
    /// Its observers are the client's, and the retry budget pays for it as well.
    pub fn hedge(mut self, hedge: HedgePolicy) -> Self {
        self.hedge = Some(hedge);
        self
    }

    /// The most time that a call may take, waiting and retries included; a [`Call`](crate::Call) can ask for less.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// Keeps the calls of a session together: `who` says whose a request is, unless its [`Call`](crate::Call) does.
    pub fn sticky_by(mut self, who: impl Fn(&Req) -> Option<SessionKey> + Send + Sync + 'static) -> Self {
        self.who = Some(Arc::new(who));
        self
    }

    /// Where the calls of a session go, and what becomes of them when that endpoint cannot take them: to an endpoint by
    /// [`Rendezvous`] hashing, without a bound of load, and elsewhere while it cannot, by default. Others are
    /// [`Maglev`](towline_sticky::Maglev) for large sets, and [`SessionTable`](towline_sticky::SessionTable) for sessions that are
    /// to stay where load sent them first. Its observers are the client's.
    ///
    /// ```
    /// use towline::sticky::{SessionTable, WhenHomeFails};
    /// # use towline::{Client, Error};
    /// # use towline_proto::{Request, Response};
    ///
    /// let strict = SessionTable::new().when_home_fails(WhenHomeFails::Strict);
    /// let builder = Client::<Request, Response>::builder().sessions(strict);
    /// # drop(builder);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn sessions(mut self, affinity: impl Into<Affinity>) -> Self {
        self.sessions = affinity.into();
        self
    }

    /// Says which requests may be repeated although they may have been executed. None by default, but for those whose
    /// [`Call`](crate::Call) says so.
    pub fn idempotent_if(mut self, may_repeat: impl Fn(&Req) -> bool + Send + Sync + 'static) -> Self {
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

    /// Runs the client's tasks here. Default: the tokio runtime on which the client is built and first used.
    pub fn executor(mut self, executor: SharedExecutor) -> Self {
        self.executor = executor;
        self
    }

    /// The client. Spawns the balancer's task; connects to nothing unless the pool is to be warm. Without a TLS
    /// configuration of your own it reads the system's roots here, which takes tens of milliseconds.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](crate::Kind::Config) for the first setting that cannot work: an endpoint that cannot be parsed,
    /// no endpoint at all, a cap or deadline of zero. [`Kind::Runtime`](crate::Kind::Runtime) outside a runtime.
    pub fn build(self) -> Result<Client<Req, Res>, Error>
    where
        Req: Clone,
    {
        let Self {
            codec,
            endpoints,
            discover,
            schemes,
            encryption,
            connect,
            connect_deadline,
            kind,
            headers,
            connection,
            pool,
            check,
            retry,
            attempt_timeout,
            hedge,
            deadline,
            who,
            sessions,
            may_repeat,
            observers,
            balancing,
            executor,
            error,
        } = self;
        if let Some(error) = error {
            return Err(error);
        }
        if deadline.is_zero() || connect_deadline.is_zero() || attempt_timeout.is_some_and(|limit| limit.is_zero()) {
            return Err(refused("a deadline of 0 leaves no time for anything; use a longer one"));
        }
        let endpoints = EndpointSet::distinct(endpoints)?.into_vec();
        let (discover, observers) = match (endpoints.is_empty(), discover) {
            (true, None) => {
                return Err(refused("there are no endpoints: call endpoints(), endpoint() or discover()"));
            }
            (false, Some(_)) => {
                return Err(refused("endpoints are given both as a list and by discover(): use one of them"));
            }
            (false, None) => (updates(fixed(endpoints)), observers),
            (true, Some(discover)) => {
                let (discover, refresh) = discover.open(&schemes, updates)?;
                (discover, if refresh.is_heard() { observers.and(refresh) } else { observers })
            }
        };

        #[cfg(feature = "tls")]
        if headers == Headers::ByAlpn && !encryption.offers(towline_transport::HEADER_ALPN) {
            return Err(refused(
                "header_by_alpn() needs a tls() configuration that offers HEADER_ALPN: see TlsConfigBuilder::alpn",
            ));
        }
        let tcp = connect.unwrap_or_else(|| BoxConnector::new(TcpConnector::new()));
        let stream = ConnectDeadlineLayer::new(connect_deadline).layer(encryption.over(tcp)?);
        let connecting = Arc::new(Connecting { codec, kind, headers, config: connection, executor: executor.clone() });
        let make = BoxConnector::from_fn(move |target| {
            let (stream, connecting) = (ReadyCall::new(stream.clone(), target), connecting.clone());
            async move { connecting.connection(stream.await?) }
        });
        let pool = pool.observers(observers.clone()).executor(executor.clone());
        let pool: ClientPool<Req, Res> = match check {
            Some(check) => pool.build_checked(make, check.over_connections())?,
            None => pool.build(make)?,
        };

        let policy = sessions.observers(observers.clone());
        let counts = policy.stats().clone();
        let Balancing { load, outliers, slow_start, circuit, panic_mode, when_unavailable } = balancing;
        let balance = BalanceBuilder::new(policy)
            .observers(observers.clone())
            .load(load)
            .outliers(outliers)
            .slow_start(slow_start)
            .circuit(circuit)
            .panic_mode(panic_mode)
            .when_unavailable(when_unavailable);
        let balance = balance.spawn(discover, pool.clone(), &*executor)?;
        let retry = retry.observers(observers.clone());
        let hedge = hedge.map(|hedge| hedge.paid_by(&retry).observers(observers));
        let attempts = Attempts::new(balance.clone(), attempt_timeout, hedge);
        let stack = DeadlineLayer::new(deadline).layer(RetryLayer::with_policy(retry).layer(attempts));
        Ok(Client::new(stack, balance, pool, counts, Prepare { who, may_repeat }))
    }
}

impl<Req: Send + 'static> Check<Req> {
    fn over_connections<Res: Send + 'static>(self) -> HealthCheck<Connection<Req, Res>> {
        let Self { every, limit, probe } = self;
        let check = HealthCheck::new(move |mut connection: Checkout<'static, Connection<Req, Res>>| {
            let answer = connection.call(Call::new(probe()));
            async move { answer.await.map(drop) }
        });
        check.every(every).deadline(limit)
    }
}

impl Encryption {
    #[cfg(feature = "tls")]
    fn offers(&self, protocol: &str) -> bool {
        matches!(self, Self::Tls(config) if config.offers(protocol))
    }

    fn over(self, connect: BoxConnector) -> Result<BoxConnector, Error> {
        match self {
            Self::Plaintext => Ok(connect),
            #[cfg(feature = "tls")]
            Self::Tls(config) => {
                let connector = towline_tls::TlsLayer::new(config).layer(connect);
                Ok(BoxConnector::from_fn(move |target| {
                    let connecting = ReadyCall::new(connector.clone(), target);
                    async move {
                        let stream = connecting.await?;
                        let alpn = stream.negotiated_alpn();
                        Ok(towline_connect::BoxIo::negotiated(stream, alpn))
                    }
                }))
            }
            #[cfg(feature = "tls")]
            Self::Default => Self::Tls(towline_tls::TlsConfig::builder().build()?).over(connect),
            #[cfg(not(feature = "tls"))]
            Self::Default => Err(refused(
                "built without the feature `tls`: turn it on, bring a connector that encrypts, or say plaintext()",
            )),
        }
    }
}

/// Those that this build knows.
fn schemes() -> Schemes {
    #[cfg(feature = "dns")]
    return towline_discover_dns::register(Schemes::default());
    #[cfg(not(feature = "dns"))]
    Schemes::default()
}

fn refused(why: impl Into<Cow<'static, str>>) -> Error {
    Error::new(towline_core::Kind::Config, Phase::Build).with_message(why)
}

impl<Req, Res> fmt::Debug for ClientBuilder<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("endpoints", &self.endpoints)
            .field("connect_deadline", &self.connect_deadline)
            .field("pool", &self.pool)
            .field("retry", &self.retry)
            .field("deadline", &self.deadline)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}
