//! From a connected stream to a connection: layers over what makes streams.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;
use towline_core::{BoxError, Error};

use crate::{DEFAULT_WRITE_TIMEOUT, Exclusive};

/// Makes [`Exclusive`] connections over a connector. Each gets a clone of the codec.
///
/// Connections take what the codec encodes. In a stack of [`Call`](towline_core::Call)s put an
/// [`UnwrapCallLayer`](towline_core::UnwrapCallLayer) over this one.
#[derive(Clone, Debug)]
pub struct ExclusiveLayer<C> {
    codec: C,
    write_timeout: Duration,
}

impl<C> ExclusiveLayer<C> {
    /// Connections with clones of this codec.
    pub fn new(codec: C) -> Self {
        Self { codec, write_timeout: DEFAULT_WRITE_TIMEOUT }
    }

    /// How long a peer may take to accept the next byte of a request; 20 seconds by default.
    #[must_use]
    pub fn write_timeout(mut self, limit: Duration) -> Self {
        self.write_timeout = limit;
        self
    }
}

impl<M, C: Clone> Layer<M> for ExclusiveLayer<C> {
    type Service = MakeExclusive<M, C>;

    fn layer(&self, connect: M) -> Self::Service {
        MakeExclusive { connect, layer: self.clone() }
    }
}

/// A connector that yields [`Exclusive`] connections. Ready when the connector inside is.
#[derive(Clone, Debug)]
pub struct MakeExclusive<M, C> {
    connect: M,
    layer: ExclusiveLayer<C>,
}

impl<M, C, T> Service<T> for MakeExclusive<M, C>
where
    M: Service<T>,
    M::Response: AsyncRead + AsyncWrite + Unpin,
    M::Error: Into<BoxError>,
    C: Clone,
{
    type Response = Exclusive<M::Response, C>;
    type Error = Error;
    type Future = MakeFuture<M::Future, ExclusiveLayer<C>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.connect.poll_ready(cx).map_err(Error::unreachable)
    }

    fn call(&mut self, target: T) -> Self::Future {
        MakeFuture::new(self.connect.call(target), self.layer.clone())
    }
}

pin_project_lite::pin_project! {
    /// A connection in the making: dropping it closes what was connected so far.
    #[derive(Debug)]
    pub struct MakeFuture<F, P> {
        #[pin]
        connecting: F,
        parts: Option<P>,
    }
}

impl<F, P> MakeFuture<F, P> {
    pub(crate) fn new(connecting: F, parts: P) -> Self {
        Self { connecting, parts: Some(parts) }
    }
}

/// What turns a stream into a connection.
pub trait IntoConnection<Io> {
    /// The connection.
    type Connection;
    /// Makes it.
    fn connection(self, io: Io) -> Result<Self::Connection, Error>;
}

impl<Io: AsyncRead + AsyncWrite + Unpin, C> IntoConnection<Io> for ExclusiveLayer<C> {
    type Connection = Exclusive<Io, C>;

    fn connection(self, io: Io) -> Result<Self::Connection, Error> {
        Ok(Exclusive::new(io, self.codec).with_write_timeout(self.write_timeout))
    }
}

impl<F, P, Io, E> Future for MakeFuture<F, P>
where
    F: Future<Output = Result<Io, E>>,
    E: Into<BoxError>,
    P: IntoConnection<Io>,
{
    type Output = Result<P::Connection, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let io = ready!(this.connecting.poll(cx)).map_err(Error::unreachable)?;
        Poll::Ready(this.parts.take().expect("polled after completion").connection(io))
    }
}
