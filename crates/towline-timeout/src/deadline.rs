//! The layer, its service and its future.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use towline_core::progress::Progress;
use towline_core::sync::after;
use towline_core::timer::{Berth, Timer};
use towline_core::{Access, BoxError, CallContext, Carried, Error, Kind, Phase, ReadyCall, Sent};

/// Gives every call at most so long. See [`Deadline`].
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer<A = Carried> {
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
        Deadline { inner, limit: self.limit, access: self.access.clone(), berth: Berth::default() }
    }
}

/// A service whose calls end in time. Always ready; a clone of the inner service is readied in the call's future.
///
/// A timeout drops the inner future, and what it held is free at once. Clones share nothing but the setting.
///
/// # Errors
///
/// [`Kind::Timeout`] with the phase that was running; else the inner error, wrapped unless it is an [`Error`].
pub struct Deadline<S, A = Carried> {
    inner: S,
    limit: Duration,
    access: A,
    berth: Berth,
}

// The parked timer stays with the original: a clone may live on another task.
impl<S: Clone, A: Clone> Clone for Deadline<S, A> {
    fn clone(&self) -> Self {
        let Self { inner, limit, access, berth: _ } = self;
        Self { inner: inner.clone(), limit: *limit, access: access.clone(), berth: Berth::default() }
    }
}

impl<S: fmt::Debug, A> fmt::Debug for Deadline<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, limit, access: _, berth: _ } = self;
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
        let at = self.access.get(&request).and_then(CallContext::deadline).map_or(own, |theirs| theirs.min(own));
        self.access.edit(&mut request, |context| context.limit_deadline(at));
        DeadlineFuture {
            inner: Some(ReadyCall::new(self.inner.clone(), request)),
            timer: self.berth.timer(at),
            limit: at.saturating_duration_since(start),
            progress: Progress::default(),
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
        limit: Duration,
        progress: Progress,
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
        if this.limit.is_zero() {
            return Poll::Ready(Err(Error::new(Kind::Timeout, Phase::Call)
                .with_sent(Sent::Never)
                .with_message("the deadline had passed before the call")));
        }
        // The answer first: when both are there, the caller gets it.
        let inner = this.inner.as_mut().as_pin_mut().expect("polled after completion");
        if let Poll::Ready(result) = this.progress.scope(|| inner.poll(cx)) {
            return Poll::Ready(result.map_err(Error::wrap));
        }
        ready!(this.timer.poll(cx))?;
        // Dropped within the scope, so that a request which has left since the last poll is still reported.
        this.progress.scope(|| this.inner.set(None));
        let error = Error::new(Kind::Timeout, this.progress.phase())
            .with_sent(this.progress.sent())
            .with_message(format!("deadline of {:?} exceeded", *this.limit));
        Poll::Ready(Err(match this.progress.endpoint() {
            Some((_, endpoint)) => error.or_endpoint(endpoint),
            None => error,
        }))
    }
}

impl<S: Service<Req>, Req> fmt::Debug for DeadlineFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineFuture")
            .field("limit", &self.limit)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}
