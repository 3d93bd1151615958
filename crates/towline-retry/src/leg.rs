//! One attempt over a service that stays with its caller.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower_service::Service;
use towline_core::Error;
use towline_core::progress::Progress;
use towline_core::{BoxError, Sent};

pin_project_lite::pin_project! {
    /// As [`ReadyCall`](towline_core::ReadyCall), but the service is lent for each poll: the next attempt needs one too, and
    /// a second clone for every call would be one too many.
    #[project = LegProj]
    pub(crate) enum Leg<Req, F> {
        Waiting { request: Option<Req> },
        Calling { #[pin] future: F },
        Over,
    }
}

impl<Req, F> Leg<Req, F> {
    pub(crate) fn new(request: Req) -> Self {
        Self::Waiting { request: Some(request) }
    }

    /// The request, while it has not been handed over.
    pub(crate) fn request(&self) -> Option<&Req> {
        match self {
            Self::Waiting { request } => request.as_ref(),
            Self::Calling { .. } | Self::Over => None,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Readies `service`, calls it, and waits for the answer. What the attempt has held is dropped with the answer.
    pub(crate) fn poll<S>(
        mut self: Pin<&mut Self>,
        service: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, Error>>
    where
        S: Service<Req, Future = F>,
        S::Error: Into<BoxError>,
        F: Future<Output = Result<S::Response, S::Error>>,
    {
        let result = loop {
            match self.as_mut().project() {
                LegProj::Waiting { request } => {
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        break Err(error);
                    }
                    let request = request.take().expect("polled after completion");
                    let future = service.call(request);
                    self.set(Self::Calling { future });
                }
                LegProj::Calling { future } => break ready!(future.poll(cx)),
                LegProj::Over => panic!("polled after completion"),
            }
        };
        self.set(Self::Over);
        Poll::Ready(result.map_err(Error::wrap))
    }

    /// Gives it up, and says whether it can have been sent. Dropped within the scope, because some know only then.
    pub(crate) fn give_up(mut self: Pin<&mut Self>, progress: &mut Progress) -> Sent {
        match &*self {
            Self::Waiting { .. } => Sent::Never,
            Self::Calling { .. } => {
                progress.scope(|| self.set(Self::Over));
                progress.sent()
            }
            Self::Over => progress.sent(),
        }
    }
}

/// Whether an attempt with this result can have been sent. Its error may be that of a second call inside, made after the
/// first.
pub(crate) fn sent<Res>(progress: &Progress, result: &Result<Res, Error>) -> Sent {
    match result {
        Err(error) if !progress.was_written() => error.sent(),
        _ => Sent::Maybe,
    }
}
