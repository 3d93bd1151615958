//! When the first choice has no room, and when nobody has.

use tokio::time::{Instant, timeout};
use tokio_test::task::spawn;
use tower::ServiceExt;
use towline_balance::{Balance, BalanceBuilder, P2c, P2cPicker, WhenUnavailable, fixed};
use towline_core::{Call, Kind, Rng, Room, Sent, TokioExecutor};
use towline_test::settle;

use crate::support::{Desk, Desks, MS, SECOND, discovery, endpoints, insert, refused};

/// A balancer over so many desks.
async fn over(desks: &Desks, n: u8, when: WhenUnavailable) -> Balance<Desk, P2cPicker> {
    let builder = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(7)).when_unavailable(when);
    let balance = builder.spawn(fixed(endpoints(n)), desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    balance
}

/// Two endpoints without room, whose lends wait for the test.
async fn two_full(desks: &Desks) -> (Balance<Desk, P2cPicker>, Desk, Desk) {
    let (a, b) = (desks.of("a:1"), desks.of("b:1"));
    for desk in [&a, &b] {
        desk.room(Room::Full);
        desk.hold(true);
    }
    (over(desks, 2, WhenUnavailable::FailFast).await, a, b)
}

fn in_flight(balance: &Balance<Desk, P2cPicker>) -> usize {
    balance.endpoints().iter().map(|view| view.in_flight).sum()
}

#[tokio::test(start_paused = true)]
async fn when_the_first_choice_has_no_room_the_first_of_two_to_grant_gets_the_call() {
    for second_grants in [false, true] {
        let desks = Desks::default();
        let (balance, a, b) = two_full(&desks).await;
        let mut call = spawn(balance.clone().oneshot(Call::new(0)));
        assert!(call.poll().is_pending());
        assert_eq!((a.waiting(), b.waiting(), in_flight(&balance)), (1, 1, 2));
        let (grants, other, name) = if second_grants { (&b, &a, "b:1") } else { (&a, &b, "a:1") };
        grants.grant(Ok(()));
        assert!(call.is_woken());
        assert_eq!(call.await.unwrap(), name);
        assert_eq!((other.waiting(), other.calls(), in_flight(&balance)), (0, 0, 0), "the other is asked no longer");
    }
}

#[tokio::test(start_paused = true)]
async fn when_both_grant_at_once_one_is_given_back() {
    let desks = Desks::default();
    let (balance, a, b) = two_full(&desks).await;
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    a.grant(Ok(()));
    b.grant(Ok(()));
    call.await.unwrap();
    assert_eq!((a.calls() + b.calls(), in_flight(&balance)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn of_two_that_are_asked_one_may_fail() {
    for first_fails in [true, false] {
        let desks = Desks::default();
        let (balance, a, b) = two_full(&desks).await;
        let mut call = spawn(balance.clone().oneshot(Call::new(0)));
        assert!(call.poll().is_pending());
        let (fails, grants) = if first_fails { (&a, &b) } else { (&b, &a) };
        fails.grant(Err(refused()));
        assert!(call.poll().is_pending());
        assert_eq!((grants.waiting(), in_flight(&balance)), (1, 1));
        grants.grant(Ok(()));
        call.await.unwrap();
        assert_eq!(grants.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_while_two_are_asked_it_counts_on_neither() {
    let desks = Desks::default();
    let (balance, a, b) = two_full(&desks).await;
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    drop(call);
    assert_eq!((a.waiting(), b.waiting(), in_flight(&balance)), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn with_room_at_the_first_choice_nobody_else_is_asked() {
    let desks = Desks::default();
    let (balance, a, b) = two_full(&desks).await;
    for desk in [&a, &b] {
        desk.room(Room::Ready);
    }
    let mut call = spawn(balance.oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    assert_eq!(a.waiting() + b.waiting(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_error_is_unsent_and_says_what_each_said() {
    let desks = Desks::default();
    for name in ["a:1", "b:1", "c:1"] {
        desks.of(name).room(Room::Down);
    }
    let error = over(&desks, 3, WhenUnavailable::FailFast).await.oneshot(Call::new(0)).await.unwrap_err();
    assert_eq!((error.kind(), error.sent(), error.is_connect()), (Kind::Unavailable, Sent::Never, true));
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(["a:1", "b:1", "c:1", "refused"].iter().all(|part| text.contains(part)), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_call_may_wait_for_an_endpoint_to_come_up() {
    let desks = Desks::default();
    for name in ["a:1", "b:1"] {
        desks.of(name).room(Room::Down);
    }
    let balance = over(&desks, 2, WhenUnavailable::Wait).await;
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    settle().await;
    let began = Instant::now();
    desks.of("b:1").room(Room::Ready);
    assert_eq!(timeout(SECOND, call).await.unwrap().unwrap(), "b:1");
    assert!(began.elapsed() <= 30 * MS);
    assert_eq!(desks.of("a:1").calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_may_wait_for_the_first_endpoint_of_an_empty_set() {
    let desks = Desks::default();
    let (discover, stream) = discovery();
    let builder = BalanceBuilder::new(P2c::new()).when_unavailable(WhenUnavailable::Wait);
    let balance = builder.spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    discover.send(Ok(towline_balance::Update::Empty)).await.unwrap();
    settle().await;
    let mut call = spawn(balance.oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    settle().await;
    discover.send(Ok(insert("a:1"))).await.unwrap();
    assert_eq!(timeout(SECOND, call).await.unwrap().unwrap(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn so_many_calls_wait_and_further_ones_are_refused_at_once() {
    let desks = Desks::default();
    desks.of("a:1").room(Room::Down);
    let balance = over(&desks, 1, WhenUnavailable::Wait).await;
    let mut waiting: Vec<_> = (0..1_024).map(|_| spawn(balance.clone().oneshot(Call::new(0)))).collect();
    assert!(waiting.iter_mut().all(|call| call.poll().is_pending()));
    let error = balance.clone().oneshot(Call::new(0)).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Overloaded, Sent::Never));
    drop(waiting.pop());
    assert!(spawn(balance.clone().oneshot(Call::new(0))).poll().is_pending(), "one has left");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_endpoint_ends_when_the_balancer_is_closed() {
    let desks = Desks::default();
    desks.of("a:1").room(Room::Down);
    let balance = over(&desks, 1, WhenUnavailable::Wait).await;
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    balance.close();
    assert!(call.is_woken());
    assert_eq!(call.await.unwrap_err().kind(), Kind::Closed);
    assert_eq!(balance.clone().oneshot(Call::new(0)).await.unwrap_err().kind(), Kind::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_endpoint_ends_when_the_driver_is_gone() {
    let desks = Desks::default();
    desks.of("a:1").room(Room::Down);
    let builder = BalanceBuilder::new(P2c::new()).when_unavailable(WhenUnavailable::Wait);
    let (balance, driver) = builder.pair(fixed(endpoints(1)), desks.make());
    let mut driver = spawn(driver);
    assert!(driver.poll().is_pending());
    let mut call = spawn(balance.oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    assert!(driver.is_woken(), "to look for endpoints that come up");
    drop(driver);
    assert!(call.is_woken());
    assert_eq!(call.await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn closing_lets_calls_at_endpoints_finish_and_ends_the_driver() {
    let desks = Desks::default();
    desks.of("a:1").answers(SECOND, false);
    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(fixed(endpoints(1)), desks.make());
    let driver = tokio::spawn(driver);
    balance.discovered().await;
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    balance.close();
    assert_eq!(balance.clone().oneshot(Call::new(0)).await.unwrap_err().kind(), Kind::Closed);
    timeout(SECOND, driver).await.unwrap().unwrap();
    assert_eq!(call.await.unwrap(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_discovery_ends_when_the_balancer_is_closed() {
    let desks = Desks::default();
    let (_discover, stream) = discovery::<towline_balance::Update>();
    let balance = BalanceBuilder::new(P2c::new()).spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    balance.close();
    assert_eq!(timeout(SECOND, call).await.unwrap().unwrap_err().kind(), Kind::Closed);
    timeout(SECOND, balance.discovered()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_never_polled_holds_nothing_and_says_nothing() {
    let desks = Desks::default();
    let mut balance = over(&desks, 1, WhenUnavailable::FailFast).await;
    for _ in 0..50 {
        balance.clone().oneshot(Call::new(0)).await.unwrap();
    }
    tokio::time::sleep(SECOND).await;
    let before = balance.endpoints().remove(0);
    let waits = tower::Service::call(&mut balance, Call::new(0));
    tokio::time::sleep(10 * SECOND).await;
    let view = balance.endpoints().remove(0);
    assert_eq!((view.in_flight, view.calls, desks.of("a:1").calls()), (0, before.calls, 50));
    drop(waits);
    let view = balance.endpoints().remove(0);
    assert!(!view.on_probation && view.latency.unwrap() <= 2 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_wait_asks_four_and_then_waits_however_many_refuse() {
    let desks = Desks::default();
    let names = ["a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1"];
    for name in names {
        desks.of(name).room(Room::Full);
        desks.of(name).hold(true);
    }
    let balance = over(&desks, 8, WhenUnavailable::Wait).await;
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    let mut refusals = 0;
    while refusals < 4 {
        assert!(call.poll().is_pending());
        let asked =
            names.map(|name| desks.of(name)).into_iter().find(|desk| desk.waiting() > 0).expect("two are asked");
        asked.grant(Err(refused()));
        refusals += 1;
    }
    assert!(call.poll().is_pending());
    let waiting: usize = names.iter().map(|name| desks.of(name).waiting()).sum();
    assert_eq!(waiting, 1, "whoever is still asked, and nobody else");
    names.iter().find(|name| desks.of(name).waiting() > 0).map(|name| desks.of(name).grant(Ok(()))).unwrap();
    call.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_the_calls_that_wait_for_the_first_set_a_thousand_and_twenty_four_wait_and_the_next_are_refused() {
    let desks = Desks::default();
    let (discover, stream) = discovery();
    let balance = BalanceBuilder::new(P2c::new()).spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    let mut calls: Vec<_> = (0..1_024).map(|n| spawn(balance.clone().oneshot(Call::new(n)))).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    let refused = timeout(SECOND, balance.clone().oneshot(Call::new(0))).await.expect("one too many");
    let error = refused.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Overloaded, Sent::Never));
    assert!(error.to_string().contains("discovery"), "{error}");
    // One that is given up makes room for another.
    calls.pop();
    let mut another = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(another.poll().is_pending());
    discover.send(Ok(insert("a:1"))).await.unwrap();
    for call in calls.into_iter().chain([another]) {
        assert_eq!(timeout(SECOND, call).await.unwrap().unwrap(), "a:1");
    }
}

#[tokio::test(start_paused = true)]
async fn while_calls_wait_for_the_first_set_the_driver_sleeps() {
    let (_discover, stream) = discovery::<towline_balance::Update>();
    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(stream, Desks::default().make());
    let mut driver = spawn(driver);
    let mut call = spawn(balance.oneshot(Call::new(0)));
    assert!(call.poll().is_pending() && driver.poll().is_pending());
    tokio::time::sleep(10 * SECOND).await;
    assert!(!driver.is_woken());
}
