//! The body of a response, under the call's deadline, with errors in the caller's own words.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use towline_balance::TrackedBody;
use towline_core::sync::after;
use towline_core::timer::{Berth, Timer};
use towline_core::{Error, Kind, Phase};

use super::grpc;
use crate::{ByStatus, ResponseBody};

/// The body of a channel's response.
///
/// It is part of its call: the balancer takes the endpoint for busy until it has ended, and its connection or stream is taken. Dropped
/// before its end, it closes an HTTP/1 connection and resets an HTTP/2 stream. A deadline that the caller has set, and the time that a
/// [channel](crate::ChannelBuilder::body_timeout) allows between two frames, end it.
///
/// # Errors
///
/// Those of [`ResponseBody`], and [`Kind::Timeout`]. In a call of gRPC they are trailers with a `grpc-status` instead.
pub struct ChannelBody {
    /// Until it has ended. Nothing in answers that the channel has made up.
    inner: Option<TrackedBody<ResponseBody, ByStatus>>,
    limits: Limits,
    is_grpc: bool,
}

/// How long a body may take.
pub(super) struct Limits {
    pub(super) deadline: Option<Instant>,
    pub(super) between: Option<Duration>,
    pub(super) berth: Berth,
    /// While it is waited for a frame, and from when that is too long.
    waiting: Option<(Timer, Instant)>,
}

impl Limits {
    pub(super) fn new(deadline: Option<Instant>, between: Option<Duration>, berth: Berth) -> Self {
        Self { deadline, between, berth, waiting: None }
    }

    /// Nothing has come: until when may that be so?
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.waiting.is_none() {
            let quiet = self.between.map(|between| after(Instant::now(), between));
            let at = match (self.deadline, quiet) {
                (Some(deadline), Some(quiet)) => deadline.min(quiet),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => return Poll::Pending,
            };
            self.waiting = Some((self.berth.timer(at), at));
        }
        let Some((timer, at)) = &mut self.waiting else { return Poll::Pending };
        if let Err(error) = ready!(timer.poll(cx)) {
            return Poll::Ready(error);
        }
        let why = match self.between {
            Some(between) if self.deadline != Some(*at) => {
                format!("nothing of the response's body came for {between:?} (body_timeout)")
            }
            _ => "the deadline passed before the response was read to its end".to_owned(),
        };
        Poll::Ready(Error::new(Kind::Timeout, Phase::Read).with_message(why))
    }
}

impl ChannelBody {
    pub(super) fn new(inner: TrackedBody<ResponseBody, ByStatus>, limits: Limits, is_grpc: bool) -> Self {
        Self { inner: Some(inner), limits, is_grpc }
    }

    /// No body at all.
    pub(super) fn empty(limits: Limits) -> Self {
        Self { inner: None, limits, is_grpc: false }
    }

    /// Ends the call.
    fn fail(&mut self, error: Error) -> Result<Frame<Bytes>, Error> {
        self.inner = None;
        if self.is_grpc { Ok(Frame::trailers(grpc::trailers(&error))) } else { Err(error) }
    }
}

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        // What is there is handed out, late or not.
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.limits.waiting = None;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(this.fail(error))),
            Poll::Ready(None) => {
                this.inner = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                let error = ready!(this.limits.poll_over(cx));
                Poll::Ready(Some(this.fail(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl fmt::Debug for ChannelBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBody").field("ended", &self.inner.is_none()).finish_non_exhaustive()
    }
}
