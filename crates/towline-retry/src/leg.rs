//! One attempt over a service that stays with its caller.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower_service::Service;
use towline_core::progress::Progress;
use towline_core::{BoxError, Error, Replay, Sent};

pin_project_lite::pin_project! {
    /// As [`ReadyCall`](towline_core::ReadyCall), but service and request stay with the caller until they are needed: the next
    /// attempt needs them, too, and every move of a request that carries its context is felt.
    #[project = LegProj]
    pub(crate) enum Leg<F> {
        Waiting,
        Calling { #[pin] future: F },
        Over,
    }
}

impl<F> Leg<F> {
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Readies `service`, makes the call, and waits for the answer. What the attempt has held is dropped
    /// with the answer.
    #[inline]
    pub(crate) fn poll<S, Req>(
        mut self: Pin<&mut Self>,
        service: &mut S,
        call: impl FnOnce(&mut S) -> F,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, Error>>
    where
        S: Service<Req, Future = F>,
        S::Error: Into<BoxError>,
        F: Future<Output = Result<S::Response, S::Error>>,
    {
        if let Self::Waiting = &*self {
            if let Err(error) = ready!(service.poll_ready(cx)) {
                self.set(Self::Over);
                return Poll::Ready(Err(Error::wrap(error)));
            }
            let future = call(service);
            self.set(Self::Calling { future });
        }
        let LegProj::Calling { future } = self.as_mut().project() else { panic!("polled after completion") };
        let result = ready!(future.poll(cx));
        self.set(Self::Over);
        Poll::Ready(result.map_err(Error::wrap))
    }

    /// Gives it up, and says whether it can have been sent. Dropped within the scope, because some know only then.
    pub(crate) fn give_up(mut self: Pin<&mut Self>, progress: &mut Progress) -> Sent {
        match &*self {
            Self::Waiting => Sent::Never,
            Self::Calling { .. } => {
                progress.scope(|| self.set(Self::Over));
                progress.sent()
            }
            Self::Over => progress.sent(),
        }
    }
}

/// Calls with the request, or with a copy of it, if one is to be kept and can be made. Either goes straight there, without being
/// moved for the choice.
#[inline]
pub(crate) fn call<S, Req>(service: &mut S, request: &mut Option<Req>, keeps: bool) -> S::Future
where
    S: Service<Req>,
    Req: Replay,
{
    if keeps {
        if let Some(copy) = copy(request) {
            return service.call(copy);
        }
    }
    service.call(request.take().expect("an attempt has its request"))
}

/// A copy of the request, if it can be made.
#[inline]
pub(crate) fn copy<Req: Replay>(request: &Option<Req>) -> Option<Req> {
    request.as_ref().and_then(Req::replay)
}

/// Whether an attempt with this result can have been sent. Its error may be that of a second call inside, made after the
/// first.
pub(crate) fn sent<Res>(progress: &Progress, result: &Result<Res, Error>) -> Sent {
    match result {
        Err(error) if !progress.was_written() => error.sent(),
        _ => Sent::Maybe,
    }
}
