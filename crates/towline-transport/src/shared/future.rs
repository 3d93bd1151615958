//! One call of a shared connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use towline_core::{Phase, Rejected, progress};

use super::Users;
use super::id::Id;
use super::table::{After, Answer, Effects};

/// The response of a [`Shared`](crate::Shared) connection. Does nothing until it is polled.
pub struct SharedFuture<Req, Res> {
    users: Arc<Users<Req, Res>>,
    stage: Stage<Req>,
}

enum Stage<Req> {
    New(Option<Req>),
    Waiting(Id),
    Done,
}

// Nothing is pinned: the request is only moved out.
impl<Req, Res> Unpin for SharedFuture<Req, Res> {}

impl<Req, Res> SharedFuture<Req, Res> {
    pub(super) fn new(users: Arc<Users<Req, Res>>, request: Req) -> Self {
        Self { users, stage: Stage::New(Some(request)) }
    }
}

impl<Req, Res> Future for SharedFuture<Req, Res> {
    type Output = Result<Res, Rejected<Req>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { users, stage } = &mut *self;
        if let Stage::New(request) = stage {
            let request = request.take().expect("polled after completion");
            let queued = users.table().enqueue(request, cx.waker());
            let queued = match queued {
                Ok(queued) => queued,
                Err(rejected) => {
                    *stage = Stage::Done;
                    return Poll::Ready(Err(rejected));
                }
            };
            *stage = Stage::Waiting(queued.id);
            progress::enter(Phase::Write);
            users.queued(queued.alone, queued.first, |engine| engine.run_once(users));
            // Woken when there is an answer. Only a caller who was alone can have one already: an error.
            if !queued.alone {
                return Poll::Pending;
            }
        }
        let Stage::Waiting(id) = *stage else { panic!("polled after completion") };
        let mut after = After::default();
        let answer = users.table().poll_answer(id, cx.waker(), &mut after);
        if after.tell {
            users.wake();
        }
        match answer {
            Answer::Queued => Poll::Pending,
            Answer::Sent => {
                progress::enter(Phase::Read);
                Poll::Pending
            }
            Answer::Done(result) => {
                *stage = Stage::Done;
                Poll::Ready(result)
            }
        }
    }
}

impl<Req, Res> Drop for SharedFuture<Req, Res> {
    fn drop(&mut self) {
        let Stage::Waiting(id) = self.stage else { return };
        let mut effects = Effects::default();
        let left = self.users.table().cancel(id, &mut effects);
        // The engine may have taken the request since the last poll: whoever gives up has to know.
        if left.taken {
            progress::written();
        }
        if left.tell {
            self.users.wake();
        }
        effects.happen();
        drop(left.old);
    }
}

impl<Req, Res> fmt::Debug for SharedFuture<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFuture").finish_non_exhaustive()
    }
}
