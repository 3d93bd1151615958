//! What one attempt of a call goes through, between retry and balancer: a limit of its own, a second leg, or nothing.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;
use towline_core::{Call, Error};
use towline_retry::{Hedge, HedgeLayer, HedgePolicy};
use towline_timeout::{AttemptTimeoutLayer, Deadline};

/// Attempts as they are set. Those with a limit or a second leg cost a box: they are for calls that go far, and the others
/// would have to carry their size.
#[derive(Clone)]
pub(crate) enum Attempts<S> {
    Plain(S),
    Limited(Deadline<S>),
    Hedged(Hedge<S>),
    HedgedAndLimited(Deadline<Hedge<S>>),
}

impl<S: Clone> Attempts<S> {
    pub(crate) fn new(inner: S, limit: Option<Duration>, hedge: Option<HedgePolicy>) -> Self {
        let limit = limit.map(AttemptTimeoutLayer::new);
        match (limit, hedge.map(HedgeLayer::with_policy)) {
            (None, None) => Self::Plain(inner),
            (Some(limit), None) => Self::Limited(limit.layer(inner)),
            (None, Some(hedge)) => Self::Hedged(hedge.layer(inner)),
            // Both legs are one attempt.
            (Some(limit), Some(hedge)) => Self::HedgedAndLimited(limit.layer(hedge.layer(inner))),
        }
    }
}

impl<S> fmt::Debug for Attempts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Limited(_) => "Limited",
            Self::Hedged(_) => "Hedged",
            Self::HedgedAndLimited(_) => "HedgedAndLimited",
        })
    }
}

impl<S, Req> Service<Call<Req>> for Attempts<S>
where
    S: Service<Call<Req>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    Req: Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future = Attempt<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Plain(inner) => inner.poll_ready(cx),
            // Always ready: each readies what it wraps in its call.
            Self::Limited(_) | Self::Hedged(_) | Self::HedgedAndLimited(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, call: Call<Req>) -> Self::Future {
        match self {
            Self::Plain(inner) => Attempt::Plain { attempt: inner.call(call) },
            Self::Limited(limited) => Attempt::boxed(limited.call(call)),
            Self::Hedged(hedged) => Attempt::boxed(hedged.call(call)),
            Self::HedgedAndLimited(limited) => Attempt::boxed(limited.call(call)),
        }
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

pin_project_lite::pin_project! {
    /// The answer of one attempt.
    #[project = AttemptProj]
    pub(crate) enum Attempt<F, T> {
        Plain { #[pin] attempt: F },
        Boxed { attempt: Boxed<T> },
    }
}

impl<F, T> Attempt<F, T> {
    fn boxed(attempt: impl Future<Output = Result<T, Error>> + Send + 'static) -> Self {
        Self::Boxed { attempt: Box::pin(attempt) }
    }
}

impl<F, T> Future for Attempt<F, T>
where
    F: Future<Output = Result<T, Error>>,
{
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AttemptProj::Plain { attempt } => attempt.poll(cx),
            AttemptProj::Boxed { attempt } => attempt.as_mut().poll(cx),
        }
    }
}
