//! The same policy under tower's own `Retry`.

use std::time::Duration;

use tokio::time::Instant;
use tower::retry::RetryLayer;
use tower::{Layer, ServiceExt};
use towline_core::{Backoff, Blind, Call, EndpointId, EndpointKey, Error, Kind, Phase, Sent};
use towline_retry::{Budget, RetryPolicy};

use crate::{Answer, Events, MS, SECOND, Scripted, maybe, scripted, unsent};

async fn run(policy: &RetryPolicy, service: &Scripted, call: Call<&'static str>) -> Answer {
    RetryLayer::new(policy.clone().for_tower()).layer(service.clone()).oneshot(call).await
}

#[tokio::test(start_paused = true)]
async fn what_goes_again_under_towers_retry_is_what_goes_again_under_ours() {
    let policy = RetryPolicy::never_sent();
    let service = scripted([unsent(), unsent(), Ok("pong")]);
    assert_eq!(run(&policy, &service, Call::new("ping")).await.unwrap(), "pong");
    let attempts: Vec<_> = service.seen.lock().iter().map(|call| call.context().attempt()).collect();
    assert_eq!(attempts, [0, 1, 2]);
    let service = scripted([unsent(), unsent(), unsent()]);
    assert_eq!(run(&policy, &service, Call::new("ping")).await.unwrap_err().kind(), Kind::Unavailable);
    let service = scripted([maybe()]);
    assert_eq!(run(&policy, &service, Call::new("ping")).await.unwrap_err().sent(), Sent::Maybe);
    let service = scripted([maybe(), Ok("pong")]);
    assert_eq!(run(&policy, &service, Call::new("ping").idempotent()).await.unwrap(), "pong");
    let service = scripted([maybe(), Ok("pong")]);
    assert_eq!(run(&RetryPolicy::idempotent(), &service, Call::new("ping")).await.unwrap(), "pong");
    assert_eq!(policy.stats().retries, 5);
}

#[tokio::test(start_paused = true)]
async fn under_towers_retry_the_endpoint_that_failed_is_noted_as_tried() {
    let id = EndpointId::fresh();
    let error = Error::new(Kind::Closed, Phase::Read).or_picked(id, &EndpointKey::new("a"));
    let service = scripted([Err(error), Ok("pong")]);
    run(&RetryPolicy::idempotent(), &service, Call::new("ping")).await.unwrap();
    let seen = service.seen.lock();
    assert!(seen[0].context().tried().is_empty());
    assert!(seen[1].context().tried().contains(id));
}

#[tokio::test(start_paused = true)]
async fn under_towers_retry_the_budget_is_the_same_and_tokens_go_back() {
    let budget = Budget::new(1.0, 0).unwrap();
    budget.deposit();
    let events = Events::default();
    let policy = RetryPolicy::idempotent().attempts(2).unwrap().budget(budget.clone()).observers(events.observers());
    // Never sent after all.
    run(&policy, &scripted([maybe(), unsent()]), Call::new("ping")).await.unwrap_err();
    // Left during the pause.
    let slow = policy.clone().backoff(Backoff::new(10 * SECOND, 10 * SECOND).with_jitter(towline_core::Jitter::Equal));
    let service = scripted([maybe()]);
    assert!(tokio::time::timeout(SECOND, run(&slow, &service, Call::new("ping"))).await.is_err());
    assert_eq!(events.take(), ["Retrying", "Retrying"]);
    // So it is there to be spent, and spent it is.
    run(&policy, &scripted([maybe(), maybe()]), Call::new("ping")).await.unwrap_err();
    run(&policy, &scripted([maybe()]), Call::new("ping")).await.unwrap_err();
    assert_eq!(events.take(), ["Retrying", "BudgetExhausted"]);
    // A success earns one, which ours spends.
    run(&policy, &scripted([Ok("pong")]), Call::new("ping")).await.unwrap();
    let ours = towline_retry::RetryLayer::with_policy(policy).layer(scripted([maybe(), Ok("pong")]));
    ours.oneshot(Call::new("ping")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn under_towers_retry_every_call_draws_its_own_pause() {
    let policy = RetryPolicy::default().backoff(Backoff::new(100 * MS, SECOND));
    let mut pauses = Vec::new();
    for _ in 0..50 {
        let (service, start) = (scripted([unsent(), Ok("pong")]), Instant::now());
        run(&policy, &service, Call::new("ping")).await.unwrap();
        pauses.push(start.elapsed());
    }
    pauses.sort();
    pauses.dedup();
    assert!(pauses.len() > 25, "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn under_towers_retry_a_retry_that_would_reach_the_deadline_is_not_begun() {
    let policy = RetryPolicy::default().backoff(Backoff::new(1_000_000 * SECOND, 1_000_000 * SECOND));
    let start = Instant::now();
    let call = Call::new("ping").with_deadline(start + SECOND);
    run(&policy, &scripted([unsent()]), call).await.unwrap_err();
    assert_eq!((start.elapsed(), policy.stats().too_late), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn under_towers_retry_the_last_error_says_sent_when_any_attempt_may_have_been() {
    let service = scripted([maybe(), unsent(), unsent()]);
    let error = run(&RetryPolicy::idempotent(), &service, Call::new("ping")).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Unavailable, Sent::Maybe));
}

#[tokio::test(start_paused = true)]
async fn inside_our_layer_towers_retry_leaves_it_to_that_and_says_so() {
    let events = Events::default();
    let inner = RetryPolicy::idempotent().observers(events.observers());
    let service = scripted([maybe(), maybe(), maybe()]);
    let stack = RetryLayer::new(inner.clone().for_tower()).layer(service.clone());
    let stack = towline_retry::RetryLayer::with_policy(RetryPolicy::idempotent()).layer(stack);
    stack.oneshot(Call::new("ping")).await.unwrap_err();
    assert_eq!((service.calls(), inner.stats().nested), (3, 3));
    assert_eq!(events.take(), ["NestedRetry"]);
}

#[tokio::test(start_paused = true)]
async fn under_towers_retry_a_request_without_a_context_goes_again_when_it_was_never_sent() {
    let left = std::sync::atomic::AtomicU32::new(2);
    let service = tower::service_fn(|_: u32| {
        let fails = left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) > 1;
        async move { if fails { unsent() } else { Ok("pong") } }
    });
    let layer = RetryLayer::new(RetryPolicy::default().for_tower().with_access(Blind));
    assert_eq!(layer.layer(service).oneshot(7).await.unwrap(), "pong");
}
