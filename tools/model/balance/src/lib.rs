//! Checks what calls leave behind on an endpoint in the interleavings of a few threads, up to a number of preemptions:
//! the real [load] of the balancer, compiled over loom's atomics and wakers.
//!
//! What is shown: no count is lost, of calls nor of samples; a peak is not overwritten by who came before it; one of all
//! that ask gets a probe; tracked calls share no slot; a call that comes while the driver goes to sleep wakes it; and
//! calls of an earlier life leave the next alone.

#![cfg(test)]
#![forbid(unsafe_code)]

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

    #[derive(Debug)]
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

#[allow(dead_code, unused_imports, reason = "the model needs a part of it")]
#[path = "../../../../crates/towline-balance/src/load/mod.rs"]
mod load;

mod models;
