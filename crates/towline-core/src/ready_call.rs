//! Readying a service inside the call's future.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower_service::Service;

pin_project_lite::pin_project! {
    /// Waits until `service` is ready, then calls it with `request`.
    ///
    /// Layers that promise "readiness holds nothing" are ready at once and ready a fresh clone of what they wrap
    /// in here, so that the wait is covered by the caller's deadline and ends when the caller leaves.
    pub struct ReadyCall<S, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req, S::Future>,
    }
}

pin_project_lite::pin_project! {
    #[project = InnerProj]
    enum State<S, Req, F> {
        Waiting { service: S, request: Option<Req> },
        Calling { #[pin] future: F },
    }
}

impl<S: Service<Req>, Req> ReadyCall<S, Req> {
    /// A future that readies `service`, which need not be ready yet, and calls it.
    #[inline]
    pub fn new(service: S, request: Req) -> Self {
        Self { state: State::Waiting { service, request: Some(request) } }
    }
}

impl<S: Service<Req>, Req> Future for ReadyCall<S, Req> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                InnerProj::Waiting { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let request = request.take().expect("polled after completion");
                    let future = service.call(request);
                    state.set(State::Calling { future });
                }
                InnerProj::Calling { future } => return future.poll(cx),
            }
        }
    }
}

impl<S: Service<Req>, Req> fmt::Debug for ReadyCall<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyCall").finish_non_exhaustive()
    }
}
