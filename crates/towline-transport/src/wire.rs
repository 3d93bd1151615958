//! A byte stream and a buffer for each direction.
//!
//! Buffers grow with the bytes that came, never with bytes that were promised, and they go back: at once when a big
//! message has made them big, and altogether by [`Wire::release`] when a connection has been idle for a while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::codec::Decoder;
use tokio_util::io::poll_read_buf;
use towline_core::sync::after;
use towline_core::{BoxError, CloseReason, Error, Kind, Phase, Sent};

use crate::alarm::Alarm;

/// The room that a read is given at first; it doubles with each read that fills it.
const LEAST_ROOM: usize = 256;
const MOST_ROOM: usize = 64 * 1024;
/// A buffer that is larger is given back as soon as it is empty.
const KEEP: usize = 16 * MOST_ROOM;
/// What a stream may hold back when it says `Pending`: a TLS stream keeps the record that it has encrypted, and sends
/// it before whatever is written next. Records are no longer than this.
const HELD_BACK: u64 = 16 * 1024;

pub(crate) struct Wire<Io> {
    /// Until it is hung up.
    io: Option<Io>,
    read: BytesMut,
    room: usize,
    write: BytesMut,
    /// The largest that the write buffer has been since it was empty; it shows less and less of itself as it is written.
    peak: usize,
    /// Where in the stream the write buffer begins.
    written: u64,
    /// Up to where in the stream bytes can have left.
    attempted: u64,
    flushed: bool,
    /// Bytes that came.
    received: u64,
}

/// What the next read brought.
#[derive(Debug)]
pub(crate) enum Incoming<T> {
    Message(T),
    /// The stream ended between messages.
    End,
}

impl<Io> Wire<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(io: Io) -> Self {
        let (read, write) = (BytesMut::new(), BytesMut::new());
        Self {
            io: Some(io),
            read,
            room: LEAST_ROOM,
            write,
            peak: 0,
            written: 0,
            attempted: 0,
            flushed: true,
            received: 0,
        }
    }

    /// Appends what `encode` writes, or nothing when it fails; where in the stream that begins.
    pub(crate) fn encode<E: Into<BoxError>>(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<u64, Error> {
        let before = self.write.len();
        match encode(&mut self.write) {
            Ok(()) => {
                self.flushed = false;
                self.peak = self.peak.max(self.write.capacity());
                Ok(self.written + before as u64)
            }
            Err(error) => {
                self.write.truncate(before);
                Err(Error::wrap_as(Kind::Unencodable, Phase::Write, error).with_sent(Sent::Never))
            }
        }
    }

    /// Appends what cannot fail.
    pub(crate) fn append(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        encode(&mut self.write);
        self.flushed = false;
        self.peak = self.peak.max(self.write.capacity());
    }

    /// Bytes that are encoded and not yet accepted by the stream.
    pub(crate) fn unwritten(&self) -> usize {
        self.write.len()
    }

    /// Bytes that came.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Forgets what the stream has not accepted.
    pub(crate) fn give_up(&mut self) {
        self.write.clear();
    }

    /// Closes the stream, whoever still holds the wire.
    pub(crate) fn hang_up(&mut self) {
        self.io = None;
        self.give_up();
        self.release();
    }

    /// Bytes that the stream has accepted.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether what was encoded from `start` on can have left.
    pub(crate) fn can_have_left(&self, start: u64) -> bool {
        start < self.attempted
    }

    /// Whether everything that was encoded has been flushed.
    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed
    }

    /// Writes everything and flushes it.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.write.is_empty() {
            let Some(io) = &mut self.io else { return Poll::Ready(Err(hung_up())) };
            match Pin::new(io).poll_write(cx, &self.write) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Error::io(Phase::Write, io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(n)) => {
                    self.write.advance(n);
                    self.written += n as u64;
                    self.attempted = self.attempted.max(self.written);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::io(Phase::Write, error))),
                Poll::Pending => {
                    let held_back = HELD_BACK.min(self.write.len() as u64);
                    self.attempted = self.attempted.max(self.written + held_back);
                    return Poll::Pending;
                }
            }
        }
        if !self.flushed {
            let Some(io) = &mut self.io else { return Poll::Ready(Err(hung_up())) };
            ready!(Pin::new(io).poll_flush(cx)).map_err(|error| Error::io(Phase::Write, error))?;
            self.flushed = true;
        }
        if std::mem::take(&mut self.peak) > KEEP {
            self.write = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// The next message that `decode` finds; its flag says that no more bytes will come. After an error or the end the
    /// wire is of no further use.
    pub(crate) fn poll_next<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut decode: impl FnMut(&mut BytesMut, bool) -> Result<Option<T>, Error>,
    ) -> Poll<Result<Incoming<T>, Error>> {
        loop {
            if !self.read.is_empty() {
                if let Some(message) = decode(&mut self.read, false)? {
                    return Poll::Ready(Ok(Incoming::Message(message)));
                }
            }
            self.make_room();
            let room = self.read.capacity() - self.read.len();
            let Some(io) = &mut self.io else { return Poll::Ready(Err(hung_up())) };
            let n = ready!(poll_read_buf(Pin::new(io), cx, &mut self.read))
                .map_err(|error| Error::io(Phase::Read, error))?;
            if n == 0 {
                return Poll::Ready(Ok(decode(&mut self.read, true)?.map_or(Incoming::End, Incoming::Message)));
            }
            self.received += n as u64;
            if n == room {
                self.room = (2 * self.room).min(MOST_ROOM);
            }
        }
    }

    fn make_room(&mut self) {
        let (len, capacity) = (self.read.len(), self.read.capacity());
        if capacity > KEEP && len <= KEEP / 2 {
            // Grown for a big message, which is gone.
            let mut smaller = BytesMut::with_capacity(len + self.room);
            smaller.extend_from_slice(&self.read);
            self.read = smaller;
        } else if capacity - len < self.room / 2 {
            // Whole again when little is left over; twice as much as came when a message does not fit.
            self.read.reserve(if len <= self.room / 2 { self.room - len } else { self.room.max(len) });
        }
    }

    /// Gives the buffers back, as far as nothing is in them.
    pub(crate) fn release(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        if self.write.is_empty() {
            self.write = BytesMut::new();
        }
        self.room = LEAST_ROOM;
    }

    /// Whether there is a buffer to give back.
    pub(crate) fn has_buffers(&self) -> bool {
        self.read.capacity() + self.write.capacity() > 0
    }

    /// Watches an idle stream: resolves when it is of no further use, and says why.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if !self.read.is_empty() {
            return Poll::Ready(CloseReason::Stray); // Left over from the last message.
        }
        let mut byte = [0; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let Some(io) = &mut self.io else { return Poll::Ready(CloseReason::Failed) };
        Poll::Ready(match ready!(Pin::new(io).poll_read(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => CloseReason::Peer,
            Ok(()) => CloseReason::Stray,
            Err(error) => close_reason(&Error::io(Phase::Read, error)),
        })
    }

    /// Says goodbye: close_notify over TLS, then FIN.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().map_or(Poll::Ready(Ok(())), |io| Pin::new(io).poll_shutdown(cx))
    }
}

/// How long a peer may take to accept what is written. Progress starts it anew.
#[derive(Debug)]
pub(crate) struct WriteDeadline {
    limit: Duration,
    alarm: Alarm,
    /// Since when no byte beyond this one was accepted.
    stalled: Option<(Instant, u64)>,
}

impl WriteDeadline {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, alarm: Alarm::default(), stalled: None }
    }

    /// To be asked whenever a write stalls, with [`Wire::written`]; resolves when it has stalled for too long.
    pub(crate) fn poll_stalled(&mut self, written: u64, cx: &mut Context<'_>) -> Poll<Error> {
        let since = match self.stalled {
            Some((since, at)) if at == written => since,
            _ => {
                let now = Instant::now();
                self.stalled = Some((now, written));
                self.alarm.set(after(now, self.limit));
                now
            }
        };
        ready!(self.alarm.poll(cx));
        let waited = Instant::now().saturating_duration_since(since);
        Poll::Ready(Error::new(Kind::Timeout, Phase::Write).with_message(format!(
            "the peer has accepted no byte for {waited:?}: it has stopped reading, or the network has stopped carrying"
        )))
    }

    /// Nothing is stalled.
    pub(crate) fn moved(&mut self) {
        if self.stalled.take().is_some() {
            self.alarm.put_away();
        }
    }
}

/// When buffers that nobody uses go back.
const IDLE_BUFFERS: Duration = Duration::from_secs(1);

/// Gives a connection's buffers back after a second without use. Looks once a second while the connection is in use,
/// and not at all once they are gone: a timer that is set anew for each call would cost more than the buffers are worth.
#[derive(Debug, Default)]
pub(crate) struct IdleBuffers {
    alarm: Alarm,
    used: bool,
}

impl IdleBuffers {
    /// The connection is in use.
    pub(crate) fn used(&mut self) {
        self.used = true;
    }

    /// Whether [`poll`](Self::poll) is due by itself.
    pub(crate) fn are_watched(&self) -> bool {
        self.alarm.is_set()
    }

    /// Releases the wire's buffers when it is time, which it says; wakes the task when that may be.
    pub(crate) fn poll<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<Io>,
        cx: &mut Context<'_>,
    ) -> bool {
        if !self.alarm.is_set() {
            if !wire.has_buffers() {
                return false;
            }
            self.used = false;
            self.alarm.set(Instant::now() + IDLE_BUFFERS);
        }
        while self.alarm.poll(cx).is_ready() {
            if !std::mem::take(&mut self.used) {
                wire.release();
                self.alarm.put_away();
                return true;
            }
            self.alarm.set(Instant::now() + IDLE_BUFFERS);
        }
        false
    }
}

/// Decodes with a codec that knows nothing but its messages.
pub(crate) fn decode<C>(codec: &mut C, src: &mut BytesMut, eof: bool) -> Result<Option<C::Item>, Error>
where
    C: Decoder,
    C::Error: Into<BoxError>,
{
    let decoded = if eof { codec.decode_eof(src) } else { codec.decode(src) };
    // A codec that is not ours says only that it cannot go on.
    decoded.map_err(|error| Error::wrap_as(Kind::Malformed, Phase::Read, error))
}

fn hung_up() -> Error {
    Error::new(Kind::Closed, Phase::Call).with_message("the stream was closed here")
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

/// What a failure says of its connection.
pub(crate) fn close_reason(error: &Error) -> CloseReason {
    match error.kind() {
        Kind::Closed | Kind::Io | Kind::UnexpectedEof => CloseReason::Peer,
        Kind::Timeout => CloseReason::Unresponsive,
        Kind::Unasked => CloseReason::Stray,
        Kind::Tls => CloseReason::Untrusted,
        _ => CloseReason::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use towline_test::{Script, ScriptIo};

    use super::*;

    fn wire() -> (Wire<ScriptIo>, Script) {
        let (io, script) = ScriptIo::new();
        (Wire::new(io), script)
    }

    fn noop() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// Takes messages of `len` bytes until there are no more.
    fn read(wire: &mut Wire<ScriptIo>, len: usize) -> usize {
        let mut messages = 0;
        let mut take = |src: &mut BytesMut, _| Ok((src.len() >= len).then(|| src.advance(len)));
        while let Poll::Ready(Ok(Incoming::Message(()))) = wire.poll_next(&mut noop(), &mut take) {
            messages += 1;
        }
        messages
    }

    // F36
    #[test]
    fn the_read_buffer_grows_with_bytes_that_came_and_not_with_bytes_that_were_promised() {
        let (mut wire, script) = wire();
        for received in [0, 100, 10_000, 100_000] {
            script.deliver(vec![0; received]);
            assert_eq!(read(&mut wire, 4 << 20), 0);
            let (len, capacity) = (wire.read.len(), wire.read.capacity());
            assert!(capacity <= 4 * len + 2 * LEAST_ROOM, "{capacity} bytes for {len}");
        }
    }

    // F37
    #[test]
    fn buffers_shrink_after_a_big_message() {
        let (mut wire, script) = wire();
        script.deliver(vec![0; 4 << 20]);
        assert_eq!(read(&mut wire, 4 << 20), 1);
        script.deliver([0; 10]);
        assert_eq!(read(&mut wire, 10), 1);
        assert!(wire.read.capacity() <= KEEP, "{}", wire.read.capacity());
        wire.append(|dst| dst.extend_from_slice(&vec![0; 4 << 20]));
        assert!(wire.poll_send(&mut noop()).is_ready());
        assert!(!wire.write.try_reclaim(KEEP), "it is still there");
    }

    // F37
    #[test]
    fn release_gives_everything_back_but_what_is_still_needed() {
        let (mut wire, script) = wire();
        script.deliver([0; 10]);
        assert_eq!(read(&mut wire, 10), 1);
        wire.append(|dst| dst.extend_from_slice(b"x"));
        script.accept(0);
        assert!(wire.poll_send(&mut noop()).is_pending());
        wire.release();
        assert_eq!((wire.read.capacity(), &wire.write[..]), (0, &b"x"[..]));
        script.accept_all();
        assert!(wire.poll_send(&mut noop()).is_ready());
        wire.release();
        assert!(!wire.has_buffers());
    }

    #[test]
    fn reads_get_more_room_as_long_as_they_fill_it() {
        let (mut wire, script) = wire();
        script.deliver(vec![0; 1 << 20]);
        assert_eq!(read(&mut wire, 1_024), 1_024);
        assert_eq!(wire.room, MOST_ROOM, "doubled with each read");
        assert!(wire.read.capacity() <= KEEP);
    }

    // F3
    #[test]
    fn a_stream_that_says_pending_may_keep_one_record() {
        let (mut wire, script) = wire();
        let request = |dst: &mut BytesMut| {
            dst.extend_from_slice(&[0; 100]);
            Ok::<_, Error>(())
        };
        let start = wire.encode(request).unwrap();
        script.accept(10);
        assert!(!wire.can_have_left(start));
        wire.append(|dst| dst.extend_from_slice(&[0; 32 * 1024]));
        assert!(wire.poll_send(&mut noop()).is_pending());
        assert!(wire.can_have_left(start) && wire.can_have_left(10 + HELD_BACK - 1));
        assert!(!wire.can_have_left(10 + HELD_BACK));
    }
}
