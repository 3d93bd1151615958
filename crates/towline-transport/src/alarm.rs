//! A timer that costs nothing while it is not set.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// Rings once, at or after the time that it was set to. An alarm that was never set, or was put away,
/// holds no memory.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    set: bool,
    /// Whom the timer wakes. To ask it anew at every poll would cost more than all else that an idle poll does.
    wakes: Option<Waker>,
}

impl Alarm {
    /// Rings at `at`; never, when another executor than tokio polls the connection.
    pub(crate) fn set(&mut self, at: Instant) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None if Handle::try_current().is_err() => return,
            None => self.sleep = Some(Box::pin(sleep_until(at))),
        }
        (self.set, self.wakes) = (true, None);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set
    }

    /// Rings no more, and gives its memory back.
    pub(crate) fn put_away(&mut self) {
        *self = Self::default();
    }

    /// Whether it rings. The task is woken when it does.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sleep) = self.sleep.as_mut().filter(|_| self.set) else { return Poll::Pending };
        if !sleep.is_elapsed() && self.wakes.as_ref().is_some_and(|wakes| wakes.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        // A task that has used up its budget must not miss its deadlines.
        let rings = Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx);
        self.set = rings.is_pending();
        self.wakes = Some(cx.waker().clone()).filter(|_| self.set);
        rings
    }
}
