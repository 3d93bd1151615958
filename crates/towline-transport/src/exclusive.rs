//! One call at a time, in the caller's own poll.
//!
//! The connection is *dirty* from the first attempt to write until the whole response is read. A call that is dropped
//! while it is dirty leaves bytes behind that belong to nobody, so the connection is closed, always: the next caller
//! must never read somebody else's answer. The first *attempt* counts and not the first byte that is accepted, because
//! a TLS stream that says `Pending` keeps the record it has encrypted, and sends it before the next one.
//!
//! ```text
//!            first poll: looked at, encoded, written        response read, nothing left over
//!   Idle ────────────────────────────────────────▶ Dirty ─────────────────────────────────────▶ Idle
//!    │                                               │ dropped, failed, ended
//!    │ FIN, RST, stray bytes                         ▼
//!    └──────────────────────────────────────────▶ Closed
//! ```

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{BoxError, CloseReason, Error, Kind, Phase, Poolable, Rejected, Sent, Sharing, State, progress};

use crate::DEFAULT_WRITE_TIMEOUT;
use crate::wire::{Incoming, Wire, WriteDeadline, already_closed, close_reason, decode, ended_before_answer};

/// A connection that carries one call at a time. Made by [`ExclusiveLayer`](crate::ExclusiveLayer).
///
/// Dropping a call's future between its first poll and the end of the response closes the connection. Dropping the
/// connection while it is idle says goodbye to the peer (close_notify over TLS, FIN), as far as that takes no waiting.
///
/// Allocates nothing per call beyond what the codec does: its buffers stay for the next call, until whoever keeps the
/// connection [trims](Poolable::trim) it.
///
/// # Errors
///
/// [`Rejected`] with the request when the connection was closed or busy before the call; else without it, and
/// [`Sent::Never`] when the stream refused the first write. [`Kind::Timeout`] in [`Phase::Write`] when the peer has accepted
/// no byte for the [write timeout](Self::with_write_timeout).
pub struct Exclusive<Io, C> {
    shared: Arc<Lock<Shared<Io, C>>>,
}

struct Shared<Io, C> {
    wire: Wire<Io>,
    codec: C,
    life: Life,
    deadline: WriteDeadline,
    /// [`Wire::poll_shutdown`], once. A pointer, because a destructor cannot ask that `Io` be a stream.
    goodbye: fn(&mut Wire<Io>),
    /// Whoever waits for the connection to change while a call is in flight.
    watcher: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Idle,
    /// A call is in flight.
    Busy,
    Closed(CloseReason),
}

impl<Io, C> Shared<Io, C> {
    /// Ends a call. The lock must be released before the returned waker is woken.
    fn end_call(&mut self, life: Life) -> Option<Waker> {
        self.life = life;
        self.watcher.take()
    }
}

impl<Io, C> Shared<Io, C>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    /// Looks whether the peer has ended an idle connection, or said something unasked.
    fn look(&mut self, cx: &mut Context<'_>) {
        if self.life == Life::Idle {
            if let Poll::Ready(reason) = self.wire.poll_idle(cx) {
                self.life = Life::Closed(reason);
            }
        }
    }
}

impl<Io, C> Exclusive<Io, C>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    /// A connection over `io`, which must be at the boundary of a message.
    pub fn new(io: Io, codec: C) -> Self {
        let shared = Shared {
            wire: Wire::new(io),
            codec,
            life: Life::Idle,
            deadline: WriteDeadline::new(DEFAULT_WRITE_TIMEOUT),
            goodbye: |wire| {
                // Nothing is unwritten on an idle connection, so this either goes out at once or does not matter.
                let _ = wire.poll_shutdown(&mut Context::from_waker(Waker::noop()));
            },
            watcher: None,
        };
        Self { shared: Arc::new(Lock::new(shared)) }
    }

    /// How long the peer may take to accept the next byte of a request; 20 seconds by default.
    #[must_use]
    pub fn with_write_timeout(self, limit: Duration) -> Self {
        self.shared.lock().deadline = WriteDeadline::new(limit);
        self
    }
}

impl<Io, C> Drop for Shared<Io, C> {
    fn drop(&mut self) {
        if self.life == Life::Idle {
            (self.goodbye)(&mut self.wire);
        }
    }
}

impl<Io, C> fmt::Debug for Exclusive<Io, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exclusive").field("life", &self.shared.lock().life).finish_non_exhaustive()
    }
}

impl<Io, C> Poolable for Exclusive<Io, C>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Send + 'static,
{
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        let mut shared = self.shared.lock();
        shared.look(cx);
        let state = match shared.life {
            Life::Idle => State::Idle,
            Life::Busy => State::Busy,
            Life::Closed(_) => State::Closed,
        };
        if state != seen {
            return Poll::Ready(state);
        }
        let before = match state {
            State::Busy => shared.watcher.replace(cx.waker().clone()),
            _ => None, // The stream wakes whoever watches an idle connection.
        };
        drop(shared); // A waker's destructor is foreign.
        drop(before);
        Poll::Pending
    }

    fn trim(&mut self) {
        let mut shared = self.shared.lock();
        if shared.life == Life::Idle {
            shared.wire.release();
        }
    }

    fn close_reason(&self) -> CloseReason {
        match self.shared.lock().life {
            Life::Closed(reason) => reason,
            _ => CloseReason::Failed,
        }
    }
}

impl<Io, C, Req> Service<Req> for Exclusive<Io, C>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Encoder<Req> + Decoder,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
{
    type Response = C::Item;
    type Error = Rejected<Req>;
    type Future = ExclusiveFuture<Io, C, Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(match self.shared.lock().life {
            Life::Closed(reason) => Err(already_closed(reason).into()),
            _ => Ok(()),
        })
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ExclusiveFuture { shared: self.shared.clone(), stage: Stage::Encode(Some(request)) }
    }
}

/// The response of an [`Exclusive`] connection. Does nothing until it is polled.
pub struct ExclusiveFuture<Io, C, Req> {
    shared: Arc<Lock<Shared<Io, C>>>,
    stage: Stage<Req>,
}

enum Stage<Req> {
    Encode(Option<Req>),
    /// The request begins at `start` of the stream.
    Write {
        start: u64,
    },
    Read,
    Done,
}

// Nothing is pinned: the stream is `Unpin` and the request is only moved out.
impl<Io, C, Req> Unpin for ExclusiveFuture<Io, C, Req> {}

impl<Io, C, Req> Future for ExclusiveFuture<Io, C, Req>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Encoder<Req> + Decoder,
    <C as Encoder<Req>>::Error: Into<BoxError>,
    <C as Decoder>::Error: Into<BoxError>,
{
    type Output = Result<C::Item, Rejected<Req>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, stage } = &mut *self;
        assert!(!matches!(stage, Stage::Done), "polled after completion");
        let mut shared = shared.lock();
        if let Stage::Encode(request) = stage {
            let request = request.take().expect("polled after completion");
            // What came unasked must not be taken for this call's answer.
            shared.look(cx);
            let refused = match shared.life {
                Life::Idle => None,
                Life::Closed(reason) => Some(already_closed(reason)),
                Life::Busy => Some(
                    Error::new(Kind::Overloaded, Phase::Write)
                        .with_message("the connection carries one call at a time and has one in flight"),
                ),
            };
            if let Some(error) = refused {
                *stage = Stage::Done;
                return Poll::Ready(Err(Rejected::unsent(error, request)));
            }
            progress::enter(Phase::Write);
            let Shared { wire, codec, .. } = &mut *shared;
            match wire.encode(|dst| codec.encode(request, dst)) {
                Ok(start) => *stage = Stage::Write { start },
                Err(error) => {
                    *stage = Stage::Done;
                    return Poll::Ready(Err(error.into()));
                }
            }
            shared.life = Life::Busy;
        }
        let result = match shared.poll_exchange(stage, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(result) => result,
        };
        *stage = Stage::Done;
        let life = match &result {
            Ok(_) => Life::Idle, // What is left over is found at the next look.
            Err(error) => Life::Closed(close_reason(error)),
        };
        let watcher = shared.end_call(life);
        drop(shared);
        watcher.into_iter().for_each(Waker::wake);
        Poll::Ready(result.map_err(Rejected::from))
    }
}

impl<Io, C> Shared<Io, C>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Decoder,
    C::Error: Into<BoxError>,
{
    /// Writes, flushes and reads, as far as the stream allows.
    fn poll_exchange<Req>(&mut self, stage: &mut Stage<Req>, cx: &mut Context<'_>) -> Poll<Result<C::Item, Error>> {
        let Self { wire, codec, deadline, .. } = self;
        if let Stage::Write { start } = *stage {
            let sending = wire.poll_send(cx);
            let sent = if wire.can_have_left(start) { Sent::Maybe } else { Sent::Never };
            if sent == Sent::Maybe {
                progress::written();
            }
            match sending {
                Poll::Ready(Ok(())) => deadline.moved(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.with_sent(sent))),
                Poll::Pending => {
                    return deadline.poll_stalled(wire.written(), cx).map(|error| Err(error.with_sent(sent)));
                }
            }
            progress::enter(Phase::Read);
            *stage = Stage::Read;
        }
        wire.poll_next(cx, |src, eof| decode(codec, src, eof)).map(|read| match read {
            Ok(Incoming::Message(message)) => Ok(message),
            Ok(Incoming::End) => Err(ended_before_answer()),
            Err(error) => Err(error.with_sent(Sent::Maybe)),
        })
    }
}

impl<Io, C, Req> Drop for ExclusiveFuture<Io, C, Req> {
    fn drop(&mut self) {
        // A request that is gone and not yet encoded: the codec panicked, and may have left a part of it behind.
        if let Stage::Encode(Some(_)) | Stage::Done = self.stage {
            return;
        }
        let watcher = self.shared.lock().end_call(Life::Closed(CloseReason::Dirty));
        watcher.into_iter().for_each(Waker::wake);
    }
}

impl<Io, C, Req> fmt::Debug for ExclusiveFuture<Io, C, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExclusiveFuture").field("life", &self.shared.lock().life).finish_non_exhaustive()
    }
}
