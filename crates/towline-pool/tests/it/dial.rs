//! Dialling: when, how often, and who learns what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_test::task::spawn;
use tower::{Service, ServiceExt};
use towline_core::{Backoff, CloseReason, Error, Jitter, Kind, Lend, Phase, Poolable, Room, Sent, Sharing, State};
use towline_pool::{Pool, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{Endpoint, capped, check, handle, pool_of, refused};

#[tokio::test(start_paused = true)]
async fn warm_connects_ahead_and_reports_what_failed() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(4, &make).await;
    handle.warm(3).await.unwrap();
    assert_eq!((handle.stats().idle, make.dials()), (3, 3));
    make.fail(Some(refused()));
    assert_eq!(handle.warm(4).await.unwrap_err().kind(), Kind::Unavailable);
    make.fail(None);
    handle.warm(9).await.unwrap();
    assert_eq!(handle.stats().live, 4, "within the cap");
}

#[tokio::test(start_paused = true)]
async fn a_pool_set_to_be_warm_connects_before_its_first_call() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().warm(2), &make).await;
    settle().await;
    assert_eq!((handle.stats().idle, handle.room()), (2, Room::Ready));
}

// F30
#[tokio::test(start_paused = true)]
async fn a_storm_of_callers_dials_within_its_limits_and_each_dial_serves_a_waiter() {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    let handle = handle(PoolBuilder::new().max_connections(32).max_dials(4), &make).await;
    let served = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..1_000)
        .map(|i| {
            let (mut handle, served) = (handle.clone(), served.clone());
            tokio::spawn(async move {
                let answer = handle.call(i).await.unwrap();
                served.fetch_add(1, Ordering::Relaxed);
                answer
            })
        })
        .collect();
    settle().await;
    assert_eq!(handle.stats().dialling, 1);
    while let Some(dial) = make.held() {
        assert!(handle.stats().dialling <= 4);
        dial.open();
        settle().await;
    }
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap().1, i);
    }
    assert!(make.dials() <= 32, "{} dials", make.dials());
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_failed_first_dial_tells_every_waiter_the_cause_at_once_if_the_next_is_far_off() {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    // So long that no second dial falls into this test, whatever the jitter draws.
    let day = Duration::from_secs(24 * 60 * 60);
    let handle = handle(PoolBuilder::new().dial_backoff(Backoff::new(day, day)), &make).await;
    let mut waiting: Vec<_> = (0..100).map(|_| spawn(handle.checkout())).collect();
    waiting.iter_mut().for_each(|lend| assert!(lend.poll().is_pending()));
    settle().await;
    make.held().unwrap().fail(refused());
    settle().await;
    for lend in &mut waiting {
        let Poll::Ready(Err(error)) = lend.poll() else { panic!("waits on") };
        assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Unavailable, Phase::Dial, Sent::Never));
        assert_eq!(error.endpoint().unwrap().as_str(), "endpoint");
    }
    assert_eq!(make.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_dial_does_not_fail_waiters_whom_a_returned_connection_can_serve() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(8, &make).await;
    let held = handle.lend(None).await.unwrap();
    make.fail(Some(refused()));
    let mut waiting = spawn(handle.lend(None));
    assert!(waiting.poll().is_pending());
    sleep(Duration::from_secs(1)).await;
    assert!(make.dials() > 1 && waiting.poll().is_pending());
    drop(held);
    assert!(matches!(waiting.poll(), Poll::Ready(Ok(_))));
}

// F18
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_down_fails_fast_is_dialled_under_backoff_and_recovers_without_traffic() {
    let make = ScriptedMaker::exclusive();
    make.fail(Some(refused()));
    let handle = capped(8, &make).await;
    handle.lend(None).await.unwrap_err();
    assert_eq!(handle.room(), Room::Down);
    for _ in 0..1_000 {
        handle.lend(None).await.unwrap_err();
    }
    assert_eq!(make.dials(), 1, "calls to an endpoint that is down do not dial");
    sleep(Duration::from_secs(60)).await;
    let dials = make.dials();
    assert!((30..150).contains(&dials), "{dials} dials in a minute; full jitter up to 2 s makes about 60");
    make.fail(None);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((handle.room(), handle.stats().live), (Room::Ready, 1));
    assert!(handle.lend(None).await.is_ok());
}

// F13
#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_no_good_is_looked_at_rarely_and_every_call_told_why() {
    let make = ScriptedMaker::exclusive();
    make.fail(Some(Error::new(Kind::Tls, Phase::Handshake).with_message("expired")));
    let handle = capped(8, &make).await;
    let start = Instant::now();
    for _ in 0..1_000 {
        let error = handle.checkout().await.unwrap_err();
        assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Tls, Phase::Handshake, Sent::Never));
    }
    assert_eq!((make.dials(), start.elapsed()), (1, Duration::ZERO), "nobody waits for what will not get better");
    sleep(Duration::from_secs(60)).await;
    let dials = make.dials();
    assert!((5..12).contains(&dials), "{dials} dials in a minute; 1, 2, 4, 8, 16 s, half of it jitter");
    make.fail(None);
    sleep(Duration::from_secs(30)).await;
    assert_eq!((handle.room(), handle.stats().live), (Room::Ready, 1), "somebody has renewed it");
}

// F22
#[tokio::test(start_paused = true)]
async fn a_backend_that_accepts_and_hangs_up_is_dialled_under_backoff_too() {
    let make = ScriptedMaker::exclusive();
    let hangs_up = {
        let make = make.clone();
        tower::service_fn(move |target: &'static str| {
            let mut make = make.clone();
            async move {
                let connection = make.call(target).await?;
                make.wires().last().unwrap().close(CloseReason::Peer);
                Ok::<_, Error>(connection)
            }
        })
    };
    let mut pool: Pool<_, &'static str> = PoolBuilder::new().build(hangs_up).unwrap();
    let handle = pool.call("endpoint").await.unwrap();
    for _ in 0..60_000 {
        let error = handle.lend(None).await.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (Kind::Unavailable, Sent::Never));
        sleep(Duration::from_millis(1)).await;
    }
    assert!(make.dials() < 200, "{} dials in a minute", make.dials());
}

#[tokio::test(start_paused = true)]
async fn a_handle_is_pending_while_the_first_connection_is_under_way_and_wakes_when_it_is_there() {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    let handle = capped(8, &make).await;
    let mut cold = handle.clone();
    ServiceExt::<u32>::ready(&mut cold).await.unwrap();
    let mut call = spawn(cold.call(1));
    assert!(call.poll().is_pending());
    settle().await;
    let mut other = handle.clone();
    let mut ready = spawn(ServiceExt::<u32>::ready(&mut other));
    assert!(ready.poll().is_pending());
    make.held().unwrap().fail(refused());
    settle().await;
    assert!(ready.poll().is_pending(), "never ready to fail");
    sleep(Duration::from_secs(1)).await;
    make.held().unwrap().open();
    settle().await;
    assert!(ready.is_woken() && ready.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn waiters_whom_nobody_can_serve_any_more_learn_the_cause_at_once() {
    let make = ScriptedMaker::exclusive();
    let mut handle = capped(2, &make).await;
    handle.call("a call that succeeds").await.unwrap();
    let held = handle.lend(None).await.unwrap();
    make.fail(Some(refused()));
    let mut waiting = spawn(handle.lend(None));
    assert!(waiting.poll().is_pending());
    sleep(Duration::from_secs(3)).await;
    assert!(waiting.poll().is_pending(), "the one in use may come back");
    let dials = make.dials();
    make.wires()[0].close(CloseReason::Peer);
    drop(held);
    let Poll::Ready(Err(error)) = waiting.poll() else { panic!("waits for a backoff of seconds") };
    assert_eq!((error.kind(), make.dials()), (Kind::Unavailable, dials));
}

#[tokio::test(start_paused = true)]
async fn warm_ends_although_a_connection_is_lost_as_the_last_one_comes() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(4, &make).await;
    make.hold(true);
    let mut warm = spawn(handle.warm(2));
    assert!(warm.poll().is_pending());
    settle().await;
    make.held().unwrap().open();
    settle().await;
    make.held().unwrap().open();
    settle().await;
    make.hold(false);
    make.wires()[0].close(CloseReason::Peer);
    settle().await;
    sleep(Duration::from_secs(600)).await;
    assert!(warm.poll().is_ready(), "{:?}", handle.stats());
}

#[tokio::test(start_paused = true)]
async fn after_an_idle_timeout_the_pool_is_cold_not_down_and_never_says_that_it_is_closed() {
    let make = ScriptedMaker::exclusive();
    let mut handle = capped(2, &make).await;
    handle.call(()).await.unwrap();
    make.fail(Some(refused()));
    // A second dial fails once while the first connection is in use.
    let held = handle.lend(None).await.unwrap();
    let mut waiting = spawn(handle.lend(None));
    assert!(waiting.poll().is_pending());
    settle().await;
    assert!(handle.stats().dials_failed >= 1);
    drop(held);
    drop(waiting);
    make.fail(None);
    // The endpoint is well: calls succeed.
    handle.call(()).await.unwrap();
    assert_eq!(handle.room(), Room::Ready);
    make.hold(true); // the next dial takes a while
    sleep(Duration::from_secs(60)).await;
    assert_eq!(handle.stats().live, 0, "idle timeout");
    let mut lend = spawn(handle.lend(None));
    assert!(lend.poll().is_pending());
    assert_eq!(handle.room(), Room::Cold);
}

#[tokio::test(start_paused = true)]
async fn success_on_one_connection_does_not_lift_the_backoff_of_failing_dials() {
    let make = ScriptedMaker::exclusive();
    let mut first = capped(8, &make).await;
    first.call(()).await.unwrap();
    make.fail(Some(refused())); // the backend refuses a second connection
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let mut handle = first.clone();
            tokio::spawn(async move {
                loop {
                    let _ = handle.call(()).await;
                    sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    let wire = make.wires()[0].clone();
    let hold = tokio::spawn(async move {
        loop {
            wire.hold(true);
            sleep(Duration::from_millis(5)).await;
            wire.hold(false);
            sleep(Duration::from_millis(5)).await;
        }
    });
    sleep(Duration::from_secs(60)).await;
    tasks.iter().for_each(|task| task.abort());
    hold.abort();
    let dials = make.dials();
    assert!(dials < 300, "{dials} dials in a minute at a backend that refuses");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_fails_its_call_does_not_fail_other_waiters() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(1, &make).await;
    let held = handle.lend(None).await.unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| spawn(handle.lend(None))).collect();
    waiting.iter_mut().for_each(|lend| assert!(lend.poll().is_pending()));
    make.wires()[0].close(CloseReason::Failed); // e.g. its answer was larger than FrameLimits::decode
    drop(held);
    settle().await;
    for lend in &mut waiting {
        if let Poll::Ready(Err(error)) = lend.poll() {
            panic!("{error}");
        }
    }
}

/// A connection that is dead when it comes, for whatever reason.
struct DeadOnArrival(CloseReason);
impl Poolable for DeadOnArrival {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }
    fn poll_change(&mut self, _seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        Poll::Ready(State::Closed)
    }
    fn close_reason(&self) -> CloseReason {
        self.0
    }
}
/// How often a backend is dialled in ten seconds that hangs up a millisecond after it was dialled, by callers who do this.
async fn dials_in_ten_seconds<F: Future<Output = ()>>(caller: impl Fn(Endpoint) -> F) -> usize {
    let make = ScriptedMaker::exclusive();
    let hangs_up = {
        let make = make.clone();
        tower::service_fn(move |target: &'static str| {
            let mut make = make.clone();
            async move {
                let connection = make.call(target).await?;
                let wire = make.wires().last().unwrap().clone();
                tokio::spawn(async move {
                    sleep(Duration::from_millis(1)).await;
                    wire.close(CloseReason::Peer);
                });
                Ok::<_, Error>(connection)
            }
        })
    };
    let mut pool: Pool<_, &'static str> = PoolBuilder::new().build(hangs_up).unwrap();
    let handle = pool.call("endpoint").await.unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        caller(handle.clone()).await;
        sleep(Duration::from_millis(2)).await;
    }
    make.dials()
}

// F22
#[tokio::test(start_paused = true)]
async fn a_connection_that_was_lent_and_not_used_says_nothing_of_its_backend() {
    let unused = async |handle: Endpoint| drop(handle.checkout().await);
    let dials = dials_in_ten_seconds(unused).await;
    assert!(dials < 50, "{dials} dials for checkouts that nobody used");

    let left = async |handle: Endpoint| {
        let mut lend = spawn(handle.lend(None));
        if lend.poll().is_pending() {
            settle().await; // served meanwhile
        }
    };
    let dials = dials_in_ten_seconds(left).await;
    assert!(dials < 50, "{dials} dials for callers who left before they were lent a connection");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_used_and_left_clean_was_well() {
    let used = async |handle: Endpoint| {
        if let Ok(mut held) = handle.checkout().await {
            Service::<()>::call(&mut *held, ()).await.unwrap();
        }
    };
    let dials = dials_in_ten_seconds(used).await;
    assert!(dials > 1_000, "{dials} dials, each of which served a call");
}

#[tokio::test(start_paused = true)]
async fn a_maker_of_dead_connections_is_asked_under_backoff_whatever_they_died_of() {
    for reason in CloseReason::ALL {
        let dials = Arc::<AtomicUsize>::default();
        let count = dials.clone();
        let connect = move || {
            count.fetch_add(1, Ordering::Relaxed);
            DeadOnArrival(reason)
        };
        let handle = pool_of(PoolBuilder::new(), connect).await;
        let error = handle.lend(None).await.map(drop).unwrap_err();
        // Who does not trust us will not so soon.
        let (kind, usual) = match reason {
            CloseReason::Untrusted => (Kind::Tls, 5..12),
            _ => (Kind::Unavailable, 10..200),
        };
        assert_eq!((error.kind(), error.sent()), (kind, Sent::Never), "{reason}");
        sleep(Duration::from_secs(60)).await;
        let dials = dials.load(Ordering::Relaxed);
        assert!(usual.contains(&dials), "{reason}: {dials} dials in a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_with_much_to_dial_gives_others_their_turn() {
    // Each carries no call, so that the waiter needs another.
    let make = ScriptedMaker::shared(0);
    let handle = capped(10_000, &make).await;
    let mut waits = spawn(handle.lend(None));
    assert!(waits.poll().is_pending());
    tokio::task::yield_now().await;
    assert!((1..5_000).contains(&make.dials()), "{} dials at one go", make.dials());
}

#[tokio::test]
async fn a_caller_who_asks_again_without_a_pause_does_not_keep_the_pool_from_recovering() {
    let make = ScriptedMaker::exclusive();
    make.fail(Some(refused()));
    let mut handle = handle(PoolBuilder::new(), &make).await;
    handle.call(()).await.unwrap_err();
    make.fail(None);
    let asked = async { while handle.call(()).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("one thread for both");
}

// F30: a balancer has others to ask, and lends.
/// The default, but never so soon that the second dial begins while the first one's failure is looked at.
fn soon() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(2)).with_jitter(Jitter::Equal)
}

#[tokio::test(start_paused = true)]
async fn who_lends_hears_of_the_first_dial_that_fails_and_who_waits_on_keeps_his_place() {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    let handle = handle(PoolBuilder::new().max_connections(1).dial_backoff(soon()), &make).await;
    let mut patient = [spawn(handle.checkout()), spawn(handle.checkout())];
    assert!(patient[0].poll().is_pending());
    let mut lends: Vec<_> = (0..100).map(|_| spawn(handle.lend(None))).collect();
    assert!(lends.iter_mut().all(|lend| lend.poll().is_pending()));
    assert!(patient[1].poll().is_pending());
    settle().await;
    make.held().unwrap().fail(refused());
    settle().await;
    for lend in &mut lends {
        let Poll::Ready(Err(error)) = lend.poll() else { panic!("waits on") };
        assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Unavailable, Phase::Dial, Sent::Never));
    }
    assert!(handle.lend(None).await.is_err(), "nor does it wait from then on");
    assert!(patient.iter_mut().all(|checkout| checkout.poll().is_pending()));
    make.hold(false);
    sleep(Duration::from_millis(51)).await;
    let Poll::Ready(Ok(first)) = patient[0].poll() else { panic!("{:?}", handle.stats()) };
    assert!(patient[1].poll().is_pending());
    drop(first);
    assert!(patient[1].poll().is_ready());
}

/// A thousand callers at an empty pool, whose first dial is refused.
async fn refused_once() -> (ScriptedMaker, Vec<JoinHandle<Result<(usize, usize), Error>>>) {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    let handle = handle(PoolBuilder::new().max_connections(8).dial_backoff(soon()), &make).await;
    let call = |i| {
        let mut handle = handle.clone();
        tokio::spawn(async move { handle.call(i).await })
    };
    let calls: Vec<_> = (0..1_000).map(call).collect();
    settle().await;
    make.held().unwrap().fail(refused());
    settle().await;
    assert!(calls.iter().all(|call| !call.is_finished()));
    assert_eq!(handle.room(), Room::Down, "for balancers, which have others to ask");
    make.hold(false);
    (make, calls)
}

// F30
#[tokio::test(start_paused = true)]
async fn one_refused_dial_fails_none_of_a_thousand_calls_to_one_endpoint() {
    let (_make, calls) = refused_once().await;
    let start = Instant::now();
    for (i, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap().1, i);
    }
    assert!(start.elapsed() <= Duration::from_millis(51), "{:?}", start.elapsed());
}

// F30
#[tokio::test(start_paused = true)]
async fn two_refused_dials_in_a_row_tell_every_call_the_cause() {
    let (make, calls) = refused_once().await;
    make.fail(Some(refused()));
    let start = Instant::now();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Unavailable, Phase::Dial, Sent::Never));
    }
    assert!(start.elapsed() <= Duration::from_millis(51), "{:?}", start.elapsed());
    assert_eq!(make.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_timed_out_is_no_accident_and_tells_every_call_at_once() {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    // The next dial is half a second off at least.
    let second = Duration::from_secs(1);
    let backoff = Backoff::new(second, second).with_jitter(Jitter::Equal);
    let handle = handle(PoolBuilder::new().dial_deadline(second).dial_backoff(backoff), &make).await;
    let mut waiting: Vec<_> = (0..100).map(|_| spawn(handle.checkout())).collect();
    waiting.iter_mut().for_each(|checkout| assert!(checkout.poll().is_pending()));
    settle().await;
    tokio::time::advance(second).await;
    settle().await;
    for lend in &mut waiting {
        let Poll::Ready(Err(error)) = lend.poll() else { panic!("waits on") };
        assert_eq!((error.kind(), error.phase()), (Kind::Timeout, Phase::Dial));
    }
    assert_eq!(make.dials(), 1);
}

// F30
#[tokio::test(start_paused = true)]
async fn a_failed_dial_does_not_fail_waiters_whom_another_dial_can_serve() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(4, &make).await;
    drop(handle.lend(None).await.unwrap());
    handle.evict();
    make.hold(true);
    let mut waiting: Vec<_> = (0..3).map(|_| spawn(handle.lend(None))).collect();
    assert!(waiting.iter_mut().all(|waiter| waiter.poll().is_pending()));
    settle().await;
    assert_eq!(handle.stats().dialling, 3);
    make.held().unwrap().fail(refused());
    settle().await;
    assert!(waiting.iter_mut().all(|waiter| waiter.poll().is_pending()), "two dials are under way");
    make.held().unwrap().open();
    settle().await;
    assert!(waiting[0].poll().is_ready());
}
