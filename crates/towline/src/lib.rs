//! A client stack from small tower services: from a list of endpoints to an answer over TLS.
//!
//! ```text
//!     caller
//!       │  deadline            one absolute deadline for the whole call, waiting included
//!       │  retry               again, elsewhere, only when safe, within a shared budget
//!       │  sticky              who is this? session key from the request
//!       │  balance             which endpoint? shared by every clone, no worker in between
//!       │    per endpoint:  pool         which connection? FIFO, capped, cancel-safe
//!       │                   connection   request/response over a framed byte stream
//!       │                   codec        length-prefixed protobuf, or any tokio_util codec
//!       │                   tls          verified by default
//!       │                   tcp / unix   dialling
//!       ▼
//!     server
//! ```
//!
//! Each row is a crate of its own, useful without the others, and re-exported here. [`Client`] is the whole stack
//! with defaults:
//!
//! ```
//! use towline::{Call, Client, SessionKey};
//! use towline_proto::{Request, Response};
//! # use towline_testbed::Backend;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let backend = Backend::start("127.0.0.1:0", None).await.unwrap();
//! # let address = backend.address().to_string();
//! let client: Client<Request, Response> = Client::builder()
//!     .endpoints([address]) // "10.0.0.1:7000", "db.example:7000", …
//!     .plaintext()          // or .tls(config); TLS with the system's roots is the default
//!     .build()?;
//!
//! let request = Request { id: "1".into(), payload: "ping".into() };
//! let call = Call::new(request).with_session("alice").idempotent();
//! let response = client.send(call).await?;
//! assert_eq!(response.payload, "ping");
//! # Ok::<(), towline::Error>(())
//! # }).unwrap();
//! ```
//!
//! # The same stack by hand
//!
//! The builder does nothing that a library author cannot do with `tower::ServiceBuilder`, and this is the way to put in
//! a policy, a layer or a kind of connection of one's own:
//!
//! ```
//! use std::time::Duration;
//! use tower::{Layer, Service, ServiceBuilder, ServiceExt};
//! use towline::balance::{BalanceBuilder, fixed};
//! use towline::codec::ProstCodec;
//! use towline::connect::{ConnectDeadlineLayer, TcpConnector};
//! use towline::core::{Call, Endpoint, SessionKey, TokioExecutor, UnwrapCallLayer};
//! use towline::pool::PoolBuilder;
//! use towline::retry::RetryLayer;
//! use towline::sticky::{Rendezvous, StickyLayer};
//! use towline::timeout::DeadlineLayer;
//! # #[cfg(feature = "tls")]
//! use towline::tls::{TlsConfig, TlsLayer};
//! use towline::transport::ExclusiveLayer;
//! use towline_proto::{Request, Response};
//! # use towline_testbed::{Authority, Backend};
//!
//! # #[cfg(feature = "tls")]
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let authority = Authority::new("docs");
//! # let ca_pem = authority.pem();
//! # let backend = Backend::start("127.0.0.1:0", Some(&authority.certify(&["127.0.0.1"]))).await.unwrap();
//! # let endpoints = [Endpoint::from(backend.address())];
//! // Making: from a target to connections. Each layer wraps a `Service<Target>` and is one again.
//! let tls = TlsConfig::builder().root_pem(ca_pem).build()?;
//! let make = ServiceBuilder::new()
//!     .layer(UnwrapCallLayer)                                          // the context ends here
//!     .layer(ExclusiveLayer::new(ProstCodec::<Request, Response>::default()))
//!     .layer(ConnectDeadlineLayer::new(Duration::from_secs(5)))        // over everything below
//!     .layer(TlsLayer::new(tls))
//!     .service(TcpConnector::new());
//! let pool = PoolBuilder::new().max_connections(8).build(make)?;
//!
//! // Serving: from a request to its answer.
//! let balance = BalanceBuilder::new(Rendezvous::new()).spawn(fixed(endpoints), pool, &TokioExecutor::current())?;
//! let client = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Duration::from_secs(2)))
//!     .layer(RetryLayer::new())
//!     .layer(StickyLayer::by(|call: &Call<Request>| Some(SessionKey::new(&call.message().id))))
//!     .service(balance);
//!
//! let request = Request { id: "alice".into(), payload: "ping".into() };
//! let response = client.clone().oneshot(Call::new(request)).await?;
//! assert_eq!(response.payload, "ping");
//! # Ok::<(), towline::Error>(())
//! # }).unwrap();
//! ```

// What `docs/discovery.md` shows is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/discovery.md")]
mod page {}

mod attempts;
mod builder;
mod client;
mod codec_box;
mod connection;
mod span;

pub use towline_balance as balance;
pub use towline_codec as codec;
pub use towline_connect as connect;
pub use towline_core as core;
pub use towline_discover as discover;
#[cfg(feature = "dns")]
pub use towline_discover_dns as dns;
#[cfg(feature = "http")]
pub use towline_http as http;
pub use towline_pool as pool;
pub use towline_retry as retry;
pub use towline_sticky as sticky;
pub use towline_timeout as timeout;
#[cfg(feature = "tls")]
pub use towline_tls as tls;
pub use towline_transport as transport;

pub use towline_balance::{
    Change, Circuit, EjectionView, LoadMetric, Outliers, PanicMode, SlowStart, Update, WhenUnavailable,
};
pub use towline_core::{
    Call, Endpoint, EndpointKey, Error, Event, Kind, Observer, Phase, Report, Sent, SessionKey, Target,
};

#[cfg(feature = "http")]
pub use towline_http::Channel;
pub use towline_retry::{Budget, HedgePolicy, RetryPolicy};

pub use self::builder::ClientBuilder;
pub use self::client::{Calls, Client, ClientFuture, EndpointStats};
pub use self::codec_box::{BoxCodec, MessageCodec};
