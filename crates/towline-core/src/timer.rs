//! Timers that are parked between calls, for layers that wait. Not part of the stable surface.
//!
//! Making a timer registers it with the runtime and dropping it takes that back; resetting one that is there costs a
//! fraction. Each clone of a service parks one. A parked timer may still fire at the end of a call that has long been
//! answered; whoever polls its future then finds it finished.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, Id};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::sync::Lock;
use crate::{Error, Kind, Phase};

/// A timer, and the runtime that drives it: on another, and when that has ended, it is of no use.
#[derive(Debug)]
struct Parked {
    runtime: Id,
    sleep: Pin<Box<Sleep>>,
}

/// Where a service parks its timer; clones share the place.
#[derive(Clone, Debug, Default)]
pub struct Berth(Arc<Lock<Option<Parked>>>);

impl Berth {
    /// A timer for `at`. Takes the parked one, or makes one, when it is first polled.
    pub fn timer(&self, at: Instant) -> Timer {
        Timer { berth: self.0.clone(), at, parked: None }
    }
}

/// A timer on loan; parked again when dropped.
#[derive(Debug)]
pub struct Timer {
    berth: Arc<Lock<Option<Parked>>>,
    at: Instant,
    parked: Option<Parked>,
}

impl Timer {
    /// # Errors
    ///
    /// [`Kind::Runtime`] when there is no tokio runtime to measure time with.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let runtime = Handle::try_current().map_err(|cause| {
            Error::new(Kind::Runtime, Phase::Call)
                .with_message("no tokio runtime to keep a deadline with")
                .with_source(cause)
        })?;
        // A call may go on elsewhere than where it began.
        let timer = match &mut self.parked {
            Some(timer) if timer.runtime == runtime.id() => timer,
            other => other.insert(take(&self.berth, self.at, runtime.id())),
        };
        // Outside of the task's budget: a call that always uses it up would keep its deadline from ever passing.
        pin!(unconstrained(timer.sleep.as_mut())).poll(cx).map(Ok)
    }
}

/// The parked timer, if it is of this runtime, or a new one.
fn take(berth: &Lock<Option<Parked>>, at: Instant, runtime: Id) -> Parked {
    let parked = berth.lock().take();
    match parked.filter(|parked| parked.runtime == runtime) {
        Some(mut parked) => {
            parked.sleep.as_mut().reset(at);
            parked
        }
        None => Parked { runtime, sleep: Box::pin(sleep_until(at)) },
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(timer) = self.parked.take() {
            // Two calls of one clone may overlap: one timer is enough to keep, and the other is dropped unlocked.
            let second = self.berth.lock().replace(timer);
            drop(second);
        }
    }
}
