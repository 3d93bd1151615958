//! Limits of what an endpoint is given at a time.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::ServiceExt;
use towline_balance::{Balance, BalanceBuilder, Circuit, LoadMetric, P2c, P2cPicker, fixed};
use towline_core::{Call, Error, Kind, Phase, Rng, Room, Sent, TokioExecutor};
use towline_test::{cancel_at_every_poll, poll_times};

use crate::support::{Desk, Desks, MS, SECOND, endpoints, run};

async fn over(desks: &Desks, n: u8, metric: LoadMetric, circuit: Circuit) -> Balance<Desk, P2cPicker> {
    let builder = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(7)).load(metric).circuit(circuit);
    let balance = builder.spawn(fixed(endpoints(n)), desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    balance
}

fn assert_shed(error: &Error) {
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Overloaded, Phase::Pick, Sent::Never), "{error}");
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_per_endpoint_are_capped_and_what_is_too_much_fails_at_once() {
    for metric in [LoadMetric::default(), LoadMetric::in_flight()] {
        let desks = Desks::default();
        let balance = over(&desks, 2, metric, Circuit::new().in_flight(3).unwrap()).await;
        let mut calls: Vec<_> = (0..6).map(|_| spawn(balance.clone().oneshot(Call::new(0)))).collect();
        assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
        assert!(balance.endpoints().iter().all(|view| view.in_flight == 3 && view.limit == Some(3)));
        assert_shed(&balance.clone().oneshot(Call::new(0)).await.unwrap_err());
        drop(calls.pop());
        assert!(balance.clone().oneshot(Call::new(0)).await.is_ok());
        drop(calls);
        assert!(balance.endpoints().iter().all(|view| view.in_flight == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_an_endpoint_are_capped() {
    let desks = Desks::default();
    let balance = over(&desks, 1, LoadMetric::default(), Circuit::new().pending(2).unwrap()).await;
    let desk = desks.of("a:1");
    desk.hold(true);
    desk.room(Room::Full);
    let mut waiting: Vec<_> = (0..2).map(|_| spawn(balance.clone().oneshot(Call::new(0)))).collect();
    assert!(waiting.iter_mut().all(|call| call.poll().is_pending()));
    assert_shed(&balance.clone().oneshot(Call::new(0)).await.unwrap_err());
    // Who is granted waits no longer.
    desk.grant(Ok(()));
    assert!(waiting[0].poll().is_pending());
    let mut next = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(next.poll().is_pending());
    assert_eq!(desk.waiting(), 2);
    drop((waiting, next));
    assert!(spawn(balance.clone().oneshot(Call::new(0))).poll().is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_poll_gives_its_place_back() {
    let desks = Desks::default();
    let balance =
        over(&desks, 1, LoadMetric::default(), Circuit::new().in_flight(1).unwrap().pending(1).unwrap()).await;
    for holds in [false, true] {
        desks.of("a:1").hold(holds);
        let desk = desks.of("a:1");
        let call = || {
            let (balance, desk) = (balance.clone(), desk.clone());
            async move {
                let mut call = Box::pin(balance.oneshot(Call::new(0)));
                if holds {
                    assert!(poll_times(call.as_mut(), 1).await.is_none());
                    tokio::task::yield_now().await;
                    desk.grant(Ok(()));
                }
                call.await.unwrap();
            }
        };
        let polls = cancel_at_every_poll(call, async |_| {
            let view = &balance.endpoints()[0];
            assert_eq!((view.in_flight, view.limit), (0, Some(1)));
        })
        .await;
        assert!(polls >= 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cap_is_exact_however_many_calls_come_at_once() {
    let desks = Desks::default();
    let balance = over(&desks, 2, LoadMetric::in_flight(), Circuit::new().in_flight(4).unwrap()).await;
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let balance = balance.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    if let Err(error) = balance.clone().oneshot(Call::new(0)).await {
                        assert_shed(&error);
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    for name in ["a:1", "b:1"] {
        assert!(desks.of(name).most() <= 4, "{}", desks.of(name).most());
    }
    assert!(balance.endpoints().iter().all(|view| view.in_flight == 0));
}

/// So many calls at a time for as long; how many were answered per second at last, and how many were shed.
async fn press(balance: &Balance<Desk, P2cPicker>, callers: usize, length: Duration) -> (usize, usize) {
    let end = Instant::now() + length;
    let all = (0..callers).map(|_| async {
        let (mut answered, mut shed) = (0, 0);
        while Instant::now() < end {
            match timeout(SECOND, balance.clone().oneshot(Call::new(0))).await {
                Ok(Ok(_)) => answered += 1,
                Ok(Err(error)) => {
                    assert_shed(&error);
                    shed += 1;
                    sleep(10 * MS).await;
                }
                Err(_) => {}
            }
        }
        (answered, shed)
    });
    let all = futures_util::future::join_all(all).await;
    all.into_iter().fold((0, 0), |(a, s), (answered, shed)| (a + answered, s + shed))
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_keeps_the_queue_of_an_endpoint_short_and_grows_again() {
    let desks = Desks::default();
    let balance = over(&desks, 1, LoadMetric::default(), Circuit::new().adaptive(1, 200).unwrap()).await;
    let desk = desks.of("a:1");
    // Four at a time, 10 ms each.
    desk.serves(4, 10 * MS);
    run(&balance, 100, 5 * SECOND).await;
    let limit = || balance.endpoints()[0].limit.unwrap();
    assert_eq!(limit(), 20, "hardly used, it stays as it was");
    press(&balance, 200, 10 * SECOND).await;
    let (answered, shed) = press(&balance, 200, 10 * SECOND).await;
    // It can answer 4,000 in that time.
    assert!(answered > 3_800 && shed > 1_000, "{answered} answered, {shed} shed");
    // Four times the usual latency is sixteen at a time.
    assert!((4..=24).contains(&limit()), "{}", limit());
    desk.serves(100, 10 * MS);
    press(&balance, 60, 20 * SECOND).await;
    assert!(limit() > 50, "{}", limit());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_says_it_has_room_and_has_calls_waiting_is_passed_over_too() {
    for room in [Room::Ready, Room::Cold] {
        let desks = Desks::default();
        let balance = over(&desks, 2, LoadMetric::default(), Circuit::new().pending(1).unwrap()).await;
        desks.of("a:1").hold(true);
        desks.of("a:1").room(room);
        let mut waiting = Vec::new();
        while desks.of("a:1").waiting() == 0 {
            let mut call = spawn(balance.clone().oneshot(Call::new(0)));
            assert!(call.poll().is_pending());
            waiting.push(call);
        }
        for _ in 0..20 {
            assert_eq!(balance.clone().oneshot(Call::new(0)).await.unwrap(), "b:1");
        }
    }
}
