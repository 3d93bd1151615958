//! A timer that costs nothing while it is not set.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// Rings once, at or after the time that it was set to. An alarm that was never set, or was put away, is one pointer:
/// most connections never need most of theirs.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Box<Timer>>);

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    set: bool,
    /// Whom the timer wakes. To ask it anew at every poll would cost more than all else that an idle poll does.
    wakes: Option<Waker>,
}

impl Alarm {
    /// Rings at `at`; never, when another executor than tokio polls the connection.
    pub(crate) fn set(&mut self, at: Instant) {
        match &mut self.0 {
            Some(timer) => {
                timer.sleep.as_mut().reset(at);
                (timer.set, timer.wakes) = (true, None);
            }
            None if Handle::try_current().is_err() => {}
            None => {
                let sleep = Box::pin(sleep_until(at));
                self.0 = Some(Box::new(Timer { sleep, set: true, wakes: None }));
            }
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|timer| timer.set)
    }

    /// Rings no more, and gives its memory back.
    pub(crate) fn put_away(&mut self) {
        self.0 = None;
    }

    /// Whether it rings. The task is woken when it does.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Timer { sleep, set, wakes }) = self.0.as_deref_mut().filter(|timer| timer.set) else {
            return Poll::Pending;
        };
        if !sleep.is_elapsed() && wakes.as_ref().is_some_and(|wakes| wakes.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        // A task that has used up its budget must not miss its deadlines.
        let rings = Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx);
        *set = rings.is_pending();
        *wakes = Some(cx.waker().clone()).filter(|_| *set);
        rings
    }
}
