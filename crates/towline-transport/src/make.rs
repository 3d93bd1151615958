//! From a connected stream to a connection: layers over what makes streams.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Decoder, Encoder};
use tower_layer::Layer;
use tower_service::Service;
use towline_core::{BoxError, Error, Kind, Phase, SharedExecutor, TokioExecutor};

use crate::{Correlate, Exclusive, Multiplexed};

/// Makes [`Exclusive`] connections over a connector. Each gets a clone of the codec.
///
/// Connections take what the codec encodes. In a stack of [`Call`](towline_core::Call)s put an
/// [`UnwrapCallLayer`](towline_core::UnwrapCallLayer) over this one.
#[derive(Clone, Debug)]
pub struct ExclusiveLayer<C> {
    codec: C,
}

impl<C> ExclusiveLayer<C> {
    /// Connections with clones of this codec.
    pub fn new(codec: C) -> Self {
        Self { codec }
    }
}

impl<M, C: Clone> Layer<M> for ExclusiveLayer<C> {
    type Service = MakeExclusive<M, C>;

    fn layer(&self, connect: M) -> Self::Service {
        MakeExclusive { connect, codec: self.codec.clone() }
    }
}

/// A connector that yields [`Exclusive`] connections. Ready when the connector inside is.
#[derive(Clone, Debug)]
pub struct MakeExclusive<M, C> {
    connect: M,
    codec: C,
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
    type Future = MakeFuture<M::Future, ExclusiveParts<C>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.connect.poll_ready(cx).map_err(Error::unreachable)
    }

    fn call(&mut self, target: T) -> Self::Future {
        MakeFuture { connecting: self.connect.call(target), parts: Some(ExclusiveParts(self.codec.clone())) }
    }
}

/// Makes [`Multiplexed`] connections for requests `Req` over a connector. Each gets a clone of the codec and of the
/// correlation, and one task on the executor, which ends with it.
pub struct MultiplexedLayer<C, K, Req> {
    codec: C,
    correlate: K,
    limit: usize,
    executor: SharedExecutor,
    _request: PhantomData<fn(Req)>,
}

impl<C, K, Req> MultiplexedLayer<C, K, Req> {
    /// Connections with clones of this codec, matching answers by `correlate`; at most 1,024 calls in flight on each;
    /// tasks on the current tokio runtime.
    pub fn new(codec: C, correlate: K) -> Self {
        let executor = Arc::new(TokioExecutor::current());
        Self { codec, correlate, limit: 1_024, executor, _request: PhantomData }
    }

    /// The most calls in flight on one connection; from 1 to 1,048,576.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] outside that range.
    pub fn with_limit(mut self, limit: usize) -> Result<Self, Error> {
        if !(1..=Multiplexed::<(), ()>::MAX_LIMIT).contains(&limit) {
            return Err(Error::new(Kind::Config, Phase::Build).with_message(format!(
                "a multiplexed connection carries from 1 to {} calls, not {limit}",
                Multiplexed::<(), ()>::MAX_LIMIT
            )));
        }
        self.limit = limit;
        Ok(self)
    }

    /// Runs the connections' tasks here.
    #[must_use]
    pub fn with_executor(mut self, executor: SharedExecutor) -> Self {
        self.executor = executor;
        self
    }
}

// By hand, so that requests need not be Clone or Debug.
impl<C: Clone, K: Clone, Req> Clone for MultiplexedLayer<C, K, Req> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec.clone(),
            correlate: self.correlate.clone(),
            limit: self.limit,
            executor: self.executor.clone(),
            _request: PhantomData,
        }
    }
}

impl<C: fmt::Debug, K, Req> fmt::Debug for MultiplexedLayer<C, K, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codec, correlate: _, limit, executor, _request } = self;
        f.debug_struct("MultiplexedLayer")
            .field("codec", codec)
            .field("limit", limit)
            .field("executor", executor)
            .finish_non_exhaustive()
    }
}

impl<M, C: Clone, K: Clone, Req> Layer<M> for MultiplexedLayer<C, K, Req> {
    type Service = MakeMultiplexed<M, C, K, Req>;

    fn layer(&self, connect: M) -> Self::Service {
        MakeMultiplexed { connect, layer: self.clone() }
    }
}

/// A connector that yields [`Multiplexed`] connections. Ready when the connector inside is.
pub struct MakeMultiplexed<M, C, K, Req> {
    connect: M,
    layer: MultiplexedLayer<C, K, Req>,
}

impl<M: Clone, C: Clone, K: Clone, Req> Clone for MakeMultiplexed<M, C, K, Req> {
    fn clone(&self) -> Self {
        Self { connect: self.connect.clone(), layer: self.layer.clone() }
    }
}

impl<M, C: fmt::Debug, K, Req> fmt::Debug for MakeMultiplexed<M, C, K, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MakeMultiplexed").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<M, C, K, Req, T> Service<T> for MakeMultiplexed<M, C, K, Req>
where
    M: Service<T>,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Error: Into<BoxError>,
    C: Encoder<Req> + Decoder + Clone + Send + 'static,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
    C::Item: Send + 'static,
    K: Correlate<Req, C::Item> + Clone,
    Req: Send + 'static,
{
    type Response = Multiplexed<Req, C::Item>;
    type Error = Error;
    type Future = MakeFuture<M::Future, MultiplexedLayer<C, K, Req>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.connect.poll_ready(cx).map_err(Error::unreachable)
    }

    fn call(&mut self, target: T) -> Self::Future {
        MakeFuture { connecting: self.connect.call(target), parts: Some(self.layer.clone()) }
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

/// What turns a stream into a connection.
pub trait IntoConnection<Io> {
    /// The connection.
    type Connection;
    /// Makes it.
    fn connection(self, io: Io) -> Result<Self::Connection, Error>;
}

/// The codec of an exclusive connection in the making.
#[derive(Debug)]
pub struct ExclusiveParts<C>(C);

impl<Io: AsyncRead + AsyncWrite + Unpin, C> IntoConnection<Io> for ExclusiveParts<C> {
    type Connection = Exclusive<Io, C>;

    fn connection(self, io: Io) -> Result<Self::Connection, Error> {
        Ok(Exclusive::new(io, self.0))
    }
}

impl<Io, C, K, Req> IntoConnection<Io> for MultiplexedLayer<C, K, Req>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Encoder<Req> + Decoder + Send + 'static,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
    C::Item: Send + 'static,
    K: Correlate<Req, C::Item>,
    Req: Send + 'static,
{
    type Connection = Multiplexed<Req, C::Item>;

    fn connection(self, io: Io) -> Result<Self::Connection, Error> {
        let (connection, driver) = Multiplexed::pair(io, self.codec, self.correlate, self.limit);
        self.executor.spawn(Box::pin(driver))?;
        Ok(connection)
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
