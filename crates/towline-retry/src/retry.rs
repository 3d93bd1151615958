//! The layer, its service and its future.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;
use towline_core::progress::{self, Progress};
use towline_core::sync;
use towline_core::{
    Access, Backoff, BoxError, ByError, CallContext, Carried, Classify, Error, Event, Kind, Observers, Outcome, Phase,
    ReadyCall, Replay, Rng, Sent,
};

use crate::Budget;

/// What all services of one layer share.
struct Policy<K> {
    attempts: u32,
    backoff: Backoff,
    budget: Budget,
    classify: K,
    observers: Observers,
}

/// Lets failed calls go again. See the [crate](crate) for when they do.
///
/// All services made from one layer, and all their clones, share the budget.
pub struct RetryLayer<A = Carried, K = ByError> {
    policy: Arc<Policy<K>>,
    access: A,
}

impl RetryLayer {
    /// Three attempts, full jitter from 25 ms to 1 s, the default [`Budget`], failures told by [`ByError`], for
    /// requests that carry a [`CallContext`].
    pub fn new() -> Self {
        let policy = Policy {
            attempts: 3,
            backoff: Backoff::new(Duration::from_millis(25), Duration::from_secs(1)),
            budget: Budget::default(),
            classify: ByError,
            observers: Observers::default(),
        };
        Self { policy: Arc::new(policy), access: Carried }
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<A, K: Clone> RetryLayer<A, K> {
    fn change(mut self, change: impl FnOnce(&mut Policy<K>)) -> Self {
        change(Arc::make_mut(&mut self.policy));
        self
    }

    /// The most attempts, the first included.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when that is 0.
    pub fn attempts(self, attempts: u32) -> Result<Self, Error> {
        if attempts == 0 {
            return Err(Error::new(Kind::Config, Phase::Build)
                .with_message("attempts is 0: no call would ever be sent; use 1 for no retry"));
        }
        Ok(self.change(|policy| policy.attempts = attempts))
    }

    /// How long to wait before each further attempt.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.change(|policy| policy.backoff = backoff)
    }

    /// What pays for attempts that may repeat work.
    #[must_use]
    pub fn budget(self, budget: Budget) -> Self {
        self.change(|policy| policy.budget = budget)
    }

    /// Sends events here.
    #[must_use]
    pub fn observers(self, observers: Observers) -> Self {
        self.change(|policy| policy.observers = observers)
    }

    /// Tells failures by `classify`.
    pub fn classify<L>(self, classify: L) -> RetryLayer<A, L> {
        let Policy { attempts, backoff, budget, classify: _, observers } = (*self.policy).clone();
        let policy = Arc::new(Policy { attempts, backoff, budget, classify, observers });
        RetryLayer { policy, access: self.access }
    }

    /// Reaches the context through `access`. With [`Blind`](towline_core::Blind) any request is taken, and only what
    /// was never sent goes again.
    pub fn with_access<B>(self, access: B) -> RetryLayer<B, K> {
        RetryLayer { policy: self.policy, access }
    }
}

impl<K: Clone> Clone for Policy<K> {
    fn clone(&self) -> Self {
        Self {
            attempts: self.attempts,
            backoff: self.backoff,
            budget: self.budget.clone(),
            classify: self.classify.clone(),
            observers: self.observers.clone(),
        }
    }
}

impl<A: Clone, K> Clone for RetryLayer<A, K> {
    fn clone(&self) -> Self {
        Self { policy: self.policy.clone(), access: self.access.clone() }
    }
}

impl<A, K> fmt::Debug for RetryLayer<A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.debug("RetryLayer", f)
    }
}

impl<K> Policy<K> {
    fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, backoff, budget, classify: _, observers: _ } = self;
        f.debug_struct(name)
            .field("attempts", attempts)
            .field("backoff", backoff)
            .field("budget", budget)
            .finish_non_exhaustive()
    }
}

impl<S, A: Clone, K> Layer<S> for RetryLayer<A, K> {
    type Service = Retry<S, A, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner, policy: self.policy.clone(), access: self.access.clone(), rng: Rng::new() }
    }
}

/// A service whose failed calls go again. Always ready; every attempt readies a fresh clone of the inner service.
///
/// Dropping a call's future drops the attempt that is running; no other is begun.
///
/// # Errors
///
/// That of the last attempt.
pub struct Retry<S, A = Carried, K = ByError> {
    inner: S,
    policy: Arc<Policy<K>>,
    access: A,
    rng: Rng,
}

// Each clone draws its own randomness: calls that failed together must not come back together.
impl<S: Clone, A: Clone, K> Clone for Retry<S, A, K> {
    fn clone(&self) -> Self {
        let Self { inner, policy, access, rng: _ } = self;
        Self { inner: inner.clone(), policy: policy.clone(), access: access.clone(), rng: Rng::new() }
    }
}

impl<S, A, K> fmt::Debug for Retry<S, A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.debug("Retry", f)
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

    fn call(&mut self, request: Req) -> Self::Future {
        let spare = if self.policy.attempts > 1 { request.replay() } else { None };
        let context = self.access.get(&request);
        let idempotent = context.is_some_and(CallContext::is_idempotent);
        let deadline = context.and_then(CallContext::deadline);
        RetryFuture {
            state: State::Attempt { call: ReadyCall::new(self.inner.clone(), request) },
            inner: self.inner.clone(),
            policy: self.policy.clone(),
            access: self.access.clone(),
            rng: self.rng.fork(),
            spare,
            idempotent,
            deadline,
            attempt: 0,
            sent: Sent::Never,
            progress: Progress::default(),
        }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`Retry`].
    pub struct RetryFuture<S: Service<Req>, A, K, Req> {
        #[pin]
        state: State<S, Req>,
        inner: S,
        policy: Arc<Policy<K>>,
        access: A,
        rng: Rng,
        // A copy of the request as the running attempt sent it, while another attempt may follow.
        spare: Option<Req>,
        idempotent: bool,
        deadline: Option<Instant>,
        attempt: u32,
        // Whether any attempt can have been sent.
        sent: Sent,
        // Of the running attempt.
        progress: Progress,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<S: Service<Req>, Req> {
        Attempt { #[pin] call: ReadyCall<S, Req> },
        Pause { #[pin] sleep: Sleep },
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

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Attempt { call } => {
                    let result = ready!(this.progress.scope(|| call.poll(cx))).map_err(Error::wrap);
                    let attempt = Attempt {
                        policy: this.policy,
                        number: *this.attempt,
                        idempotent: *this.idempotent,
                        deadline: *this.deadline,
                        replayable: this.spare.is_some(),
                        progress: this.progress,
                    };
                    let sent = attempt.sent(&result);
                    if sent == Sent::Maybe {
                        progress::written();
                        *this.sent = sent;
                    }
                    let Some(pause) = attempt.pause_before_next(&result, sent, this.rng) else {
                        // What the last attempt knows of itself is not all there is to know.
                        let sent = *this.sent;
                        return Poll::Ready(result.map_err(|error| match sent {
                            Sent::Maybe => error.with_sent(Sent::Maybe),
                            Sent::Never => error,
                        }));
                    };
                    progress::enter(Phase::Backoff);
                    this.state.set(State::Pause { sleep: sleep(pause) });
                }
                StateProj::Pause { sleep } => {
                    ready!(sleep.poll(cx));
                    let mut request = this.spare.take().expect("kept while another attempt may follow");
                    *this.attempt += 1;
                    let (number, left) = (*this.attempt, this.progress.endpoint().map(|(id, _)| id));
                    this.access.edit(&mut request, |context| {
                        context.set_attempt(number);
                        left.into_iter().for_each(|id| context.tried_mut().add(id));
                    });
                    *this.spare = if number + 1 < this.policy.attempts { request.replay() } else { None };
                    *this.progress = Progress::default();
                    this.state.set(State::Attempt { call: ReadyCall::new(this.inner.clone(), request) });
                }
            }
        }
    }
}

/// What is known of an attempt that has ended.
struct Attempt<'a, K> {
    policy: &'a Policy<K>,
    number: u32,
    idempotent: bool,
    deadline: Option<Instant>,
    replayable: bool,
    progress: &'a Progress,
}

impl<K> Attempt<'_, K> {
    /// Whether this attempt can have been sent. Its error may be that of a second call inside, made after the first.
    fn sent<Res>(&self, result: &Result<Res, Error>) -> Sent {
        match result {
            Err(error) if !self.progress.was_written() => error.sent(),
            _ => Sent::Maybe,
        }
    }

    /// How long to wait before the next attempt, if there is to be one.
    fn pause_before_next<Res>(&self, result: &Result<Res, Error>, sent: Sent, rng: &mut Rng) -> Option<Duration>
    where
        K: Classify<Res>,
    {
        let Policy { attempts, backoff, budget, classify, observers } = self.policy;
        let hint = match classify.classify(result.as_ref()) {
            Outcome::Failure => None,
            Outcome::Pushback(hint) => hint,
            Outcome::Success => {
                budget.deposit();
                return None;
            }
            _ => return None,
        };
        let error = result.as_ref().err();
        if self.number + 1 >= *attempts {
            return None;
        }
        let endpoint = self.progress.endpoint().map(|(_, key)| key).or_else(|| error.and_then(Error::endpoint));
        if sent == Sent::Maybe && !self.idempotent {
            return None;
        }
        if !self.replayable {
            observers.emit(Event::NotReplayable { endpoint });
            return None;
        }
        if Handle::try_current().is_err() {
            return None; // Nobody would wake us from the pause.
        }
        let now = Instant::now();
        let after = backoff.delay(self.number, rng).max(hint.unwrap_or_default());
        if self.deadline.is_some_and(|deadline| sync::after(now, after) >= deadline) {
            return None;
        }
        if sent == Sent::Maybe && !budget.withdraw(now) {
            observers.emit(Event::BudgetExhausted { endpoint });
            return None;
        }
        observers.emit(Event::Retrying { endpoint, attempt: self.number, error, after });
        Some(after)
    }
}

impl<S: Service<Req>, A, K, Req> fmt::Debug for RetryFuture<S, A, K, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
