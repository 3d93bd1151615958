//! The task of one HTTP/2 connection.
//!
//! hyper makes a task of the connection, one of what takes requests, and more for each call. They all run in one here, so
//! that a connection has one owner: it can be ended at once, and nothing of it outlives it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::body::Body;
use hyper::client::conn::http2::Connection;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use towline_core::sync::Lock;
use towline_core::{BoxError, BoxTask, CloseReason};

use super::config::NOT_YET;
use super::link::{Drive, Link};
use super::tied::Tied;
use crate::error::close_reason;
use crate::moment::Moment;

/// hyper's executor: tasks for the driver.
#[derive(Clone, Default)]
pub(super) struct Spawner(Arc<Lock<Vec<BoxTask>>>);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.lock().push(Box::pin(task));
    }
}

impl Spawner {
    /// Exchanges what was spawned for this, which is empty and keeps its room.
    fn swap(&self, spare: &mut Vec<BoxTask>) {
        std::mem::swap(&mut *self.0.lock(), spare);
    }
}

pub(super) struct Driver<Io, B>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Takes requests, until it is over.
    dispatch: Option<Connection<TokioIo<Io>, Tied<B>, Spawner>>,
    spawner: Spawner,
    spare: Vec<BoxTask>,
    tasks: FuturesUnordered<BoxTask>,
    link: Arc<Link>,
    max_streams: usize,
    error: Option<hyper::Error>,
    goodbye: Moment,
    done: bool,
}

impl<Io, B> Driver<Io, B>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        dispatch: Connection<TokioIo<Io>, Tied<B>, Spawner>,
        spawner: Spawner,
        link: Arc<Link>,
        max_streams: usize,
    ) -> Self {
        Self {
            dispatch: Some(dispatch),
            spawner,
            spare: Vec::new(),
            tasks: FuturesUnordered::new(),
            link,
            max_streams,
            error: None,
            goodbye: Moment::default(),
            done: false,
        }
    }

    /// Waits for the peer's SETTINGS. `Err` when the connection is over before, with the cause if there is one.
    pub(super) fn poll_settings(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Option<hyper::Error>>> {
        self.run(cx);
        match &self.dispatch {
            Some(dispatch) if dispatch.current_max_send_streams() != NOT_YET => Poll::Ready(Ok(())),
            Some(_) => Poll::Pending,
            None => Poll::Ready(Err(self.error.take())),
        }
    }

    /// Runs everything as far as it goes.
    fn run(&mut self, cx: &mut Context<'_>) {
        loop {
            self.spawner.swap(&mut self.spare);
            self.tasks.extend(self.spare.drain(..));
            while let Poll::Ready(Some(())) = self.tasks.poll_next_unpin(cx) {}
            // Looked at each time: hyper does not wake it when the peer says something to it.
            let Some(dispatch) = &mut self.dispatch else { break };
            match Pin::new(&mut *dispatch).poll(cx) {
                Poll::Ready(result) => {
                    self.link.end(result.as_ref().map_or_else(close_reason, |()| CloseReason::Drained));
                    self.error = result.err();
                    self.dispatch = None; // Of which the connection's task hears.
                }
                Poll::Pending => {
                    self.link.allow(dispatch.current_max_send_streams().min(self.max_streams));
                    if self.spawner.0.lock().is_empty() {
                        break;
                    }
                }
            }
        }
    }

    fn drop_everything(&mut self) {
        self.dispatch = None;
        self.tasks.clear();
        // Tasks hold their executor, and it holds those that have not begun.
        self.spare = Vec::new();
        self.spawner.swap(&mut self.spare);
        self.spare = Vec::new();
        self.done = true;
    }
}

impl<Io, B> Future for Driver<Io, B>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let drive = this.link.drive(cx.waker());
            if drive != Drive::Cut {
                this.run(cx);
                let is_over = this.dispatch.is_none() && this.tasks.is_empty();
                match this.link.drive(cx.waker()) {
                    // What just happened has changed what is to be done.
                    changed if changed != drive => continue,
                    Drive::On if !is_over => return Poll::Pending,
                    _ if !is_over && this.goodbye.poll(cx).is_pending() => return Poll::Pending,
                    _ => {}
                }
            }
            this.drop_everything();
            this.link.closed();
            return Poll::Ready(());
        }
    }
}

/// The task was dropped (its runtime ended, or it panicked): nobody may wait for it.
impl<Io, B> Drop for Driver<Io, B>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn drop(&mut self) {
        if !self.done {
            self.link.lost();
            self.drop_everything();
        }
    }
}
