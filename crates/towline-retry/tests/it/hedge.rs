//! Point 9: a second attempt for calls that take long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};
use towline_core::sync::Lock;
use towline_core::{
    Blind, Call, Classify, ConnectionPin, EndpointId, EndpointKey, Error, Kind, Outcome, Phase, Replay, Sent, progress,
};
use towline_retry::{Budget, Hedge, HedgeLayer, HedgePolicy, RetryLayer, RetryPolicy};
use towline_test::cancel_at_every_poll;
use towline_timeout::DeadlineLayer;

use crate::{Answer, Events, MS, SECOND};

/// What an endpoint does with a call.
#[derive(Clone, Copy)]
enum Does {
    /// Answers with its name after so long.
    Answers(Duration),
    /// Fails after so long; the request was written.
    Fails(Duration),
    /// Fails after so long; the request was never sent.
    Refuses(Duration),
    /// Keeps the call in a queue, unsent.
    Queues,
    /// Hands it to somebody who never says what became of it.
    Loses,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Sends each call to the first endpoint that it was not at.
#[derive(Clone)]
struct Fleet {
    ids: [EndpointId; 3],
    does: Arc<Lock<[Does; 3]>>,
    /// Who was called, in order.
    called: Arc<Lock<Vec<&'static str>>>,
    alive: Arc<AtomicUsize>,
}

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fleet {
    fn new() -> Self {
        Self {
            ids: [(); 3].map(|()| EndpointId::fresh()),
            does: Arc::new(Lock::new([Does::Answers(10 * MS); 3])),
            called: Arc::default(),
            alive: Arc::default(),
        }
    }

    fn does(&self, does: [Does; 3]) {
        *self.does.lock() = does;
        self.called.lock().clear();
    }

    fn called(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.called.lock())
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }
}

impl Service<Call<u64>> for Fleet {
    type Response = &'static str;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<u64>) -> Self::Future {
        let index = (0..3).find(|index| !call.context().tried().contains(self.ids[*index])).unwrap();
        let (id, does, name) = (self.ids[index], self.does.lock()[index], NAMES[index]);
        self.called.lock().push(name);
        self.alive.fetch_add(1, Ordering::Relaxed);
        let alive = Alive(self.alive.clone());
        Box::pin(async move {
            let _alive = alive;
            let key = EndpointKey::new(name);
            progress::at(id, &key);
            progress::enter(Phase::Queue);
            let error = |kind, phase| Error::new(kind, phase).or_picked(id, &key);
            match does {
                Does::Answers(after) => {
                    progress::written();
                    sleep(after).await;
                    Ok(name)
                }
                Does::Fails(after) => {
                    progress::written();
                    sleep(after).await;
                    Err(error(Kind::Closed, Phase::Read))
                }
                Does::Refuses(after) => {
                    sleep(after).await;
                    Err(error(Kind::Unavailable, Phase::Dial))
                }
                Does::Queues => std::future::pending().await,
                Does::Loses => {
                    progress::handed_over(id, &key);
                    std::future::pending().await
                }
            }
        })
    }
}

fn read() -> Call<u64> {
    Call::new(0).idempotent()
}

/// Calls that take 10 ms, until that is known.
async fn warm<A: Clone, K>(hedge: &Hedge<Fleet, A, K>)
where
    Hedge<Fleet, A, K>: Service<Call<u64>, Response = &'static str, Error = Error>,
{
    let (inner, before) = (hedge.clone(), hedge.stats().hedges);
    for _ in 0..250 {
        assert_eq!(inner.clone().oneshot(read()).await.unwrap(), "a");
    }
    assert_eq!(hedge.stats().hedges, before);
    let delay = hedge.stats().delay.unwrap();
    assert!((10 * MS..=11 * MS).contains(&delay), "{delay:?}");
}

/// A hedge that knows that calls take 10 ms, over endpoints that then do this.
async fn warmed(policy: HedgePolicy, does: [Does; 3]) -> (Hedge<Fleet>, Fleet) {
    let fleet = Fleet::new();
    let hedge = HedgeLayer::with_policy(policy).layer(fleet.clone());
    warm(&hedge).await;
    fleet.does(does);
    (hedge, fleet)
}

use Does::{Answers, Fails, Loses, Queues, Refuses};

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_long_is_sent_to_another_endpoint_and_the_loser_is_dropped() {
    let events = Events::default();
    let policy = HedgePolicy::new().observers(events.observers());
    let (hedge, fleet) = warmed(policy, [Answers(SECOND), Answers(5 * MS), Answers(MS)]).await;
    let start = Instant::now();
    let mut call = std::pin::pin!(hedge.clone().call(read()));
    let answer = call.as_mut().await;
    assert_eq!((answer.unwrap(), fleet.alive()), ("b", 0), "the loser is gone, though its future is not");
    assert!((15 * MS..=18 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(fleet.called(), ["a", "b"]);
    assert_eq!((hedge.stats().hedges, hedge.stats().won), (1, 1));
    assert_eq!(events.take(), ["Hedged"]);
}

#[tokio::test(start_paused = true)]
async fn when_the_first_attempt_answers_the_second_is_dropped() {
    let (hedge, fleet) = warmed(HedgePolicy::new(), [Answers(15 * MS), Answers(SECOND), Answers(MS)]).await;
    let mut call = std::pin::pin!(hedge.clone().call(read()));
    let answer = call.as_mut().await;
    assert_eq!((answer.unwrap(), fleet.alive()), ("a", 0), "the loser is gone, though its future is not");
    assert_eq!(fleet.called(), ["a", "b"]);
    assert_eq!((hedge.stats().hedges, hedge.stats().won), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_error_on_one_attempt_waits_for_the_other() {
    for does in [
        [Fails(20 * MS), Answers(50 * MS), Answers(MS)],
        [Refuses(20 * MS), Answers(50 * MS), Answers(MS)],
        [Answers(50 * MS), Fails(MS), Answers(MS)],
        [Answers(50 * MS), Refuses(MS), Answers(MS)],
    ] {
        let (hedge, fleet) = warmed(HedgePolicy::new(), does).await;
        hedge.clone().oneshot(read()).await.unwrap();
        assert_eq!(fleet.called(), ["a", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_before_a_second_attempt_is_the_calls() {
    let (hedge, fleet) = warmed(HedgePolicy::new(), [Fails(5 * MS), Answers(MS), Answers(MS)]).await;
    let start = Instant::now();
    hedge.clone().oneshot(read()).await.unwrap_err();
    assert_eq!((start.elapsed(), fleet.called()), (5 * MS, vec!["a"]));
}

#[tokio::test(start_paused = true)]
async fn when_both_fail_the_first_attempts_error_is_told_and_sent_is_of_both() {
    for (does, phase, sent) in [
        ([Refuses(20 * MS), Fails(MS), Answers(MS)], Phase::Dial, Sent::Maybe),
        ([Refuses(20 * MS), Fails(50 * MS), Answers(MS)], Phase::Dial, Sent::Maybe),
        ([Refuses(20 * MS), Refuses(MS), Answers(MS)], Phase::Dial, Sent::Never),
        ([Refuses(20 * MS), Refuses(50 * MS), Answers(MS)], Phase::Dial, Sent::Never),
        ([Fails(20 * MS), Refuses(50 * MS), Answers(MS)], Phase::Read, Sent::Maybe),
    ] {
        let (hedge, fleet) = warmed(HedgePolicy::new(), does).await;
        let mut watched = progress::Progress::default();
        let mut call = std::pin::pin!(hedge.clone().oneshot(read()));
        let result = std::future::poll_fn(|cx| watched.scope(|| call.as_mut().poll(cx))).await;
        let error = result.unwrap_err();
        assert_eq!((error.phase(), error.sent()), (phase, sent));
        assert_eq!(error.endpoint().unwrap().as_str(), "a");
        assert_eq!(watched.endpoint().unwrap().1.as_str(), "a", "whoever is around knows whose error it is");
        assert_eq!(fleet.called(), ["a", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_counts_as_a_failure_is_better_than_an_error() {
    #[derive(Clone)]
    struct BIsBusy;
    impl Classify<&'static str> for BIsBusy {
        fn classify(&self, result: Result<&&'static str, &Error>) -> Outcome {
            match result {
                Ok(&"b") => Outcome::Pushback(None),
                Ok(_) => Outcome::Success,
                Err(_) => Outcome::Failure,
            }
        }
    }
    for does in [[Fails(50 * MS), Answers(MS), Answers(MS)], [Fails(20 * MS), Answers(50 * MS), Answers(MS)]] {
        let fleet = Fleet::new();
        let hedge = HedgeLayer::with_policy(HedgePolicy::new().classify(BIsBusy)).layer(fleet.clone());
        warm(&hedge).await;
        fleet.does(does);
        let mut watched = progress::Progress::default();
        let mut call = std::pin::pin!(hedge.clone().oneshot(read()));
        let result = std::future::poll_fn(|cx| watched.scope(|| call.as_mut().poll(cx))).await;
        assert_eq!(result.unwrap(), "b");
        assert_eq!(watched.endpoint().unwrap().1.as_str(), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_before_it_is_known_how_long_calls_take() {
    let fleet = Fleet::new();
    let hedge = HedgeLayer::new().layer(fleet.clone());
    fleet.does([Answers(10 * MS), Answers(MS), Answers(MS)]);
    for _ in 0..99 {
        hedge.clone().oneshot(read()).await.unwrap();
    }
    fleet.does([Answers(5 * SECOND), Answers(MS), Answers(MS)]);
    assert_eq!(hedge.clone().oneshot(read()).await.unwrap(), "a");
    assert_eq!(hedge.stats().delay, None);
}

#[tokio::test(start_paused = true)]
async fn only_what_may_be_repeated_is_hedged() {
    let slow = [Answers(SECOND), Answers(MS), Answers(MS)];
    let (hedge, fleet) = warmed(HedgePolicy::new(), slow).await;
    assert_eq!(hedge.clone().oneshot(Call::new(0)).await.unwrap(), "a");
    let pin = ConnectionPin::new();
    assert_eq!(hedge.clone().oneshot(read().with_pin(&pin)).await.unwrap(), "a");
    assert_eq!(fleet.called(), ["a", "a"]);
    let (hedge, _) = warmed(HedgePolicy::idempotent(), slow).await;
    assert_eq!(hedge.clone().oneshot(Call::new(0)).await.unwrap(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_replayed_is_not_hedged_but_told() {
    struct Once(Duration);
    impl Replay for Once {
        fn replay(&self) -> Option<Self> {
            None
        }
    }
    let events = Events::default();
    let policy = HedgePolicy::idempotent().observers(events.observers());
    let layer = HedgeLayer::with_policy(policy).with_access(Blind);
    let hedge = layer.layer(tower::service_fn(|once: Once| async move {
        sleep(once.0).await;
        Ok::<_, Error>(())
    }));
    for _ in 0..250 {
        hedge.clone().oneshot(Once(10 * MS)).await.unwrap();
    }
    assert!(events.take().is_empty());
    hedge.clone().oneshot(Once(SECOND)).await.unwrap();
    assert_eq!(events.take(), ["NotReplayable"]);
    assert_eq!((layer.stats().not_replayable, layer.stats().hedges), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn there_is_no_second_attempt_that_would_begin_after_the_deadline() {
    let (hedge, fleet) = warmed(HedgePolicy::new(), [Answers(SECOND), Answers(MS), Answers(MS)]).await;
    let call = read().with_deadline(Instant::now() + 10 * MS);
    assert_eq!(hedge.clone().oneshot(call).await.unwrap(), "a");
    assert_eq!(fleet.called(), ["a"]);
    let call = read().with_deadline(Instant::now() + 20 * MS);
    assert_eq!(hedge.clone().oneshot(call).await.unwrap(), "b");
}

/// Ready, but for the clones that are made while it is not: those never are.
#[derive(Debug)]
struct Moody {
    is_ready: bool,
    shared: Arc<Lock<bool>>,
}

impl Clone for Moody {
    fn clone(&self) -> Self {
        Self { is_ready: *self.shared.lock(), shared: self.shared.clone() }
    }
}

impl Service<Call<u64>> for Moody {
    type Response = &'static str;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.is_ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, _call: Call<u64>) -> Self::Future {
        Box::pin(async {
            sleep(10 * MS).await;
            Ok("pong")
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_readiness_is_hedged_and_neither_attempt_is_without_its_request() {
    let mood = Arc::new(Lock::new(true));
    let hedge = HedgeLayer::new().layer(Moody { is_ready: true, shared: mood.clone() });
    for _ in 0..250 {
        hedge.clone().oneshot(read()).await.unwrap();
    }
    let mut service = hedge.clone();
    *mood.lock() = false;
    let call = service.call(read());
    *mood.lock() = true;
    assert_eq!(call.await.unwrap(), "pong");
    assert_eq!((hedge.stats().hedges, hedge.stats().won), (1, 1));
}

/// Begins `calls` calls, a millisecond apart, and waits for all of them.
async fn load(hedge: &Hedge<Fleet>, calls: usize) {
    let mut running = Vec::new();
    for _ in 0..calls {
        sleep(MS).await;
        running.push(tokio::spawn(hedge.clone().oneshot(read())));
    }
    for call in running {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn when_everything_becomes_slow_hedges_stay_within_their_part_and_then_stop() {
    let (hedge, fleet) = warmed(HedgePolicy::new(), [Answers(10 * MS); 3]).await;
    load(&hedge, 5_000).await;
    assert_eq!(hedge.stats().hedges, 0);
    fleet.does([Answers(200 * MS); 3]);
    load(&hedge, 5_000).await;
    let hedges = hedge.stats().hedges;
    assert!(hedges > 20, "{hedges}: the first slow ones look like outliers");
    assert!(hedges <= 10_250 / 50, "{hedges}");
    // By now that is how long calls take.
    load(&hedge, 5_000).await;
    assert_eq!(hedge.stats().hedges, hedges);
    assert!(hedge.stats().delay.unwrap() >= 200 * MS);
}

#[tokio::test(start_paused = true)]
async fn hedges_are_at_most_the_extra_load_whatever_the_percentile() {
    let policy = HedgePolicy::new().percentile(0.5).unwrap().extra_load(0.01).unwrap();
    let (hedge, fleet) = warmed(policy, [Answers(30 * MS), Answers(MS), Answers(MS)]).await;
    // Superseded calls count as long as they took, so the delay grows, but not at once.
    load(&hedge, 500).await;
    let (stats, calls) = (hedge.stats(), 750);
    assert_eq!(stats.hedges, calls / 100);
    assert!(stats.budget_exhausted > 100, "{stats:?}");
    assert_eq!(fleet.called().len() as u64, 500 + stats.hedges);
}

#[tokio::test(start_paused = true)]
async fn the_retry_budget_pays_too_and_is_not_overdrawn() {
    let budget = Budget::new(1.0, 0).unwrap();
    budget.deposit();
    let policy = HedgePolicy::new().budget(budget.clone());
    let (hedge, fleet) = warmed(policy, [Answers(100 * MS), Answers(MS), Answers(MS)]).await;
    for (answer, hedges) in [("b", 1), ("a", 1)] {
        assert_eq!(hedge.clone().oneshot(read()).await.unwrap(), answer);
        assert_eq!(hedge.stats().hedges, hedges);
    }
    assert_eq!(hedge.stats().budget_exhausted, 1);
    // A second attempt that is never sent costs nothing, neither of them.
    budget.deposit();
    for does in [Queues, Refuses(MS)] {
        fleet.does([Answers(100 * MS), does, Answers(MS)]);
        assert_eq!(hedge.clone().oneshot(read()).await.unwrap(), "a");
        assert_eq!(fleet.called(), ["a", "b"]);
    }
    assert!(budget.withdraw().is_some());
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_fast_do_not_make_the_others_look_slow() {
    let fleet = Fleet::new();
    let layer = HedgeLayer::new();
    let (hedge, other) = (layer.layer(fleet.clone()), Fleet::new());
    warm(&hedge).await;
    other.does([Refuses(Duration::ZERO), Answers(MS), Answers(MS)]);
    // Ninety-nine in a hundred of what the percentile would be of.
    for _ in 0..25_000 {
        layer.layer(other.clone()).oneshot(read()).await.unwrap_err();
    }
    warm(&hedge).await;
}

#[tokio::test(start_paused = true)]
async fn what_callers_give_up_counts_as_slow() {
    let (hedge, fleet) = warmed(HedgePolicy::new(), [Answers(10 * SECOND); 3]).await;
    let deadline = DeadlineLayer::new(100 * MS).layer(hedge.clone());
    let mut running = Vec::new();
    for _ in 0..2_000 {
        sleep(MS).await;
        running.push(tokio::spawn(deadline.clone().oneshot(read())));
    }
    for call in running {
        assert!(call.await.unwrap().unwrap_err().is_timeout());
    }
    assert!(hedge.stats().delay.unwrap() >= 100 * MS, "{:?}", hedge.stats());
    drop(fleet);
}

#[tokio::test(start_paused = true)]
async fn clones_share_what_is_known() {
    let (hedge, fleet) = warmed(HedgePolicy::new(), [Answers(SECOND), Answers(MS), Answers(MS)]).await;
    let stats = tokio::spawn({
        let clone = hedge.clone();
        async move {
            assert_eq!(clone.clone().oneshot(read()).await.unwrap(), "b");
            clone.stats()
        }
    });
    assert_eq!(stats.await.unwrap(), hedge.stats());
    assert_eq!(fleet.called(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_around_both_attempts_knows_that_either_may_have_been_sent() {
    for (does, sent) in [
        ([Answers(SECOND), Queues, Queues], Sent::Maybe),
        ([Queues, Answers(SECOND), Queues], Sent::Maybe),
        ([Loses, Queues, Queues], Sent::Maybe),
        ([Queues, Loses, Queues], Sent::Maybe),
        ([Queues, Queues, Queues], Sent::Never),
        ([Refuses(20 * MS), Queues, Queues], Sent::Never),
        ([Fails(20 * MS), Queues, Queues], Sent::Maybe),
        ([Queues, Fails(5 * MS), Queues], Sent::Maybe),
    ] {
        let (hedge, fleet) = warmed(HedgePolicy::new(), does).await;
        let error = DeadlineLayer::new(100 * MS).layer(hedge).oneshot(read()).await.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (Kind::Timeout, sent));
        assert_eq!((fleet.called().len(), fleet.alive()), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_around_a_hedge_goes_on_where_neither_was() {
    let fleet = Fleet::new();
    let hedge = HedgeLayer::new().layer(fleet.clone());
    warm(&hedge).await;
    fleet.does([Fails(5 * MS), Answers(SECOND), Answers(MS)]);
    let retry = RetryLayer::with_policy(RetryPolicy::default()).layer(hedge);
    assert_eq!(retry.oneshot(read()).await.unwrap(), "c");
    assert_eq!(fleet.called(), ["a", "b", "c"], "retried at b, which is slow, and hedged at c");
}

#[tokio::test(start_paused = true)]
async fn when_both_legs_have_failed_the_retry_goes_to_a_third() {
    let fleet = Fleet::new();
    let hedge = HedgeLayer::new().layer(fleet.clone());
    warm(&hedge).await;
    fleet.does([Fails(30 * MS), Fails(30 * MS), Answers(MS)]);
    let retry = RetryLayer::with_policy(RetryPolicy::default()).layer(hedge);
    assert_eq!(retry.oneshot(read()).await.unwrap(), "c");
    assert_eq!(fleet.called(), ["a", "b", "c"]);
}

#[test]
fn outside_of_a_runtime_calls_go_on_without_a_second_attempt() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let known = HedgeLayer::with_policy(HedgePolicy::idempotent());
    runtime.block_on(async {
        for _ in 0..250 {
            let quick = tower::service_fn(|_: Call<u64>| async {
                sleep(10 * MS).await;
                Ok::<_, Error>(())
            });
            known.layer(quick).oneshot(read()).await.unwrap();
        }
        assert!(known.stats().delay.is_some());
    });
    drop(runtime);
    let never = tower::service_fn(|_: Call<u64>| std::future::pending::<Result<(), Error>>());
    let mut call = std::pin::pin!(known.layer(never).oneshot(read()));
    for _ in 0..2 {
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}

// F24
#[tokio::test(start_paused = true)]
async fn a_hedged_call_may_be_dropped_at_every_poll() {
    let budget = Budget::new(1.0, 0).unwrap();
    budget.deposit();
    for does in [
        [Answers(50 * MS), Answers(20 * MS), Queues],
        [Answers(20 * MS), Answers(50 * MS), Queues],
        [Fails(20 * MS), Fails(20 * MS), Queues],
        [Queues, Refuses(20 * MS), Queues],
        [Fails(30 * MS), Queues, Queues],
    ] {
        let (hedge, fleet) = warmed(HedgePolicy::new().budget(budget.clone()), does).await;
        let polls = cancel_at_every_poll(
            || {
                let call = DeadlineLayer::new(100 * MS).layer(hedge.clone());
                fleet.called();
                async move { call.oneshot(read()).await }
            },
            |_| {
                assert_eq!(fleet.alive(), 0, "what attempts held is free");
                // The token is there unless the second attempt was made and sent.
                let was_sent = fleet.called().len() == 2 && !matches!(does[1], Queues | Refuses(_));
                let permit = budget.withdraw();
                assert_eq!(permit.is_none(), was_sent);
                assert!(budget.withdraw().is_none());
                if was_sent {
                    budget.deposit();
                }
                std::future::ready(())
            },
        )
        .await;
        assert!(polls >= 3, "{polls}");
    }
}

#[test]
fn percentiles_and_extra_loads_out_of_range_are_refused() {
    for percentile in [0.0, 1.0, -0.1, 98.0, f64::NAN] {
        let error = HedgePolicy::new().percentile(percentile).unwrap_err();
        assert_eq!((error.kind(), error.phase()), (Kind::Config, Phase::Build));
        assert!(error.to_string().contains("more than 0 and less than 1"), "{error}");
    }
    for extra_load in [0.0, 1.1, -0.1, f64::NAN, f64::INFINITY] {
        let error = HedgePolicy::new().extra_load(extra_load).unwrap_err();
        assert_eq!((error.kind(), error.phase()), (Kind::Config, Phase::Build));
        assert!(error.to_string().contains("more than 0 and at most 1"), "{error}");
    }
    HedgePolicy::new().percentile(0.999).unwrap().extra_load(1.0).unwrap();
}
