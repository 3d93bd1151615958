//! A connection of the channel: HTTP/1 or HTTP/2, as the server would have it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Response, Version};
use http_body::Body;
use tower_service::Service;
use towline_core::{BoxError, CloseReason, Poolable, Rejected, Sharing, State};

use super::call::{HttpCall, Server};
use super::outgoing::Outgoing;
use super::{grpc, hop};
use crate::{Http1, Http1Future, Http2, Http2Future, ResponseBody};

/// What the channel's pools keep.
pub(crate) struct Connection<B> {
    wire: Wire<B>,
    server: Arc<Server>,
}

enum Wire<B> {
    One(Http1<Outgoing<B>>),
    Many(Http2<Outgoing<B>>),
}

macro_rules! each {
    ($self:expr, $wire:ident => $do:expr) => {
        match $self.wire {
            Wire::One($wire) => $do,
            Wire::Many($wire) => $do,
        }
    };
    (ref $self:expr, $wire:ident => $do:expr) => {
        match &$self.wire {
            Wire::One($wire) => $do,
            Wire::Many($wire) => $do,
        }
    };
    (mut $self:expr, $wire:ident => $do:expr) => {
        match &mut $self.wire {
            Wire::One($wire) => $do,
            Wire::Many($wire) => $do,
        }
    };
}

impl<B> Connection<B> {
    pub(super) fn http1(connection: Http1<Outgoing<B>>, server: Server) -> Self {
        Self { wire: Wire::One(connection), server: Arc::new(server) }
    }

    pub(super) fn http2(connection: Http2<Outgoing<B>>, server: Server) -> Self {
        Self { wire: Wire::Many(connection), server: Arc::new(server) }
    }
}

impl<B: Send + 'static> Poolable for Connection<B> {
    fn sharing(&self) -> Sharing {
        each!(ref self, wire => wire.sharing())
    }

    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        each!(mut self, wire => wire.poll_change(seen, cx))
    }

    fn share(&self) -> Option<Self> {
        match &self.wire {
            Wire::One(_) => None,
            Wire::Many(wire) => Some(Self { wire: Wire::Many(wire.share()?), server: self.server.clone() }),
        }
    }

    fn abort(&mut self) {
        each!(mut self, wire => wire.abort());
    }

    fn close_reason(&self) -> CloseReason {
        each!(ref self, wire => wire.close_reason())
    }
}

impl<B> Service<HttpCall<B>> for Connection<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Rejected<HttpCall<B>>;
    type Future = ConnectionFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        each!(mut self, wire => wire.poll_ready(cx)).map_err(|rejected| rejected.error.into())
    }

    fn call(&mut self, mut call: HttpCall<B>) -> Self::Future {
        let version = match &self.wire {
            Wire::One(_) => Version::HTTP_11,
            Wire::Many(_) => Version::HTTP_2,
        };
        let request = call.take_request(&self.server, version);
        let sending = match &mut self.wire {
            Wire::One(wire) => Sending::One(wire.call(request)),
            Wire::Many(wire) => Sending::Many(wire.call(request)),
        };
        ConnectionFuture { sending, call: Some(call) }
    }
}

/// The response of a [`Connection`].
pub(crate) struct ConnectionFuture<B> {
    sending: Sending<B>,
    /// Without its request.
    call: Option<HttpCall<B>>,
}

#[allow(clippy::large_enum_variant, reason = "the larger one is the common one")]
enum Sending<B> {
    One(Http1Future<Outgoing<B>>),
    Many(Http2Future<Outgoing<B>>),
}

impl<B> Future for ConnectionFuture<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody>, Rejected<HttpCall<B>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(match &mut self.sending {
            Sending::One(sending) => Pin::new(sending).poll(cx),
            Sending::Many(sending) => Pin::new(sending).poll(cx),
        });
        let call = self.call.take().expect("polled after completion");
        Poll::Ready(match result {
            Ok(mut response) => {
                if let Sending::One(_) = self.sending {
                    hop::remove(response.headers_mut());
                }
                let has_status = || grpc::status(response.headers()).is_some();
                if call.route().is_grpc
                    && response.status() == 200
                    && grpc::is_grpc(response.headers())
                    && !has_status()
                {
                    look_ahead(&mut response, cx);
                }
                Ok(response)
            }
            Err(Rejected { error, request }) => {
                Err(Rejected { error, request: request.map(|request| call.with_request(request)) })
            }
        })
    }
}

/// A call that fails at once is told by trailers that come with the head. What they say is moved into it, where everybody looks: retry
/// decides before it hands out a response. Nothing is waited for, since a stream may have its head long before anything else.
fn look_ahead(response: &mut Response<ResponseBody>, cx: &mut Context<'_>) {
    response.body_mut().expect_trailers();
    if let Some(trailers) = response.body_mut().take_trailers_if_there(cx) {
        response.headers_mut().extend(trailers);
    }
}

impl<B> fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("server", &self.server).finish_non_exhaustive()
    }
}
