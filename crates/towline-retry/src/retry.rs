//! The layer, its service and its future.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;
use towline_core::progress::{self, Progress};
use towline_core::{Access, BoxError, ByError, CallContext, Carried, Classify, Error, Outcome, Phase, Replay, Sent};

use crate::budget::Permit;
use crate::leg::{Leg, call, sent};
use crate::policy::{Failed, RetryPolicy, RetryStats};

/// Lets failed calls go again. See the [crate](crate) for when they do.
///
/// All services made from one layer, and all their clones, share the policy's budget.
pub struct RetryLayer<A = Carried, K = ByError> {
    policy: Arc<RetryPolicy<K>>,
    access: A,
}

impl RetryLayer {
    /// With [`RetryPolicy::never_sent`], for requests that carry a [`CallContext`].
    pub fn new() -> Self {
        Self::with_policy(RetryPolicy::default())
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> RetryLayer<Carried, K> {
    /// With this policy, for requests that carry a [`CallContext`].
    pub fn with_policy(policy: RetryPolicy<K>) -> Self {
        Self { policy: Arc::new(policy), access: Carried }
    }
}

impl<A, K> RetryLayer<A, K> {
    /// Reaches the context through `access`. With [`Blind`](towline_core::Blind) any request is taken, only what was never
    /// sent goes again unless the policy says that all calls may, and a retry layer further out is not noticed.
    pub fn with_access<B>(self, access: B) -> RetryLayer<B, K> {
        RetryLayer { policy: self.policy, access }
    }
}

impl<A: Clone, K> Clone for RetryLayer<A, K> {
    fn clone(&self) -> Self {
        Self { policy: self.policy.clone(), access: self.access.clone() }
    }
}

impl<A, K> fmt::Debug for RetryLayer<A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<S, A: Clone, K> Layer<S> for RetryLayer<A, K> {
    type Service = Retry<S, A, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner, policy: self.policy.clone(), access: self.access.clone() }
    }
}

/// A service whose failed calls go again. Always ready; each call readies a clone of the inner service, and so does every
/// further attempt: an error from readiness is one of the attempt.
///
/// Dropping a call's future drops the attempt that is running; no other is begun, and one that was paid for and never sent
/// gives its token back.
///
/// # Errors
///
/// That of the last attempt. It says [`Sent::Maybe`] if any attempt may have been sent.
pub struct Retry<S, A = Carried, K = ByError> {
    inner: S,
    policy: Arc<RetryPolicy<K>>,
    access: A,
}

impl<S, A, K> Retry<S, A, K> {
    /// What has happened so far, in all services of this policy.
    pub fn stats(&self) -> RetryStats {
        self.policy.stats()
    }
}

// By hand, because a classifier need not be `Clone`.
impl<S: Clone, A: Clone, K> Clone for Retry<S, A, K> {
    fn clone(&self) -> Self {
        let Self { inner, policy, access } = self;
        Self { inner: inner.clone(), policy: policy.clone(), access: access.clone() }
    }
}

impl<S, A, K> fmt::Debug for Retry<S, A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<S, A, K, Req> Service<Req> for Retry<S, A, K>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    A: Access<Req>,
    K: Classify<S::Response>,
    Req: Replay,
{
    type Response = S::Response;
    type Error = Error;
    type Future = RetryFuture<S, A, K, Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let last = self.policy.rules.attempts - 1;
        let context = self.access.get(&request);
        let is_idempotent = context.is_some_and(CallContext::is_idempotent);
        let is_nested = last > 0 && context.is_some_and(CallContext::is_retried);
        if is_nested {
            self.policy.found_nested();
        } else if last > 0 {
            self.access.edit(&mut request, CallContext::set_retried);
        }
        RetryFuture {
            leg: Leg::Waiting,
            pause: None,
            service: self.inner.clone(),
            policy: self.policy.clone(),
            access: self.access.clone(),
            request: Some(request),
            progress: Progress::default(),
            paid: None,
            last_pause: Duration::ZERO,
            // To an inner layer its first attempt is its last.
            attempt: if is_nested { last } else { 0 },
            is_idempotent,
            sent: Sent::Never,
        }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`Retry`].
    pub struct RetryFuture<S: Service<Req>, A, K, Req> {
        // The running attempt; over during a pause.
        #[pin]
        leg: Leg<S::Future>,
        // In a box, because few calls need it, and all would have to carry its size.
        pause: Option<Pin<Box<Sleep>>>,
        service: S,
        policy: Arc<RetryPolicy<K>>,
        access: A,
        // As the running attempt sends it; once it has, while another attempt may follow.
        request: Option<Req>,
        // Of the running attempt.
        progress: Progress,
        // For the running attempt, or the pause before it.
        paid: Option<Permit>,
        last_pause: Duration,
        attempt: u32,
        is_idempotent: bool,
        // Whether any attempt can have been sent.
        sent: Sent,
    }

    impl<S: Service<Req>, A, K, Req> PinnedDrop for RetryFuture<S, A, K, Req> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if this.pause.is_some() {
                return;
            }
            if let Some(permit) = this.paid.take() {
                if this.leg.give_up(this.progress) == Sent::Maybe {
                    permit.spend();
                }
            }
        }
    }
}

impl<S, A, K, Req> Future for RetryFuture<S, A, K, Req>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    A: Access<Req>,
    K: Classify<S::Response>,
    Req: Replay,
{
    type Output = Result<S::Response, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = self.as_mut().project();
            if let Some(sleep) = this.pause {
                ready!(sleep.as_mut().poll(cx));
                self.as_mut().begin_next();
                continue;
            }
            let may_follow = *this.attempt + 1 < this.policy.rules.attempts;
            let call = |service: &mut S| call(service, this.request, may_follow);
            let result = ready!(this.progress.scope(|| this.leg.poll(this.service, call, cx)));
            let outcome = this.policy.classify.classify(result.as_ref());
            if outcome == Outcome::Success {
                this.policy.budget.deposit();
            }
            if result.is_ok() && outcome == Outcome::Success && this.paid.is_none() {
                return Poll::Ready(result);
            }
            if let Some(result) = self.as_mut().ended(result, outcome) {
                return Poll::Ready(result);
            }
        }
    }
}

impl<S, A, K, Req> RetryFuture<S, A, K, Req>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    A: Access<Req>,
    K: Classify<S::Response>,
    Req: Replay,
{
    /// What an attempt has come to, unless there is to be another: then the pause before it has begun.
    #[cold]
    fn ended(
        self: Pin<&mut Self>,
        result: Result<S::Response, Error>,
        outcome: Outcome,
    ) -> Option<Result<S::Response, Error>> {
        let this = self.project();
        let sent = sent(this.progress, &result);
        if let Some(permit) = this.paid.take() {
            if sent == Sent::Maybe {
                permit.spend();
            }
        }
        if sent == Sent::Maybe {
            *this.sent = sent;
        }
        let error = result.as_ref().err();
        let endpoint = this.progress.endpoint().map(|(_, key)| key).or_else(|| error.and_then(Error::endpoint));
        let context = this.request.as_ref().and_then(|request| this.access.get(request));
        let failed = Failed {
            attempt: *this.attempt,
            outcome,
            sent,
            is_idempotent: *this.is_idempotent,
            is_replayable: this.request.as_ref().is_some_and(Req::is_replayable),
            deadline: context.and_then(CallContext::deadline),
            last_pause: *this.last_pause,
            endpoint,
            error,
        };
        if *this.sent == Sent::Maybe {
            progress::written();
        }
        let Some((after, permit)) = this.policy.next(&failed) else {
            // What the last attempt knows of itself is not all there is to know.
            return Some(match *this.sent {
                Sent::Maybe => result.map_err(|error| error.with_sent(Sent::Maybe)),
                Sent::Never => result,
            });
        };
        progress::enter(Phase::Backoff);
        this.request.iter().for_each(Req::reclaim);
        // A hedged attempt was at two endpoints.
        if let (Some(other), Some(request)) = (error.and_then(Error::other_id), this.request.as_mut()) {
            this.access.edit(request, |context| context.tried_mut().add(other));
        }
        *this.last_pause = after;
        *this.paid = permit;
        *this.pause = Some(Box::pin(sleep(after)));
        None
    }

    /// The pause is over: the next attempt begins, on a fresh clone of the service.
    fn begin_next(self: Pin<&mut Self>) {
        let mut this = self.project();
        *this.attempt += 1;
        let (attempt, left) = (*this.attempt, this.progress.endpoint().map(|(id, _)| id));
        let request = this.request.as_mut().expect("kept while another attempt may follow");
        this.access.edit(request, |context| {
            context.set_attempt(attempt);
            left.into_iter().for_each(|id| context.tried_mut().add(id));
        });
        *this.progress = Progress::default();
        *this.pause = None;
        *this.service = this.service.clone();
        this.leg.set(Leg::Waiting);
    }
}

impl<S: Service<Req>, A, K, Req> fmt::Debug for RetryFuture<S, A, K, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
