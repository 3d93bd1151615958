//! One connection of a pool, and a grant of it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;
use towline_core::{CloseReason, ConnectionId, Poolable, State};

use crate::bell::Ring;

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
