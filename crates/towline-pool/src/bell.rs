//! How connections call the driver: each has a waker that names its slot.
//!
//! A lock of its own, so that a connection can ring while the pool's lock is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use futures_util::task::AtomicWaker;
use towline_core::sync::Lock;

#[derive(Debug, Default)]
pub(crate) struct Bell {
    driver: AtomicWaker,
    rung: Lock<Vec<usize>>,
}

impl Bell {
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.driver.register(waker);
    }

    pub(crate) fn wake_driver(&self) {
        self.driver.wake();
    }

    /// The slots whose connections rang since the last time.
    pub(crate) fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *self.rung.lock())
    }
}

/// The waker of one slot's connection. Rings at most once until it is [`rearm`](Self::rearm)ed, so what is noted
/// never outgrows the number of connections.
#[derive(Debug)]
pub(crate) struct Ring {
    bell: Arc<Bell>,
    slot: usize,
    rung: AtomicBool,
}

impl Ring {
    pub(crate) fn new(bell: Arc<Bell>, slot: usize) -> Self {
        Self { bell, slot, rung: AtomicBool::new(false) }
    }

    /// To be called before the connection is looked at.
    pub(crate) fn rearm(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.bell.rung.lock().push(self.slot);
            self.bell.driver.wake();
        }
    }
}
