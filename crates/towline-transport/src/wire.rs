//! A byte stream, its codec, and a buffer for each direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::io::poll_read_buf;
use towline_core::{BoxError, CloseReason, Error, Kind, Phase, Sent};

/// The least room that a read is given. Buffers grow with bytes received, never with bytes promised.
const READ_ROOM: usize = 4 * 1024;

pub(crate) struct Wire<Io, C> {
    io: Io,
    codec: C,
    read: BytesMut,
    write: BytesMut,
}

/// What the next read brought.
pub(crate) enum Incoming<T> {
    Message(T),
    /// The stream ended between messages.
    End,
}

impl<Io, C> Wire<Io, C>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(io: Io, codec: C) -> Self {
        Self { io, codec, read: BytesMut::new(), write: BytesMut::new() }
    }

    /// Appends a message to the write buffer, or nothing when it cannot be encoded.
    pub(crate) fn encode<Out>(&mut self, message: Out) -> Result<(), Error>
    where
        C: Encoder<Out>,
        C::Error: Into<BoxError>,
    {
        let before = self.write.len();
        self.codec.encode(message, &mut self.write).map_err(|error| {
            self.write.truncate(before);
            Error::wrap_as(Kind::Unencodable, Phase::Write, error).with_sent(Sent::Never)
        })
    }

    /// Bytes that are encoded and not yet accepted by the stream.
    pub(crate) fn unwritten(&self) -> usize {
        self.write.len()
    }

    /// Writes once; how many bytes the stream accepted.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.write));
        Poll::Ready(match written {
            Ok(0) => Err(Error::io(Phase::Write, io::ErrorKind::WriteZero.into())),
            Ok(n) => {
                self.write.advance(n);
                Ok(n)
            }
            Err(error) => Err(Error::io(Phase::Write, error)),
        })
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.io).poll_flush(cx).map_err(|error| Error::io(Phase::Write, error))
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// The next message. After an error or the end the wire is of no further use.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming<C::Item>, Error>>
    where
        C: Decoder,
        C::Error: Into<BoxError>,
    {
        loop {
            if !self.read.is_empty() {
                if let Some(message) = self.codec.decode(&mut self.read).map_err(malformed)? {
                    return Poll::Ready(Ok(Incoming::Message(message)));
                }
            }
            if self.read.capacity() - self.read.len() < READ_ROOM / 4 {
                self.read.reserve(READ_ROOM);
            }
            let n = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read))
                .map_err(|error| Error::io(Phase::Read, error))?;
            if n == 0 {
                let last = self.codec.decode_eof(&mut self.read).map_err(malformed)?;
                return Poll::Ready(Ok(last.map_or(Incoming::End, Incoming::Message)));
            }
        }
    }

    /// Watches an idle stream: resolves when it is of no further use, and says why.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if !self.read.is_empty() {
            return Poll::Ready(CloseReason::Stray); // Left over from the last message.
        }
        let mut byte = [0; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        Poll::Ready(match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => CloseReason::Peer,
            Ok(()) => CloseReason::Stray,
            Err(_) => CloseReason::Peer,
        })
    }
}

/// A codec that is not ours says only that it cannot go on.
fn malformed(error: impl Into<BoxError>) -> Error {
    Error::wrap_as(Kind::Malformed, Phase::Read, error)
}

/// The stream ended where an answer was due.
pub(crate) fn ended_before_answer() -> Error {
    Error::new(Kind::Closed, Phase::Read).with_message("the peer closed the connection before it answered")
}

/// A request came to a connection that is closed already.
pub(crate) fn already_closed(reason: CloseReason) -> Error {
    Error::new(Kind::Closed, Phase::Write)
        .with_sent(Sent::Never)
        .with_message(format!("the connection was closed before the request was written ({reason})"))
}
