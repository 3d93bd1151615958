//! Dialling: from a [`Target`](towline_core::Target) to a connected socket.
//!
//! [`TcpConnector`] resolves, tries the addresses in a staggered race (Happy Eyeballs, RFC 8305) and sets what a
//! long-lived connection needs: no Nagle delay, keepalive, and on Linux a limit on unacknowledged data, so that a
//! peer that vanished is noticed. It dials Unix sockets as well.
//!
//! [`ConnectDeadlineLayer`] bounds everything below it (resolving, dialling, and the TLS handshake when it wraps
//! that too) with one deadline, and says in its error which of them was running when time was up.
//!
//! ```
//! use std::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt};
//! use towline_connect::{ConnectDeadlineLayer, TcpConnector};
//! use towline_core::Target;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
//! # let target = Target::from(listener.local_addr().unwrap());
//! let connect = ServiceBuilder::new()
//!     .layer(ConnectDeadlineLayer::new(Duration::from_secs(5)))
//!     .service(TcpConnector::new());
//! let socket = connect.oneshot(target).await?;
//! # drop(socket);
//! # Ok::<(), towline_core::Error>(())
//! # }).unwrap();
//! ```

mod boxed;
mod deadline;
mod race;
mod socket;
mod tcp;

pub use self::boxed::{BoxConnectFuture, BoxConnector, BoxIo};
pub use self::deadline::{ConnectDeadline, ConnectDeadlineFuture, ConnectDeadlineLayer};
pub use self::socket::Socket;
pub use self::tcp::{ConnectFuture, TcpConfig, TcpConnector};
