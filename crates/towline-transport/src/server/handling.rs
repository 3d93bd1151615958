//! One request in a handler: until it is answered, fails, panics, or nobody waits for it any more.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, AbortRegistration, Abortable, Aborted, CatchUnwind};
use tokio::time::{Instant, Sleep, sleep_until};
use towline_core::{Error, Kind, Phase};

/// How a request ended.
pub(super) enum Outcome<T, E> {
    Answered(T),
    Failed(E),
    Panicked(Error),
    /// The client has cancelled it.
    GivenUp,
    /// The client's deadline is over.
    Late,
}

/// Counts the requests that a server works on.
#[derive(Debug)]
struct Working(Arc<AtomicU32>);

impl Working {
    fn on(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pin_project_lite::pin_project! {
    /// Resolves to the request's id and how it ended.
    pub(super) struct Handling<F> {
        id: u64,
        #[pin]
        call: Option<Abortable<CatchUnwind<AssertUnwindSafe<F>>>>,
        #[pin]
        deadline: Option<Sleep>,
        _working: Working,
    }
}

impl<F: Future> Handling<F> {
    /// Also returns what cancels it.
    pub(super) fn new(id: u64, call: F, deadline: Option<Instant>, working: &Arc<AtomicU32>) -> (Self, AbortHandle) {
        let (handle, registration): (_, AbortRegistration) = AbortHandle::new_pair();
        // What a handler leaves behind when it panics is its own; nothing of ours is inside.
        let call = Abortable::new(AssertUnwindSafe(call).catch_unwind(), registration);
        (Self { id, call: Some(call), deadline: deadline.map(sleep_until), _working: Working::on(working) }, handle)
    }
}

impl<F, T, E> Future for Handling<F>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = (u64, Outcome<T, E>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(call) = this.call.as_mut().as_pin_mut() else { panic!("polled after completion") };
        let outcome = match call.poll(cx) {
            Poll::Ready(Ok(Ok(Ok(answer)))) => Outcome::Answered(answer),
            Poll::Ready(Ok(Ok(Err(error)))) => Outcome::Failed(error),
            Poll::Ready(Ok(Err(panic))) => Outcome::Panicked(panicked(&*panic)),
            Poll::Ready(Err(Aborted)) => Outcome::GivenUp,
            Poll::Pending => match this.deadline.as_pin_mut().map(|deadline| deadline.poll(cx)) {
                Some(Poll::Ready(())) => Outcome::Late,
                _ => return Poll::Pending,
            },
        };
        // Here, where a destructor that panics concerns this call only. Its outcome is settled.
        let _panic = std::panic::catch_unwind(AssertUnwindSafe(|| this.call.set(None)));
        Poll::Ready((*this.id, outcome))
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::new(Kind::Server, Phase::Call)
        .with_message(format!("a handler panicked: {}", said.unwrap_or("it did not say why")))
}
