//! What retries add when everything fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Instant, sleep_until};
use tower::{Layer, ServiceExt, service_fn};
use towline_core::{Backoff, Call, Error, Kind, Phase};
use towline_retry::{RetryLayer, RetryPolicy};
use towline_timeout::DeadlineLayer;

use crate::{MS, SECOND};

/// A service that always fails after a while, and how often it was called.
fn failing(
    phase: Phase,
) -> (impl tower::Service<Call<u64>, Response = (), Error = Error, Future: Send> + Clone + Send + 'static, Arc<AtomicU64>)
{
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let service = service_fn(move |_: Call<u64>| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(5 * MS).await;
            Err::<(), _>(Error::new(Kind::Server, phase))
        }
    });
    (service, sent)
}

/// `rate` calls per second for 60 seconds, each on a clone of its own; every one of them fails.
async fn storm<S>(service: S, rate: u32) -> u64
where
    S: tower::Service<Call<u64>, Response = (), Error = Error, Future: Send> + Clone + Send + 'static,
{
    let start = Instant::now();
    let calls = u64::from(rate) * 60;
    let mut running = Vec::new();
    for call in 0..calls {
        sleep_until(start + SECOND * call as u32 / rate).await;
        running.push(tokio::spawn(service.clone().oneshot(Call::new(call).idempotent())));
    }
    for call in running {
        call.await.unwrap().unwrap_err();
    }
    calls
}

// F32
#[tokio::test(start_paused = true)]
async fn a_storm_adds_no_more_than_the_budget() {
    for rate in [50, 1_000] {
        let (service, sent) = failing(Phase::Read);
        let calls = storm(RetryLayer::new().layer(service), rate).await;
        let (sent, floor) = (sent.load(Ordering::Relaxed), 100 + 60 * 10);
        // Nothing succeeds, so nothing is earned but the floor.
        assert!(sent <= calls + floor + 10, "{sent} of {calls}");
        assert!(sent >= calls + floor - 20, "{sent} of {calls}: the floor is there to be used");
    }
}

// F32
#[tokio::test(start_paused = true)]
async fn a_storm_under_nested_layers_adds_no_more_than_under_one() {
    let (service, sent) = failing(Phase::Read);
    let (inner, outer) = (RetryPolicy::default(), RetryPolicy::default());
    let service = RetryLayer::with_policy(inner.clone()).layer(service);
    let service = RetryLayer::with_policy(outer).layer(RetryLayer::with_policy(inner.clone()).layer(service));
    let calls = storm(service, 100).await;
    let sent = sent.load(Ordering::Relaxed);
    assert!((calls + 680..=calls + 710).contains(&sent), "{sent} of {calls}");
    assert_eq!(inner.stats().nested, 2 * sent);
}

// F32
#[tokio::test(start_paused = true)]
async fn a_storm_with_a_deadline_shorter_than_the_pauses_adds_nothing() {
    let (service, sent) = failing(Phase::Read);
    let backoff = Backoff::new(SECOND, SECOND).with_jitter(towline_core::Jitter::Equal);
    let policy = RetryPolicy::default().backoff(backoff);
    let stack = DeadlineLayer::new(300 * MS).layer(RetryLayer::with_policy(policy.clone()).layer(service));
    let calls = storm(stack, 100).await;
    assert_eq!(sent.load(Ordering::Relaxed), calls);
    assert_eq!((policy.stats().too_late, policy.stats().retries), (calls, 0));
}

// F18
#[tokio::test(start_paused = true)]
async fn when_nothing_can_be_reached_attempts_are_free_but_bounded_and_paced() {
    let (service, sent) = failing(Phase::Dial);
    let start = Instant::now();
    let calls = storm(RetryLayer::new().layer(service), 100).await;
    assert_eq!(sent.load(Ordering::Relaxed), 3 * calls);
    assert!(start.elapsed() < 62 * SECOND);
    // Alone: the pauses between them are real, and there is an end.
    let (service, sent) = failing(Phase::Dial);
    let backoff = Backoff::new(100 * MS, SECOND).with_jitter(towline_core::Jitter::Equal);
    let policy = RetryPolicy::default().attempts(10).unwrap().backoff(backoff);
    let start = Instant::now();
    RetryLayer::with_policy(policy).layer(service).oneshot(Call::new(0)).await.unwrap_err();
    assert_eq!(sent.load(Ordering::Relaxed), 10);
    // Half of 0.1 + 0.2 + 0.4 + 0.8 and five times 1 second.
    assert!(start.elapsed() > 3_250 * MS, "{:?}", start.elapsed());
}
