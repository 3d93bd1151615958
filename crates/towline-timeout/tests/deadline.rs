//! What the deadline guarantees, on the paused clock.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_test::task::spawn;
use tower::{Layer, Service, ServiceExt, service_fn};
use towline_core::{Blind, Call, EndpointId, EndpointKey, Error, HasContext, Kind, Phase, Sent, progress};
use towline_test::StrictMock;
use towline_timeout::{AttemptTimeoutLayer, DeadlineLayer};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_waiting_for_readiness() {
    let (busy, handle) = StrictMock::<Call<()>, ()>::new(0);
    let start = Instant::now();
    let error = DeadlineLayer::new(SECOND).layer(busy).oneshot(Call::new(())).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (Kind::Timeout, SECOND));
    assert_eq!(handle.reserved(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_error_names_phase_endpoint_and_whether_the_request_was_sent() {
    for (phase, sent) in [(Phase::Queue, Sent::Never), (Phase::Read, Sent::Maybe), (Phase::Call, Sent::Maybe)] {
        let stalls = service_fn(move |_: Call<()>| async move {
            progress::at(EndpointId::fresh(), &EndpointKey::new("10.0.0.7:7000"));
            progress::enter(phase);
            sleep(SECOND / 3).await; // What was reported must survive many polls.
            pending::<Result<(), Error>>().await
        });
        let error = DeadlineLayer::new(SECOND).layer(stalls).oneshot(Call::new(())).await.unwrap_err();
        assert_eq!((error.phase(), error.sent()), (phase, sent));
        assert_eq!(error.endpoint().unwrap().as_str(), "10.0.0.7:7000");
        assert!(error.to_string().contains("deadline of 1s exceeded"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_says_how_long_each_phase_took() {
    let stalls = service_fn(|_: Call<()>| async move {
        progress::enter(Phase::Queue);
        sleep(SECOND / 4).await;
        progress::enter(Phase::Write);
        progress::enter(Phase::Read);
        sleep(SECOND / 2).await;
        progress::enter(Phase::Backoff);
        sleep(SECOND / 8).await;
        progress::enter(Phase::Queue);
        pending::<Result<(), Error>>().await
    });
    let error = DeadlineLayer::new(SECOND).layer(stalls).oneshot(Call::new(())).await.unwrap_err();
    // The timer's millisecond goes to who was waiting.
    let spent = [(Phase::Queue, 375), (Phase::Read, 500), (Phase::Backoff, 125)];
    let rounded: Vec<_> = error.spent().iter().map(|(phase, took)| (*phase, took.as_millis() as u64)).collect();
    assert_eq!(rounded, spent);
    let text = error.to_string();
    assert!(text.ends_with(": waiting for a connection 375ms, waiting for the response 500ms, waiting to retry 125ms"));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_a_limit_of_its_own_and_the_earlier_one_counts() {
    let stalls = service_fn(|call: Call<u64>| async move {
        sleep(Duration::from_millis(*call.message())).await;
        Ok::<_, Error>(call.context().deadline().unwrap())
    });
    let attempt = AttemptTimeoutLayer::new(SECOND / 2).layer(stalls);
    let start = Instant::now();
    assert_eq!(attempt.clone().oneshot(Call::new(100)).await.unwrap(), start + SECOND / 2);

    let stack = DeadlineLayer::new(SECOND).layer(attempt);
    let error = stack.clone().oneshot(Call::new(2_000)).await.unwrap_err();
    assert!(error.to_string().starts_with("attempt timeout of 500ms exceeded"), "{error}");
    let error = stack.oneshot(Call::new(2_000).with_timeout(SECOND / 4)).await.unwrap_err();
    assert!(error.to_string().starts_with("deadline of 250ms exceeded"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn where_somebody_inside_keeps_the_same_time_the_error_is_of_the_whole_call() {
    // A queue that waits until the call's deadline and no longer, as a pool's does; an attempt before has taken a while.
    let queues = service_fn(|call: Call<()>| async move {
        progress::enter(Phase::Read);
        sleep(SECOND * 2 / 5).await;
        progress::enter(Phase::Queue);
        let deadline = call.context().deadline().unwrap();
        tokio::time::sleep_until(deadline).await;
        Err::<(), _>(Error::new(Kind::Timeout, Phase::Queue).with_endpoint("a:1").with_message("no connection"))
    });
    let stack = DeadlineLayer::new(SECOND).layer(AttemptTimeoutLayer::new(2 * SECOND).layer(queues));
    let error = stack.oneshot(Call::new(())).await.unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Timeout, Phase::Queue, Sent::Never));
    assert_eq!(error.endpoint().unwrap().as_str(), "a:1");
    assert!(error.to_string().starts_with("deadline of 1s exceeded"), "{error}");
    let spent: Vec<_> = error.spent().iter().map(|(phase, took)| (*phase, took.as_millis() as u64)).collect();
    assert_eq!(spent, [(Phase::Queue, 600), (Phase::Read, 400)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_left_after_the_last_poll_is_still_reported() {
    /// Reports when it is dropped, as a call whose request was taken meanwhile does.
    struct Taken;
    impl Drop for Taken {
        fn drop(&mut self) {
            progress::written();
        }
    }
    let stalls = service_fn(|_: Call<()>| async {
        let _taken = Taken;
        progress::enter(Phase::Write);
        pending::<Result<(), Error>>().await
    });
    let error = DeadlineLayer::new(SECOND).layer(stalls).oneshot(Call::new(())).await.unwrap_err();
    assert_eq!((error.phase(), error.sent()), (Phase::Write, Sent::Maybe));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_without_end_is_no_panic() {
    let inner = service_fn(|_: Call<()>| async { Ok::<_, Error>(()) });
    DeadlineLayer::new(Duration::MAX).layer(inner).oneshot(Call::new(())).await.unwrap();
}

// F26. In real time: a task that is never idle keeps the paused clock from moving.
#[tokio::test]
async fn a_call_that_uses_up_its_tasks_budget_in_every_poll_cannot_outlive_its_deadline() {
    let busy = service_fn(|_: Call<()>| async {
        loop {
            tokio::task::consume_budget().await;
        }
        #[allow(unreachable_code, reason = "gives the future its type")]
        Ok::<(), Error>(())
    });
    let call = DeadlineLayer::new(Duration::from_millis(20)).layer(busy).oneshot(Call::new(()));
    let error = tokio::time::timeout(Duration::from_secs(10), call).await.unwrap().unwrap_err();
    assert!(error.is_timeout());
}

#[test]
fn without_a_runtime_a_wait_is_a_typed_error() {
    let stalls = service_fn(|_: Call<()>| pending::<Result<(), Error>>());
    let mut call = spawn(DeadlineLayer::new(SECOND).layer(stalls).oneshot(Call::new(())));
    let std::task::Poll::Ready(Err(error)) = call.poll() else { panic!() };
    assert_eq!(error.kind(), Kind::Runtime);
}

#[tokio::test(start_paused = true)]
async fn without_any_report_from_below_the_request_may_have_been_sent() {
    let stalls = service_fn(|()| pending::<Result<(), Error>>());
    let layer = DeadlineLayer::new(SECOND).with_access(Blind);
    assert_eq!(layer.layer(stalls).oneshot(()).await.unwrap_err().sent(), Sent::Maybe);
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_deadline_can_only_be_earlier() {
    let inner = service_fn(|call: Call<()>| async move { Ok::<_, Error>(call.context().deadline().unwrap()) });
    let layer = DeadlineLayer::new(SECOND);
    let now = Instant::now();
    for (theirs, seen) in [(now + SECOND / 2, now + SECOND / 2), (now + 2 * SECOND, now + SECOND)] {
        let call = Call::new(()).with_deadline(theirs);
        assert_eq!(layer.layer(inner).oneshot(call).await.unwrap(), seen);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_fails_before_anything_is_sent() {
    let never = service_fn(|_: Call<()>| async { panic!("called") as Result<(), Error> });
    let call = Call::new(()).with_deadline(Instant::now());
    let error = DeadlineLayer::new(SECOND).layer(never).oneshot(call).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Timeout, Sent::Never));
}

#[tokio::test(start_paused = true)]
async fn a_parked_timer_is_exact_call_after_call() {
    let inner = service_fn(|took: Call<u64>| async move {
        sleep(Duration::from_millis(*took.message())).await;
        Ok::<_, Error>(())
    });
    let mut service = DeadlineLayer::new(SECOND).layer(inner);
    for (took, ends) in [(10, 10), (2_000, 1_000), (999, 999), (1_001, 1_000), (0, 0), (5_000, 1_000)] {
        let start = Instant::now();
        let result = service.call(Call::new(took)).await;
        assert_eq!((result.is_ok(), start.elapsed().as_millis()), (took < 1_000, ends));
    }
}

#[tokio::test(start_paused = true)]
async fn overlapping_calls_of_one_clone_have_each_its_own_deadline() {
    let inner = service_fn(|_: Call<()>| pending::<Result<(), Error>>());
    let mut service = DeadlineLayer::new(10 * SECOND).layer(inner);
    let mut early = Call::new(());
    early.context_mut().limit_deadline(Instant::now() + SECOND);
    let (mut late, mut early) = (spawn(service.call(Call::new(()))), spawn(service.call(early)));
    assert!(late.poll().is_pending() && early.poll().is_pending());
    sleep(SECOND).await;
    assert!(early.is_woken() && early.poll().is_ready());
    assert!(late.poll().is_pending());
    sleep(9 * SECOND).await;
    assert!(late.is_woken() && late.poll().is_ready());
}

#[test]
fn a_timer_that_was_parked_on_a_runtime_that_has_ended_is_not_used_on_another() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let stalls = service_fn(|_: Call<()>| pending::<Result<(), Error>>());
    let service = DeadlineLayer::new(SECOND).layer(stalls);
    for _ in 0..2 {
        let error = runtime().block_on(async { (&service).call(Call::new(())).await.unwrap_err() });
        assert!(error.is_timeout());
    }
}
