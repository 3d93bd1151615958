//! Layers over what makes streams: the connections that come out are shared.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Decoder, Encoder};
use tower_layer::Layer;
use tower_service::Service;
use towline_core::{BoxError, Error, SharedExecutor, TokioExecutor};

use super::{ById, Dialect, InOrder, Shared, SharedConfig};
use crate::make::{IntoConnection, MakeFuture};
use crate::{Correlate, Headed};

/// Makes [`Shared`] connections for requests `Req` over a connector, whose answers find their requests as `W` says. Each
/// gets a clone of the codec, and one task on the executor, which ends with it.
///
/// See [`MultiplexedLayer`], [`PipelinedLayer`] and [`HeaderLayer`](crate::HeaderLayer). In a stack of
/// [`Call`](towline_core::Call)s put an [`UnwrapCallLayer`](towline_core::UnwrapCallLayer) over this one.
pub struct SharedLayer<C, W, Req> {
    codec: C,
    way: W,
    config: SharedConfig,
    executor: SharedExecutor,
    _request: PhantomData<fn(Req)>,
}

/// Connections whose answers carry an id, which `K` finds: [`Correlate`].
pub type MultiplexedLayer<C, K, Req> = SharedLayer<C, Correlated<K>, Req>;

/// Connections whose answers come in the order of their requests.
///
/// They rely on the server: it must answer every request exactly once and in order (see
/// [`Server::in_order`](crate::Server::in_order)), and one encoded request must be one message. Nothing on the wire shows when
/// that is not so, and then callers get each other's answers.
///
/// ```
/// use towline_codec::FrameCodec;
/// use towline_transport::{PipelinedLayer, Server};
/// # use tower::{Layer, Service, ServiceExt, service_fn};
/// # use bytes::Bytes;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let address = listener.local_addr()?;
/// let echo = service_fn(|request: Bytes| async move { Ok::<_, std::io::Error>(request) });
/// tokio::spawn(Server::new(FrameCodec::default()).in_order().serve(listener, echo));
///
/// let connect = service_fn(tokio::net::TcpStream::connect); // or a TcpConnector of towline-connect
/// let make = PipelinedLayer::new(FrameCodec::default()).layer(connect);
/// let mut connection = make.oneshot(address).await?;
/// assert_eq!(connection.call(Bytes::from("ping")).await.unwrap(), "ping");
/// # Ok::<(), towline_core::BoxError>(())
/// # }).unwrap();
/// ```
pub type PipelinedLayer<C, Req> = SharedLayer<C, Ordered, Req>;

/// Answers are found by a correlation id in the message.
#[derive(Clone, Copy, Debug)]
pub struct Correlated<K>(K);

/// Answers are found by their order.
#[derive(Clone, Copy, Debug)]
pub struct Ordered(());

/// Answers are found by a correlation id in the [frame header](crate::HeaderLayer).
#[derive(Clone, Copy, Debug)]
pub struct WithHeader<A>(pub(crate) A);

impl<C, K, Req> MultiplexedLayer<C, K, Req> {
    /// Connections with clones of this codec, matching answers by `correlate`, with the default [`SharedConfig`]; tasks
    /// on the current tokio runtime.
    pub fn new(codec: C, correlate: K) -> Self {
        Self::of(codec, Correlated(correlate))
    }
}

impl<C, Req> PipelinedLayer<C, Req> {
    /// Connections with clones of this codec, matching answers by their order, with the default [`SharedConfig`]; tasks
    /// on the current tokio runtime.
    pub fn new(codec: C) -> Self {
        Self::of(codec, Ordered(()))
    }
}

impl<C, W, Req> SharedLayer<C, W, Req> {
    pub(crate) fn of(codec: C, way: W) -> Self {
        let executor = Arc::new(TokioExecutor::current());
        Self { codec, way, config: SharedConfig::default(), executor, _request: PhantomData }
    }

    /// Connections with these settings.
    #[must_use]
    pub fn with_config(mut self, config: SharedConfig) -> Self {
        self.config = config;
        self
    }

    /// Runs the connections' tasks here.
    #[must_use]
    pub fn with_executor(mut self, executor: SharedExecutor) -> Self {
        self.executor = executor;
        self
    }

    fn connection<Io, D>(self, io: Io, dialect: impl FnOnce(W) -> D) -> Result<Shared<Req, D::Response>, Error>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        C: Send + 'static,
        D: Dialect<C, Req>,
        Req: Send + 'static,
    {
        let (connection, driver) = Shared::pair(io, self.codec, dialect(self.way), self.config);
        self.executor.spawn(Box::pin(driver))?;
        Ok(connection)
    }
}

// By hand, so that requests need not be Clone or Debug.
impl<C: Clone, W: Clone, Req> Clone for SharedLayer<C, W, Req> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec.clone(),
            way: self.way.clone(),
            config: self.config,
            executor: self.executor.clone(),
            _request: PhantomData,
        }
    }
}

impl<C: fmt::Debug, W, Req> fmt::Debug for SharedLayer<C, W, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codec, way: _, config, executor, _request } = self;
        f.debug_struct("SharedLayer")
            .field("codec", codec)
            .field("config", config)
            .field("executor", executor)
            .finish_non_exhaustive()
    }
}

impl<M, C: Clone, W: Clone, Req> Layer<M> for SharedLayer<C, W, Req> {
    type Service = MakeShared<M, C, W, Req>;

    fn layer(&self, connect: M) -> Self::Service {
        MakeShared { connect, layer: self.clone() }
    }
}

/// A connector that yields [`Shared`] connections. Ready when the connector inside is.
pub struct MakeShared<M, C, W, Req> {
    connect: M,
    layer: SharedLayer<C, W, Req>,
}

impl<M: Clone, C: Clone, W: Clone, Req> Clone for MakeShared<M, C, W, Req> {
    fn clone(&self) -> Self {
        Self { connect: self.connect.clone(), layer: self.layer.clone() }
    }
}

impl<M, C: fmt::Debug, W, Req> fmt::Debug for MakeShared<M, C, W, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MakeShared").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<M, C, W, Req, T> Service<T> for MakeShared<M, C, W, Req>
where
    M: Service<T>,
    M::Error: Into<BoxError>,
    SharedLayer<C, W, Req>: IntoConnection<M::Response> + Clone,
{
    type Response = <SharedLayer<C, W, Req> as IntoConnection<M::Response>>::Connection;
    type Error = Error;
    type Future = MakeFuture<M::Future, SharedLayer<C, W, Req>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.connect.poll_ready(cx).map_err(Error::unreachable)
    }

    fn call(&mut self, target: T) -> Self::Future {
        MakeFuture::new(self.connect.call(target), self.layer.clone())
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
    type Connection = Shared<Req, C::Item>;

    fn connection(self, io: Io) -> Result<Self::Connection, Error> {
        let limit = self.config.in_flight;
        self.connection(io, |Correlated(correlate)| ById::new(correlate, limit))
    }
}

impl<Io, C, Req> IntoConnection<Io> for PipelinedLayer<C, Req>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Encoder<Req> + Decoder + Send + 'static,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
    C::Item: Send + 'static,
    Req: Send + 'static,
{
    type Connection = Shared<Req, C::Item>;

    fn connection(self, io: Io) -> Result<Self::Connection, Error> {
        let limit = self.config.in_flight;
        self.connection(io, |Ordered(())| InOrder::new(limit))
    }
}

impl<Io, C, A, Req> IntoConnection<Io> for SharedLayer<C, WithHeader<A>, Req>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Encoder<Req> + Decoder + Send + 'static,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
    C::Item: Send + 'static,
    A: towline_core::Access<Req> + Send + 'static,
    Req: Send + 'static,
{
    type Connection = Shared<Req, C::Item>;

    fn connection(self, io: Io) -> Result<Self::Connection, Error> {
        self.connection(io, |WithHeader(access)| Headed::new(access))
    }
}
