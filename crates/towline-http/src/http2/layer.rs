//! From a connected stream to an HTTP/2 connection.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;
use towline_core::{BoxError, Error, SharedExecutor, TokioExecutor};

use super::{Http2, Http2Config};
use crate::make::MakeFuture;

/// Makes [`Http2`] connections for requests with bodies `B` over a connector of streams.
///
/// The peer must expect HTTP/2: over TLS by ALPN, which is the connector's business, else by prior knowledge.
///
/// ```
/// use bytes::Bytes;
/// use http::Request;
/// use http_body_util::{BodyExt, Empty};
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// use towline_core::{Poolable, Sharing};
/// use towline_http::Http2Layer;
/// # use http::Response;
/// # use hyper_util::rt::{TokioExecutor, TokioIo};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let address = listener.local_addr()?;
/// # tokio::spawn(async move {
/// #     let (io, _) = listener.accept().await.unwrap();
/// #     let hello = hyper::service::service_fn(async |_request| {
/// #         Ok::<_, hyper::Error>(Response::new("hello".to_owned()))
/// #     });
/// #     let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
/// #     server.max_concurrent_streams(100).serve_connection(TokioIo::new(io), hello).await
/// # });
/// let connect = service_fn(tokio::net::TcpStream::connect); // or the connectors of towline-connect and towline-tls
/// let mut connection = Http2Layer::new().layer(connect).oneshot(address).await?;
/// assert_eq!(connection.sharing(), Sharing::Shared { limit: 100 }, "as the server says");
///
/// let request = Request::get("http://example.com/").body(Empty::<Bytes>::new())?;
/// let response = connection.call(request).await?;
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
/// # Ok::<(), towline_core::BoxError>(())
/// # }).unwrap();
/// ```
pub struct Http2Layer<B> {
    config: Http2Config,
    executor: SharedExecutor,
    _body: PhantomData<fn(B)>,
}

impl<B> Http2Layer<B> {
    /// Connections with the default [`Http2Config`]; tasks on the current tokio runtime.
    pub fn new() -> Self {
        Self { config: Http2Config::default(), executor: Arc::new(TokioExecutor::current()), _body: PhantomData }
    }

    /// Connections with these settings.
    #[must_use]
    pub fn with_config(mut self, config: Http2Config) -> Self {
        self.config = config;
        self
    }

    /// Runs the connections' tasks here.
    #[must_use]
    pub fn with_executor(mut self, executor: SharedExecutor) -> Self {
        self.executor = executor;
        self
    }
}

impl<B> Default for Http2Layer<B> {
    fn default() -> Self {
        Self::new()
    }
}

// By hand, so that bodies need not be Clone or Debug.
impl<B> Clone for Http2Layer<B> {
    fn clone(&self) -> Self {
        Self { config: self.config, executor: self.executor.clone(), _body: PhantomData }
    }
}

impl<B> fmt::Debug for Http2Layer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, executor, _body } = self;
        f.debug_struct("Http2Layer").field("config", config).field("executor", executor).finish()
    }
}

impl<M, B> Layer<M> for Http2Layer<B> {
    type Service = MakeHttp2<M, B>;

    fn layer(&self, connect: M) -> Self::Service {
        MakeHttp2 { connect, layer: self.clone() }
    }
}

/// A connector that yields [`Http2`] connections. Ready when the connector inside is. Dropping its future closes what was
/// connected so far.
///
/// # Errors
///
/// The connector's own, [`Kind::Unavailable`](towline_core::Kind::Unavailable) in
/// [`Phase::Dial`](towline_core::Phase::Dial) when it is foreign; and those of [`Http2::handshake`].
pub struct MakeHttp2<M, B> {
    connect: M,
    layer: Http2Layer<B>,
}

impl<M: Clone, B> Clone for MakeHttp2<M, B> {
    fn clone(&self) -> Self {
        Self { connect: self.connect.clone(), layer: self.layer.clone() }
    }
}

impl<M, B> fmt::Debug for MakeHttp2<M, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MakeHttp2").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<M, B, T> Service<T> for MakeHttp2<M, B>
where
    M: Service<T>,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Error: Into<BoxError>,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Http2<B>;
    type Error = Error;
    type Future = MakeFuture<M::Future, M::Response, Http2<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.connect.poll_ready(cx).map_err(Error::unreachable)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let Http2Layer { config, executor, _body } = self.layer.clone();
        MakeFuture::new(self.connect.call(target), async move |io| Http2::handshake(io, config, &*executor).await)
    }
}
