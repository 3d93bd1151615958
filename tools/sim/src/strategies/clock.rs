//! tokio's clock at the simulator's time, for strategies that are made of crates which read it.

use std::future::Future;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, EnterGuard, Runtime};
use tokio::time::{Instant, advance};

/// A runtime of its own whose clock is paused and pushed on. Nothing ever runs in it.
pub(crate) struct Clock {
    runtime: Runtime,
    start: Instant,
    now: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O needs nothing");
        let start = {
            let _runtime = runtime.enter();
            Instant::now()
        };
        Self { runtime, start, now: 0 }
    }

    /// As long as the guard lives, it is `now` for tokio.
    ///
    /// The first poll of `advance` moves the clock. What it waits for then is other tasks, and there are none.
    pub(crate) fn enter(&mut self, now: u64) -> EnterGuard<'_> {
        let guard = self.runtime.enter();
        if now > self.now {
            let mut advance = std::pin::pin!(advance(Duration::from_nanos(now - self.now)));
            let _ = advance.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            self.now = now;
        }
        assert_eq!(self.start.elapsed().as_nanos(), u128::from(now), "tokio's clock is not the simulator's");
        guard
    }
}
