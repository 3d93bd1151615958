//! Many calls at once, matched by id.
//!
//! Callers put their requests into a [table](table) and wait there; one task per connection, the
//! [driver](driver), moves all queued requests into one write, reads answers, and wakes each caller with its own.
//! A caller who leaves takes its request along if that is still queued; if it was sent, the entry is freed at once
//! and the late answer finds nobody and is counted.

mod driver;
mod table;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{BoxError, CloseReason, Phase, Poolable, Rejected, Sharing, State, progress};

use self::driver::Driver;
use self::table::{Answer, Id, Table};
use crate::wire::Wire;
use crate::{Correlate, wire};

/// A connection that carries many calls at once. Made by [`MultiplexedLayer`](crate::MultiplexedLayer).
///
/// Clones share the connection; it closes, after what is in flight, when the last is dropped. Dropping a call's
/// future leaves the connection as it is. Over the limit of calls in flight a request comes back unsent.
///
/// Requests are matched by [`Correlate`].
pub struct Multiplexed<Req, Res> {
    shared: Arc<Users<Req, Res>>,
}

/// What handles and calls hold: the connection is open as long as one of them is there.
struct Users<Req, Res>(Arc<Shared<Req, Res>>);

impl<Req, Res> std::ops::Deref for Users<Req, Res> {
    type Target = Shared<Req, Res>;

    fn deref(&self) -> &Shared<Req, Res> {
        &self.0
    }
}

impl<Req, Res> Drop for Users<Req, Res> {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.0.driver.wake();
    }
}

struct Shared<Req, Res> {
    table: Lock<Table<Req, Res>>,
    /// Woken when something is queued, or the last of the [`Users`] is gone.
    driver: AtomicWaker,
    abandoned: AtomicBool,
    limit: usize,
}

impl<Req, Res> Multiplexed<Req, Res> {
    /// The highest limit of calls in flight.
    pub const MAX_LIMIT: usize = table::MAX_ENTRIES;

    /// A connection over `io`, and its driver, which must be polled for anything to happen and ends after the last
    /// handle is dropped. `limit` is clamped to `1..=MAX_LIMIT`.
    pub fn pair<Io, C, K>(io: Io, codec: C, correlate: K, limit: usize) -> (Self, impl Future<Output = ()> + Send)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        C: Encoder<Req> + Decoder<Item = Res> + Send + 'static,
        <C as Encoder<Req>>::Error: Into<BoxError>,
        <C as Decoder>::Error: Into<BoxError>,
        K: Correlate<Req, Res>,
        Req: Send,
        Res: Send,
    {
        let limit = limit.clamp(1, Self::MAX_LIMIT);
        let shared = Arc::new(Shared {
            table: Lock::new(Table::new()),
            driver: AtomicWaker::new(),
            abandoned: AtomicBool::new(false),
            limit,
        });
        let driver = Driver::new(shared.clone(), Wire::new(io, codec), correlate);
        (Self { shared: Arc::new(Users(shared)) }, driver)
    }

    /// How many responses came that nobody waited for: late ones, duplicates, unknown ids.
    pub fn discarded(&self) -> u64 {
        self.shared.table.lock().discarded()
    }

    /// How many calls are in flight.
    pub fn in_flight(&self) -> usize {
        self.shared.table.lock().in_flight()
    }
}

// By hand, so that messages need not be Clone.
impl<Req, Res> Clone for Multiplexed<Req, Res> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<Req, Res> fmt::Debug for Multiplexed<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multiplexed")
            .field("in_flight", &self.in_flight())
            .field("limit", &self.shared.limit)
            .finish_non_exhaustive()
    }
}

impl<Req: Send + 'static, Res: Send + 'static> Poolable for Multiplexed<Req, Res> {
    fn sharing(&self) -> Sharing {
        Sharing::Shared { limit: self.shared.limit }
    }

    /// Only the task that asked last is woken: the pool asks one handle of each connection.
    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        self.shared.table.lock().poll_change(seen, cx)
    }

    fn share(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn close_reason(&self) -> CloseReason {
        self.shared.table.lock().close_reason().unwrap_or(CloseReason::Failed)
    }
}

impl<Req, Res> Service<Req> for Multiplexed<Req, Res> {
    type Response = Res;
    type Error = Rejected<Req>;
    type Future = MultiplexedFuture<Req, Res>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(match self.shared.table.lock().close_reason() {
            Some(reason) => Err(wire::already_closed(reason).into()),
            None => Ok(()),
        })
    }

    fn call(&mut self, request: Req) -> Self::Future {
        MultiplexedFuture { shared: self.shared.clone(), stage: Stage::New(Some(request)) }
    }
}

/// The response of a [`Multiplexed`] connection. Does nothing until it is polled.
pub struct MultiplexedFuture<Req, Res> {
    shared: Arc<Users<Req, Res>>,
    stage: Stage<Req>,
}

enum Stage<Req> {
    New(Option<Req>),
    Waiting(Id),
    Done,
}

// Nothing is pinned: the request is only moved out.
impl<Req, Res> Unpin for MultiplexedFuture<Req, Res> {}

impl<Req, Res> Future for MultiplexedFuture<Req, Res> {
    type Output = Result<Res, Rejected<Req>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, stage } = &mut *self;
        if let Stage::New(request) = stage {
            let request = request.take().expect("polled after completion");
            let queued = shared.table.lock().enqueue(request, shared.limit, cx.waker());
            match queued {
                Ok(id) => *stage = Stage::Waiting(id),
                Err(rejected) => {
                    *stage = Stage::Done;
                    return Poll::Ready(Err(rejected));
                }
            }
            progress::enter(Phase::Write);
            shared.driver.wake();
            return Poll::Pending;
        }
        let Stage::Waiting(id) = *stage else { panic!("polled after completion") };
        let (answer, watcher) = shared.table.lock().poll_answer(id, cx.waker());
        watcher.into_iter().for_each(Waker::wake);
        match answer {
            Answer::Queued => Poll::Pending,
            Answer::Sent => {
                progress::enter(Phase::Read);
                progress::written();
                Poll::Pending
            }
            Answer::Done(result) => {
                *stage = Stage::Done;
                Poll::Ready(result)
            }
        }
    }
}

impl<Req, Res> Drop for MultiplexedFuture<Req, Res> {
    fn drop(&mut self) {
        if let Stage::Waiting(id) = self.stage {
            let (watcher, entry) = self.shared.table.lock().cancel(id);
            watcher.into_iter().for_each(Waker::wake);
            // The driver may have taken the request since the last poll: whoever gives up has to know.
            if entry.is_some_and(|entry| entry.was_taken()) {
                progress::written();
            }
        }
    }
}

impl<Req, Res> fmt::Debug for MultiplexedFuture<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultiplexedFuture").finish_non_exhaustive()
    }
}
