//! The layer, its service and its future.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use towline_core::progress::{Progress, Times};
use towline_core::sync::after;
use towline_core::timer::{Berth, Timer};
use towline_core::{Access, BoxError, CallContext, Carried, Error, Kind, Phase, ReadyCall, Sent};

/// Gives every call at most so long, all attempts and the pauses between them included. See [`Deadline`].
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer<A = Carried> {
    limit: Duration,
    access: A,
}

/// Gives every attempt at most so long: to be used inside a retry layer, which goes elsewhere then. See [`Deadline`].
///
/// An attempt's limit only makes sense together with a deadline over the whole call, and shorter than that; whichever ends
/// first counts. It is not a limit for the endpoint's sake: an attempt that timed out may have been executed, so only
/// calls that may be repeated go again.
///
/// ```
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use towline_core::{Call, Error};
/// use towline_timeout::{AttemptTimeoutLayer, DeadlineLayer};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
/// let service = ServiceBuilder::new()
///     .layer(DeadlineLayer::new(Duration::from_secs(2)))
///     // Retry stands here.
///     .layer(AttemptTimeoutLayer::new(Duration::from_millis(300)))
///     .service(service_fn(|_: Call<()>| std::future::pending::<Result<(), Error>>()));
/// let error = service.oneshot(Call::new(())).await.unwrap_err();
/// assert!(error.to_string().starts_with("attempt timeout of 300ms exceeded"), "{error}");
/// # });
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AttemptTimeoutLayer<A = Carried> {
    limit: Duration,
    access: A,
}

impl DeadlineLayer {
    /// A limit of this length, for requests that carry a [`CallContext`].
    pub const fn new(limit: Duration) -> Self {
        Self { limit, access: Carried }
    }
}

impl<A> DeadlineLayer<A> {
    /// Reaches the context through `access`; [`Blind`](towline_core::Blind) takes any request.
    pub fn with_access<B>(self, access: B) -> DeadlineLayer<B> {
        DeadlineLayer { limit: self.limit, access }
    }
}

impl<S, A: Clone> Layer<S> for DeadlineLayer<A> {
    type Service = Deadline<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline::new(inner, self.limit, Limits::Call, self.access.clone())
    }
}

impl AttemptTimeoutLayer {
    /// A limit of this length, for requests that carry a [`CallContext`].
    pub const fn new(limit: Duration) -> Self {
        Self { limit, access: Carried }
    }
}

impl<A> AttemptTimeoutLayer<A> {
    /// Reaches the context through `access`; [`Blind`](towline_core::Blind) takes any request.
    pub fn with_access<B>(self, access: B) -> AttemptTimeoutLayer<B> {
        AttemptTimeoutLayer { limit: self.limit, access }
    }
}

impl<S, A: Clone> Layer<S> for AttemptTimeoutLayer<A> {
    type Service = Deadline<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline::new(inner, self.limit, Limits::Attempt, self.access.clone())
    }
}

/// Who waits so long needs no timer: `Duration::MAX` means that there is no limit.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limits {
    Call,
    Attempt,
}

impl Limits {
    fn name(self) -> &'static str {
        match self {
            Self::Call => "deadline",
            Self::Attempt => "attempt timeout",
        }
    }

    /// What `error` says of the phase, the request and the endpoint, and how long everything took.
    fn exceeded(self, times: &mut Times, start: Instant, at: Instant, error: Error) -> Error {
        error.with_spent(times.to_vec(start)).with_message(format!("{} of {:?} exceeded", self.name(), at - start))
    }
}

/// A service whose calls end in time. Always ready; a clone of the inner service is readied in the call's future.
///
/// The limit begins with `call`, covers waiting for readiness, and is written into the call's context as an absolute time,
/// where it can only move forward: inner layers see it, and servers where the protocol has a place for it. A call whose future is
/// first polled after that is begun all the same, and ends at once. A timeout drops
/// the inner future, and what it held is free at once. Clones share nothing but the setting; each parks one timer.
///
/// # Errors
///
/// [`Kind::Timeout`] with the phase that was running, the endpoint, and how long [each phase](Error::spent) took; else the
/// inner error, wrapped unless it is an [`Error`].
pub struct Deadline<S, A = Carried> {
    inner: S,
    limit: Duration,
    limits: Limits,
    access: A,
    berth: Berth,
}

impl<S, A> Deadline<S, A> {
    fn new(inner: S, limit: Duration, limits: Limits, access: A) -> Self {
        Self { inner, limit, limits, access, berth: Berth::default() }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

// The parked timer stays with the original, since a clone may live on another task. Of attempts there is a clone each, made by
// the layer around: a timer that each parked for itself nobody would find.
impl<S: Clone, A: Clone> Clone for Deadline<S, A> {
    fn clone(&self) -> Self {
        let Self { inner, limit, limits, access, berth } = self;
        let berth = if *limits == Limits::Attempt { berth.clone() } else { Berth::default() };
        Self { inner: inner.clone(), limit: *limit, limits: *limits, access: access.clone(), berth }
    }
}

impl<S: fmt::Debug, A> fmt::Debug for Deadline<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, limit, limits: _, access: _, berth: _ } = self;
        f.debug_struct("Deadline").field("inner", inner).field("limit", limit).finish_non_exhaustive()
    }
}

impl<S, A, Req> Service<Req> for Deadline<S, A>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    A: Access<Req>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = DeadlineFuture<S, Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        (&*self).call(request)
    }
}

/// By reference, since nothing is held in between: callers of one service share its parked timer.
impl<S, A, Req> Service<Req> for &Deadline<S, A>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    A: Access<Req>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = DeadlineFuture<S, Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let start = Instant::now();
        let own = after(start, self.limit);
        let theirs = self.access.get(&request).and_then(CallContext::deadline).filter(|theirs| *theirs < own);
        let at = theirs.unwrap_or(own);
        self.access.edit(&mut request, |context| context.limit_deadline(at));
        DeadlineFuture {
            inner: Some(ReadyCall::new(self.inner.clone(), request)),
            timer: self.berth.timer(at),
            start,
            at,
            // A deadline of the caller that comes before the end of an attempt is still the caller's.
            limits: if theirs.is_some() { Limits::Call } else { self.limits },
            progress: Progress::default(),
            times: Times::default(),
        }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`Deadline`].
    pub struct DeadlineFuture<S: Service<Req>, Req> {
        // Dropped when the time is up.
        #[pin]
        inner: Option<ReadyCall<S, Req>>,
        timer: Timer,
        start: Instant,
        at: Instant,
        limits: Limits,
        progress: Progress,
        times: Times,
    }
}

impl<S, Req> Future for DeadlineFuture<S, Req>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.at <= this.start {
            return Poll::Ready(Err(Error::new(Kind::Timeout, Phase::Call)
                .with_sent(Sent::Never)
                .with_message("the deadline had passed before the call")));
        }
        // The answer first: when both are there, the caller gets it.
        let inner = this.inner.as_mut().as_pin_mut().expect("polled after completion");
        if let Poll::Ready(result) = this.progress.scope(|| inner.poll(cx)) {
            return Poll::Ready(result.map_err(|error| {
                let error = Error::wrap(error);
                // Somebody inside has kept the same time: a pool's queue, an attempt. It knows less of the call.
                let is_over = error.is_timeout() && *this.at <= Instant::now();
                if is_over { this.limits.exceeded(this.times, *this.start, *this.at, error) } else { error }
            }));
        }
        this.times.left_in(this.progress.phase(), *this.start);
        if this.at.duration_since(*this.start) >= NEVER {
            return Poll::Pending;
        }
        ready!(this.timer.poll(cx))?;
        // Dropped within the scope, so that a request which has left since the last poll is still reported.
        this.progress.scope(|| this.inner.set(None));
        let error = Error::new(Kind::Timeout, this.progress.phase()).with_sent(this.progress.sent());
        let error = match this.progress.endpoint() {
            Some((id, endpoint)) => error.or_picked(id, endpoint),
            None => error,
        };
        Poll::Ready(Err(this.limits.exceeded(this.times, *this.start, *this.at, error)))
    }
}

impl<S: Service<Req>, Req> fmt::Debug for DeadlineFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineFuture").field("at", &self.at).field("progress", &self.progress).finish_non_exhaustive()
    }
}
