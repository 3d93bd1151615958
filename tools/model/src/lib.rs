//! Checks the hand-off between the callers of a shared connection and its driver in every interleaving: the real
//! [link](shared::link) and the real [table](shared::table), compiled over loom's locks and wakers, with a toy stream.
//!
//! What is shown, for as many threads as loom can follow: every call gets its own answer or the connection's error; no
//! wake-up is lost, or the model would find a deadlock; and no entry is left behind.

#![cfg(test)]
#![forbid(unsafe_code)]

/// What the transport's files find at the root of their own crate.
const DEFAULT_WRITE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);

#[derive(Clone, Copy)]
struct ServerLoad;

mod wire {
    use towline_core::{CloseReason, Error, Kind, Phase, Sent};

    pub(crate) fn already_closed(_reason: CloseReason) -> Error {
        Error::new(Kind::Closed, Phase::Write).with_sent(Sent::Never)
    }
}

mod sync {
    use std::task::Waker;

    use loom::sync::atomic::{AtomicUsize, Ordering};

    /// loom's mutex holds nothing unsized: it guards one that does, and that nobody ever waits for.
    pub(crate) struct Lock<T: ?Sized> {
        order: loom::sync::Mutex<()>,
        turn: AtomicUsize,
        value: std::sync::Mutex<T>,
    }

    /// In this order: the value is let go before others get their turn.
    pub(crate) struct Guard<'a, T: ?Sized> {
        value: std::sync::MutexGuard<'a, T>,
        _order: loom::sync::MutexGuard<'a, ()>,
        _turn: Turn<'a>,
    }

    /// loom lets other threads run before a lock is taken, not after one is released, and only where they touch the same
    /// thing. Whoever tries the engine while it is held, after the table was let go, needs this.
    struct Turn<'a>(&'a AtomicUsize);

    impl Drop for Turn<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self { order: loom::sync::Mutex::new(()), turn: AtomicUsize::new(0), value: std::sync::Mutex::new(value) }
        }
    }

    impl<T: ?Sized> Lock<T> {
        pub(crate) fn lock(&self) -> Guard<'_, T> {
            let order = self.order.lock().unwrap();
            Guard { value: self.value.lock().unwrap(), _order: order, _turn: Turn(&self.turn) }
        }

        pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
            let order = self.order.try_lock().ok()?;
            Some(Guard { value: self.value.lock().unwrap(), _order: order, _turn: Turn(&self.turn) })
        }
    }

    impl<T: ?Sized> std::ops::Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T: ?Sized> std::ops::DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.value
        }
    }

    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self(loom::future::AtomicWaker::new())
        }

        pub(crate) fn register(&self, waker: &Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }
}

#[expect(dead_code, reason = "the model needs a part of them")]
mod shared {
    #[path = "../../../../crates/towline-transport/src/shared/config.rs"]
    pub(crate) mod config;
    #[path = "../../../../crates/towline-transport/src/shared/id.rs"]
    pub(crate) mod id;
    #[path = "../../../../crates/towline-transport/src/shared/link.rs"]
    pub(crate) mod link;
    #[path = "../../../../crates/towline-transport/src/shared/table.rs"]
    pub(crate) mod table;

    mod models;
}
