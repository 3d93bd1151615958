//! Tokens in requests and responses.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use tower_layer::Layer;
use tower_service::Service;
use towline_core::progress::Progress;
use towline_core::{Access, CallContext, Carried, Event, Home, Observers};

use super::{TokenError, Tokens};
use crate::StickyStats;

/// Keeps sessions by tokens: what a request brings says where the call goes, and the response carries the next one. See
/// [`TokenService`].
///
/// It belongs around a balancer whose policy is [`HomeFirst`](crate::HomeFirst), and inside of retries and hedges, so that each
/// attempt is one.
///
/// ```
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use towline_core::{Call, Error, Target, TokioExecutor, Lent};
/// use towline_balance::{BalanceBuilder, P2c, fixed};
/// use towline_sticky::{HomeFirst, TokenLayer, Tokens};
///
/// struct Request { cookie: Option<String> }
/// #[derive(Debug)]
/// struct Response { set_cookie: Option<String> }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let tokens = Tokens::new(1, b"thirty-two bytes from /dev/urandom")?;
/// let layer = TokenLayer::new(
///     tokens,
///     |call: &Call<Request>| call.message().cookie.as_deref(),
///     |response: &mut Response, token| response.set_cookie = Some(token.to_owned()),
/// );
/// # let server = service_fn(|_: Call<Request>| async { Ok::<_, Error>(Response { set_cookie: None }) });
/// # let make = service_fn(move |_: Target| std::future::ready(Ok::<_, Error>(Lent::new(server))));
/// # let endpoints = ["10.0.0.7:7000".parse()?, "10.0.0.8:7000".parse()?];
/// let balance = BalanceBuilder::new(HomeFirst::new(P2c::new())).spawn(fixed(endpoints), make, &TokioExecutor::current())?;
/// let service = ServiceBuilder::new().layer(layer).service(balance);
/// let first = service.clone().oneshot(Call::new(Request { cookie: None })).await?;
/// let second = service.oneshot(Call::new(Request { cookie: first.set_cookie })).await?;
/// assert!(second.set_cookie.is_none(), "the same endpoint: the token is still good");
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct TokenLayer<C, A = Carried> {
    carrier: C,
    access: A,
    common: Common,
}

/// Where tokens are in requests and responses.
pub trait CarryToken<Req, Res>: Clone {
    /// The token that a request brings.
    fn read<'a>(&self, request: &'a Req) -> Option<&'a str>;
    /// Puts a token into a response.
    fn write(&self, response: &mut Res, token: &str);
}

/// Two functions that carry tokens.
#[derive(Clone, Copy)]
pub struct ByFunctions<R, W> {
    read: R,
    write: W,
}

impl<R, W> fmt::Debug for ByFunctions<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByFunctions(..)")
    }
}

impl<R, W, Req, Res> CarryToken<Req, Res> for ByFunctions<R, W>
where
    R: Fn(&Req) -> Option<&str> + Clone,
    W: Fn(&mut Res, &str) + Clone,
{
    fn read<'a>(&self, request: &'a Req) -> Option<&'a str> {
        (self.read)(request)
    }

    fn write(&self, response: &mut Res, token: &str) {
        (self.write)(response, token);
    }
}

/// What does not depend on types.
#[derive(Clone)]
struct Common {
    tokens: Tokens,
    observers: Observers,
    stats: StickyStats,
    clock: fn() -> SystemTime,
}

impl<R, W> TokenLayer<ByFunctions<R, W>> {
    /// Reads tokens of requests by `read`, and writes those that are given out into responses by `write`.
    pub fn new<Req, Res>(tokens: Tokens, read: R, write: W) -> Self
    where
        R: Fn(&Req) -> Option<&str>,
        W: Fn(&mut Res, &str),
    {
        Self::carried_by(tokens, ByFunctions { read, write })
    }
}

impl<C> TokenLayer<C> {
    /// Reads and writes tokens by `carrier`.
    pub fn carried_by(tokens: Tokens, carrier: C) -> Self {
        let (observers, stats) = (Observers::default(), StickyStats::new());
        Self { carrier, access: Carried, common: Common { tokens, observers, stats, clock: SystemTime::now } }
    }
}

impl<C, A> TokenLayer<C, A> {
    /// Reaches the context through `access`.
    pub fn with_access<B>(self, access: B) -> TokenLayer<C, B> {
        let Self { carrier, access: _, common } = self;
        TokenLayer { carrier, access, common }
    }

    /// Tells of tokens that are ignored.
    #[must_use]
    pub fn observers(mut self, observers: Observers) -> Self {
        self.common.observers = observers;
        self
    }

    /// Counts tokens that are ignored, and that are given out, into `stats`.
    #[must_use]
    pub fn with_stats(mut self, stats: StickyStats) -> Self {
        self.common.stats = stats;
        self
    }

    /// Goes by another clock than the system's, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> SystemTime) -> Self {
        self.common.clock = clock;
        self
    }
}

impl<C, A> fmt::Debug for TokenLayer<C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenLayer").field("tokens", &self.common.tokens).finish_non_exhaustive()
    }
}

impl<S, C: Clone, A: Clone> Layer<S> for TokenLayer<C, A> {
    type Service = TokenService<S, C, A>;

    fn layer(&self, inner: S) -> Self::Service {
        TokenService { inner, layer: self.clone() }
    }
}

/// A service whose calls ask for the endpoint that their token names, and whose responses carry a new token when there was none,
/// when another endpoint has served the call, or when half of the token's life is over.
///
/// A token that is forged, stale or no token at all is ignored and counted: the call goes as one without. An endpoint that the
/// caller has asked for itself stays. Who has served is what the balancer within reports on the way; where nobody reports, there
/// are no tokens, and errors carry none.
///
/// Readiness, errors and cancellation are those of the inner service. Clones share keys and counts.
// Holds no readiness of its own, so a derived Clone is right: the clone is as ready as the inner one's.
#[derive(Clone)]
pub struct TokenService<S, C, A = Carried> {
    inner: S,
    layer: TokenLayer<C, A>,
}

impl<S: fmt::Debug, C, A> fmt::Debug for TokenService<S, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenService").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

impl<S, C, A, Req> Service<Req> for TokenService<S, C, A>
where
    S: Service<Req>,
    C: CarryToken<Req, S::Response>,
    A: Access<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TokenFuture<S::Future, C, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let TokenLayer { carrier, access, common } = &self.layer;
        let read = carrier.read(&request).map(|text| common.tokens.open(text, (common.clock)()));
        let good = match read {
            Some(Err(error)) => {
                let is_stale = error == TokenError::Stale;
                common.stats.ignored(is_stale);
                common.observers.emit(Event::TokenIgnored { is_stale });
                None
            }
            Some(Ok(good)) => Some(good),
            None => None,
        };
        if let Some((home, _)) = good {
            if access.get(&request).and_then(CallContext::home).is_none() {
                access.edit(&mut request, |context| context.set_home(Some(home)));
            }
        }
        // One that is to be renewed is as good as none, when the answer is there.
        let is_hedge = access.get(&request).is_some_and(CallContext::is_hedge);
        let keeps_all = is_hedge && good.is_some();
        let keeps = good.filter(|(_, left)| *left > common.tokens.life / 2).map(|(home, _)| home);
        let (common, carrier, progress) = (common.clone(), carrier.clone(), Progress::default());
        let inner = self.inner.call(request);
        TokenFuture { inner, progress, keeps, keeps_all, common, carrier, _request: PhantomData }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`TokenService`].
    pub struct TokenFuture<F, C, Req> {
        #[pin]
        inner: F,
        progress: Progress,
        // A token for this home needs no other.
        keeps: Option<Home>,
        // A hedge: that it was answered first moves no session.
        keeps_all: bool,
        common: Common,
        carrier: C,
        _request: PhantomData<fn(Req)>,
    }
}

impl<F, C, Req, Res, E> Future for TokenFuture<F, C, Req>
where
    F: Future<Output = Result<Res, E>>,
    C: CarryToken<Req, Res>,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let inner = this.inner;
        let mut response = ready!(this.progress.scope(|| inner.poll(cx)))?;
        if let Some((_, key)) = this.progress.endpoint() {
            let served = Home::from(key);
            if *this.keeps != Some(served) && !*this.keeps_all {
                let token = this.common.tokens.issue(served, (this.common.clock)());
                this.carrier.write(&mut response, token.as_str());
                this.common.stats.issued();
            }
        }
        Poll::Ready(Ok(response))
    }
}

impl<F, C, Req> fmt::Debug for TokenFuture<F, C, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFuture").field("progress", &self.progress).finish_non_exhaustive()
    }
}
