//! What a backend does wrong, switched while it runs.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::{Decoder, Encoder};
use towline_codec::ProstCodec;
use towline_core::Error;
use towline_proto::{Request, Response};

/// The faults of one [`Backend`](crate::Backend). All are off to begin with.
#[derive(Debug, Default)]
pub struct Faults {
    delay_us: AtomicU64,
    handshake_delay_ms: AtomicU64,
    stall: AtomicBool,
    hang_up: AtomicBool,
    cut: AtomicBool,
    garbage: AtomicBool,
    oversize: AtomicBool,
}

macro_rules! switches {
    ($($(#[$doc:meta])* $set:ident, $get:ident => $field:ident;)*) => {
        impl Faults {
            $(
                $(#[$doc])*
                pub fn $set(&self, on: bool) {
                    self.$field.store(on, Ordering::Relaxed);
                }

                pub(crate) fn $get(&self) -> bool {
                    self.$field.load(Ordering::Relaxed)
                }
            )*
        }
    };
}

switches! {
    /// Requests are read and never answered.
    stall, stalls => stall;
    /// The connection is closed instead of an answer.
    hang_up, hangs_up => hang_up;
    /// Half of an answer is sent, then the connection is closed.
    cut, cuts => cut;
    /// Answers are frames that are no messages.
    garbage, sends_garbage => garbage;
    /// Answers announce 4 GiB.
    oversize, is_oversize => oversize;
}

impl Faults {
    /// Answers take so long.
    pub fn delay(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// TLS handshakes begin so late.
    pub fn delay_handshake(&self, delay: Duration) {
        self.handshake_delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn answer_delay(&self) -> Duration {
        Duration::from_micros(self.delay_us.load(Ordering::Relaxed))
    }

    pub(crate) fn handshake_delay(&self) -> Duration {
        Duration::from_millis(self.handshake_delay_ms.load(Ordering::Relaxed))
    }
}

/// The codec of a backend: encodes what the faults make of an answer.
#[derive(Clone)]
pub(crate) struct FaultyCodec {
    pub(crate) inner: ProstCodec<Response, Request>,
    pub(crate) faults: Arc<Faults>,
}

impl Decoder for FaultyCodec {
    type Item = Request;
    type Error = Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Request>, Error> {
        self.inner.decode(src)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Request>, Error> {
        self.inner.decode_eof(src)
    }
}

impl Encoder<Response> for FaultyCodec {
    type Error = Error;

    fn encode(&mut self, response: Response, dst: &mut BytesMut) -> Result<(), Error> {
        if self.faults.sends_garbage() {
            dst.put_slice(b"\0\0\0\x03\xff\xff\xff");
            return Ok(());
        }
        if self.faults.is_oversize() {
            dst.put_u32(u32::MAX);
            return Ok(());
        }
        self.inner.encode(response, dst)
    }
}

/// A stream of any kind that may break in the middle of an answer.
pub(crate) struct Stream {
    pub(crate) io: Box<dyn Io>,
    /// The client asked for frame headers.
    pub(crate) headed: bool,
    pub(crate) faults: Arc<Faults>,
    pub(crate) cut: bool,
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut {
            return Poll::Ready(Err(io::Error::other("told to cut the answer")));
        }
        self.cut = self.faults.cuts();
        let most = if self.cut { buf.len() / 2 } else { buf.len() };
        Pin::new(&mut self.io).poll_write(cx, &buf[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
