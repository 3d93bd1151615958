//! What the client's pool keeps: a connection of either kind, over any stream.
//!
//! Streams, codecs and dials are boxed: once per connection, never per call.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;
use towline_core::{CloseReason, Error, Poolable, Rejected, Sharing, State, Target};
use towline_transport::{Exclusive, ExclusiveFuture, Shared, SharedFuture};

use crate::codec_box::BoxCodec;

/// A stream of any kind.
pub(crate) struct BoxIo(Box<dyn Io>);

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl BoxIo {
    pub(crate) fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(io))
    }
}

impl AsyncRead for BoxIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// A connection of either kind.
pub(crate) enum Connection<Req, Res> {
    Exclusive(Exclusive<BoxIo, BoxCodec<Req, Res>>),
    Shared(Shared<Req, Res>),
}

impl<Req, Res> Poolable for Connection<Req, Res>
where
    Req: Send + 'static,
    Res: Send + 'static,
{
    fn sharing(&self) -> Sharing {
        match self {
            Self::Exclusive(connection) => connection.sharing(),
            Self::Shared(connection) => connection.sharing(),
        }
    }

    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        match self {
            Self::Exclusive(connection) => connection.poll_change(seen, cx),
            Self::Shared(connection) => connection.poll_change(seen, cx),
        }
    }

    fn share(&self) -> Option<Self> {
        match self {
            Self::Exclusive(_) => None,
            Self::Shared(connection) => connection.share().map(Self::Shared),
        }
    }

    fn trim(&mut self) {
        match self {
            Self::Exclusive(connection) => connection.trim(),
            Self::Shared(connection) => connection.trim(),
        }
    }

    fn close_reason(&self) -> CloseReason {
        match self {
            Self::Exclusive(connection) => connection.close_reason(),
            Self::Shared(connection) => connection.close_reason(),
        }
    }
}

impl<Req: 'static, Res: 'static> Service<Req> for Connection<Req, Res> {
    type Response = Res;
    type Error = Rejected<Req>;
    type Future = ConnectionFuture<Req, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Exclusive(connection) => connection.poll_ready(cx),
            Self::Shared(connection) => connection.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        match self {
            Self::Exclusive(connection) => ConnectionFuture::Exclusive { call: connection.call(request) },
            Self::Shared(connection) => ConnectionFuture::Shared { call: connection.call(request) },
        }
    }
}

pin_project_lite::pin_project! {
    #[project = CallProj]
    pub(crate) enum ConnectionFuture<Req, Res> {
        Exclusive { #[pin] call: ExclusiveFuture<BoxIo, BoxCodec<Req, Res>, Req> },
        Shared { #[pin] call: SharedFuture<Req, Res> },
    }
}

impl<Req: 'static, Res: 'static> Future for ConnectionFuture<Req, Res> {
    type Output = Result<Res, Rejected<Req>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CallProj::Exclusive { call } => call.poll(cx),
            CallProj::Shared { call } => call.poll(cx),
        }
    }
}

/// A boxed future, for dialling.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// Something that connects to targets, whatever it is made of.
pub(crate) struct Dial<T>(Arc<dyn Fn(Target) -> BoxFuture<T> + Send + Sync>);

impl<T> Dial<T> {
    pub(crate) fn new(dial: impl Fn(Target) -> BoxFuture<T> + Send + Sync + 'static) -> Self {
        Self(Arc::new(dial))
    }
}

impl<T> Clone for Dial<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Dial<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

impl<T> Service<Target> for Dial<T> {
    type Response = T;
    type Error = Error;
    type Future = BoxFuture<T>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Target) -> BoxFuture<T> {
        (self.0)(target)
    }
}
