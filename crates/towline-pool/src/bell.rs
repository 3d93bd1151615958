//! How connections call the driver: each has a waker that names its slot.
//!
//! A lock of its own, so that a connection can ring while the pool's lock is held.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::sync::{AtomicBool, AtomicWaker, Lock, Ordering};

pub(crate) struct Bell {
    driver: AtomicWaker,
    rung: Lock<Vec<usize>>,
}

impl Bell {
    pub(crate) fn new() -> Self {
        Self { driver: AtomicWaker::new(), rung: Lock::new(Vec::new()) }
    }

    pub(crate) fn register(&self, waker: &Waker) {
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

/// The waker of one slot's connection, and the way to end the call on it.
///
/// Rings at most once until it is [`rearm`](Self::rearm)ed, so what is noted never outgrows the number of connections.
pub(crate) struct Ring {
    bell: Arc<Bell>,
    slot: usize,
    rung: AtomicBool,
    /// The call on an exclusive connection, which only its own task can end.
    call: AtomicWaker,
    cut: AtomicBool,
}

impl Ring {
    pub(crate) fn new(bell: Arc<Bell>, slot: usize) -> Self {
        Self { bell, slot, rung: AtomicBool::new(false), call: AtomicWaker::new(), cut: AtomicBool::new(false) }
    }

    /// Whether the connection has rung, and nobody has looked at it since.
    pub(crate) fn has_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Calls the driver to the connection.
    fn ring(&self) {
        if self.note() {
            self.bell.driver.wake();
        }
    }

    /// Notes that the driver has to look at the connection, without waking it. Whether that is new.
    pub(crate) fn note(&self) -> bool {
        let new = !self.rung.swap(true, Ordering::AcqRel);
        if new {
            self.bell.rung.lock().push(self.slot);
        }
        new
    }

    /// To be called before the connection is looked at.
    pub(crate) fn rearm(&self) {
        // Mostly it has not rung. What is only read stays in the caches of all processors.
        if self.has_rung() {
            self.rung.store(false, Ordering::Release);
        }
    }

    /// Ends the call. Runs foreign code.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.call.wake();
    }

    /// Resolves when the call is to end.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.call.register(cx.waker());
        // After that: who cuts from here on wakes this task.
        if self.cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
