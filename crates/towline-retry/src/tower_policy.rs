//! The policy for tower's own `Retry`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use towline_core::{Access, ByError, CallContext, Carried, Classify, Error, Outcome, Replay, Sent};

use crate::budget::Permit;
use crate::policy::{Failed, RetryPolicy};

impl<K> RetryPolicy<K> {
    /// As a [`tower::retry::Policy`], for requests that carry a [`CallContext`].
    pub fn for_tower(self) -> TowerPolicy<Carried, K> {
        TowerPolicy { policy: Arc::new(self), access: Carried, call: OneCall::default() }
    }
}

/// A [`RetryPolicy`] as tower's own `Retry` takes it: attempts, backoff, budget, endpoints tried and statistics are the
/// same. Over services that fail with [`Error`]; for others put a `map_err(Error::wrap)` in between.
///
/// tower's `Retry` decides before it asks a policy, so there are things that only [`RetryLayer`](crate::RetryLayer) does:
///
/// - An error from readiness never reaches the policy: it ends the call.
/// - Of a request that cannot be replayed the policy hears nothing any more, so none is counted.
/// - The first attempt is not marked as [retried](CallContext::is_retried), since the policy sees it by reference: a retry
///   layer further in notices only from the second attempt on.
/// - Which endpoint was tried is known where the error came through a balancer, and not of a response that is
///   classified as a failure; whether a request was sent is known from the error alone.
///
/// ```
/// use tower::{ServiceBuilder, ServiceExt, retry::RetryLayer, service_fn};
/// use towline_core::{Call, Error, Kind, Phase};
/// use towline_retry::RetryPolicy;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
/// let policy = RetryPolicy::never_sent();
/// let down = service_fn(|_: Call<()>| async { Err::<(), _>(Error::new(Kind::Unavailable, Phase::Dial)) });
/// let service = ServiceBuilder::new().layer(RetryLayer::new(policy.clone().for_tower())).service(down);
/// assert!(service.oneshot(Call::new(())).await.is_err());
/// assert_eq!(policy.stats().retries, 2);
/// # });
/// ```
pub struct TowerPolicy<A = Carried, K = ByError> {
    policy: Arc<RetryPolicy<K>>,
    access: A,
    call: OneCall,
}

/// What is known of the call that a clone is for.
#[derive(Debug)]
struct OneCall {
    attempt: u32,
    last_pause: Duration,
    /// The running attempt was paid for.
    is_paid: bool,
    /// Whether any attempt can have been sent.
    sent: Sent,
}

impl Default for OneCall {
    fn default() -> Self {
        Self { attempt: 0, last_pause: Duration::ZERO, is_paid: false, sent: Sent::Never }
    }
}

impl<A, K> TowerPolicy<A, K> {
    /// Reaches the context through `access`; [`Blind`](towline_core::Blind) takes any request.
    pub fn with_access<B>(self, access: B) -> TowerPolicy<B, K> {
        TowerPolicy { policy: self.policy, access, call: self.call }
    }
}

// tower clones a policy for every call: each clone begins one.
impl<A: Clone, K> Clone for TowerPolicy<A, K> {
    fn clone(&self) -> Self {
        Self { policy: self.policy.clone(), access: self.access.clone(), call: OneCall::default() }
    }
}

impl<A, K> fmt::Debug for TowerPolicy<A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerPolicy").field("policy", &self.policy).field("call", &self.call).finish_non_exhaustive()
    }
}

impl<Req, Res, A, K> tower::retry::Policy<Req, Res, Error> for TowerPolicy<A, K>
where
    Req: Replay,
    A: Access<Req>,
    K: Classify<Res>,
{
    type Future = Pause;

    fn retry(&mut self, request: &mut Req, result: &mut Result<Res, Error>) -> Option<Pause> {
        let Self { policy, access, call } = self;
        let outcome = policy.classify.classify(result.as_ref());
        if outcome == Outcome::Success {
            policy.budget.deposit();
        }
        let sent = result.as_ref().err().map_or(Sent::Maybe, Error::sent);
        if sent == Sent::Maybe {
            call.sent = sent;
        } else if std::mem::take(&mut call.is_paid) {
            policy.budget.refund();
        }
        let context = access.get(request);
        let error = result.as_ref().err();
        let failed = Failed {
            attempt: call.attempt,
            outcome,
            sent,
            is_idempotent: context.is_some_and(CallContext::is_idempotent),
            is_replayable: true,
            deadline: context.and_then(CallContext::deadline),
            last_pause: call.last_pause,
            endpoint: error.and_then(Error::endpoint),
            error,
        };
        let Some((after, permit)) = policy.next(&failed) else {
            if call.sent == Sent::Maybe {
                if let Err(error) = result {
                    *error = error.clone().with_sent(Sent::Maybe);
                }
            }
            return None;
        };
        call.attempt += 1;
        call.last_pause = after;
        call.is_paid = permit.is_some();
        let left = error.and_then(Error::endpoint_id);
        access.edit(request, |context| {
            context.set_retried();
            context.set_attempt(call.attempt);
            left.into_iter().for_each(|id| context.tried_mut().add(id));
        });
        Some(Pause { sleep: Box::pin(sleep(after)), permit })
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        let context = self.access.get(request);
        // Of further attempts it was we who said that they are retried.
        if self.call.attempt == 0 && context.is_some_and(CallContext::is_retried) {
            self.policy.found_nested();
            return None;
        }
        request.replay()
    }
}

/// The pause before another attempt, which is paid for when it ends.
#[derive(Debug)]
pub struct Pause {
    sleep: Pin<Box<Sleep>>,
    permit: Option<Permit>,
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.sleep.as_mut().poll(cx));
        self.permit.take().into_iter().for_each(Permit::spend);
        Poll::Ready(())
    }
}
