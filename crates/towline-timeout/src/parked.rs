//! Timers that are parked between calls.
//!
//! Making a timer registers it with the runtime and dropping it takes that back; resetting one that is there costs a
//! fraction. Each clone of a service parks one. A parked timer may still fire at the end of a call that has long been
//! answered; whoever polls its future then finds it finished.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};
use towline_core::sync::Lock;
use towline_core::{Error, Kind, Phase};

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
    /// # Errors
    ///
    /// [`Kind::Runtime`] when there is no tokio runtime to measure time with.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { berth, at, sleep } = self;
        if sleep.is_none() {
            let parked = berth.lock().take();
            *sleep = Some(match parked {
                Some(mut parked) => {
                    parked.as_mut().reset(*at);
                    parked
                }
                None if Handle::try_current().is_ok() => Box::pin(sleep_until(*at)),
                None => {
                    let error = Error::new(Kind::Runtime, Phase::Call);
                    return Poll::Ready(Err(error.with_message("no tokio runtime to keep a deadline with")));
                }
            });
        }
        // Outside of the task's budget: a call that always uses it up would keep its deadline from ever passing.
        let sleep = sleep.as_mut().map(|sleep| pin!(unconstrained(sleep.as_mut())).poll(cx));
        sleep.unwrap_or(Poll::Pending).map(Ok)
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
