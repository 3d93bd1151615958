//! Connectors and streams of any kind under one type: boxed once per dial, never per call.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;
use towline_core::{BoxError, Error, ReadyCall, Target};

/// A stream of any kind, and what both its sides agreed on by ALPN.
pub struct BoxIo {
    io: Box<dyn Io>,
    alpn: Option<Vec<u8>>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl BoxIo {
    /// A stream that has agreed on nothing.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::negotiated(io, None)
    }

    /// A stream that has agreed on this protocol.
    pub fn negotiated(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, alpn: Option<Vec<u8>>) -> Self {
        Self { io: Box::new(io), alpn }
    }

    /// The protocol that was agreed on, such as `h2`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }
}

impl fmt::Debug for BoxIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxIo").field("alpn", &self.alpn).finish_non_exhaustive()
    }
}

impl AsyncRead for BoxIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// A boxed dial: dropping it stops it, as far as the connector inside does so.
pub type BoxConnectFuture<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// Something that connects to targets, whatever it is made of. Clones share it. Always ready: what is inside is readied in the
/// dial.
///
/// ```
/// use towline_connect::{BoxConnector, BoxIo, TcpConnector};
///
/// let connect: BoxConnector<BoxIo> = BoxConnector::new(TcpConnector::new());
/// # drop(connect);
/// ```
pub struct BoxConnector<T = BoxIo>(Arc<dyn Fn(Target) -> BoxConnectFuture<T> + Send + Sync>);

impl BoxConnector<BoxIo> {
    /// A connector of streams. A foreign error is [`Kind::Unavailable`](towline_core::Kind::Unavailable) in
    /// [`Phase::Dial`](towline_core::Phase::Dial).
    pub fn new<C>(connector: C) -> Self
    where
        C: Service<Target> + Clone + Send + Sync + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        Self::from_fn(move |target| {
            let connecting = ReadyCall::new(connector.clone(), target);
            async move { connecting.await.map(BoxIo::new).map_err(Error::unreachable) }
        })
    }
}

impl<T> BoxConnector<T> {
    /// Connects by this function.
    pub fn from_fn<F>(dial: impl Fn(Target) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        Self(Arc::new(move |target| Box::pin(dial(target))))
    }
}

impl<T> Clone for BoxConnector<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for BoxConnector<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxConnector(..)")
    }
}

impl<T> Service<Target> for BoxConnector<T> {
    type Response = T;
    type Error = Error;
    type Future = BoxConnectFuture<T>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Target) -> BoxConnectFuture<T> {
        (self.0)(target)
    }
}
