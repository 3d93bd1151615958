//! What follows from a change of the core and must not happen under its lock: foreign code runs when wakers are woken,
//! connections dropped, places passed on and observers told.

use std::sync::Arc;
use std::task::Waker;

use towline_core::{CloseReason, ConnectionId};

use crate::bell::Ring;
use crate::total::Place;

/// What has to happen once the lock is released.
#[must_use]
pub(crate) struct Effects<C> {
    pub(crate) wake_driver: bool,
    /// Mostly there is one to wake: that costs no memory.
    pub(crate) wake: Option<Waker>,
    pub(crate) others: Vec<Effect<C>>,
}

pub(crate) enum Effect<C> {
    Wake(Waker),
    Closed(Closed<C>),
    /// To be dropped.
    Unused(Place),
}

/// A connection that is no longer in its slot.
pub(crate) struct Closed<C> {
    pub(crate) id: ConnectionId,
    pub(crate) reason: CloseReason,
    /// Absent when it is lent exclusively.
    pub(crate) connection: Option<C>,
    /// The calls on it are to end now.
    pub(crate) cut: bool,
    pub(crate) ring: Arc<Ring>,
    pub(crate) waker: Waker,
    pub(crate) place: Place,
}

impl<C> Effects<C> {
    pub(crate) fn wake(&mut self, waker: Waker) {
        match self.wake {
            None => self.wake = Some(waker),
            Some(_) => self.others.push(Effect::Wake(waker)),
        }
    }
}

impl<C> Default for Effects<C> {
    fn default() -> Self {
        Self { wake_driver: false, wake: None, others: Vec::new() }
    }
}
