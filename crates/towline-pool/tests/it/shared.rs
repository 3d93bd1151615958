//! Connections that carry many calls.

use tokio_test::task::spawn;
use tower::Service;
use towline_core::{CloseReason, Kind, Lend, Room, Sent};
use towline_test::{ScriptedMaker, settle};

use super::{capped, check};

#[tokio::test(start_paused = true)]
async fn callers_share_one_connection_until_it_is_full_then_another_is_opened() {
    let make = ScriptedMaker::shared(4);
    let handle = capped(2, &make).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(handle.lend(None).await.unwrap());
    }
    assert_eq!((make.dials(), handle.room()), (1, Room::Cold));
    for _ in 0..4 {
        held.push(handle.lend(None).await.unwrap());
    }
    assert_eq!((make.dials(), handle.room(), handle.stats().in_use), (2, Room::Full, 8));
    let mut waiting = spawn(handle.lend(None));
    assert!(waiting.poll().is_pending());
    held.pop();
    assert!(waiting.is_woken() && waiting.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_callers_opens_one_shared_connection() {
    let make = ScriptedMaker::shared(1_024);
    let handle = capped(8, &make).await;
    let calls: Vec<_> = (0..64)
        .map(|i| {
            let mut handle = handle.clone();
            tokio::spawn(async move { handle.call(i).await.unwrap() })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(make.dials(), 1);
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn the_least_busy_connection_is_lent() {
    let make = ScriptedMaker::shared(8);
    let handle = capped(2, &make).await;
    handle.warm(2).await.unwrap();
    let held = [handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap()];
    assert_ne!(held[0].id(), held[1].id());
}

#[tokio::test(start_paused = true)]
async fn a_share_of_a_dead_connection_that_comes_back_late_is_not_taken_for_one_of_its_successor() {
    let make = ScriptedMaker::shared(8);
    let handle = capped(1, &make).await;
    let late = handle.lend(None).await.unwrap();
    make.wires()[0].close(CloseReason::Peer);
    settle().await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let successor = handle.lend(None).await.unwrap();
    drop(late);
    assert_eq!(handle.stats().in_use, 1);
    drop(successor);
    assert_eq!(handle.stats().in_use, 0);
}

// F8
#[tokio::test(start_paused = true)]
async fn when_a_shared_connection_dies_its_calls_fail_and_the_next_gets_another() {
    let make = ScriptedMaker::shared(8);
    let mut handle = capped(2, &make).await;
    handle.call(()).await.unwrap();
    make.wires()[0].hold(true);
    let mut calls: Vec<_> = (0..5).map(|_| spawn(handle.call(()))).collect();
    calls.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    make.wires()[0].close(CloseReason::Peer);
    settle().await;
    for call in &mut calls {
        let std::task::Poll::Ready(Err(error)) = call.poll() else { panic!() };
        assert_eq!((error.kind(), error.sent()), (Kind::UnexpectedEof, Sent::Maybe));
    }
    drop(calls);
    assert_eq!(handle.call(()).await.unwrap().0, 1);
    assert_eq!(handle.stats().in_use, 0);
    check(&handle);
}
