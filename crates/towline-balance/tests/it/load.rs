//! What calls leave behind: failures, stuck and cancelled calls, and probation.

use std::task::Poll;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::ServiceExt;
use towline_balance::{Balance, BalanceBuilder, LoadMetric, Outliers, P2c, P2cPicker, SlowStart, fixed};
use towline_core::{Call, Rng, TokioExecutor};
use towline_test::settle;

use crate::support::{Desk, Desks, MS, SECOND, Seen, discovery, endpoints, insert, remove, run};

async fn over(desks: &Desks, n: u8) -> Balance<Desk, P2cPicker> {
    let builder = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(7));
    let balance = builder.spawn(fixed(endpoints(n)), desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    balance
}

// F21
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_fast_loses_its_share_at_once_and_has_it_again_after_one_ejection_and_slow_start() {
    let desks = Desks::default();
    let balance = over(&desks, 3).await;
    for name in ["a:1", "b:1", "c:1"] {
        desks.of(name).answers(50 * MS, false);
    }
    assert_eq!(run(&balance, 100, 10 * SECOND).await, 0);
    let fair = desks.of("a:1").calls();
    assert!((250..420).contains(&fair), "{fair} of 1000");

    desks.of("a:1").answers(MS, true);
    let failed = run(&balance, 100, 10 * SECOND).await;
    assert!((1..10).contains(&failed), "{failed} of 1000, round robin 333");

    // 30 s and up to a fifth more since the failures, and ten of slow start.
    desks.of("a:1").answers(50 * MS, false);
    run(&balance, 100, 38 * SECOND).await;
    let before = desks.of("a:1").calls();
    assert_eq!(run(&balance, 100, 10 * SECOND).await, 0);
    let share = desks.of("a:1").calls() - before;
    assert!((250..420).contains(&share), "{share} of 1000 after it is well again");
}

// F21
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_fast_from_the_first_call_on_never_looks_fast() {
    let desks = Desks::default();
    let balance = over(&desks, 3).await;
    for name in ["b:1", "c:1"] {
        desks.of(name).answers(50 * MS, false);
    }
    desks.of("a:1").answers(MS, true);
    let failed = run(&balance, 100, 10 * SECOND).await;
    assert!((1..25).contains(&failed), "{failed} of 1000");
}

#[tokio::test(start_paused = true)]
async fn a_stuck_endpoint_counts_while_it_is_stuck() {
    let desks = Desks::default();
    let balance = over(&desks, 3).await;
    for name in ["a:1", "b:1", "c:1"] {
        desks.of(name).answers(50 * MS, false);
    }
    run(&balance, 100, 5 * SECOND).await;
    let before = desks.of("a:1").calls();
    desks.of("a:1").answers(Duration::from_secs(3_600), false);
    let calls = timeout(30 * SECOND, run(&balance, 100, 30 * SECOND)).await;
    assert!(calls.is_err(), "some never end");
    let stuck = desks.of("a:1").calls() - before;
    assert!(stuck < 20, "{stuck} of 3000");
    let view = &balance.endpoints()[0];
    assert!(view.load > 100.0, "{}", view.load);
}

#[tokio::test(start_paused = true)]
async fn cancelled_calls_are_lower_bounds() {
    let desks = Desks::default();
    let balance = over(&desks, 1).await;
    desks.of("a:1").answers(100 * MS, false);
    run(&balance, 100, SECOND).await;
    let latency = balance.endpoints()[0].latency.unwrap();
    for _ in 0..100 {
        let mut call = spawn(balance.clone().oneshot(Call::new(0)));
        assert!(call.poll().is_pending());
        sleep(MS).await;
    }
    assert!(balance.endpoints()[0].latency.unwrap() >= latency, "given up early");
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    desks.of("a:1").answers(60 * SECOND, false);
    let mut long = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(call.poll().is_pending() && long.poll().is_pending());
    sleep(SECOND).await;
    drop(long);
    assert!(balance.endpoints()[0].latency.unwrap() >= SECOND, "given up late");
}

#[tokio::test(start_paused = true)]
async fn probation_is_observed_to_begin_and_to_end() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let builder = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(7)).observers(seen.observers());
    let balance = builder.spawn(fixed(endpoints(3)), desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    run(&balance, 1_000, SECOND).await;
    seen.take();
    desks.of("b:1").answers(100 * MS, false);
    run(&balance, 1_000, SECOND).await;
    assert_eq!(seen.take(), ["probation b:1"]);
    desks.of("b:1").answers(MS, false);
    run(&balance, 1_000, 6 * SECOND).await;
    assert_eq!(seen.take(), ["passed b:1"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_had_taken_before_it_began_to_fail_does_not_speak_for_it() {
    let desks = Desks::default();
    let balance = over(&desks, 2).await;
    for name in ["a:1", "b:1"] {
        desks.of(name).answers(2 * MS, false);
    }
    run(&balance, 100, SECOND).await;
    let mut earlier = loop {
        let mut call = spawn(balance.clone().oneshot(Call::new(0)));
        assert!(call.poll().is_pending());
        if balance.endpoints()[0].in_flight == 1 {
            break call;
        }
    };
    desks.of("a:1").answers(MS, true);
    let mut later: Vec<_> = (0..10).map(|_| spawn(balance.clone().oneshot(Call::new(0)))).collect();
    later.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    sleep(MS).await;
    let failed = later.iter_mut().filter_map(|call| matches!(call.poll(), Poll::Ready(Err(_))).then_some(())).count();
    assert!(failed >= 2 && balance.endpoints()[0].on_probation, "{failed}");
    sleep(2 * MS).await;
    assert!(matches!(earlier.poll(), Poll::Ready(Ok(_))), "in good time");
    assert!(balance.endpoints()[0].on_probation);
}

#[tokio::test(start_paused = true)]
async fn an_only_endpoint_is_never_kept_from_calls_however_slow_it_becomes() {
    let desks = Desks::default();
    let balance = over(&desks, 1).await;
    run(&balance, 100, SECOND).await;
    desks.of("a:1").answers(SECOND, true);
    assert_eq!(run(&balance, 100, SECOND).await, 99);
    desks.of("a:1").answers(MS, false);
    assert_eq!(run(&balance, 100, SECOND).await, 0);
}

// F17
#[tokio::test(start_paused = true)]
async fn calls_of_an_earlier_life_leave_nothing_behind_on_the_next() {
    let desks = Desks::default();
    let (discover, stream) = discovery();
    let balance = BalanceBuilder::new(P2c::new()).spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    discover.send(Ok(insert("a:1"))).await.unwrap();
    settle().await;
    desks.of("a:1").answers(SECOND, true);
    let mut calls: Vec<_> = (0..5).map(|_| spawn(balance.clone().oneshot(Call::new(0)))).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    discover.send(Ok(remove("a:1"))).await.unwrap();
    discover.send(Ok(insert("a:1"))).await.unwrap();
    settle().await;
    let view = |balance: &Balance<Desk, P2cPicker>| {
        let view = balance.endpoints().remove(0);
        (view.in_flight, view.calls, view.latency)
    };
    assert_eq!(view(&balance), (0, 0, None));
    sleep(2 * SECOND).await;
    for call in calls {
        call.await.unwrap_err();
    }
    assert_eq!(view(&balance), (0, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_has_one_call_in_flight_until_it_has_answered() {
    let desks = Desks::default();
    let (discover, stream) = discovery();
    let builder = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(7));
    let balance = builder.spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    for key in ["a:1", "b:1", "c:1"] {
        discover.send(Ok(insert(key))).await.unwrap();
    }
    settle().await;
    run(&balance, 1_000, SECOND).await;
    desks.of("new:1").answers(300 * MS, false);
    discover.send(Ok(insert("new:1"))).await.unwrap();
    settle().await;
    let flood = timeout(250 * MS, run(&balance, 1_000, SECOND)).await;
    assert!(flood.is_err());
    assert_eq!(desks.of("new:1").calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_alone_are_balanced_without_a_clock_or_a_sweep() {
    let desks = Desks::default();
    let builder = BalanceBuilder::new(P2c::new()).load(LoadMetric::in_flight());
    let builder = builder.outliers(Outliers::off()).slow_start(SlowStart::off());
    let (balance, driver) = builder.pair(fixed(endpoints(2)), desks.make());
    let mut driver = spawn(driver);
    assert!(driver.poll().is_pending());
    let mut calls: Vec<_> = (0..10).map(|_| spawn(balance.clone().oneshot(Call::new(0)))).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    assert!(!driver.is_woken());
    let views = balance.endpoints();
    assert!(views.iter().all(|view| view.in_flight == 5 && view.load == 5.0 && view.latency.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_long_call_keeps_nobody_from_an_endpoint_that_answers_others() {
    let desks = Desks::default();
    let balance = over(&desks, 2).await;
    for name in ["a:1", "b:1"] {
        desks.of(name).answers(50 * MS, false);
    }
    run(&balance, 200, SECOND).await;
    desks.of("a:1").answers(Duration::from_secs(3_600), false);
    let long = loop {
        let mut call = spawn(balance.clone().oneshot(Call::new(0)));
        assert!(call.poll().is_pending());
        if balance.endpoints()[0].in_flight == 1 {
            break call;
        }
    };
    desks.of("a:1").answers(50 * MS, false);
    sleep(60 * SECOND).await;
    let before = desks.of("a:1").calls();
    run(&balance, 200, 20 * SECOND).await;
    let share = desks.of("a:1").calls() - before;
    assert!(share > 1_000, "{share} of 4000");
    assert_eq!(balance.endpoints()[0].in_flight, 1, "it is still there");
    drop(long);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_of_all_an_endpoint_that_fails_alone_is_avoided_as_before() {
    let desks = Desks::default();
    let balance = over(&desks, 3).await;
    run(&balance, 1_000, SECOND).await;
    for name in ["a:1", "b:1", "c:1"] {
        desks.of(name).answers(MS, true);
    }
    assert!(run(&balance, 1_000, 10 * SECOND).await > 9_000, "all are asked, for want of others");
    for name in ["a:1", "b:1", "c:1"] {
        desks.of(name).answers(MS, false);
    }
    run(&balance, 1_000, 10 * SECOND).await;
    assert!(balance.endpoints().iter().all(|view| !view.on_probation && view.latency.unwrap() < 2 * MS));
    desks.of("a:1").answers(MS, true);
    let failed = run(&balance, 1_000, 10 * SECOND).await;
    assert!(failed < 10, "{failed} of 10000");
}

/// So many calls per second for as long, from callers that wait for a second.
async fn run_with_a_deadline(balance: &Balance<Desk, P2cPicker>, per_second: u32, length: Duration) {
    let end = Instant::now() + length;
    let calls = stream::unfold((), |()| async {
        sleep(SECOND / per_second).await;
        (Instant::now() < end).then(|| (timeout(SECOND, balance.clone().oneshot(Call::new(0))), ()))
    });
    calls.buffer_unordered(10_000).for_each(|_| std::future::ready(())).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_too_slow_to_fail_where_most_do_is_not_given_the_calls_of_all() {
    let desks = Desks::default();
    let balance = over(&desks, 10).await;
    let names: Vec<_> = endpoints(10).iter().map(|endpoint| endpoint.key().to_string()).collect();
    names.iter().for_each(|name| desks.of(name).serves(2, 20 * MS));
    assert_eq!(run(&balance, 800, 5 * SECOND).await, 0);
    // What they call is out: nine wait for it until they fail, and the tenth for longer than its callers.
    names.iter().for_each(|name| desks.of(name).serves(1_000, 900 * MS));
    names[1..].iter().for_each(|name| desks.of(name).answers(900 * MS, true));
    desks.of("a:1").answers(2 * SECOND, false);
    run_with_a_deadline(&balance, 800, 10 * SECOND).await;
    let most = desks.of("a:1").most();
    assert!(most < 200, "{most} of 800 calls at a time");
}

#[tokio::test(start_paused = true)]
async fn one_call_in_a_hundred_that_fails_everywhere_puts_nobody_aside() {
    let desks = Desks::default();
    let balance = over(&desks, 4).await;
    run(&balance, 100, SECOND).await;
    for n in 0..100 {
        let fails = ["a:1", "b:1", "c:1", "d:1"][n % 4];
        desks.of(fails).answers(MS, true);
        run(&balance, 1_000, 4 * MS).await;
        desks.of(fails).answers(MS, false);
        run(&balance, 1_000, 96 * MS).await;
    }
    assert!(balance.endpoints().iter().all(|view| view.latency.unwrap() < 2 * MS));
    let calls = ["a:1", "b:1", "c:1", "d:1"].map(|name| desks.of(name).calls());
    assert!(calls.iter().all(|calls| (1_500..3_500).contains(calls)), "{calls:?}");
}
