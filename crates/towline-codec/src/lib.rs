//! Length-prefixed frames and protobuf messages, on tokio_util's codec traits.
//!
//! On the wire a frame is a length, a big-endian `u32` unless another [`Prefix`] is asked for, and that many bytes:
//!
//! ```text
//!  0        4            4 + length
//!  ├─length─┼───payload──┤
//! ```
//!
//! [`FrameCodec`] carries raw bytes, [`ProstCodec`] one protobuf message per frame. Towline's connections take any
//! other tokio_util codec in their place.
//!
//! Both are written for hostile peers: a length over the limit is an error before a single byte of it is waited
//! for, the buffer grows with bytes received and never with bytes promised, and an end of the stream inside a frame
//! differs from one between frames. A message that is too large to *send* is the caller's error alone: nothing of it
//! is written, and the connection stays as it was.

mod frame;
mod prost_codec;

pub use self::frame::{FrameCodec, FrameLimits, Prefix};
pub use self::prost_codec::ProstCodec;
