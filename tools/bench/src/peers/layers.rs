//! Retry and a limit of time around a service that does nothing.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use tower::retry::budget::{Budget, TpsBudget};
use tower::retry::{Policy, Retry};
use tower::timeout::Timeout;
use tower::{Layer, Service, ServiceExt};
use towline_core::{Blind, Call};
use towline_retry::RetryLayer;
use towline_timeout::{Deadline, DeadlineLayer};

use super::balancers::Through;
use crate::cases::batched::Callee;

/// Long enough for nobody to run into it.
const LIMIT: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 3;

/// tower's policy is for its users to write: this is the one of its documentation, with a budget.
#[derive(Clone)]
pub(crate) struct Again {
    budget: Arc<TpsBudget>,
    left: u32,
}

impl Policy<u64, u64, Infallible> for Again {
    type Future = Ready<()>;

    fn retry(&mut self, _request: &mut u64, result: &mut Result<u64, Infallible>) -> Option<Ready<()>> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        self.budget.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &u64) -> Option<u64> {
        Some(*request)
    }
}

/// What is below the layers: answers with the request, at once or when it is polled again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bare {
    pub(crate) waits: bool,
}

impl Bare {
    fn answer(self, request: u64) -> Answer {
        Answer { request, waits: self.waits }
    }
}

pub(crate) struct Answer {
    request: u64,
    waits: bool,
}

impl Future for Answer {
    type Output = Result<u64, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::take(&mut self.waits) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(black_box(self.request)))
    }
}

impl Service<u64> for Bare {
    type Response = u64;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Answer {
        self.answer(request)
    }
}

impl Service<Call<u64>> for Bare {
    type Response = u64;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<u64>) -> Answer {
        self.answer(call.into_message())
    }
}

/// tower's two layers.
pub(crate) fn tower(bare: Bare) -> Through<Timeout<Retry<Again, Bare>>> {
    let policy = Again { budget: Arc::default(), left: ATTEMPTS - 1 };
    Through(Timeout::new(Retry::new(policy, bare), LIMIT))
}

/// Ours with their defaults, for requests that carry no context.
pub(crate) fn blind(
    bare: Bare,
) -> Through<impl Service<u64, Response = u64, Error = towline_core::Error, Future: Send> + Send> {
    let retry = RetryLayer::new().with_access(Blind).layer(bare);
    Through(DeadlineLayer::new(LIMIT).with_access(Blind).layer(retry))
}

/// Ours with their defaults, for requests that carry a context.
pub(crate) struct Carried<S>(S);

pub(crate) fn carried(bare: Bare) -> impl Callee {
    Carried(DeadlineLayer::new(LIMIT).layer(RetryLayer::new().layer(bare)))
}

impl<S> Callee for Carried<Deadline<S>>
where
    S: Service<Call<u64>, Response = u64, Error = towline_core::Error, Future: Send> + Clone + Send + 'static,
{
    async fn call(&mut self, request: u64) -> Result<u64> {
        Ok(self.0.ready().await?.call(Call::new(request).idempotent()).await?)
    }
}
