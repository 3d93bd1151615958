//! Calls that are pinned to a connection.

use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;
use tokio_test::task::spawn;
use towline_core::{Call, CloseReason, ConnectionPin, Kind, Lend, Sent};
use towline_pool::{LendFuture, PoolBuilder};
use towline_test::{ScriptedConnection, ScriptedMaker, settle};

use crate::support::{Endpoint, capped, check, handle};

fn pinned(handle: &Endpoint, pin: &ConnectionPin) -> LendFuture<ScriptedConnection> {
    handle.lend(Some(Call::new(()).with_pin(pin).context()))
}

#[tokio::test(start_paused = true)]
async fn calls_with_one_pin_use_one_connection_and_wait_for_it() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(4, &make).await;
    handle.warm(4).await.unwrap();
    let pin = ConnectionPin::new();
    let first = pinned(&handle, &pin).await.unwrap();
    assert_eq!(pin.connection(), Some(first.id()));
    let mut second = spawn(pinned(&handle, &pin));
    assert!(second.poll().is_pending(), "though three are idle");
    let (id, other) = (first.id(), handle.lend(None).await.unwrap());
    assert_ne!(other.id(), id);
    drop(other);
    drop(first);
    let Poll::Ready(Ok(second)) = second.poll() else { panic!("it is free") };
    assert_eq!(second.id(), id);
    drop(second);
    for _ in 0..10 {
        drop((handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap()));
        assert_eq!(pinned(&handle, &pin).await.unwrap().id(), id);
    }
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_pin_whose_connection_is_gone_is_lost_and_never_goes_elsewhere() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(4, &make).await;
    handle.warm(2).await.unwrap();
    let pin = ConnectionPin::new();
    let held = pinned(&handle, &pin).await.unwrap();
    let mut waits = spawn(pinned(&handle, &pin));
    assert!(waits.poll().is_pending());
    make.wires()[1].close(CloseReason::Peer); // the most recently opened one
    drop(held);
    let Poll::Ready(Err(error)) = waits.poll() else { panic!("it was to fail") };
    let said = |error: &towline_core::Error| (error.kind(), error.sent(), error.kind().is_transient());
    assert_eq!(said(&error), (Kind::PinLost, Sent::Never, false));
    assert!(error.to_string().contains("pinned to is gone"), "{error}");
    for _ in 0..3 {
        assert_eq!(pinned(&handle, &pin).await.unwrap_err().kind(), Kind::PinLost);
    }
    assert_eq!((handle.stats().waiting, handle.stats().idle), (0, 1));
    assert!(pinned(&handle, &ConnectionPin::new()).await.is_ok(), "a new session gets another");
}

#[tokio::test(start_paused = true)]
async fn a_pin_is_lost_when_its_connection_idles_out_drains_or_is_poisoned() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().idle_timeout(Duration::from_secs(10)), &make).await;
    let [idle, poisoned] = [ConnectionPin::new(), ConnectionPin::new()];
    drop(pinned(&handle, &idle).await.unwrap());
    sleep(Duration::from_secs(11)).await;
    assert_eq!(pinned(&handle, &idle).await.unwrap_err().kind(), Kind::PinLost);
    let mut held = pinned(&handle, &poisoned).await.unwrap();
    let mut waits = spawn(pinned(&handle, &poisoned));
    assert!(waits.poll().is_pending());
    held.poison();
    drop(held);
    let Poll::Ready(Err(error)) = waits.poll() else { panic!("it was to fail") };
    assert_eq!(error.kind(), Kind::PinLost);

    let make = ScriptedMaker::shared(1);
    let handle = capped(2, &make).await;
    let pin = ConnectionPin::new();
    let held = pinned(&handle, &pin).await.unwrap();
    let mut waits = spawn(pinned(&handle, &pin));
    assert!(waits.poll().is_pending());
    make.wires()[0].drain();
    settle().await;
    let Poll::Ready(Err(error)) = waits.poll() else { panic!("what drains takes no more calls") };
    assert_eq!(error.kind(), Kind::PinLost);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn calls_that_begin_a_session_at_the_same_time_end_up_on_one_connection() {
    let make = ScriptedMaker::exclusive();
    make.hold(true);
    let handle = capped(4, &make).await;
    let pin = ConnectionPin::new();
    let mut calls: Vec<_> = (0..4).map(|_| spawn(pinned(&handle, &pin))).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    settle().await;
    make.hold(false);
    make.held().expect("the first dial").open();
    settle().await;
    assert_eq!(handle.stats().live, 4, "each has been given one of its own");
    let mut served = Vec::new();
    for _ in 0..4 {
        let ready = calls.iter_mut().enumerate().find_map(|(i, call)| match call.poll() {
            Poll::Ready(Ok(checkout)) => Some((i, checkout)),
            _ => None,
        });
        let (i, checkout) = ready.expect("one after the other");
        served.push(checkout.id());
        drop(calls.remove(i));
    }
    assert_eq!(served, [pin.connection().unwrap(); 4]);
    assert_eq!(handle.stats().in_use, 0);
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn pinned_calls_and_others_are_served_in_the_order_of_arrival() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(1, &make).await;
    let pin = ConnectionPin::new();
    let mut held = Some(pinned(&handle, &pin).await.unwrap());
    let mut waiting: Vec<_> =
        (0..6).map(|i| spawn(if i % 2 == 0 { handle.lend(None) } else { pinned(&handle, &pin) })).collect();
    assert!(waiting.iter_mut().all(|waiter| waiter.poll().is_pending()));
    for mut waiter in waiting {
        held.take();
        let Poll::Ready(Ok(next)) = waiter.poll() else { panic!("overtaken") };
        held = Some(next);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pinned_wait_has_the_wait_deadline() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().max_connections(2).wait_deadline(Duration::from_secs(3)), &make).await;
    let pin = ConnectionPin::new();
    let _held = pinned(&handle, &pin).await.unwrap();
    let start = tokio::time::Instant::now();
    assert!(pinned(&handle, &pin).await.unwrap_err().is_timeout());
    assert_eq!((start.elapsed(), handle.stats().waiting), (Duration::from_secs(3), 0));
}
