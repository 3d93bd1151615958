//! One call of an HTTP/1 connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::CONNECTION;
use http::{HeaderMap, Request, Response, Version};
use hyper::body::{Body, Incoming};
use towline_core::{Error, Kind, Phase, Rejected, Sent, progress};

use super::Users;
use super::status::{Refused, Status};
use crate::Sending;
use crate::body::{Lease, ResponseBody};
use crate::error::{already_closed, call_failed};

/// The response of an [`Http1`](crate::Http1) connection: its head, with the body still to be read. Does nothing until it
/// is polled; dropped after that, it closes the connection.
pub struct Http1Future<B> {
    status: Arc<Status>,
    stage: Stage<B>,
}

#[allow(clippy::large_enum_variant, reason = "the request is on its way to hyper; a box would cost every call")]
enum Stage<B> {
    New { users: Arc<Users<B>>, request: Request<B> },
    Sent(Sending<B>),
    Done,
}

// Nothing is pinned: hyper's future is boxed, and the request is only moved out.
impl<B> Unpin for Http1Future<B> {}

impl<B> Http1Future<B> {
    pub(super) fn new(users: Arc<Users<B>>, request: Request<B>) -> Self {
        Self { status: users.status.clone(), stage: Stage::New { users, request } }
    }
}

impl<B> Http1Future<B>
where
    B: Body + Send + 'static,
{
    fn poll_response(
        &mut self,
        sending: &mut Sending<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<ResponseBody>, Rejected<Request<B>>>> {
        let result = ready!(sending.as_mut().poll(cx));
        Poll::Ready(match result {
            Ok(response) => Ok(self.responded(response)),
            Err(mut failed) => {
                let (sent, phase) = match self.status.attempted() {
                    true => (Sent::Maybe, Phase::Read),
                    false => (Sent::Never, Phase::Write),
                };
                let request = failed.take_message();
                self.status.failed();
                let error = match request.is_some() {
                    true => self.closed().with_source(failed.into_error()),
                    false => call_failed(failed.into_error(), phase, self.status.task()).with_sent(sent),
                };
                Err(Rejected { error, request })
            }
        })
    }

    fn responded(&self, response: Response<Incoming>) -> Response<ResponseBody> {
        self.status.responded(is_last(response.version(), response.headers()));
        response.map(|incoming| ResponseBody::new(incoming, Lease::Exclusive(self.status.clone())))
    }

    fn closed(&self) -> Error {
        already_closed(self.status.over())
    }
}

impl<B> Future for Http1Future<B>
where
    B: Body + Send + 'static,
{
    type Output = Result<Response<ResponseBody>, Rejected<Request<B>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut sending: Sending<B> = match std::mem::replace(&mut this.stage, Stage::Done) {
            Stage::New { users, request } => {
                let begun = this.status.begin(is_last(request.version(), request.headers()));
                if let Err(refused) = begun {
                    let error = match refused {
                        Refused::Over(reason) => already_closed(Some(reason)),
                        Refused::Busy => Error::new(Kind::Overloaded, Phase::Write)
                            .with_message("the connection carries one call at a time and has one in flight"),
                    };
                    return Poll::Ready(Err(Rejected::unsent(error, request)));
                }
                progress::enter(Phase::Write);
                Box::pin(users.sender.lock().try_send_request(request))
            }
            Stage::Sent(sending) => sending,
            Stage::Done => panic!("polled after completion"),
        };
        let result = this.poll_response(&mut sending, cx);
        if this.status.attempted() {
            progress::written();
            progress::enter(Phase::Read);
        }
        if result.is_pending() {
            this.stage = Stage::Sent(sending);
        }
        result
    }
}

impl<B> Drop for Http1Future<B> {
    fn drop(&mut self) {
        // The task may have written since the last poll: whoever gives up has to know.
        if matches!(self.stage, Stage::Sent(_)) && self.status.abandon() {
            progress::written();
        }
    }
}

impl<B> fmt::Debug for Http1Future<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1Future").finish_non_exhaustive()
    }
}

/// Whether a message says that no call follows it on this connection.
fn is_last(version: Version, headers: &HeaderMap) -> bool {
    let says = |word: &str| {
        let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    says("close") || (version == Version::HTTP_10 && !says("keep-alive"))
}
