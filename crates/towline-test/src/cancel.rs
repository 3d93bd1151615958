//! Dropping a future at every point at which it can be dropped.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

/// The most polls that [`cancel_at_every_poll`] gives a future before it calls it stuck.
const PATIENCE: usize = 10_000;

/// Makes a future, polls it `n` times and drops it, for every `n` from 0 until it completes; after each drop `check`
/// runs with `n`. Returns how many polls completion took.
///
/// Between polls the future waits to be woken, so the runtime around it goes on (and a paused clock advances).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use towline_test::cancel_at_every_poll;
///
/// let polls = cancel_at_every_poll(
///     || async { tokio::task::yield_now().await },
///     |_n| async { /* assert that nothing was lost, and that the next call gets its own answer */ },
/// )
/// .await;
/// assert_eq!(polls, 2);
/// # });
/// ```
pub async fn cancel_at_every_poll<F, C>(mut make: impl FnMut() -> F, mut check: impl FnMut(usize) -> C) -> usize
where
    F: Future,
    C: Future<Output = ()>,
{
    for polls in 0..PATIENCE {
        let completed = {
            let mut future = pin!(make());
            poll_times(future.as_mut(), polls).await.is_some()
        };
        check(polls).await;
        if completed {
            return polls;
        }
    }
    panic!("not complete after {PATIENCE} polls");
}

/// Polls `future` at most `polls` times, waiting for a wake-up in between; its output if that completed it.
pub async fn poll_times<F: Future>(mut future: Pin<&mut F>, polls: usize) -> Option<F::Output> {
    let mut left = polls;
    poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Lets every spawned task run until it waits, with time standing all but still.
///
/// For a current-thread runtime on the paused clock: the nanosecond of sleep gives timers that are due their turn.
pub async fn settle() {
    tokio::time::sleep(std::time::Duration::from_nanos(1)).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
