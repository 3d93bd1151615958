//! What follows from a change of the core and must not happen under its lock: foreign code runs when wakers are woken,
//! connections dropped and observers told.

use std::task::Waker;

use towline_core::{CloseReason, ConnectionId};

/// What has to happen once the lock is released.
#[must_use]
pub(crate) struct Effects<C> {
    pub(crate) wake: Vec<Waker>,
    pub(crate) closed: Vec<(ConnectionId, CloseReason, Option<C>)>,
    pub(crate) dropped: Vec<C>,
    pub(crate) wake_driver: bool,
}

impl<C> Default for Effects<C> {
    fn default() -> Self {
        Self { wake: Vec::new(), closed: Vec::new(), dropped: Vec::new(), wake_driver: false }
    }
}
