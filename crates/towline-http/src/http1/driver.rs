//! The task of one HTTP/1 connection: runs hyper's connection, says how it ended, and bounds its goodbye, and what is left of
//! a request after its response.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::status::{Drive, Status};
use crate::moment::Moment;

pub(super) struct Driver<C> {
    /// Until it has ended.
    connection: Option<C>,
    status: Arc<Status>,
    settling: Option<Moment>,
    goodbye: Moment,
}

impl<C> Driver<C> {
    pub(super) fn new(connection: C, status: Arc<Status>) -> Self {
        Self { connection: Some(connection), status, settling: None, goodbye: Moment::default() }
    }
}

impl<C> Future for Driver<C>
where
    C: Future<Output = hyper::Result<()>> + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { connection, status, settling, goodbye } = &mut *self;
        loop {
            let (drive, Some(running)) = (status.drive(cx.waker()), connection.as_mut()) else {
                return Poll::Ready(());
            };
            if drive != Drive::Settle {
                *settling = None;
            }
            if drive != Drive::Cut {
                match Pin::new(running).poll(cx) {
                    Poll::Ready(result) => status.finished(&result),
                    // The stream may have told something meanwhile.
                    Poll::Pending if status.drive(cx.waker()) != drive => continue,
                    Poll::Pending if drive == Drive::On => return Poll::Pending,
                    Poll::Pending if drive == Drive::Settle => {
                        ready!(settling.get_or_insert_default().poll(cx));
                        status.abandon();
                    }
                    Poll::Pending => ready!(goodbye.poll(cx)),
                }
            }
            *connection = None;
        }
    }
}

/// The task was dropped (its runtime ended, or it panicked): nobody may wait for it.
impl<C> Drop for Driver<C> {
    fn drop(&mut self) {
        if self.connection.is_some() {
            self.status.lost();
        }
    }
}
