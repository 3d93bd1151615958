//! Points 4 to 8: what goes again, when, and who pays.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use towline_core::sync::Lock;
use towline_core::{Backoff, Blind, Call, Classify, EndpointId, Error, Kind, Outcome, Phase, Sent, progress};
use towline_retry::{Budget, RetryLayer, RetryPolicy};

use crate::{Events, MS, SECOND, Scripted, maybe, scripted, unsent};

async fn run(service: &Scripted, call: Call<&'static str>) -> Result<&'static str, Error> {
    RetryLayer::new().layer(service.clone()).oneshot(call).await
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_goes_again_whatever_it_does() {
    let service = scripted([unsent(), unsent(), Ok("pong")]);
    assert_eq!(run(&service, Call::new("ping")).await.unwrap(), "pong");
    let attempts: Vec<_> = service.seen.lock().iter().map(|call| call.context().attempt()).collect();
    assert_eq!(attempts, [0, 1, 2]);
}

// F6
#[tokio::test(start_paused = true)]
async fn what_may_have_been_sent_goes_again_only_when_it_is_idempotent() {
    let service = scripted([maybe()]);
    assert_eq!(run(&service, Call::new("ping")).await.unwrap_err().sent(), Sent::Maybe);
    let service = scripted([maybe(), Ok("pong")]);
    assert_eq!(run(&service, Call::new("ping").idempotent()).await.unwrap(), "pong");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_callers_own_never_goes_again() {
    let service = scripted([Err(Error::new(Kind::TooLarge, Phase::Write).with_sent(Sent::Never))]);
    assert_eq!(run(&service, Call::new("ping").idempotent()).await.unwrap_err().kind(), Kind::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_and_the_last_error_is_told() {
    let service = scripted([unsent(), unsent(), Err(Error::new(Kind::Overloaded, Phase::Queue))]);
    assert_eq!(run(&service, Call::new("ping")).await.unwrap_err().kind(), Kind::Overloaded);
    let error = RetryPolicy::default().attempts(0).unwrap_err();
    assert!(error.to_string().contains("use 1 for no retry"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_endpoint_that_failed_is_noted_as_tried() {
    let mut service = scripted([maybe(), Ok("pong")]);
    let id = EndpointId::fresh();
    service.endpoint = Some(id);
    run(&service, Call::new("ping").idempotent()).await.unwrap();
    let seen = service.seen.lock();
    assert!(seen[0].context().tried().is_empty());
    assert!(seen[1].context().tried().contains(id));
}

#[tokio::test(start_paused = true)]
async fn every_call_draws_its_own_pause_within_full_jitter() {
    let mut pauses = Vec::new();
    let layer = RetryLayer::with_policy(RetryPolicy::default().backoff(Backoff::new(100 * MS, SECOND)));
    let service = scripted(std::iter::repeat_with(|| [unsent(), Ok("pong")]).take(50).flatten());
    let shared = layer.layer(service.clone());
    for _ in 0..50 {
        shared.clone().oneshot(Call::new("ping")).await.unwrap();
        let at = std::mem::take(&mut *service.at.lock());
        pauses.push(at[1].duration_since(at[0]));
    }
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(101)), "{pauses:?}");
    pauses.sort();
    pauses.dedup();
    assert!(pauses.len() > 25, "{pauses:?}");
}

// F32
#[tokio::test(start_paused = true)]
async fn a_retry_that_cannot_start_before_the_deadline_is_not_begun() {
    let slow = Backoff::new(Duration::from_secs(1_000_000), Duration::from_secs(1_000_000));
    let service = scripted([unsent()]);
    let start = Instant::now();
    let call = Call::new("ping").with_deadline(start + Duration::from_secs(1));
    let error =
        RetryLayer::with_policy(RetryPolicy::default().backoff(slow)).layer(service).oneshot(call).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (Kind::Unavailable, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_says_unsent_is_not_believed_when_something_was_written() {
    let sent = Arc::new(Lock::new(0));
    let count = sent.clone();
    // A call that succeeds, and a second to another service that cannot be dialled.
    let composed = tower::service_fn(move |_: Call<()>| {
        *count.lock() += 1;
        async {
            progress::written();
            Err::<(), _>(Error::new(Kind::Unavailable, Phase::Dial))
        }
    });
    let error = RetryLayer::new().layer(composed).oneshot(Call::new(())).await.unwrap_err();
    assert_eq!((error.sent(), *sent.lock()), (Sent::Maybe, 1));
}

#[tokio::test(start_paused = true)]
async fn the_last_error_says_sent_when_any_attempt_may_have_been() {
    let service = scripted([maybe(), unsent(), unsent()]);
    let error = run(&service, Call::new("ping").idempotent()).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Unavailable, Sent::Maybe));
}

#[tokio::test(start_paused = true)]
async fn whoever_watches_a_retried_call_knows_that_an_earlier_attempt_was_sent() {
    let service = scripted([maybe(), Ok("pong")]);
    let mut progress = progress::Progress::default();
    let mut call = std::pin::pin!(RetryLayer::new().layer(service).oneshot(Call::new("ping").idempotent()));
    let polled = poll_fn(|cx| Poll::Ready(progress.scope(|| call.as_mut().poll(cx)))).await;
    assert!(polled.is_pending());
    assert_eq!((progress.phase(), progress.sent()), (Phase::Backoff, Sent::Maybe));
}

#[test]
fn outside_a_runtime_a_call_fails_with_its_error_and_is_not_repeated() {
    let service = scripted([unsent()]);
    let mut call = std::pin::pin!(RetryLayer::new().layer(service).oneshot(Call::new("ping")));
    let polled = call.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Err(error)) if error.kind() == Kind::Unavailable));
}

// F32
#[tokio::test(start_paused = true)]
async fn retries_of_what_may_have_been_sent_stay_within_the_budget_and_unsent_ones_are_free() {
    let events = Events::default();
    let policy = RetryPolicy::default().budget(Budget::new(0.1, 0).unwrap()).observers(events.observers());
    let layer = RetryLayer::with_policy(policy.clone());
    let service = scripted(std::iter::repeat_with(|| Ok("pong")).take(20).chain([
        maybe(), // pays one token
        maybe(), // pays the other
        maybe(),
        maybe(), // no token is left
        unsent(),
        unsent(),
        Ok("pong"),
    ]));
    let retry = layer.layer(service);
    for _ in 0..20 {
        retry.clone().oneshot(Call::new("ping").idempotent()).await.unwrap();
    }
    retry.clone().oneshot(Call::new("ping").idempotent()).await.unwrap_err();
    retry.clone().oneshot(Call::new("ping").idempotent()).await.unwrap_err();
    retry.clone().oneshot(Call::new("ping").idempotent()).await.unwrap();
    assert_eq!(events.take(), ["Retrying", "Retrying", "BudgetExhausted", "Retrying", "Retrying"]);
    assert_eq!((policy.stats().retries, policy.stats().budget_exhausted), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_replayed_is_told_not_silently_given_up() {
    #[derive(Debug)]
    struct Once;
    impl towline_core::Replay for Once {
        fn replay(&self) -> Option<Self> {
            None
        }
    }
    let events = Events::default();
    let fails = tower::service_fn(|_: Once| async { Err::<(), _>(Error::new(Kind::Unavailable, Phase::Dial)) });
    let policy = RetryPolicy::default();
    let layer = RetryLayer::with_policy(policy.clone()).observers(events.observers()).with_access(Blind);
    layer.layer(fails).oneshot(Once).await.unwrap_err();
    assert_eq!(events.take(), ["NotReplayable"]);
    // Of a call that may not go again anyway there is nothing to tell.
    let fails = tower::service_fn(|_: Once| async { Err::<(), _>(Error::new(Kind::Closed, Phase::Read)) });
    layer.layer(fails).oneshot(Once).await.unwrap_err();
    assert!(events.take().is_empty());
    assert_eq!(policy.stats().not_replayable, 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_classified_as_a_failure_goes_again_and_pushback_is_honoured() {
    #[derive(Clone)]
    struct BusyFails;
    impl Classify<&'static str> for BusyFails {
        fn classify(&self, result: Result<&&'static str, &Error>) -> Outcome {
            match result {
                Ok(&"busy") => Outcome::Pushback(Some(Duration::from_secs(7))),
                Ok(_) => Outcome::Success,
                Err(_) => Outcome::Failure,
            }
        }
    }
    let service = scripted([Ok("busy"), Ok("pong")]);
    let start = Instant::now();
    let retry = RetryLayer::with_policy(RetryPolicy::default().classify(BusyFails)).layer(service);
    assert_eq!(retry.oneshot(Call::new("ping").idempotent()).await.unwrap(), "pong");
    assert!((7 * SECOND..7 * SECOND + 30 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_presets_say_what_may_go_again() {
    for (policy, unsent_calls, maybe_calls) in
        [(RetryPolicy::never_sent(), 3, 1), (RetryPolicy::idempotent(), 3, 3), (RetryPolicy::none(), 1, 1)]
    {
        let layer = RetryLayer::with_policy(policy);
        for (fail, expected) in [(unsent as fn() -> crate::Answer, unsent_calls), (maybe, maybe_calls)] {
            let service = scripted(std::iter::repeat_with(fail).take(3));
            layer.layer(service.clone()).oneshot(Call::new("ping")).await.unwrap_err();
            assert_eq!(service.calls(), expected, "{layer:?}");
        }
    }
}

/// Fails from `poll_ready` so often, in each clone for good.
#[derive(Clone)]
struct Unready {
    failures: Arc<Lock<u32>>,
}

impl tower::Service<Call<&'static str>> for Unready {
    type Response = ();
    type Error = Error;
    type Future = std::future::Ready<Result<(), Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut *self.failures.lock() {
            0 => Poll::Ready(Ok(())),
            left => {
                *left -= 1;
                Poll::Ready(Err(Error::new(Kind::Unavailable, Phase::Dial)))
            }
        }
    }

    fn call(&mut self, _call: Call<&'static str>) -> Self::Future {
        std::future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_from_readiness_is_one_of_the_attempt() {
    let service = Unready { failures: Arc::new(Lock::new(2)) };
    RetryLayer::new().layer(service).oneshot(Call::new("ping")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_two_retry_layers_the_outer_one_retries_and_the_inner_one_says_so_once() {
    let events = Events::default();
    let inner = RetryPolicy::idempotent().observers(events.observers());
    let outer = RetryPolicy::idempotent();
    let service = scripted(std::iter::repeat_with(maybe).take(6));
    let stack = RetryLayer::with_policy(inner.clone()).layer(service.clone());
    let stack = RetryLayer::with_policy(outer.clone()).layer(stack);
    for calls in [3, 6] {
        stack.clone().oneshot(Call::new("ping")).await.unwrap_err();
        assert_eq!(service.calls(), calls, "as many as one layer makes");
    }
    assert_eq!(events.take(), ["NestedRetry"]);
    assert_eq!((inner.stats().nested, inner.stats().retries), (6, 0));
    assert_eq!((outer.stats().nested, outer.stats().retries), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_does_not_retry_leaves_it_to_the_one_inside() {
    let service = scripted([unsent(), Ok("pong")]);
    let stack = RetryLayer::with_policy(RetryPolicy::none()).layer(RetryLayer::new().layer(service));
    assert_eq!(stack.oneshot(Call::new("ping")).await.unwrap(), "pong");
}

/// A budget of just one token.
fn one_token() -> Budget {
    let budget = Budget::new(1.0, 0).unwrap();
    budget.deposit();
    budget
}

fn holds_one_token(budget: &Budget) -> bool {
    let permit = budget.withdraw();
    let second = budget.withdraw();
    assert!(second.is_none(), "more than there was");
    permit.is_some()
}

#[tokio::test(start_paused = true)]
async fn a_token_goes_back_when_the_caller_leaves_during_the_pause() {
    let budget = one_token();
    let slow = Backoff::new(10 * SECOND, 10 * SECOND).with_jitter(towline_core::Jitter::Equal);
    let policy = RetryPolicy::idempotent().budget(budget.clone()).backoff(slow);
    let service = scripted([maybe(), Ok("pong")]);
    let call = RetryLayer::with_policy(policy).layer(service.clone()).oneshot(Call::new("ping"));
    assert!(tokio::time::timeout(SECOND, call).await.is_err());
    assert_eq!(service.calls(), 1);
    assert!(holds_one_token(&budget));
}

#[tokio::test(start_paused = true)]
async fn a_token_goes_back_when_the_paid_attempt_was_never_sent_and_not_when_it_may_have_been() {
    for (second, kept) in [(unsent(), true), (maybe(), false), (Ok("pong"), false)] {
        let budget = one_token();
        let policy = RetryPolicy::idempotent().attempts(2).unwrap().budget(budget.clone());
        let is_success = second.is_ok();
        let service = scripted([maybe(), second]);
        let result = RetryLayer::with_policy(policy).layer(service).oneshot(Call::new("ping")).await;
        assert_eq!(result.is_ok(), is_success);
        // The success has earned another one.
        assert_eq!(holds_one_token(&budget), kept || is_success);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_goes_back_when_the_caller_leaves_before_the_paid_attempt_was_sent() {
    for (phase, kept) in [(Phase::Queue, true), (Phase::Read, false)] {
        let budget = one_token();
        let policy = RetryPolicy::idempotent().budget(budget.clone());
        let first = Arc::new(Lock::new(true));
        let service = tower::service_fn(move |_: Call<&'static str>| {
            let is_first = std::mem::take(&mut *first.lock());
            async move {
                if is_first {
                    return maybe();
                }
                progress::enter(phase);
                sleep(100 * SECOND).await;
                Ok("too late")
            }
        });
        let call = RetryLayer::with_policy(policy).layer(service).oneshot(Call::new("ping"));
        assert!(tokio::time::timeout(10 * SECOND, call).await.is_err());
        assert_eq!(holds_one_token(&budget), kept, "{phase:?}");
    }
}

/// Ready once, then never again.
#[derive(Clone)]
struct ReadyOnce(Arc<Lock<bool>>);

impl tower::Service<Call<&'static str>> for ReadyOnce {
    type Response = &'static str;
    type Error = Error;
    type Future = std::future::Ready<crate::Answer>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if std::mem::take(&mut *self.0.lock()) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, _call: Call<&'static str>) -> Self::Future {
        std::future::ready(maybe())
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_goes_back_when_the_caller_leaves_before_the_service_was_ready_for_the_paid_attempt() {
    let budget = one_token();
    let policy = RetryPolicy::idempotent().budget(budget.clone());
    let service = ReadyOnce(Arc::new(Lock::new(true)));
    let call = RetryLayer::with_policy(policy).layer(service).oneshot(Call::new("ping"));
    assert!(tokio::time::timeout(10 * SECOND, call).await.is_err());
    assert!(holds_one_token(&budget));
}

/// As a shared connection does: whether the request was taken since the last poll is known when the call is dropped.
struct TakenOnDrop;

impl Drop for TakenOnDrop {
    fn drop(&mut self) {
        progress::written();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_spent_when_only_the_drop_can_tell_that_the_paid_attempt_was_sent() {
    let budget = one_token();
    let policy = RetryPolicy::idempotent().budget(budget.clone());
    let first = Arc::new(Lock::new(true));
    let service = tower::service_fn(move |_: Call<&'static str>| {
        let is_first = std::mem::take(&mut *first.lock());
        async move {
            if is_first {
                return maybe();
            }
            progress::enter(Phase::Queue);
            let _taken = TakenOnDrop;
            sleep(100 * SECOND).await;
            Ok("too late")
        }
    });
    let call = RetryLayer::with_policy(policy).layer(service).oneshot(Call::new("ping"));
    assert!(tokio::time::timeout(10 * SECOND, call).await.is_err());
    assert!(!holds_one_token(&budget));
}

#[tokio::test(start_paused = true)]
async fn services_of_one_policy_share_its_budget() {
    let policy = RetryPolicy::idempotent().attempts(2).unwrap().budget(one_token());
    for (layer, calls) in [(RetryLayer::with_policy(policy.clone()), 2), (RetryLayer::with_policy(policy.clone()), 1)] {
        let service = scripted([maybe(), maybe()]);
        layer.layer(service.clone()).clone().oneshot(Call::new("ping")).await.unwrap_err();
        assert_eq!(service.calls(), calls);
    }
}
