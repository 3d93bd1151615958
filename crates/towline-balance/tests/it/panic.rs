//! When too few endpoints are eligible.

use tower::ServiceExt;
use towline_balance::{BalanceBuilder, Circuit, LoadMetric, Outliers, P2c, PanicMode, SlowStart, fixed};
use towline_core::{Call, Kind, Phase, Room, Sent};

use crate::outlier::{builder, ejected, is_ejected, spawned};
use crate::support::{Desks, MS, SECOND, Seen, endpoints, run};

// F18
#[tokio::test(start_paused = true)]
async fn when_nobody_is_eligible_calls_go_to_the_ejected_or_fail_fast_as_set() {
    for fails_fast in [false, true] {
        let desks = Desks::default();
        let mode = if fails_fast { PanicMode::fail_fast_below(0) } else { PanicMode::use_all_below(0) };
        let balance = spawned(builder().panic_mode(mode.unwrap()), &desks, 2).await;
        run(&balance, 500, 10 * SECOND).await;
        ejected(&balance, &desks, "a:1").await;
        desks.of("b:1").room(Room::Down);
        let calls = desks.of("a:1").calls();
        let error = balance.clone().oneshot(Call::new(0)).await.unwrap_err();
        if fails_fast {
            assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Unavailable, Phase::Pick, Sent::Never));
            assert!(error.to_string().contains("1 are ejected and 1 down"), "{error}");
        }
        assert_eq!(desks.of("a:1").calls() - calls, usize::from(!fails_fast));
    }
}

#[tokio::test(start_paused = true)]
async fn below_the_panic_threshold_all_are_used_and_it_is_observed() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let builder = builder().panic_mode(PanicMode::use_all_below(60).unwrap()).observers(seen.observers());
    let balance = spawned(builder, &desks, 4).await;
    run(&balance, 500, 10 * SECOND).await;
    ejected(&balance, &desks, "a:1").await;
    assert_eq!(run(&balance, 500, SECOND).await, 0, "three of four are enough");
    desks.of("b:1").room(Room::Down);
    run(&balance, 500, 200 * MS).await;
    assert!(run(&balance, 500, SECOND).await > 100, "two are not");
    desks.of("b:1").room(Room::Ready);
    run(&balance, 500, 200 * MS).await;
    assert_eq!(run(&balance, 500, SECOND).await, 0);
    let panics: Vec<_> = seen.take().into_iter().filter(|line| line.starts_with("Panic")).collect();
    assert_eq!(panics, ["PanicBegan { eligible: 2, endpoints: 4 }", "PanicEnded"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_that_fails_fast_ends_when_enough_are_up_again() {
    let desks = Desks::default();
    let balance = spawned(builder().panic_mode(PanicMode::fail_fast_below(60).unwrap()), &desks, 4).await;
    run(&balance, 500, SECOND).await;
    ["a:1", "b:1"].iter().for_each(|name| desks.of(name).room(Room::Down));
    run(&balance, 500, SECOND).await;
    assert_eq!(balance.clone().oneshot(Call::new(0)).await.unwrap_err().kind(), Kind::Unavailable);
    ["a:1", "b:1"].iter().for_each(|name| desks.of(name).room(Room::Ready));
    run(&balance, 500, SECOND).await;
    assert_eq!(run(&balance, 500, SECOND).await, 0);
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_those_that_are_ejected_are_probed_all_the_same() {
    for mode in [PanicMode::use_all_below(60), PanicMode::fail_fast_below(60)] {
        let desks = Desks::default();
        let balance = spawned(builder().panic_mode(mode.unwrap()), &desks, 4).await;
        run(&balance, 500, 10 * SECOND).await;
        ejected(&balance, &desks, "a:1").await;
        ejected(&balance, &desks, "b:1").await;
        run(&balance, 500, SECOND).await;
        assert_eq!(is_ejected(&balance), [true, true, false, false]);
        ["a:1", "b:1"].iter().for_each(|name| desks.of(name).answers(MS, false));
        run(&balance, 500, 45 * SECOND).await;
        assert_eq!((is_ejected(&balance), run(&balance, 500, SECOND).await), (vec![false; 4], 0));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_ejected_is_probed_although_the_others_are_at_their_limits() {
    let desks = Desks::default();
    let balance = spawned(builder().circuit(Circuit::new().in_flight(1).unwrap()), &desks, 2).await;
    run(&balance, 100, 10 * SECOND).await;
    ejected(&balance, &desks, "a:1").await;
    desks.of("a:1").answers(MS, false);
    desks.of("b:1").answers(3_600 * SECOND, false);
    let mut stuck = tokio_test::task::spawn(balance.clone().oneshot(Call::new(0)));
    assert!(stuck.poll().is_pending());
    run(&balance, 100, 40 * SECOND).await;
    assert_eq!(is_ejected(&balance), [false; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_threshold_counts_also_where_nothing_else_is_watched() {
    let desks = Desks::default();
    let builder = builder().load(LoadMetric::in_flight()).outliers(Outliers::off()).slow_start(SlowStart::off());
    let balance = spawned(builder.panic_mode(PanicMode::fail_fast_below(60).unwrap()), &desks, 4).await;
    ["a:1", "b:1", "c:1"].iter().for_each(|name| desks.of(name).room(Room::Down));
    run(&balance, 500, SECOND).await;
    assert_eq!(run(&balance, 500, SECOND).await, 499);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_dropped_ends_the_panic() {
    let desks = Desks::default();
    let builder = BalanceBuilder::new(P2c::new()).panic_mode(PanicMode::fail_fast_below(60).unwrap());
    let (balance, driver) = builder.pair(fixed(endpoints(2)), desks.make());
    let driver = tokio::spawn(driver);
    balance.discovered().await;
    desks.of("a:1").room(Room::Down);
    run(&balance, 500, SECOND).await;
    assert!(balance.clone().oneshot(Call::new(0)).await.is_err());
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
    assert!(balance.clone().oneshot(Call::new(0)).await.is_ok());
}
