//! The hand-off between callers, who queue requests, and whoever moves bytes: the driver's task or one of them.
//!
//! There are two locks, always taken in this order: the *engine* (stream, buffers, codec), held while bytes move, and
//! the *table* (calls and their state), held for a few instructions. Callers take the table to queue a request. A
//! caller who is alone then tries the engine and writes at once, in its own poll, which saves two task switches. Others
//! leave it to the driver, which runs after whoever else is ready has queued its own, and writes for all.
//!
//! Whoever runs the engine does so with the driver's waker, so that the stream only ever knows one task, and what is
//! left undone is the driver's. No request is forgotten, because a caller either ran the engine itself after it had
//! queued its request, or woke the driver after that, or found that another had said it would; and the driver registers
//! its waker before it looks at the table.

use std::task::Waker;

use crate::sync::{AtomicWaker, Guard, Lock};

pub(crate) struct Link<T, E: ?Sized> {
    table: Lock<T>,
    driver: AtomicWaker,
    engine: Lock<E>,
}

/// What running the engine as a caller has left to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rest {
    /// Nothing, until the stream wakes the driver.
    Nothing,
    /// Something for the driver.
    Driver,
}

/// Wakes the driver when it goes out of scope, if that is wanted.
struct Waking<'a> {
    driver: &'a AtomicWaker,
    wanted: bool,
}

impl Drop for Waking<'_> {
    fn drop(&mut self) {
        if self.wanted {
            self.driver.wake();
        }
    }
}

impl<T, E> Link<T, E> {
    pub(crate) fn new(table: T, engine: E) -> Self {
        Self { table: Lock::new(table), driver: AtomicWaker::new(), engine: Lock::new(engine) }
    }
}

impl<T, E: ?Sized> Link<T, E> {
    pub(crate) fn table(&self) -> Guard<'_, T> {
        self.table.lock()
    }

    /// Sees to what a caller has queued: by `run`ning the engine here and now if the caller is `alone` and the engine is
    /// free, else by waking the driver, unless somebody did before and the driver has not looked since.
    pub(crate) fn queued(&self, alone: bool, first: bool, run: impl FnOnce(&mut E) -> Rest) {
        let mut waking = Waking { driver: &self.driver, wanted: first };
        if alone {
            if let Some(mut engine) = self.engine.try_lock() {
                waking.wanted = true; // Also when this panics: the driver cleans up.
                waking.wanted = run(&mut engine) == Rest::Driver;
            }
        }
    }

    /// Wakes the driver.
    pub(crate) fn wake(&self) {
        self.driver.wake();
    }

    /// Runs the engine as the driver.
    pub(crate) fn drive<R>(&self, waker: &Waker, run: impl FnOnce(&mut E) -> R) -> R {
        // First: whoever finds the engine taken from here on wakes the driver again.
        self.driver.register(waker);
        run(&mut self.engine.lock())
    }
}
