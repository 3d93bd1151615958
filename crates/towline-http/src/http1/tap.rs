//! The stream under hyper, which tells the [`Status`] what happens on it, and writes nothing for a call that was dropped.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::status::Status;

pub(super) struct Tap<Io> {
    io: Io,
    status: Arc<Status>,
}

impl<Io> Tap<Io> {
    pub(super) fn new(io: Io, status: Arc<Status>) -> Self {
        Self { io, status }
    }
}

impl<Io: AsyncWrite + Unpin> Tap<Io> {
    /// Marked before it is tried, so that a call which is dropped on another thread meanwhile does not claim that
    /// nothing was sent. `Pending` counts: a TLS stream keeps the record and sends it before the next.
    fn write(&mut self, write: impl FnOnce(Pin<&mut Io>) -> Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let before = self.status.writing()?;
        let written = write(Pin::new(&mut self.io));
        if let Poll::Ready(Err(error)) = &written {
            self.status.write_failed(before, error);
        }
        written
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Tap<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        match &read {
            Ok(()) if buf.filled().len() > before => self.status.received(),
            Ok(()) if room > 0 => self.status.ended(None),
            Ok(()) => {}
            Err(error) => self.status.ended(Some(error)),
        }
        Poll::Ready(read)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Tap<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(|io| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|io| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    // F3: hyper may be about to write on another thread.
    #[test]
    fn nothing_is_written_for_a_call_that_was_dropped() {
        let status = Arc::new(Status::new());
        let (io, mut peer) = tokio::io::duplex(64);
        let mut tap = Tap::new(io, status.clone());
        let mut cx = Context::from_waker(Waker::noop());
        status.begin(false).unwrap();
        assert!(!status.abandon(), "no byte has left");
        assert!(matches!(Pin::new(&mut tap).poll_write(&mut cx, b"late"), Poll::Ready(Err(_))));
        let mut buf = [0; 4];
        assert!(Pin::new(&mut peer).poll_read(&mut cx, &mut ReadBuf::new(&mut buf)).is_pending());
    }
}
