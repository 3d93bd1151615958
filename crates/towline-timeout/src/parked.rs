//! Timers that are parked between calls.
//!
//! Making a timer registers it with the runtime and dropping it takes that back; resetting one that is there costs a
//! fraction. Each clone of a service parks one. A parked timer may still fire at the end of a call that has long been
//! answered; whoever polls its future then finds it finished.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};
use towline_core::sync::Lock;

/// Where one clone of a service parks its timer.
#[derive(Debug, Default)]
pub(crate) struct Berth(Arc<Lock<Option<Pin<Box<Sleep>>>>>);

impl Berth {
    /// A timer for `at`. Takes the parked one, or makes one, when it is first polled.
    pub(crate) fn timer(&self, at: Instant) -> Timer {
        Timer { berth: self.0.clone(), at, sleep: None }
    }
}

/// A timer on loan; parked again when dropped.
#[derive(Debug)]
pub(crate) struct Timer {
    berth: Arc<Lock<Option<Pin<Box<Sleep>>>>>,
    at: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { berth, at, sleep } = self;
        let sleep = sleep.get_or_insert_with(|| match berth.lock().take() {
            Some(mut parked) => {
                parked.as_mut().reset(*at);
                parked
            }
            None => Box::pin(sleep_until(*at)),
        });
        sleep.as_mut().poll(cx)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            // Two calls of one clone may overlap: one timer is enough to keep, and the other is dropped unlocked.
            let second = self.berth.lock().replace(sleep);
            drop(second);
        }
    }
}
