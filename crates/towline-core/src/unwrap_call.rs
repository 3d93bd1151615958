//! Where the context ends: above, requests are [`Call`]s; below, plain messages.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower_layer::Layer;
use tower_service::Service;

use crate::{Call, CallContext, CloseReason, GiveBack, LoadReport, Poolable, Rejected, Sharing, State};

/// A connection that takes [`Call<M>`] where the one inside takes `M`. A message that comes back unsent gets its
/// context back.
#[derive(Clone, Debug)]
pub struct UnwrapCall<S>(S);

impl<S> UnwrapCall<S> {
    /// Wraps a connection that takes plain messages.
    pub fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<S: Poolable> Poolable for UnwrapCall<S> {
    fn sharing(&self) -> Sharing {
        self.0.sharing()
    }

    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        self.0.poll_change(seen, cx)
    }

    fn share(&self) -> Option<Self> {
        self.0.share().map(Self)
    }

    fn trim(&mut self) {
        self.0.trim();
    }

    fn abort(&mut self) {
        self.0.abort();
    }

    fn close_reason(&self) -> CloseReason {
        self.0.close_reason()
    }

    fn reported(&self) -> Option<LoadReport> {
        self.0.reported()
    }
}

impl<S, M> Service<Call<M>> for UnwrapCall<S>
where
    S: Service<M>,
    S::Error: GiveBack<M>,
{
    type Response = S::Response;
    type Error = Rejected<Call<M>>;
    type Future = UnwrapCallFuture<S::Future, M>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(|error| GiveBack::<M>::split(error).0.into())
    }

    fn call(&mut self, call: Call<M>) -> Self::Future {
        let (message, context) = call.into_parts();
        UnwrapCallFuture { inner: self.0.call(message), context, _message: PhantomData }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`UnwrapCall`].
    #[derive(Debug)]
    pub struct UnwrapCallFuture<F, M> {
        #[pin]
        inner: F,
        context: CallContext,
        _message: PhantomData<fn() -> M>,
    }
}

impl<F, M, T, E> Future for UnwrapCallFuture<F, M>
where
    F: Future<Output = Result<T, E>>,
    E: GiveBack<M>,
{
    type Output = Result<T, Rejected<Call<M>>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(ready!(this.inner.poll(cx)).map_err(|error| {
            let (error, message) = error.split();
            let context = std::mem::take(this.context);
            Rejected { error, request: message.map(|message| Call::from_parts(message, context)) }
        }))
    }
}

/// A layer for what makes connections: the connections take [`Call`]s. See [`UnwrapCall`].
#[derive(Clone, Copy, Debug, Default)]
pub struct UnwrapCallLayer;

impl<S> Layer<S> for UnwrapCallLayer {
    type Service = MakeUnwrapCall<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MakeUnwrapCall(inner)
    }
}

/// Makes connections that take [`Call`]s. See [`UnwrapCall`].
#[derive(Clone, Debug)]
pub struct MakeUnwrapCall<S>(S);

impl<S, T> Service<T> for MakeUnwrapCall<S>
where
    S: Service<T>,
{
    type Response = UnwrapCall<S::Response>;
    type Error = S::Error;
    type Future = MakeUnwrapCallFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, target: T) -> Self::Future {
        MakeUnwrapCallFuture { inner: self.0.call(target) }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`MakeUnwrapCall`].
    #[derive(Debug)]
    pub struct MakeUnwrapCallFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, C, E> Future for MakeUnwrapCallFuture<F>
where
    F: Future<Output = Result<C, E>>,
{
    type Output = Result<UnwrapCall<C>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map_ok(UnwrapCall)
    }
}
