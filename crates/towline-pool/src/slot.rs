//! One connection of a pool, and a grant of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;
use towline_core::{CloseReason, ConnectionId, Poolable, Sharing, State, TlsPeer};

use crate::bell::Ring;
use crate::total::Place;

/// A connection, or a share of one, on its way to a caller.
#[derive(Debug)]
pub(crate) struct Grant<C> {
    pub(crate) connection: C,
    pub(crate) slot: SlotId,
    pub(crate) reused: bool,
}

/// Which connection a grant came from; slots are reused, ids are not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotId {
    pub(crate) index: usize,
    pub(crate) id: ConnectionId,
}

/// One connection and what is known of it.
///
/// The order counts: what every checkout touches comes first, on one or two lines of a processor's cache.
#[repr(C)]
pub(crate) struct Slot<C> {
    pub(crate) id: ConnectionId,
    pub(crate) calls: u64,
    /// After so many calls it is closed.
    pub(crate) max_calls: u64,
    pub(crate) in_use: usize,
    pub(crate) ring: Arc<Ring>,
    pub(crate) exclusive: bool,
    /// Is in the list of idle connections.
    pub(crate) listed: bool,
    pub(crate) succeeded: bool,
    /// Takes no more calls, and is closed after the last for this reason.
    pub(crate) draining: Option<CloseReason>,
    pub(crate) checking: bool,
    /// Has no memory to give back.
    pub(crate) trimmed: bool,
    /// By the pool's own clock, which is up to a tick slow.
    pub(crate) idle_since: Instant,
    /// Absent while an exclusive connection is lent.
    pub(crate) connection: Option<C>,
    pub(crate) waker: Waker,
    /// Calls that it carries at once; none while a shared one is full of what the pool does not count.
    pub(crate) limit: usize,
    /// Shared and busy, though no call of the pool is on it: a response is still being read, as HTTP/2 bodies are.
    pub(crate) reading: bool,
    /// Came back while its response was still being read.
    pub(crate) settling: bool,
    /// Is coming back from a check, which is no use of it.
    pub(crate) looked_into: bool,
    pub(crate) expires: Option<Instant>,
    /// Old, but kept until its replacement is there: closed or drained at the next tick after that.
    pub(crate) expired: bool,
    pub(crate) born: Instant,
    /// When it will be looked into next.
    pub(crate) check_at: Option<Instant>,
    pub(crate) place: Place,
    /// At the other end, if that is known.
    pub(crate) peer: Option<Arc<TlsPeer>>,
}

impl<C> Slot<C> {
    pub(crate) fn is_idle(&self) -> bool {
        self.in_use == 0 && !self.reading
    }

    /// Nothing is to be seen to when it comes back.
    pub(crate) fn is_simple(&self) -> bool {
        self.exclusive && self.draining.is_none() && !self.checking
    }

    pub(crate) fn has_room(&self) -> bool {
        self.connection.is_some() && !self.settling && self.draining.is_none() && self.in_use < self.limit
    }
}

impl<C: Poolable> Slot<C> {
    /// Asks a shared connection for its limit anew: a peer may change it at any time. Whether it is in order.
    #[must_use]
    pub(crate) fn learn_limit(&mut self) -> bool {
        let Some(connection) = self.connection.as_ref().filter(|_| !self.exclusive) else { return true };
        let limit = ask(|| connection.sharing()).map(limit_of);
        self.limit = limit.unwrap_or(0);
        limit.is_some()
    }

    /// Another handle to a shared connection.
    pub(crate) fn share(&self) -> Option<C> {
        let connection = self.connection.as_ref()?;
        ask(|| connection.share())?
    }

    /// Why the connection says that it drains, or is closed.
    pub(crate) fn close_reason(&self) -> CloseReason {
        let said = self.connection.as_ref().and_then(|connection| ask(|| connection.close_reason()));
        said.unwrap_or(CloseReason::Failed)
    }

    /// Gives memory back that only a busy connection needs. Whether it is in order.
    #[must_use]
    pub(crate) fn trim(&mut self) -> bool {
        self.trimmed = true;
        self.connection.as_mut().is_none_or(|connection| ask(|| connection.trim()).is_some())
    }

    /// Looks at a connection that is not lent exclusively, and at its limit: pending while it can take calls, else what it
    /// has become. From then on it rings when that changes.
    pub(crate) fn watch(&mut self) -> Poll<State> {
        self.ring.rearm();
        let Some(connection) = self.connection.as_mut() else { return Poll::Ready(State::Closed) };
        let mut cx = Context::from_waker(&self.waker);
        let mut seen = State::Idle;
        loop {
            match look(connection, seen, &mut cx) {
                // A shared connection is busy with its other calls.
                Poll::Ready(state @ (State::Idle | State::Busy)) if state != seen => seen = state,
                // To be told when it has finished what it reads.
                Poll::Ready(State::Draining) if self.reading && seen != State::Draining => seen = State::Draining,
                Poll::Pending if seen == State::Draining => return Poll::Ready(State::Draining),
                Poll::Ready(state @ (State::Draining | State::Closed)) => {
                    self.reading = false;
                    return Poll::Ready(state);
                }
                _ => {
                    self.reading = !self.exclusive && self.in_use == 0 && seen == State::Busy;
                    // After it was asked to ring: what rises from here on is heard.
                    return if self.learn_limit() { Poll::Pending } else { Poll::Ready(State::Closed) };
                }
            }
        }
    }
}

/// Asks a connection, whose code is foreign. One that panics is of no further use, and says nothing.
#[inline]
pub(crate) fn ask<R>(ask: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(ask)).ok()
}

/// Asks a connection for its state.
#[inline]
pub(crate) fn look(connection: &mut impl Poolable, seen: State, cx: &mut Context<'_>) -> Poll<State> {
    ask(|| connection.poll_change(seen, cx)).unwrap_or(Poll::Ready(State::Closed))
}

/// How many calls are carried at once.
pub(crate) fn limit_of(sharing: Sharing) -> usize {
    match sharing {
        Sharing::Exclusive => 1,
        Sharing::Shared { limit } => limit,
    }
}
