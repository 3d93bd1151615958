//! Checks the pool's accounting and its queue in the interleavings of a few threads, up to a number of preemptions: the
//! real [core](core), the real [lock around it](shared), its [bell](bell) and the [cap over all endpoints](total),
//! compiled over loom's locks, atomics and wakers. Only what is around them is a toy: connections, dials that succeed at
//! once, and callers and drivers without timers.
//!
//! What is shown: no wake-up is lost, or the model would find a deadlock; no connection is handed to two; nobody
//! overtakes; a waiter that leaves passes on what it was given; and in the end the counts are exact.

#![cfg(test)]
#![forbid(unsafe_code)]

mod sync {
    pub(crate) use loom::sync::MutexGuard as Guard;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

    pub(crate) struct Lock<T>(loom::sync::Mutex<T>);

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    impl<T: Default> Default for Lock<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self(loom::future::AtomicWaker::new())
        }

        pub(crate) fn register(&self, waker: &std::task::Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }
}

macro_rules! real {
    ($($module:ident = $path:literal),* $(,)?) => {
        $(
            #[allow(dead_code, reason = "the model needs a part of them")]
            #[path = $path]
            mod $module;
        )*
    };
}

real! {
    bell = "../../../../crates/towline-pool/src/bell.rs",
    core = "../../../../crates/towline-pool/src/core/mod.rs",
    effects = "../../../../crates/towline-pool/src/effects.rs",
    limits = "../../../../crates/towline-pool/src/limits.rs",
    list = "../../../../crates/towline-pool/src/list.rs",
    queue = "../../../../crates/towline-pool/src/queue.rs",
    reach = "../../../../crates/towline-pool/src/reach.rs",
    shared = "../../../../crates/towline-pool/src/shared.rs",
    slot = "../../../../crates/towline-pool/src/slot.rs",
    stats = "../../../../crates/towline-pool/src/stats.rs",
    total = "../../../../crates/towline-pool/src/total.rs",
}

mod models;
mod toys;
