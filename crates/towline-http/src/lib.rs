//! HTTP for towline's stack: hyper's client connections for a pool, over any connector of byte streams; and, with the feature
//! `channel`, on by default, the whole stack over them, for clients of tonic and hyper: `Channel`.
//!
//! | | [`Http1`] | [`Http2`] |
//! |---|---|---|
//! | calls at once | one | as many as the peer allows, up to a limit |
//! | room for another call | once the response's body was read to its end | while a stream is free |
//! | a dropped call or body | closes the connection | resets its stream |
//! | going away | `Connection: close` | GOAWAY: what is in flight finishes, the rest goes elsewhere |
//! | a silent peer | is the stream's business | is asked by pings, see [`Http2Config::ping`] |
//!
//! Both serve `http::Request<B>` with `http::Response<ResponseBody>`, for any body `B`; both are
//! [`Poolable`](towline_core::Poolable), watch their peer while they are idle, say of every failure whether a byte of the
//! request can have left, and give a request back that did not. They send requests as they are: what depends on the
//! scheme and the authority of a URI belongs to whoever knows the endpoint.
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::{BodyExt, Empty};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//! use towline_http::Http1Layer;
//! use towline_pool::PoolBuilder;
//! # use http::Response;
//! # use hyper_util::rt::TokioIo;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let address = listener.local_addr()?;
//! # tokio::spawn(async move {
//! #     while let Ok((io, _)) = listener.accept().await {
//! #         let hello = hyper::service::service_fn(async |_request| {
//! #             Ok::<_, hyper::Error>(Response::new("hello".to_owned()))
//! #         });
//! #         tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), hello));
//! #     }
//! # });
//! let connect = service_fn(tokio::net::TcpStream::connect); // or the connectors of towline-connect and towline-tls
//! let make = Http1Layer::new().layer(connect);
//! let mut pool = PoolBuilder::new().max_connections(8).build(make)?;
//! let mut handle = pool.ready().await?.call(address).await?;
//!
//! for _ in 0..3 {
//!     let request = Request::get("/").header("host", "example.com").body(Empty::<Bytes>::new())?;
//!     let response = handle.ready().await?.call(request).await?;
//!     assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
//! }
//! assert_eq!(handle.stats().opened, 1);
//! # Ok::<(), towline_core::BoxError>(())
//! # }).unwrap();
//! ```

mod body;
#[cfg(feature = "channel")]
mod channel;
mod classify;
mod connector;
mod error;
mod extensions;
mod grpc;
mod grpc_timeout;
mod http1;
mod http2;
mod hyper_connector;
mod make;
mod moment;
mod waker;

use std::pin::Pin;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

pub use self::body::ResponseBody;
#[cfg(feature = "channel")]
pub use self::channel::{Channel, ChannelBody, ChannelBuilder, ChannelEndpoint, ChannelFuture, Health, SessionToken};
pub use self::classify::ByStatus;
pub use self::connector::{UriConnectFuture, UriConnector};
pub use self::extensions::InExtensions;
pub use self::grpc_timeout::{GrpcTimeout, GrpcTimeoutLayer};
pub use self::http1::{Http1, Http1Future, Http1Layer, MakeHttp1};
pub use self::http2::{Http2, Http2Config, Http2Future, Http2Layer, MakeHttp2};
pub use self::hyper_connector::{HyperConnectFuture, HyperConnector, HyperStream};
pub use self::make::MakeFuture;

/// A request that hyper has: boxed, because hyper does not name it.
type Sending<B> = Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + Send>>;
