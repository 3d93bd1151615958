//! hyper-util's legacy client, which pools its connections, and tonic's channel, which has one.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Uri;
use hyper::body::Body;
use hyper::header::HOST;
use hyper::http::uri::PathAndQuery;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use tonic::client::GrpcService;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use tower::{BoxError, Service, ServiceExt};
use towline_http::ResponseBody;
use towline_proto::{Request, Response};

use crate::measure::Caller;

/// One of the callers of a client.
#[derive(Clone)]
pub(crate) struct Hyper {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
}

impl Hyper {
    /// Speaks HTTP/1, a connection per request at a time, or HTTP/2 only, one connection for all.
    pub(crate) fn new(address: SocketAddr, http2: bool) -> Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build(connector);
        Ok(Self { client, uri: format!("http://{address}/echo").parse()? })
    }
}

impl Caller for Hyper {
    async fn call(&mut self, request: Request) -> Result<Response> {
        let request = hyper::Request::post(self.uri.clone()).body(encoded(&request))?;
        decoded(self.client.request(request).await?).await
    }
}

/// One of the callers of a pool of hyper's connections.
#[derive(Clone)]
pub(crate) struct PooledHttp<S> {
    handle: S,
    uri: Uri,
}

impl<S> PooledHttp<S> {
    pub(crate) fn new(handle: S, uri: &str) -> Result<Self> {
        Ok(Self { handle, uri: uri.parse()? })
    }
}

impl<S> Caller for PooledHttp<S>
where
    S: Service<hyper::Request<Full<Bytes>>, Response = hyper::Response<ResponseBody>, Error = towline_core::Error>
        + Send
        + 'static,
    S::Future: Send,
{
    async fn call(&mut self, request: Request) -> Result<Response> {
        let request = hyper::Request::post(self.uri.clone()).header(HOST, "bench").body(encoded(&request))?;
        decoded(self.handle.ready().await?.call(request).await?).await
    }
}

pub(super) fn encoded(request: &Request) -> Full<Bytes> {
    Full::new(Bytes::from(request.encode_to_vec()))
}

pub(super) async fn decoded<B>(response: hyper::Response<B>) -> Result<Response>
where
    B: Body<Error: std::error::Error + Send + Sync + 'static>,
{
    ensure!(response.status().is_success(), "the server answered {}", response.status());
    Ok(Response::decode(response.into_body().collect().await?.to_bytes())?)
}

/// One of the callers of tonic's client, over its own channel or another.
#[derive(Clone)]
pub(crate) struct Tonic<S = Channel>(tonic::client::Grpc<S>);

impl Tonic {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self::over(channel))
    }
}

impl<S> Tonic<S> {
    pub(crate) fn over(channel: S) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }
}

impl<S> Caller for Tonic<S>
where
    S: GrpcService<tonic::body::Body, Future: Send> + Send + 'static,
    S::Error: std::error::Error + Send + Sync + 'static,
    S::ResponseBody: Body<Error: Into<BoxError>> + Send,
{
    async fn call(&mut self, request: Request) -> Result<Response> {
        self.0.ready().await?;
        let path = PathAndQuery::from_static("/towline.echo.v1.Echo/Echo");
        let codec = ProstCodec::<Request, Response>::default();
        Ok(self.0.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }
}
