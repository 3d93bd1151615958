//! What retry guarantees, on the paused clock.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};
use towline_core::sync::Lock;
use towline_core::{
    Backoff, Blind, Call, Classify, EndpointId, EndpointKey, Error, Event, Kind, Observer, Observers, Outcome, Phase,
    Sent, progress,
};
use towline_retry::{Budget, RetryLayer};

/// Answers with what the script says, and remembers what it was sent: when, and which attempt.
#[derive(Clone)]
struct Scripted {
    script: Arc<Lock<Vec<Result<&'static str, Error>>>>,
    seen: Arc<Lock<Vec<Call<&'static str>>>>,
    at: Arc<Lock<Vec<Instant>>>,
    endpoint: Option<EndpointId>,
}

fn scripted(script: impl IntoIterator<Item = Result<&'static str, Error>>) -> Scripted {
    let mut script: Vec<_> = script.into_iter().collect();
    script.reverse();
    Scripted { script: Arc::new(Lock::new(script)), seen: Arc::default(), at: Arc::default(), endpoint: None }
}

impl Service<Call<&'static str>> for Scripted {
    type Response = &'static str;
    type Error = Error;
    type Future = Ready<Result<&'static str, Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(id) = self.endpoint {
            progress::at(id, &EndpointKey::new("a"));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<&'static str>) -> Self::Future {
        self.at.lock().push(Instant::now());
        self.seen.lock().push(call);
        ready(self.script.lock().pop().expect("no more calls were expected"))
    }
}

fn unsent() -> Result<&'static str, Error> {
    Err(Error::new(Kind::Unavailable, Phase::Dial))
}

fn maybe() -> Result<&'static str, Error> {
    Err(Error::new(Kind::Closed, Phase::Read))
}

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
    let error = RetryLayer::new().attempts(0).unwrap_err();
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
    let layer = RetryLayer::new().backoff(Backoff::new(Duration::from_millis(100), Duration::from_secs(1)));
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
    let error = RetryLayer::new().backoff(slow).layer(service).oneshot(call).await.unwrap_err();
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
    let polled = std::future::poll_fn(|cx| Poll::Ready(progress.scope(|| call.as_mut().poll(cx)))).await;
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

#[derive(Clone, Default)]
struct Events(Arc<Lock<Vec<String>>>);

impl Observer for Events {
    fn on(&self, event: &Event<'_>) {
        let name = format!("{event:?}");
        self.0.lock().push(name.split([' ', '{']).next().unwrap().to_owned());
    }
}

// F32
#[tokio::test(start_paused = true)]
async fn retries_of_what_may_have_been_sent_stay_within_the_budget_and_unsent_ones_are_free() {
    let events = Events::default();
    let layer = RetryLayer::new().budget(Budget::new(0.1, 0).unwrap()).observers(Observers::new(events.clone()));
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
    assert_eq!(*events.0.lock(), ["Retrying", "Retrying", "BudgetExhausted", "Retrying", "Retrying"]);
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
    let layer = RetryLayer::new().observers(Observers::new(events.clone())).with_access(Blind);
    layer.layer(fails).oneshot(Once).await.unwrap_err();
    assert_eq!(*events.0.lock(), ["NotReplayable"]);
    // Of a call that may not go again anyway there is nothing to tell.
    let fails = tower::service_fn(|_: Once| async { Err::<(), _>(Error::new(Kind::Closed, Phase::Read)) });
    layer.layer(fails).oneshot(Once).await.unwrap_err();
    assert_eq!(events.0.lock().len(), 1);
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
    let retry = RetryLayer::new().classify(BusyFails).layer(service);
    assert_eq!(retry.oneshot(Call::new("ping").idempotent()).await.unwrap(), "pong");
    assert_eq!(start.elapsed(), Duration::from_secs(7));
}
