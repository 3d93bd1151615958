//! Our channel: under tonic's client, and by itself where hyper-util's client would be.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use tonic::body::Body;
use tower::{Service, ServiceExt};
use towline_http::Channel;
use towline_pool::PoolBuilder;
use towline_proto::{Request, Response};

use super::Tonic;
use super::http::{decoded, encoded};
use crate::measure::{Caller, MAX_CALLERS};

/// Under tonic's client.
pub(crate) async fn tonic(backends: &[SocketAddr]) -> Result<Tonic<Channel<Body>>> {
    let channel = Channel::grpc().endpoints(backends.iter().map(|backend| format!("http://{backend}"))).build()?;
    channel.warm(1).await?;
    Ok(Tonic::over(channel))
}

/// One of the callers of a channel.
#[derive(Clone)]
pub(crate) struct Towline {
    channel: Channel<Full<Bytes>>,
    uri: Uri,
}

impl Towline {
    /// Speaks HTTP/1, with a connection for each caller as hyper's client has, or HTTP/2 only.
    pub(crate) fn new(address: SocketAddr, http2: bool) -> Result<Self> {
        let builder = Channel::http().endpoints([format!("http://{address}")]);
        let builder = if http2 {
            builder.http2_only()
        } else {
            builder.pool(PoolBuilder::new().max_connections(MAX_CALLERS as usize))
        };
        Ok(Self { channel: builder.build()?, uri: format!("http://{address}/echo").parse()? })
    }
}

impl Caller for Towline {
    async fn call(&mut self, request: Request) -> Result<Response> {
        let request = hyper::Request::post(self.uri.clone()).body(encoded(&request))?;
        decoded(self.channel.ready().await?.call(request).await?).await
    }
}
