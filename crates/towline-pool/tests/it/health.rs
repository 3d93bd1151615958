//! Dead, old and idle connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::Service;
use towline_core::{CloseReason, Kind, Lend, Poolable, Room, Sent, Sharing, State};
use towline_pool::PoolBuilder;
use towline_test::{ScriptedMaker, settle};

use crate::support::{Closed, S, always_idle, capped, check, handle, pool_of};

// F5, F7
#[tokio::test(start_paused = true)]
async fn a_connection_that_dies_idle_is_evicted_without_a_caller_and_no_call_notices() {
    for reason in [CloseReason::Peer, CloseReason::Stray] {
        let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
        let mut handle = handle(PoolBuilder::new().observers(closed.observers()), &make).await;
        assert_eq!(handle.call("a").await.unwrap().0, 0);
        make.wires()[0].close(reason);
        settle().await;
        assert_eq!((handle.stats().live, closed.reasons()), (0, vec![reason]));
        assert_eq!(handle.call("b").await.unwrap().0, 1);
        check(&handle);
    }
}

// F5, F7
#[tokio::test(start_paused = true)]
async fn a_connection_that_died_this_instant_is_found_out_when_it_is_handed_out() {
    let make = ScriptedMaker::exclusive();
    let mut handle = capped(8, &make).await;
    handle.call("a").await.unwrap();
    make.wires()[0].close(CloseReason::Stray);
    // No task has run since.
    assert!(!handle.lend(None).await.unwrap().is_reused());
    assert_eq!(handle.call("b").await.unwrap(), (1, "b"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_back_unsent_goes_to_another_connection() {
    let make = ScriptedMaker::exclusive();
    let mut handle = capped(8, &make).await;
    handle.warm(2).await.unwrap();
    make.wires()[1].refuse();
    assert_eq!(handle.call("ping").await.unwrap(), (0, "ping"));
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_handed_on_a_bounded_number_of_times() {
    let make = ScriptedMaker::exclusive();
    let mut handle = capped(20, &make).await;
    handle.warm(20).await.unwrap();
    make.wires().iter().for_each(towline_test::Wire::refuse);
    let error = handle.call("ping").await.unwrap_err();
    assert_eq!((error.kind(), error.sent(), make.open()), (Kind::Closed, Sent::Never, 20 - 9));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_after_the_idle_timeout_and_used_ones_do_not() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let builder = PoolBuilder::new().idle_timeout(Duration::from_secs(10));
    let mut handle = handle(builder.observers(closed.observers()), &make).await;
    let start = Instant::now();
    handle.warm(2).await.unwrap();
    for _ in 0..5 {
        sleep(Duration::from_secs(3)).await;
        handle.call(()).await.unwrap();
    }
    assert_eq!(handle.stats().live, 1, "the one most recently used stays in use");
    sleep(Duration::from_secs(11)).await;
    assert_eq!((handle.stats().live, closed.reasons()), (0, vec![CloseReason::IdleTimeout; 2]));
    let at: Vec<_> = closed.0.lock().iter().map(|(_, _, at)| at.duration_since(start).as_secs()).collect();
    assert_eq!(at, [10, 25]);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(make.dials(), 2, "an idle pool stays cold");
}

// F31
#[tokio::test(start_paused = true)]
async fn connections_opened_together_do_not_end_together_and_no_call_is_cut() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let builder = PoolBuilder::new().max_connections(101).max_lifetime(Duration::from_secs(1_000)).idle_timeout(None);
    let handle = handle(builder.observers(closed.observers()), &make).await;
    let held = handle.lend(None).await.unwrap();
    handle.warm(101).await.unwrap();
    let start = Instant::now();
    sleep(Duration::from_secs(1_001)).await;
    let mut buckets = [0; 10];
    for (_, reason, at) in closed.0.lock().iter() {
        assert_eq!(*reason, CloseReason::Lifetime);
        buckets[(at.duration_since(start).as_secs() / 100) as usize] += 1;
    }
    assert_eq!(buckets[..2], [0; 2]);
    assert!(buckets[2..].iter().all(|n| (2..40).contains(n)), "{buckets:?}");
    assert_eq!(handle.stats().in_use, 1);
    drop(held);
    assert_eq!(handle.stats().live, 0, "the one in use ends when it comes back");
}

#[tokio::test(start_paused = true)]
async fn connections_that_a_restart_has_ended_together_do_not_end_together_again() {
    let (make, closed) = (ScriptedMaker::exclusive(), Closed::default());
    let builder = PoolBuilder::new().max_connections(100).max_lifetime(Duration::from_secs(1_000)).idle_timeout(None);
    let handle = handle(builder.observers(closed.observers()), &make).await;
    handle.warm(100).await.unwrap();
    // Longer than what counts as a failed dial.
    sleep(Duration::from_secs(2)).await;
    make.wires().iter().for_each(|wire| wire.close(CloseReason::Peer));
    settle().await;
    assert_eq!(handle.stats().live, 0);
    handle.warm(100).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    let lived = closed.reasons().iter().filter(|reason| **reason == CloseReason::Lifetime).count();
    // Half of them, if lives are drawn from 20 % on; none, if they were those of replacements.
    assert!((30..70).contains(&lived), "{lived}");
}

// F38
#[tokio::test(start_paused = true)]
async fn a_draining_connection_finishes_its_calls_and_takes_no_more() {
    let make = ScriptedMaker::shared(8);
    let mut handle = capped(4, &make).await;
    handle.call(()).await.unwrap();
    let wire = make.wires()[0].clone();
    wire.hold(true);
    let mut call = tokio_test::task::spawn(handle.call(()));
    assert!(call.poll().is_pending());
    wire.drain();
    settle().await;
    assert_eq!(handle.call(()).await.unwrap().0, 1, "a new call goes elsewhere");
    wire.hold(false);
    assert!(call.poll().is_ready());
    drop(call);
    assert!(!wire.is_open());
    check(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_used_checkout_whose_connection_the_peer_closes_idle_is_no_failed_dial() {
    let make = ScriptedMaker::exclusive();
    let handle = capped(2, &make).await;
    for round in 0..10usize {
        let mut checkout = handle.lend(None).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        Service::<u8>::call(&mut *checkout, 1).await.unwrap();
        drop(checkout);
        make.wires()[round].close(CloseReason::Peer);
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_warm_connection_that_the_peer_closes_after_long_idleness_is_no_failed_dial() {
    let make = ScriptedMaker::exclusive();
    let mut handle = capped(1, &make).await;
    handle.warm(1).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    make.wires()[0].close(CloseReason::Peer); // the server's own idle timeout
    settle().await;
    assert_ne!(handle.room(), Room::Down);
    handle.call(()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_drains_is_closed_as_drained_and_is_no_failed_dial() {
    let (make, closed) = (ScriptedMaker::shared(8), Closed::default());
    let handle = handle(PoolBuilder::new().observers(closed.observers()), &make).await;
    handle.warm(1).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    make.wires()[0].drain();
    settle().await;
    assert_eq!((closed.reasons(), handle.room()), (vec![CloseReason::Drained], Room::Cold));
}

#[tokio::test(start_paused = true)]
async fn a_connection_returned_idle_closes_after_the_idle_timeout() {
    let make = ScriptedMaker::exclusive();
    let handle = handle(PoolBuilder::new().idle_timeout(Duration::from_secs(10)), &make).await;
    let held = handle.lend(None).await.unwrap();
    settle().await;
    drop(held);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(handle.stats().live, 0, "idle for a minute");
}

// F39
#[tokio::test(start_paused = true)]
async fn after_a_long_sleep_of_the_machine_a_connection_is_looked_at_before_it_is_used() {
    let make = ScriptedMaker::exclusive();
    let mut handle = handle(PoolBuilder::new().idle_timeout(None).max_lifetime(None), &make).await;
    handle.call("a").await.unwrap();
    sleep(Duration::from_secs(8 * 3600)).await;
    make.wires()[0].close_unheard(CloseReason::Peer);
    assert_eq!(handle.call("b").await.unwrap(), (1, "b"));
}

/// Counts how often it was asked for memory.
#[derive(Clone, Default)]
struct Trimmed(Arc<AtomicUsize>);

impl Poolable for Trimmed {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        always_idle(seen)
    }

    fn trim(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_asked_for_its_memory_once_after_each_use() {
    let connection = Trimmed::default();
    let trims = connection.0.clone();
    let handle = pool_of(PoolBuilder::new().idle_timeout(None), move || connection.clone()).await;
    for uses in 0..3 {
        let held = handle.lend(None).await.unwrap();
        sleep(10 * S).await;
        drop(held);
        sleep(S / 2).await;
        assert_eq!(trims.load(Ordering::Relaxed), uses, "it may be used again at once");
        sleep(10 * S).await;
        assert_eq!(trims.load(Ordering::Relaxed), uses + 1);
    }
    // Also when another connection is used all the time.
    for uses in 3..6 {
        let (busy, rests) = (handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap());
        drop(rests);
        drop(busy);
        for _ in 0..20 {
            sleep(S / 2).await;
            drop(handle.lend(None).await.unwrap());
        }
        assert_eq!(trims.load(Ordering::Relaxed), uses + 1, "once for the one that rests");
    }
}
