//! Request/response connections over a byte stream and any tokio_util codec.
//!
//! | | [`Exclusive`] | [`Multiplexed`] |
//! |---|---|---|
//! | calls at once | one | up to a limit |
//! | matched by | order | a correlation id, see [`Correlate`] |
//! | I/O happens in | the caller's own poll | one task per connection, which batches |
//! | a dropped call | closes the connection once a byte was sent | leaves it as it is; the late reply is discarded |
//! | use it when | the protocol has no id, or servers answer in order | it has one |
//!
//! Both are [`Poolable`](towline_core::Poolable): while idle they watch their peer, so that a connection which ended,
//! or on which something came unasked, is never handed out. Both say of every failure whether a byte of the request
//! can have left, and give an unsent request back with it.
//!
//! [`serve_connection`] is the other side of the wire, for tests and small servers.

mod correlate;
mod exclusive;
mod make;
mod multiplexed;
mod server;
mod wire;

pub use self::correlate::Correlate;
pub use self::exclusive::{Exclusive, ExclusiveFuture};
pub use self::make::{ExclusiveLayer, MakeExclusive, MakeFuture, MakeMultiplexed, MultiplexedLayer};
pub use self::multiplexed::{Multiplexed, MultiplexedFuture};
pub use self::server::serve_connection;
