//! The body of a response, which knows when it was read to its end.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use towline_core::{Error, Kind, Phase, Sent};

use crate::error::{Task, call_failed};
use crate::http1;
use crate::http2;

/// The body of a response, of [`Http1`](crate::Http1) and [`Http2`](crate::Http2) alike.
///
/// It is part of its call. Dropping it before its end closes an HTTP/1 connection, whose next answer would begin
/// somewhere in this one; on HTTP/2 it resets the stream, and the connection goes on. Held and not read, it keeps an HTTP/1
/// connection from being used again, and a stream of an HTTP/2 connection taken.
///
/// # Errors
///
/// [`Error`] in [`Phase::Read`](towline_core::Phase::Read), with hyper's error as its source;
/// [`Kind::UnexpectedEof`](towline_core::Kind::UnexpectedEof) when the body was cut short,
/// [`Kind::Closed`](towline_core::Kind::Closed) when a pool that was closed did it;
/// [`Kind::Malformed`](towline_core::Kind::Malformed) when one of gRPC, from a channel, ends without trailers. The request has been
/// sent.
pub struct ResponseBody {
    incoming: Incoming,
    /// Until the end, or an error.
    lease: Option<Lease>,
    /// Read ahead of whoever reads. Without trailers, so that every response is smaller by their size.
    #[cfg(feature = "channel")]
    ahead: Option<Result<Bytes, Error>>,
    /// It must not end without trailers.
    expects_trailers: bool,
}

/// What a body keeps from others.
pub(crate) enum Lease {
    /// A connection.
    Exclusive(Arc<http1::Status>),
    /// A stream of one.
    Shared(http2::Place),
}

impl ResponseBody {
    pub(crate) fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = Self {
            incoming,
            lease: Some(lease),
            #[cfg(feature = "channel")]
            ahead: None,
            expects_trailers: false,
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        match self.lease.take() {
            Some(Lease::Exclusive(status)) => status.read(),
            Some(Lease::Shared(place)) => drop(place),
            None => {}
        }
    }

    /// What the error means; it ends the call.
    fn fail(&mut self, error: hyper::Error) -> Error {
        let task = match self.lease.take() {
            Some(Lease::Exclusive(status)) => {
                status.failed();
                status.task()
            }
            Some(Lease::Shared(place)) => {
                place.give_up();
                place.stream().link().task()
            }
            None => Task::Runs,
        };
        call_failed(error, Phase::Read, task).with_sent(Sent::Maybe)
    }
}

impl ResponseBody {
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                self.expects_trailers &= !frame.is_trailers();
                if self.incoming.is_end_stream() {
                    self.finish();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.expects_trailers = false;
                Some(Err(self.fail(error)))
            }
            None => {
                self.finish();
                std::mem::take(&mut self.expects_trailers).then(|| {
                    let why = "the response ended without trailers, so that nobody knows how the call went";
                    Err(Error::new(Kind::Malformed, Phase::Read).with_message(why))
                })
            }
        })
    }
}

/// For gRPC.
#[cfg(feature = "channel")]
impl ResponseBody {
    /// It has trailers, or fails.
    pub(crate) fn expect_trailers(&mut self) {
        self.expects_trailers = true;
    }

    /// Its trailers, if nothing else is before them and they are there. Then it has ended.
    pub(crate) fn take_trailers_if_there(&mut self, cx: &mut Context<'_>) -> Option<http::HeaderMap> {
        let Poll::Ready(Some(frame)) = self.poll_incoming(cx) else { return None };
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => self.ahead = Some(Ok(data)),
            Ok(Err(frame)) => {
                self.finish();
                return frame.into_trailers().ok();
            }
            Err(error) => self.ahead = Some(Err(error)),
        }
        None
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        #[cfg(feature = "channel")]
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(ahead.map(Frame::data)));
        }
        self.poll_incoming(cx)
    }

    fn is_end_stream(&self) -> bool {
        #[cfg(feature = "channel")]
        if self.ahead.is_some() {
            return false;
        }
        !self.expects_trailers && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        #[cfg(feature = "channel")]
        if self.ahead.is_some() {
            return SizeHint::new();
        }
        self.incoming.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        match self.lease.take() {
            Some(Lease::Exclusive(status)) => {
                status.abandon();
            }
            Some(Lease::Shared(place)) => place.give_up(),
            None => {}
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("read", &self.lease.is_none()).finish_non_exhaustive()
    }
}
