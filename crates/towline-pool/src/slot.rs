//! One connection of a pool, and a grant of it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use towline_core::sync::after;
use towline_core::{CloseReason, ConnectionId, Poolable, State};

use crate::bell::Ring;

/// How long a connection is idle before it is trimmed.
pub(crate) const TRIM: Duration = Duration::from_secs(1);

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
pub(crate) struct Slot<C> {
    pub(crate) id: ConnectionId,
    /// Absent while an exclusive connection is lent.
    pub(crate) connection: Option<C>,
    /// Calls that it carries at once.
    pub(crate) limit: usize,
    pub(crate) in_use: usize,
    pub(crate) lent_before: bool,
    pub(crate) succeeded: bool,
    /// Came back while its response was still being read.
    pub(crate) settling: bool,
    /// Takes no more calls, and is closed after the last for this reason.
    pub(crate) draining: Option<CloseReason>,
    pub(crate) expires: Option<Instant>,
    pub(crate) born: Instant,
    pub(crate) idle_since: Instant,
    /// Has no memory to give back.
    pub(crate) trimmed: bool,
    pub(crate) ring: Arc<Ring>,
    pub(crate) waker: Waker,
}

impl<C> Slot<C> {
    pub(crate) fn is_idle(&self) -> bool {
        self.in_use == 0
    }

    pub(crate) fn has_room(&self) -> bool {
        self.connection.is_some() && !self.settling && self.draining.is_none() && self.in_use < self.limit
    }
}

impl<C: Poolable> Slot<C> {
    /// The connection has said that it takes no more calls.
    pub(crate) fn drain(&mut self) {
        self.draining = Some(self.close_reason());
    }

    /// Why the connection says that it drains, or is closed.
    pub(crate) fn close_reason(&self) -> CloseReason {
        self.connection.as_ref().map_or(CloseReason::Failed, Poolable::close_reason)
    }

    /// Trims a connection that has been idle for [`TRIM`]; when, if it has not yet.
    pub(crate) fn trim(&mut self, now: Instant) -> Option<Instant> {
        let connection = self.connection.as_mut().filter(|_| self.in_use == 0 && !self.trimmed)?;
        let at = after(self.idle_since, TRIM);
        if now < at {
            return Some(at);
        }
        connection.trim();
        self.trimmed = true;
        None
    }

    /// Looks at a connection that is not lent exclusively: pending while it can take calls, else what it has become.
    pub(crate) fn watch(&mut self) -> Poll<State> {
        let Some(connection) = self.connection.as_mut() else { return Poll::Ready(State::Closed) };
        let mut cx = Context::from_waker(&self.waker);
        let mut seen = State::Idle;
        loop {
            match connection.poll_change(seen, &mut cx) {
                // A shared connection is busy with its other calls.
                Poll::Ready(state @ (State::Idle | State::Busy)) if state != seen => seen = state,
                Poll::Ready(state @ (State::Draining | State::Closed)) => return Poll::Ready(state),
                _ => return Poll::Pending,
            }
        }
    }
}
