//! TLS over any connector, verified by default.
//!
//! [`TlsLayer`] wraps a connector whose output is `AsyncRead + AsyncWrite` and handshakes over it with native-tls
//! (OpenSSL, Schannel or Secure Transport, whichever the system has) or, with the feature `rustls`, with that. What is easy
//! to get wrong elsewhere is settled here:
//!
//! - The certificate and the name are always verified; the name comes from the [`Target`](towline_core::Target),
//!   normalised. TLS 1.2 is the least that is spoken, set explicitly.
//! - A [`TlsConfig`] is built once and shared. Building one reads the system's roots and costs tens of milliseconds
//!   of CPU: do it at start, off the async threads if you must do it later. Cloning it is a reference count.
//! - Private roots *replace* the system's unless both are asked for, and an empty or unreadable set is an error when
//!   it is built, not at the first handshake.
//! - Certificates, keys and roots change while the client runs: [`TlsConfig::watch`] looks at their files, every handshake
//!   takes what is current, and what is bad changes nothing.
//! - A silent peer is the business of [`ConnectDeadlineLayer`], which belongs around this layer.
//! - Errors are [`Kind::Tls`](towline_core::Kind::Tls) with a [`TlsError`] as source that says what was wrong with
//!   which name: the same
//!   kind from OpenSSL and rustls. Other system libraries say less, and much is [`TlsErrorKind::Other`].
//!
//! ```
//! use std::time::Duration;
//! use tower::ServiceBuilder;
//! use towline_tls::{TlsConfig, TlsLayer};
//! # use tower::service_fn;
//! # let tcp = service_fn(|_: towline_core::Target| async { Ok::<_, std::io::Error>(tokio::io::duplex(1).0) });
//! # fn ca() -> String { rcgen::generate_simple_self_signed(vec![]).unwrap().cert.pem() }
//! # let (ca_pem, _) = (ca(), Duration::ZERO);
//!
//! let config = TlsConfig::builder().root_pem(ca_pem.as_bytes()).build()?;
//! let connect = ServiceBuilder::new().layer(TlsLayer::new(config)).service(tcp);
//! # drop(connect);
//! # Ok::<(), towline_core::Error>(())
//! ```
//!
//! [`ConnectDeadlineLayer`]: https://docs.rs/towline-connect

mod config;
mod connector;
mod error;
mod material;
#[cfg(feature = "native-tls")]
mod native;
#[cfg(all(feature = "native-tls", target_os = "linux"))]
mod pkcs12;
#[cfg(feature = "rustls")]
mod rustls;
mod stream;

#[cfg(not(any(feature = "native-tls", feature = "rustls")))]
compile_error!("towline-tls needs a library: turn on its feature `native-tls` or `rustls`");

pub use self::config::{TlsBackend, TlsConfig, TlsConfigBuilder, TlsVersion};
pub use self::connector::{TlsConnectFuture, TlsConnector, TlsLayer};
pub use self::error::{TlsError, TlsErrorKind};
pub use self::stream::TlsStream;
pub use towline_core::TlsPeer;
