//! One call of an HTTP/2 connection.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use hyper::body::Body;
use towline_core::{BoxError, Error, Kind, Phase, Rejected, progress};

use super::Http2;
use super::link::{Refused, Ticket};
use super::tied::{Place, Tied};
use crate::Sending;
use crate::body::{Lease, ResponseBody};
use crate::error::{already_closed, call_failed};

/// The response of an [`Http2`] connection: its head, with the body still to be read. Does nothing until it is polled;
/// dropped after that, it leaves the queue for a stream, or resets the stream.
pub struct Http2Future<B> {
    stage: Stage<B>,
}

#[allow(clippy::large_enum_variant, reason = "the request is on its way to hyper; a box would cost every call")]
enum Stage<B> {
    Waiting { connection: Http2<B>, request: Option<Request<B>>, ticket: Option<Ticket> },
    // In this order: hyper hears that nobody waits before another gets the stream.
    Sent { sending: Sending<Tied<B>>, place: Place },
    Done,
}

// Nothing is pinned: hyper's future is boxed, and the request is only moved out.
impl<B> Unpin for Http2Future<B> {}

impl<B> Http2Future<B> {
    pub(super) fn new(connection: Http2<B>, request: Request<B>) -> Self {
        Self { stage: Stage::Waiting { connection, request: Some(request), ticket: None } }
    }
}

impl<B> Future for Http2Future<B>
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody>, Rejected<Request<B>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stage = &mut self.stage;
        if let Stage::Waiting { connection, request, ticket } = stage {
            progress::enter(Phase::Write);
            let taken = ready!(connection.link.poll_stream(ticket, cx));
            let request = request.take().expect("polled after completion");
            match taken {
                Ok(stream) => {
                    // hyper does not say when it writes: from here on the request may be sent.
                    progress::enter(Phase::Call);
                    let (head, body) = request.into_parts();
                    let (body, place) = Tied::new(body, stream);
                    let sending = Box::pin(connection.sender.try_send_request(Request::from_parts(head, body)));
                    *stage = Stage::Sent { sending, place };
                }
                Err(refused) => {
                    *stage = Stage::Done;
                    return Poll::Ready(Err(Rejected::unsent(refusal(refused), request)));
                }
            }
        }
        let Stage::Sent { sending, .. } = stage else { panic!("polled after completion") };
        progress::enter(Phase::Read);
        let result = ready!(sending.as_mut().poll(cx));
        let Stage::Sent { place, .. } = std::mem::replace(stage, Stage::Done) else { unreachable!("just seen") };
        Poll::Ready(match result {
            Ok(response) => {
                place.stream().read();
                Ok(response.map(|incoming| ResponseBody::new(incoming, Lease::Shared(place))))
            }
            Err(mut failed) => match failed.take_message() {
                Some(request) => {
                    let error = already_closed(place.stream().link().over()).with_source(failed.into_error());
                    Err(Rejected::unsent(error, request.map(Tied::into_inner)))
                }
                None => Err(call_failed(failed.into_error(), Phase::Read, place.stream().link().task()).into()),
            },
        })
    }
}

fn refusal(refused: Refused) -> Error {
    match refused {
        Refused::Over(reason) => already_closed(Some(reason)),
        Refused::Full => Error::new(Kind::Overloaded, Phase::Write)
            .with_message("every stream of the connection is taken, and as many calls wait for one"),
    }
}

impl<B> Drop for Http2Future<B> {
    fn drop(&mut self) {
        if let Stage::Waiting { connection, ticket: Some(ticket), .. } = &self.stage {
            connection.link.leave(*ticket);
        }
    }
}

impl<B> fmt::Debug for Http2Future<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Future").finish_non_exhaustive()
    }
}
