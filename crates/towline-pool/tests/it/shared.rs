//! Connections that carry many calls.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio_test::task::spawn;
use tower::Service;
use towline_core::sync::Lock;
use towline_core::{CloseReason, Kind, Lend, Poolable, Room, Sent, Sharing, State};
use towline_pool::{Handle, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{always_idle, capped, check, pool_of};

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

/// A connection whose peer changes how many calls it takes.
#[derive(Clone)]
struct Changing(Arc<Lock<Peer>>);

struct Peer {
    limit: usize,
    watcher: Option<Waker>,
}

impl Changing {
    fn to(limit: usize) -> Self {
        Self(Arc::new(Lock::new(Peer { limit, watcher: None })))
    }

    /// A pool of this connection only.
    async fn handle(&self) -> Handle<Self> {
        let connection = self.clone();
        pool_of(PoolBuilder::new().max_connections(1), move || connection.clone()).await
    }

    fn allow(&self, limit: usize) {
        self.0.lock().limit = limit;
    }

    fn ring(&self) {
        let watcher = self.0.lock().watcher.take();
        watcher.expect("somebody watches").wake();
    }
}

impl Poolable for Changing {
    fn sharing(&self) -> Sharing {
        Sharing::Shared { limit: self.0.lock().limit }
    }

    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        self.0.lock().watcher = Some(cx.waker().clone());
        always_idle(seen)
    }

    fn share(&self) -> Option<Self> {
        Some(self.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_changes_unheard_counts_from_the_next_return() {
    let peer = Changing::to(1);
    let handle = peer.handle().await;
    let held = handle.lend(None).await.unwrap();
    let mut waits: Vec<_> = (0..3).map(|_| spawn(handle.lend(None))).collect();
    waits.iter_mut().for_each(|wait| assert!(wait.poll().is_pending()));
    peer.allow(2);
    drop(held);
    let (first, second) = (waits[0].poll(), waits[1].poll());
    assert!(first.is_ready() && second.is_ready() && waits[2].poll().is_pending());
    peer.allow(1);
    drop(first);
    assert!(waits[2].poll().is_pending(), "one is in use still");
    drop(second);
    assert!(waits[2].poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_rises_serves_whoever_waits_without_a_return() {
    let peer = Changing::to(1);
    let handle = peer.handle().await;
    let _held = handle.lend(None).await.unwrap();
    let mut waits = spawn(handle.lend(None));
    assert!(waits.poll().is_pending());
    peer.allow(2);
    peer.ring();
    settle().await;
    assert!(waits.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_rises_is_learnt_by_whoever_looks_first() {
    let peer = Changing::to(2);
    let handle = peer.handle().await;
    let _held = handle.lend(None).await.unwrap();
    peer.allow(3);
    peer.ring();
    // The pool's task has not run since.
    let _second = handle.lend(None).await.unwrap();
    assert!(spawn(handle.lend(None)).poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_no_calls_for_now_is_full_until_it_does() {
    let peer = Changing::to(0);
    let handle = peer.handle().await;
    let mut waits = spawn(handle.lend(None));
    assert!(waits.poll().is_pending());
    settle().await;
    assert!(waits.poll().is_pending());
    assert_eq!((handle.room(), handle.stats().live, handle.stats().waiting), (Room::Full, 1, 1));
    peer.allow(1);
    peer.ring();
    settle().await;
    assert!(waits.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn what_tells_the_least_busy_is_the_room_that_is_left() {
    let (small, large) = (Changing::to(2), Changing::to(8));
    let both = Arc::new(Lock::new(vec![large, small]));
    let connect = move || both.lock().pop().expect("two at the most");
    let handle = pool_of(PoolBuilder::new().max_connections(2), connect).await;
    let held = [handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap()];
    let on_large = handle.lend(None).await.unwrap();
    let small = held[0].id();
    assert!(held[1].id() == small && on_large.id() != small);
    drop(held);
    assert_eq!(handle.lend(None).await.unwrap().id(), on_large.id(), "7 of 8 are left, and 2 of 2");
}
