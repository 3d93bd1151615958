//! The task of one connection: all queued requests into one write, answers to their callers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Decoder, Encoder};
use towline_core::{BoxError, CloseReason, Error, Kind, Phase, Rejected};

use super::Shared;
use super::table::Id;
use crate::Correlate;
use crate::wire::{Incoming, Wire, ended_before_answer};

/// Requests are encoded ahead of the stream up to this many bytes: enough to fill a write, little enough that a call
/// that is given up has a fair chance of never being sent.
const WRITE_AHEAD: usize = 64 * 1024;
/// Turns around the loop before the task lets its siblings run.
const TURNS: usize = 32;
/// Answers taken from one turn's reading, likewise.
const ANSWERS: usize = 256;

pub(super) struct Driver<Io, C, K, Req, Res>
where
    K: Correlate<Req, Res>,
{
    shared: Arc<Shared<Req, Res>>,
    wire: Wire<Io, C>,
    correlate: K,
    /// The callers' own ids, by index.
    originals: Vec<Option<(Id, K::Original)>>,
    flushed: bool,
}

// The stream is `Unpin`, and nothing else is pinned.
impl<Io, C, K: Correlate<Req, Res>, Req, Res> Unpin for Driver<Io, C, K, Req, Res> {}

impl<Io, C, K, Req, Res> Driver<Io, C, K, Req, Res>
where
    K: Correlate<Req, Res>,
{
    pub(super) fn new(shared: Arc<Shared<Req, Res>>, wire: Wire<Io, C>, correlate: K) -> Self {
        Self { shared, wire, correlate, originals: Vec::new(), flushed: true }
    }

    fn close(&self, reason: CloseReason, error: &Error) {
        let wakers = self.shared.table.lock().close(reason, error);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The task was dropped (its runtime ended, or it panicked): nobody may wait for it.
impl<Io, C, K: Correlate<Req, Res>, Req, Res> Drop for Driver<Io, C, K, Req, Res> {
    fn drop(&mut self) {
        let gone = Error::new(Kind::Runtime, Phase::Read).with_message("the connection's task is gone");
        self.close(CloseReason::Failed, &gone);
    }
}

impl<Io, C, K, Req, Res> Driver<Io, C, K, Req, Res>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Encoder<Req> + Decoder<Item = Res>,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
    K: Correlate<Req, Res>,
{
    /// Encodes what is queued, up to [`WRITE_AHEAD`].
    fn encode_queued(&mut self) {
        while self.wire.unwritten() < WRITE_AHEAD {
            let next = self.shared.table.lock().next_to_send();
            let Some((id, mut request)) = next else { return };
            let original = self.correlate.tag(&mut request, id.0);
            match self.wire.encode(request) {
                Ok(()) => {
                    if self.originals.len() <= id.index() {
                        self.originals.resize_with(id.index() + 1, || None);
                    }
                    self.originals[id.index()] = Some((id, original));
                    self.flushed = false;
                }
                Err(error) => {
                    self.complete(id, Err(error.into()));
                }
            }
        }
    }

    /// Whether something was written.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let mut progress = false;
        while self.wire.unwritten() > 0 {
            match self.wire.poll_write(cx)? {
                Poll::Ready(_) => progress = true,
                Poll::Pending => return Ok(progress),
            }
        }
        if !self.flushed {
            self.flushed = self.wire.poll_flush(cx)?.is_ready();
        }
        Ok(progress)
    }

    /// Hands out answers; whether there may be more.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        for _ in 0..ANSWERS {
            match self.wire.poll_read(cx)? {
                Poll::Pending => return Ok(false),
                Poll::Ready(Incoming::Message(response)) => self.answer(response),
                Poll::Ready(Incoming::End) => return Err(ended_before_answer()),
            }
        }
        Ok(true)
    }

    fn answer(&mut self, mut response: Res) {
        let original = self.correlate.id(&response).and_then(|id| {
            let id = Id(id);
            self.originals.get_mut(id.index())?.take_if(|(own, _)| *own == id)
        });
        let Some((id, original)) = original else {
            self.shared.table.lock().discard();
            return;
        };
        self.correlate.restore(&mut response, original);
        self.complete(id, Ok(response));
    }

    fn complete(&self, id: Id, result: Result<Res, Rejected<Req>>) {
        let completed = self.shared.table.lock().complete(id, result);
        if let Ok(waker) = completed {
            waker.wake();
        }
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.driver.register(cx.waker());
        for _ in 0..TURNS {
            self.encode_queued();
            let sent = match self.poll_send(cx) {
                Ok(sent) => sent,
                Err(error) => {
                    // Answers that came before the stream broke are their callers'.
                    while self.poll_receive(cx).unwrap_or(false) {}
                    return Poll::Ready(Err(error));
                }
            };
            let received = self.poll_receive(cx)?;
            if self.shared.abandoned.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
            if !sent && !received {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<Io, C, K, Req, Res> Future for Driver<Io, C, K, Req, Res>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Encoder<Req> + Decoder<Item = Res>,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
    K: Correlate<Req, Res>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match std::task::ready!(self.poll_exchange(cx)) {
            Ok(()) => {
                self.close(CloseReason::Shutdown, &Error::new(Kind::Closed, Phase::Read));
                // Nothing is in flight and nobody is left: a goodbye that the stream does not take at once is not
                // worth a task that waits for it.
                let _ = self.wire.poll_shutdown(cx);
            }
            Err(error) => {
                let reason = match error.kind() {
                    Kind::Closed | Kind::Io | Kind::UnexpectedEof => CloseReason::Peer,
                    _ => CloseReason::Failed,
                };
                self.close(reason, &error);
            }
        }
        Poll::Ready(())
    }
}
