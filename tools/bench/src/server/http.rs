//! Echo with the peers' own server halves: hyper for HTTP, tonic for gRPC.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic_prost::ProstCodec;
use towline_proto::{Request, Response};

use crate::measure::MAX_CALLERS;

/// No row may have to wait for a stream.
const STREAMS: u32 = MAX_CALLERS as u32;

async fn echo(request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, hyper::Error> {
    Ok(hyper::Response::new(Full::new(request.into_body().collect().await?.to_bytes())))
}

pub(super) async fn serve_http1(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    Ok(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)).await?)
}

pub(super) async fn serve_http2(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    Ok(http2.max_concurrent_streams(STREAMS).serve_connection(TokioIo::new(stream), service_fn(echo)).await?)
}

pub(super) async fn serve_grpc(listener: TcpListener) -> Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().max_concurrent_streams(STREAMS).add_service(Echo);
    Ok(server.serve_with_incoming(incoming).await?)
}

/// What a code generator would write for a service with one method.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "towline.echo.v1.Echo";
}

impl tower::Service<hyper::Request<Body>> for Echo {
    type Response = hyper::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let method = tower::service_fn(|request: tonic::Request<Request>| async move {
                let Request { id, payload } = request.into_inner();
                Ok::<_, tonic::Status>(tonic::Response::new(Response { id, payload }))
            });
            Ok(tonic::server::Grpc::new(ProstCodec::<Response, Request>::default()).unary(method, request).await)
        })
    }
}
