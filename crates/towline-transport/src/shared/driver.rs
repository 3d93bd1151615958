//! The task of one connection: runs the engine until the connection is over, then says goodbye, within a time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use towline_core::sync::after;

use super::Owned;
use crate::alarm::Alarm;

pub(super) struct Driver<Req, Res> {
    owned: Arc<Owned<Req, Res>>,
    shutdown_timeout: Duration,
    goodbye: Option<Alarm>,
}

impl<Req, Res> Driver<Req, Res> {
    pub(super) fn new(owned: Arc<Owned<Req, Res>>, shutdown_timeout: Duration) -> Self {
        Self { owned, shutdown_timeout, goodbye: None }
    }
}

impl<Req, Res> Future for Driver<Req, Res> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { owned, shutdown_timeout, goodbye } = &mut *self;
        let link = &owned.link;
        if goodbye.is_none() {
            let over = link.drive(cx.waker(), |engine| engine.poll_run(link, cx));
            if over.is_pending() && !owned.abandoned.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            if over.is_pending() {
                // The last handle and the last call are gone.
                link.drive(cx.waker(), |engine| engine.leave(link));
            }
        }
        let alarm = goodbye.get_or_insert_with(|| {
            let mut alarm = Alarm::default();
            alarm.set(after(Instant::now(), *shutdown_timeout));
            alarm
        });
        // A goodbye that the stream does not take in time is not worth a task that waits for it.
        if link.drive(cx.waker(), |engine| engine.poll_goodbye(cx)).is_pending() {
            ready!(alarm.poll(cx));
        }
        Poll::Ready(())
    }
}

/// The task was dropped (its runtime ended, or it panicked): nobody may wait for it.
impl<Req, Res> Drop for Driver<Req, Res> {
    fn drop(&mut self) {
        let link = &self.owned.link;
        link.drive(std::task::Waker::noop(), |engine| engine.abandon(link));
    }
}
