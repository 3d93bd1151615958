//! Tokens in requests and responses.

use std::fmt;
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
pub struct TokenLayer<R, W, A = Carried> {
    read: R,
    write: W,
    access: A,
    common: Common,
}

/// What does not depend on types.
#[derive(Clone)]
struct Common {
    tokens: Tokens,
    observers: Observers,
    stats: StickyStats,
    clock: fn() -> SystemTime,
}

impl<R, W> TokenLayer<R, W> {
    /// Reads tokens of requests by `read`, and writes those that are given out into responses by `write`.
    pub fn new<Req, Res>(tokens: Tokens, read: R, write: W) -> Self
    where
        R: Fn(&Req) -> Option<&str>,
        W: Fn(&mut Res, &str),
    {
        let (observers, stats) = (Observers::default(), StickyStats::new());
        Self { read, write, access: Carried, common: Common { tokens, observers, stats, clock: SystemTime::now } }
    }
}

impl<R, W, A> TokenLayer<R, W, A> {
    /// Reaches the context through `access`.
    pub fn with_access<B>(self, access: B) -> TokenLayer<R, W, B> {
        let Self { read, write, access: _, common } = self;
        TokenLayer { read, write, access, common }
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

impl<R, W, A> fmt::Debug for TokenLayer<R, W, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenLayer").field("tokens", &self.common.tokens).finish_non_exhaustive()
    }
}

impl<S, R: Clone, W: Clone, A: Clone> Layer<S> for TokenLayer<R, W, A> {
    type Service = TokenService<S, R, W, A>;

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
pub struct TokenService<S, R, W, A = Carried> {
    inner: S,
    layer: TokenLayer<R, W, A>,
}

impl<S: fmt::Debug, R, W, A> fmt::Debug for TokenService<S, R, W, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenService").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

impl<S, R, W, A, Req> Service<Req> for TokenService<S, R, W, A>
where
    S: Service<Req>,
    R: Fn(&Req) -> Option<&str>,
    W: Fn(&mut S::Response, &str) + Clone,
    A: Access<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TokenFuture<S::Future, W>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let TokenLayer { read, write, access, common } = &self.layer;
        let read = read(&request).map(|text| common.tokens.open(text, (common.clock)()));
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
        let (common, write) = (common.clone(), write.clone());
        TokenFuture { inner: self.inner.call(request), progress: Progress::default(), keeps, keeps_all, common, write }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`TokenService`].
    pub struct TokenFuture<F, W> {
        #[pin]
        inner: F,
        progress: Progress,
        // A token for this home needs no other.
        keeps: Option<Home>,
        // A hedge: that it was answered first moves no session.
        keeps_all: bool,
        common: Common,
        write: W,
    }
}

impl<F, W, Res, E> Future for TokenFuture<F, W>
where
    F: Future<Output = Result<Res, E>>,
    W: Fn(&mut Res, &str),
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
                (this.write)(&mut response, token.as_str());
                this.common.stats.issued();
            }
        }
        Poll::Ready(Ok(response))
    }
}

impl<F, W> fmt::Debug for TokenFuture<F, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFuture").field("progress", &self.progress).finish_non_exhaustive()
    }
}
