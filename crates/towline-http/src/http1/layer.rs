//! From a connected stream to an HTTP/1 connection.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Body;
use hyper::client::conn::http1::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;
use towline_core::{BoxError, Error, SharedExecutor, TokioExecutor};

use super::Http1;
use crate::make::MakeFuture;

/// Makes [`Http1`] connections for requests with bodies `B` over a connector of streams.
///
/// By default with hyper's own settings, which bound the head of a response to 100 headers and its read buffer to some
/// 400 KiB, and with tasks on the tokio runtime that dials.
pub struct Http1Layer<B> {
    settings: Builder,
    executor: SharedExecutor,
    _body: PhantomData<fn(B)>,
}

impl<B> Http1Layer<B> {
    /// Connections with hyper's default settings; tasks on the current tokio runtime.
    pub fn new() -> Self {
        Self { settings: Builder::new(), executor: Arc::new(TokioExecutor::current()), _body: PhantomData }
    }

    /// Connections with these settings of hyper's.
    #[must_use]
    pub fn with_settings(mut self, settings: Builder) -> Self {
        self.settings = settings;
        self
    }

    /// Runs the connections' tasks here.
    #[must_use]
    pub fn with_executor(mut self, executor: SharedExecutor) -> Self {
        self.executor = executor;
        self
    }
}

impl<B> Default for Http1Layer<B> {
    fn default() -> Self {
        Self::new()
    }
}

// By hand, so that bodies need not be Clone or Debug.
impl<B> Clone for Http1Layer<B> {
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), executor: self.executor.clone(), _body: PhantomData }
    }
}

impl<B> fmt::Debug for Http1Layer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, executor, _body } = self;
        f.debug_struct("Http1Layer").field("settings", settings).field("executor", executor).finish()
    }
}

impl<M, B> Layer<M> for Http1Layer<B> {
    type Service = MakeHttp1<M, B>;

    fn layer(&self, connect: M) -> Self::Service {
        MakeHttp1 { connect, layer: self.clone() }
    }
}

/// A connector that yields [`Http1`] connections. Ready when the connector inside is. Dropping its future closes what was
/// connected so far.
///
/// # Errors
///
/// The connector's own, [`Kind::Unavailable`](towline_core::Kind::Unavailable) in
/// [`Phase::Dial`](towline_core::Phase::Dial) when it is foreign.
pub struct MakeHttp1<M, B> {
    connect: M,
    layer: Http1Layer<B>,
}

impl<M: Clone, B> Clone for MakeHttp1<M, B> {
    fn clone(&self) -> Self {
        Self { connect: self.connect.clone(), layer: self.layer.clone() }
    }
}

impl<M, B> fmt::Debug for MakeHttp1<M, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MakeHttp1").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<M, B, T> Service<T> for MakeHttp1<M, B>
where
    M: Service<T>,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Http1<B>;
    type Error = Error;
    type Future = MakeFuture<M::Future, M::Response, Http1<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.connect.poll_ready(cx).map_err(Error::unreachable)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let Http1Layer { settings, executor, _body } = self.layer.clone();
        MakeFuture::new(self.connect.call(target), async move |io| Http1::handshake(io, &settings, &*executor).await)
    }
}
