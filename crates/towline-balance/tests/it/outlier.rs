//! Endpoints that fail: ejection, the probe, the return, and what a call sees meanwhile.

use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::ServiceExt;
use towline_balance::{
    AtResponse, Balance, BalanceBuilder, EjectionView, LeastRequest, LoadMetric, Outliers, P2c, P2cPicker, RoundRobin,
    SlowStart, WeightedRandom, fixed,
};
use towline_core::{Call, Classify, EjectionRule, Error, Outcome, Policy, Rng, TokioExecutor};
use towline_test::cancel_at_every_poll;

use crate::support::{Desk, Desks, MS, Message, SECOND, Seen, endpoints, refused, run};

const NAMES: [&str; 10] = ["a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1", "i:1", "j:1"];

pub(crate) fn builder() -> BalanceBuilder<P2c> {
    BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(7))
}

pub(crate) async fn spawned<P: Policy>(builder: BalanceBuilder<P>, desks: &Desks, n: u8) -> Balance<Desk, P::Picker> {
    let balance = builder.spawn(fixed(endpoints(n)), desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    balance
}

pub(crate) async fn over(desks: &Desks, n: u8) -> Balance<Desk, P2cPicker> {
    spawned(builder(), desks, n).await
}

/// Failing so long that it is ejected.
pub(crate) async fn ejected(balance: &Balance<Desk, P2cPicker>, desks: &Desks, name: &str) -> EjectionView {
    desks.of(name).answers(MS, true);
    for _ in 0..100 {
        run(balance, 200, 100 * MS).await;
        if let Some(view) = view(balance, name) {
            return view;
        }
    }
    panic!("not ejected");
}

/// Two endpoints, the first of which is ejected, well again, and due for an idempotent probe.
async fn due(desks: &Desks) -> Balance<Desk, P2cPicker> {
    let balance = over(desks, 2).await;
    run(&balance, 500, 20 * SECOND).await;
    let remaining = ejected(&balance, desks, "a:1").await.remaining;
    desks.of("a:1").answers(MS, false);
    run(&balance, 500, remaining + 150 * MS).await;
    balance
}

fn view<P>(balance: &Balance<Desk, P>, name: &str) -> Option<EjectionView> {
    let views = balance.endpoints();
    views.iter().find(|view| view.endpoint.key().as_str() == name).unwrap().ejection
}

pub(crate) fn is_ejected<P>(balance: &Balance<Desk, P>) -> Vec<bool> {
    balance.endpoints().iter().map(|view| view.ejection.is_some()).collect()
}

#[tokio::test(start_paused = true)]
async fn two_failures_in_a_row_eject_where_hardly_any_call_fails_and_more_where_some_do() {
    let desks = Desks::default();
    let balance = over(&desks, 4).await;
    run(&balance, 1_000, 10 * SECOND).await;
    let before = desks.of("a:1").calls();
    let view = ejected(&balance, &desks, "a:1").await;
    assert_eq!((view.rule, desks.of("a:1").calls() - before), (EjectionRule::ConsecutiveFailures, 2));

    let desks = Desks::default();
    let balance = over(&desks, 4).await;
    // Nothing is known about the set.
    let before = desks.of("a:1").calls();
    ejected(&balance, &desks, "a:1").await;
    assert!(desks.of("a:1").calls() - before >= 3);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_three_calls_of_ten_is_ejected_for_its_success_rate() {
    let (desks, seen) = (Desks::default(), Seen::default());
    // Where latency is not measured nobody is on probation meanwhile.
    let builder = builder().load(LoadMetric::in_flight()).observers(seen.observers());
    let balance = spawned(builder.outliers(Outliers::new().consecutive(50).unwrap()), &desks, 4).await;
    run(&balance, 1_000, 5 * SECOND).await;
    for n in 0..200 {
        desks.of("a:1").answers(MS, n % 10 < 3);
        run(&balance, 250, 16 * MS).await;
        if is_ejected(&balance)[0] {
            break;
        }
    }
    let view = view(&balance, "a:1").expect("within two hundred of its calls");
    assert!(matches!(view.rule, EjectionRule::SuccessRate | EjectionRule::ConsecutiveFailures), "{view:?}");
    assert!(seen.take().iter().any(|line| line.starts_with("ejected a:1")));
}

#[tokio::test(start_paused = true)]
async fn failures_that_the_whole_set_shows_eject_nobody() {
    let desks = Desks::default();
    let balance = over(&desks, 4).await;
    // One call in five fails, whoever it goes to.
    for n in 0..500 {
        NAMES[..4].iter().for_each(|name| desks.of(name).answers(MS, n % 5 == 0));
        run(&balance, 1_000, 4 * MS).await;
        assert_eq!(is_ejected(&balance), [false; 4], "{n}");
    }
}

// F23
#[tokio::test(start_paused = true)]
async fn never_more_than_the_cap_are_ejected_nor_the_last_one_and_when_most_fail_nobody_is() {
    for n in 1..=5u8 {
        for bad in 1..=usize::from(n) {
            let desks = Desks::default();
            let balance = over(&desks, n).await;
            run(&balance, 500, 5 * SECOND).await;
            NAMES[..bad].iter().for_each(|name| desks.of(name).answers(MS, true));
            let mut most = 0;
            for _ in 0..100 {
                run(&balance, 500, 100 * MS).await;
                most = most.max(is_ejected(&balance).iter().filter(|ejected| **ejected).count());
            }
            assert!(most <= usize::from(n) / 2, "{bad} of {n}: {most}");
            let at_last = is_ejected(&balance).iter().filter(|ejected| **ejected).count();
            // Exactly half is not most of them.
            let expected = if bad * 2 > usize::from(n) { 0 } else { bad };
            assert_eq!(at_last, expected, "{bad} of {n}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_ejected_is_taken_back_when_most_of_the_set_fails_and_everything_recovers() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let balance = spawned(builder().observers(seen.observers()), &desks, 4).await;
    run(&balance, 500, 5 * SECOND).await;
    ejected(&balance, &desks, "a:1").await;
    NAMES[..3].iter().for_each(|name| desks.of(name).answers(MS, true));
    run(&balance, 500, 2 * SECOND).await;
    assert_eq!(is_ejected(&balance), [false; 4]);
    assert!(seen.take().contains(&"returned a:1".to_owned()));
    NAMES[..3].iter().for_each(|name| desks.of(name).answers(MS, false));
    run(&balance, 500, 6 * SECOND).await;
    let before = NAMES.map(|name| desks.of(name).calls());
    assert_eq!(run(&balance, 500, 4 * SECOND).await, 0);
    for (name, before) in NAMES.iter().zip(before).take(4) {
        assert!(desks.of(name).calls() - before > 300, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_gets_no_call_until_a_single_probe_and_returns_slowly() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let outliers = Outliers::new().base(10 * SECOND).unwrap();
    let balance = spawned(builder().outliers(outliers).observers(seen.observers()), &desks, 4).await;
    run(&balance, 500, 20 * SECOND).await;
    let EjectionView { rule, since, remaining, .. } = ejected(&balance, &desks, "a:1").await;
    assert_eq!(rule, EjectionRule::ConsecutiveFailures);
    assert!(since < SECOND && (9 * SECOND..12 * SECOND).contains(&remaining), "{since:?}, {remaining:?}");
    let before = desks.of("a:1").calls();
    assert_eq!(run(&balance, 500, remaining - 200 * MS).await, 0);
    assert_eq!(desks.of("a:1").calls(), before);
    // The probe fails: twice the time.
    assert_eq!(run(&balance, 500, 2 * SECOND).await, 1);
    let again = view(&balance, "a:1").unwrap();
    assert!((18 * SECOND..24 * SECOND).contains(&again.remaining) && again.since > since, "{again:?}");
    assert_eq!(balance.endpoints()[0].ejections, 2);

    desks.of("a:1").answers(MS, false);
    assert_eq!(run(&balance, 500, again.remaining - 200 * MS).await, 0);
    assert_eq!(desks.of("a:1").calls(), before + 1);
    // An idempotent call would have gone first, for a second.
    run(&balance, 500, 1_500 * MS).await;
    let view = &balance.endpoints()[0];
    assert!(view.ejection.is_none() && view.slow_start.is_some_and(|share| share < 0.2), "{:?}", view.slow_start);
    let before = desks.of("a:1").calls();
    run(&balance, 500, SECOND).await;
    let share = desks.of("a:1").calls() - before;
    assert!((5..60).contains(&share), "{share} of 500, where 125 are its share");
    run(&balance, 500, 10 * SECOND).await;
    assert!(balance.endpoints()[0].slow_start.is_none());
    // Two bases later the two are forgiven.
    run(&balance, 500, 12 * SECOND).await;
    assert_eq!(balance.endpoints()[0].ejections, 0);
    assert_eq!(
        seen.take()
            .into_iter()
            .filter(|line| line.contains("ejected") || line.contains("returned"))
            .collect::<Vec<_>>(),
        ["ejected a:1 consecutive_failures 1", "ejected a:1 consecutive_failures 2", "returned a:1"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_call_is_the_first_to_probe() {
    let desks = Desks::default();
    let balance = due(&desks).await;
    let before = desks.of("a:1").calls();
    run(&balance, 500, 500 * MS).await;
    assert_eq!(desks.of("a:1").calls(), before, "none of these is idempotent");
    balance.clone().oneshot(Call::new(0).idempotent()).await.unwrap();
    assert_eq!(desks.of("a:1").calls(), before + 1);
    run(&balance, 500, 150 * MS).await;
    assert!(!is_ejected(&balance)[0]);
}

// F24
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_at_any_poll_leaves_the_next_call_to_probe() {
    let desks = Desks::default();
    let balance = due(&desks).await;
    // At every poll of a call that waits for its endpoint to lend, and then of the call itself.
    for holds in [false, true] {
        desks.of("a:1").hold(holds);
        let before = desks.of("a:1").calls();
        for polls in 0..2 {
            let mut probe = spawn(balance.clone().oneshot(Call::new(0).idempotent()));
            (0..=polls).for_each(|_| assert!(probe.poll().is_pending()));
            let mut other = spawn(balance.clone().oneshot(Call::new(0).idempotent()));
            assert!(other.poll().is_pending());
            let (a, b) = (&balance.endpoints()[0], &balance.endpoints()[1]);
            assert_eq!((a.in_flight, b.in_flight), (1, 1), "one probe at a time");
            drop((probe, other));
            assert_eq!(balance.endpoints()[0].in_flight, 0);
        }
        assert_eq!(desks.of("a:1").calls() - before, if holds { 0 } else { 2 });
    }
    desks.of("a:1").hold(false);
    balance.clone().oneshot(Call::new(0).idempotent()).await.unwrap();
    run(&balance, 500, 150 * MS).await;
    assert!(!is_ejected(&balance)[0]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_never_ends_leaves_the_next_after_five_seconds() {
    let desks = Desks::default();
    let balance = due(&desks).await;
    desks.of("a:1").answers(Duration::from_secs(3_600), false);
    let mut stuck = spawn(balance.clone().oneshot(Call::new(0).idempotent()));
    assert!(stuck.poll().is_pending());
    desks.of("a:1").answers(MS, false);
    let before = desks.of("a:1").calls();
    run(&balance, 500, 4 * SECOND).await;
    assert_eq!(desks.of("a:1").calls(), before);
    run(&balance, 500, 2 * SECOND).await;
    assert!(!is_ejected(&balance)[0] && desks.of("a:1").calls() > before);
    drop(stuck);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_reached_twice_is_ejected_for_a_second() {
    let desks = Desks::default();
    let balance = over(&desks, 2).await;
    run(&balance, 500, SECOND).await;
    desks.of("a:1").hold(true);
    for _ in 0..2 {
        let mut call = spawn(balance.clone().oneshot(Call::new(0)));
        while desks.of("a:1").waiting() == 0 {
            if call.poll().is_ready() {
                call = spawn(balance.clone().oneshot(Call::new(0)));
            }
            sleep(2 * MS).await;
        }
        desks.of("a:1").grant(Err(refused()));
        call.await.expect("the other one takes it");
    }
    run(&balance, 500, 150 * MS).await;
    let ejection = view(&balance, "a:1").unwrap();
    assert!(ejection.rule == EjectionRule::DialFailures && ejection.remaining <= 1_200 * MS, "{ejection:?}");
    desks.of("a:1").hold(false);
    run(&balance, 500, 4 * SECOND).await;
    assert!(!is_ejected(&balance)[0]);
}

#[tokio::test(start_paused = true)]
async fn every_policy_goes_past_ejected_endpoints() {
    async fn check<P: Policy>(policy: P)
    where
        P::Picker: towline_core::Pick<Message>,
    {
        let desks = Desks::default();
        let balance = spawned(BalanceBuilder::new(policy).rng(Rng::with_seed(7)), &desks, 4).await;
        run(&balance, 500, 10 * SECOND).await;
        desks.of("a:1").answers(MS, true);
        run(&balance, 500, SECOND).await;
        assert!(is_ejected(&balance)[0]);
        assert_eq!(run(&balance, 500, 10 * SECOND).await, 0);
    }
    check(P2c::new()).await;
    check(LeastRequest::new()).await;
    check(RoundRobin::new()).await;
    check(WeightedRandom::new()).await;
}

#[tokio::test(start_paused = true)]
async fn with_ejection_switched_off_nobody_is_ejected() {
    let desks = Desks::default();
    let balance = spawned(builder().outliers(Outliers::off()), &desks, 4).await;
    run(&balance, 500, 10 * SECOND).await;
    desks.of("a:1").answers(MS, true);
    run(&balance, 500, 20 * SECOND).await;
    assert_eq!(is_ejected(&balance), [false; 4]);
    assert!(balance.endpoints()[0].on_probation);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_dropped_leaves_nobody_ejected() {
    let desks = Desks::default();
    let (balance, driver) = builder().pair(fixed(endpoints(2)), desks.make());
    let driver = tokio::spawn(driver);
    balance.discovered().await;
    run(&balance, 500, 10 * SECOND).await;
    ejected(&balance, &desks, "a:1").await;
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
    assert_eq!(is_ejected(&balance), [false; 2]);
    desks.of("a:1").answers(MS, false);
    run(&balance, 500, 10 * SECOND).await;
    assert!(balance.endpoints().iter().all(|view| view.calls > 2_000));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_joins_gets_its_share_slowly_and_with_slow_start_off_at_once() {
    for (slow_start, expected) in [(SlowStart::default(), 20..80), (SlowStart::off(), 200..300)] {
        let desks = Desks::default();
        let (discover, stream) = crate::support::discovery();
        let builder = BalanceBuilder::new(RoundRobin::new()).slow_start(slow_start);
        let balance = builder.spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
        for name in ["a:1", "b:1", "c:1"] {
            discover.send(Ok(crate::support::insert(name))).await.unwrap();
        }
        balance.discovered().await;
        run(&balance, 1_000, 20 * SECOND).await;
        discover.send(Ok(crate::support::insert("d:1"))).await.unwrap();
        run(&balance, 1_000, SECOND).await;
        let calls = desks.of("d:1").calls();
        assert!(expected.contains(&calls), "{calls} of 1000, where 250 are its share");
        run(&balance, 1_000, 10 * SECOND).await;
        let before = desks.of("d:1").calls();
        run(&balance, 1_000, SECOND).await;
        assert!((240..260).contains(&(desks.of("d:1").calls() - before)));
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_starts_slowly_where_all_are_new() {
    let desks = Desks::default();
    let balance = over(&desks, 3).await;
    for _ in 0..50 {
        run(&balance, 500, 100 * MS).await;
        assert!(balance.endpoints().iter().all(|view| view.slow_start.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_dropped_at_every_poll_while_endpoints_are_ejected_and_nothing_is_left_behind() {
    let desks = Desks::default();
    let balance = over(&desks, 2).await;
    run(&balance, 500, 10 * SECOND).await;
    ejected(&balance, &desks, "a:1").await;
    cancel_at_every_poll(
        || balance.clone().oneshot(Call::new(0)),
        async |_| {
            assert!(balance.endpoints().iter().all(|view| view.in_flight == 0));
        },
    )
    .await;
    assert!(matches!(spawn(balance.clone().oneshot(Call::new(0))).poll(), Poll::Pending | Poll::Ready(Ok(_))));
}

// F24
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_late_has_failed() {
    let desks = Desks::default();
    let balance = over(&desks, 4).await;
    run(&balance, 500, 20 * SECOND).await;
    ejected(&balance, &desks, "a:1").await;
    // It accepts calls and never answers.
    desks.of("a:1").answers(Duration::from_secs(3_600), false);
    let before = desks.of("a:1").calls();
    for _ in 0..3_000 {
        drop(timeout(SECOND, balance.clone().oneshot(Call::new(0))).await);
        sleep(100 * MS).await;
    }
    let lost = desks.of("a:1").calls() - before;
    assert!((2..6).contains(&lost) && balance.endpoints()[0].ejections > 3, "{lost} of 3000");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_to_be_left_alone_is_not_ejected_and_is_left_alone_by_every_metric() {
    for metric in [LoadMetric::default(), LoadMetric::in_flight()] {
        let desks = Desks::default();
        let builder = builder().load(metric).track(AtResponse::new(PushesBack));
        let balance = builder.spawn(fixed(endpoints(3)), desks.make(), &TokioExecutor::current()).unwrap();
        balance.discovered().await;
        let run = async |length| {
            let end = Instant::now() + length;
            while Instant::now() < end {
                drop(balance.clone().oneshot(Call::new(0)).await);
            }
        };
        run(10 * SECOND).await;
        desks.of("a:1").answers(MS, true);
        run(SECOND).await;
        desks.of("a:1").answers(MS, false);
        let before = desks.of("a:1").calls();
        run(58 * SECOND).await;
        let view = &balance.endpoints()[0];
        assert_eq!((desks.of("a:1").calls() - before, view.ejection), (0, None), "{metric:?}");
        run(5 * SECOND).await;
        assert!(desks.of("a:1").calls() - before > 300);
    }
}

/// A failure asks for a minute.
#[derive(Clone)]
struct PushesBack;

impl Classify<String> for PushesBack {
    fn classify(&self, result: Result<&String, &Error>) -> Outcome {
        if result.is_ok() { Outcome::Success } else { Outcome::Pushback(Some(60 * SECOND)) }
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_ejected_was_not_well_again_when_its_probation_ended() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let balance = spawned(builder().observers(seen.observers()), &desks, 4).await;
    desks.of("a:1").answers(MS, true);
    run(&balance, 500, 20 * SECOND).await;
    assert!(is_ejected(&balance)[0]);
    let lines = seen.take();
    assert!(!lines.contains(&"passed a:1".to_owned()), "{lines:?}");
}
