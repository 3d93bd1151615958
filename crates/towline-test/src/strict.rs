//! A service that holds its callers to tower's contract.
//!
//! `tower_test::mock` lets `k` clones all be ready on one permit, so it cannot see over-admission or hoarding. This
//! one takes a permit in `poll_ready`, keeps it until the call's future ends or the service is dropped, and panics on
//! a call that was not made ready.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{Error, Kind, Phase};

/// A strict service. Its clones share the permits and the [`StrictHandle`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::future::poll_fn;
/// use tower_service::Service;
/// use towline_test::StrictMock;
///
/// let (mut mock, handle) = StrictMock::<&str, &str>::new(1);
/// poll_fn(|cx| mock.poll_ready(cx)).await.unwrap();
/// assert_eq!(handle.reserved(), 1);
/// let answer = mock.call("ping");
/// handle.next().await.1.send("pong").unwrap();
/// assert_eq!(answer.await.unwrap(), "pong");
/// assert_eq!(handle.reserved(), 0);
/// # });
/// ```
pub struct StrictMock<Req, Res> {
    shared: Arc<Lock<Shared<Req, Res>>>,
    permit: Option<Permit<Req, Res>>,
}

/// The test's side of a [`StrictMock`].
pub struct StrictHandle<Req, Res>(Arc<Lock<Shared<Req, Res>>>);

struct Shared<Req, Res> {
    permits: usize,
    reserved: usize,
    polls: usize,
    failure: Option<Error>,
    waiting: VecDeque<Waker>,
    requests: VecDeque<(Req, oneshot::Sender<Res>)>,
    next: Option<Waker>,
}

struct Permit<Req, Res>(Arc<Lock<Shared<Req, Res>>>);

impl<Req, Res> Drop for Permit<Req, Res> {
    fn drop(&mut self) {
        let waiting = {
            let mut shared = self.0.lock();
            shared.reserved -= 1;
            std::mem::take(&mut shared.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<Req, Res> StrictMock<Req, Res> {
    /// A service that admits `permits` calls at once.
    #[allow(clippy::new_ret_no_self, reason = "a pair, as from every channel")]
    pub fn new(permits: usize) -> (Self, StrictHandle<Req, Res>) {
        let shared = Arc::new(Lock::new(Shared {
            permits,
            reserved: 0,
            polls: 0,
            failure: None,
            waiting: VecDeque::new(),
            requests: VecDeque::new(),
            next: None,
        }));
        (Self { shared: shared.clone(), permit: None }, StrictHandle(shared))
    }
}

impl<Req, Res> StrictHandle<Req, Res> {
    /// Waits for a request and takes it, with the means to answer. Dropping that fails the call.
    pub async fn next(&self) -> (Req, oneshot::Sender<Res>) {
        std::future::poll_fn(|cx| {
            let mut shared = self.0.lock();
            match shared.requests.pop_front() {
                Some(request) => Poll::Ready(request),
                None => {
                    shared.next = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// How many permits are taken, by calls and by clones that are merely ready.
    pub fn reserved(&self) -> usize {
        self.0.lock().reserved
    }

    /// How often `poll_ready` was called.
    pub fn polls(&self) -> usize {
        self.0.lock().polls
    }

    /// Fails `poll_ready` from now on.
    pub fn fail(&self, error: Error) {
        let waiting = {
            let mut shared = self.0.lock();
            shared.failure = Some(error);
            std::mem::take(&mut shared.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

// A clone is not ready: the permit stays with the original.
impl<Req, Res> Clone for StrictMock<Req, Res> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), permit: None }
    }
}

impl<Req, Res> fmt::Debug for StrictMock<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrictMock").field("ready", &self.permit.is_some()).finish_non_exhaustive()
    }
}

impl<Req, Res> fmt::Debug for StrictHandle<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrictHandle").field("reserved", &self.reserved()).finish_non_exhaustive()
    }
}

impl<Req, Res> Service<Req> for StrictMock<Req, Res> {
    type Response = Res;
    type Error = Error;
    type Future = StrictFuture<Req, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut shared = self.shared.lock();
        shared.polls += 1;
        if let Some(error) = &shared.failure {
            return Poll::Ready(Err(error.clone()));
        }
        if self.permit.is_some() {
            return Poll::Ready(Ok(()));
        }
        if shared.reserved == shared.permits {
            shared.waiting.push_back(cx.waker().clone());
            return Poll::Pending;
        }
        shared.reserved += 1;
        drop(shared);
        self.permit = Some(Permit(self.shared.clone()));
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> StrictFuture<Req, Res> {
        let permit = self.permit.take().expect("`call` without a `poll_ready` that returned Ready");
        let (answer, answered) = oneshot::channel();
        let next = {
            let mut shared = self.shared.lock();
            shared.requests.push_back((request, answer));
            shared.next.take()
        };
        next.into_iter().for_each(Waker::wake);
        StrictFuture { answered, permit: Some(permit) }
    }
}

/// The response of a [`StrictMock`]; holds its permit until it ends or is dropped.
pub struct StrictFuture<Req, Res> {
    answered: oneshot::Receiver<Res>,
    permit: Option<Permit<Req, Res>>,
}

impl<Req, Res> Future for StrictFuture<Req, Res> {
    type Output = Result<Res, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answered).poll(cx).map(|answer| {
            self.permit = None;
            answer.map_err(|_| Error::new(Kind::Closed, Phase::Read).with_message("the mock dropped this call"))
        })
    }
}

impl<Req, Res> fmt::Debug for StrictFuture<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrictFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready_ok, task};

    use super::*;

    #[tokio::test]
    async fn one_permit_makes_one_clone_ready_and_a_drop_gives_it_back() {
        let (mut first, handle) = StrictMock::<(), ()>::new(1);
        let mut second = first.clone();
        let mut waiting = task::spawn(());
        assert_ready_ok!(waiting.enter(|cx, _| first.poll_ready(cx)));
        assert_pending!(waiting.enter(|cx, _| second.poll_ready(cx)));
        drop(first);
        assert!(waiting.is_woken());
        assert_ready_ok!(waiting.enter(|cx, _| second.poll_ready(cx)));
        assert_eq!((handle.reserved(), handle.polls()), (1, 3));
    }

    #[test]
    #[should_panic(expected = "without a `poll_ready`")]
    fn a_call_without_readiness_panics() {
        let (mut mock, _handle) = StrictMock::<(), ()>::new(1);
        drop(mock.call(()));
    }
}
