//! Dropped at any poll, nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use tower::{Layer, ServiceExt, service_fn};
use towline_core::{Call, Error, Kind, Phase, progress};
use towline_retry::{Budget, RetryLayer, RetryPolicy};
use towline_test::cancel_at_every_poll;

use crate::MS;

/// Counts what is alive.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// F24
#[tokio::test(start_paused = true)]
async fn a_retried_call_may_be_dropped_at_every_poll() {
    let alive = Arc::new(AtomicUsize::new(0));
    // Of the call that is dropped: what it has put on the wire after its first attempt.
    let sent = Arc::new(AtomicU32::new(0));
    let budget = Budget::new(1.0, 0).unwrap();
    (0..3).for_each(|_| budget.deposit());
    let policy = RetryPolicy::idempotent().budget(budget.clone());
    let service = {
        let (alive, sent) = (alive.clone(), sent.clone());
        service_fn(move |call: Call<()>| {
            let (alive, sent, attempt) = (Alive::new(&alive), sent.clone(), call.context().attempt());
            async move {
                let _alive = alive;
                progress::enter(Phase::Queue);
                tokio::time::sleep(MS).await;
                progress::enter(Phase::Write);
                progress::written();
                sent.fetch_add(u32::from(attempt > 0), Ordering::Relaxed);
                tokio::time::sleep(MS).await;
                if attempt < 2 { Err(Error::new(Kind::Closed, Phase::Read)) } else { Ok(()) }
            }
        })
    };
    let retry = RetryLayer::with_policy(policy).layer(service);
    let polls = cancel_at_every_poll(
        || {
            sent.store(0, Ordering::Relaxed);
            retry.clone().oneshot(Call::new(()))
        },
        |_| {
            assert_eq!(alive.load(Ordering::Relaxed), 0, "what an attempt held is free");
            // Three tokens less one for each attempt that was sent, and one more when the call succeeded.
            let held: Vec<_> = std::iter::from_fn(|| budget.withdraw()).collect();
            let spent = 3 - held.len().min(3) as u32;
            let sent = sent.load(Ordering::Relaxed);
            assert!(spent == sent || (sent == 2 && spent == 1), "{sent} sent, {spent} spent");
            drop(held);
            (0..sent).for_each(|_| budget.deposit());
            std::future::ready(())
        },
    )
    .await;
    assert!(polls > 6, "{polls}");
}
