//! A request's body, tied to the call that it belongs to.
//!
//! hyper sends it on its own, and goes on when nobody waits for the response any more: as long as the body has not ended the stream is
//! open, and one of those that the peer allows. So the stream's place is kept until hyper has let go of the body as well; and a call
//! that ends before its response does, by being dropped or by an error, ends the body, which resets the stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use towline_core::BoxError;

use super::link::Stream;

/// A call whose request has a body.
pub(crate) struct Call {
    stream: Stream,
    is_over: AtomicBool,
    /// Of whoever sends the body, while it waits for more of it.
    sender: AtomicWaker,
}

/// What a call holds of its connection.
pub(crate) enum Place {
    /// Its request has no body.
    Alone(Stream),
    Tied(Arc<Call>),
}

impl Place {
    pub(crate) fn stream(&self) -> &Stream {
        match self {
            Self::Alone(stream) => stream,
            Self::Tied(call) => &call.stream,
        }
    }

    /// Nobody waits for the rest of the response.
    pub(crate) fn give_up(&self) {
        if let Self::Tied(call) = self {
            call.is_over.store(true, Ordering::Release);
            call.sender.wake();
        }
    }
}

pin_project_lite::pin_project! {
    pub(crate) struct Tied<B> {
        #[pin]
        body: B,
        call: Option<Arc<Call>>,
    }
}

impl<B: Body> Tied<B> {
    pub(super) fn new(body: B, stream: Stream) -> (Self, Place) {
        if body.is_end_stream() {
            return (Self { body, call: None }, Place::Alone(stream));
        }
        let call = Arc::new(Call { stream, is_over: AtomicBool::new(false), sender: AtomicWaker::new() });
        (Self { body, call: Some(call.clone()) }, Place::Tied(call))
    }
}

impl<B> Tied<B> {
    /// The body, of a request that came back.
    pub(super) fn into_inner(self) -> B {
        self.body
    }
}

impl<B> Body for Tied<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        let is_over = || this.call.as_ref().is_some_and(|call| call.is_over.load(Ordering::Acquire));
        // From this hyper takes the code of its reset.
        let over = || Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        if is_over() {
            return over();
        }
        let frame = this.body.poll_frame(cx);
        if let (Poll::Pending, Some(call)) = (&frame, &this.call) {
            call.sender.register(cx.waker());
            // It may have ended before it knew whom to wake.
            if is_over() {
                return over();
            }
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
