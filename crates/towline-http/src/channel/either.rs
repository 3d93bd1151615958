//! A part of the stack that is there or not, as the builder says.

use std::pin::Pin;
use std::task::{Context, Poll};

use tower_service::Service;

#[derive(Clone, Debug)]
pub(crate) enum Either<A, B> {
    With(A),
    Without(B),
}

impl<A, B, Req> Service<Req> for Either<A, B>
where
    A: Service<Req>,
    B: Service<Req, Response = A::Response, Error = A::Error>,
{
    type Response = A::Response;
    type Error = A::Error;
    type Future = EitherFuture<A::Future, B::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        match self {
            Self::With(service) => service.poll_ready(cx),
            Self::Without(service) => service.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        match self {
            Self::With(service) => EitherFuture::With { future: service.call(request) },
            Self::Without(service) => EitherFuture::Without { future: service.call(request) },
        }
    }
}

pin_project_lite::pin_project! {
    #[project = EitherProj]
    pub(crate) enum EitherFuture<A, B> {
        With { #[pin] future: A },
        Without { #[pin] future: B },
    }
}

impl<A, B> Future for EitherFuture<A, B>
where
    A: Future,
    B: Future<Output = A::Output>,
{
    type Output = A::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A::Output> {
        match self.project() {
            EitherProj::With { future } => future.poll(cx),
            EitherProj::Without { future } => future.poll(cx),
        }
    }
}
