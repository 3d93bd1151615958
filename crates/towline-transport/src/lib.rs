//! Request/response connections over a byte stream and any tokio_util codec.
//!
//! | | [`Exclusive`] | [`Shared`], pipelined | [`Shared`], multiplexed |
//! |---|---|---|---|
//! | calls at once | one | up to a limit | up to a limit |
//! | matched by | order | order | a correlation id in the message ([`Correlate`]) or in a frame header ([`HeaderLayer`]) |
//! | I/O happens in | the caller's own poll | one task, or the poll of a caller who is alone | the same |
//! | a dropped call | closes the connection once it was sent | its answer is read and thrown away | the same |
//! | a slow answer | holds nobody up | holds up those behind it | holds nobody up |
//! | use it when | calls are few, or servers answer one at a time | servers answer in order | there is an id |
//!
//! All are [`Poolable`](towline_core::Poolable): while idle they watch their peer, so that a connection which ended,
//! or on which something came unasked, is never handed out. All say of every failure whether a byte of the request
//! can have left, and give an unsent request back with it.
//!
//! [`Server`] is the other side of the wire, for small servers and tests.

mod alarm;
mod correlate;
mod exclusive;
mod header;
mod make;
mod server;
mod shared;
mod sync;
mod wire;

use std::time::Duration;

pub use self::correlate::Correlate;
pub use self::exclusive::{Exclusive, ExclusiveFuture};
use self::header::Headed;
pub use self::header::{CallCodec, HEADER_ALPN, HeaderLayer, ServerLoad};
pub use self::make::{ExclusiveLayer, IntoConnection, MakeExclusive, MakeFuture};
pub use self::server::{Choosing, Handshaking, HeaderChoice, Listener, Server, serve_connection};
pub use self::shared::{
    Correlated, MakeShared, MultiplexedLayer, Ordered, PipelinedLayer, Shared, SharedConfig, SharedFuture, SharedLayer,
    WithHeader,
};

/// How long a peer may take to accept the next byte.
const DEFAULT_WRITE_TIMEOUT: Duration = Duration::from_secs(20);
