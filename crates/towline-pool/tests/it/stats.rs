//! What a pool tells of itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_test::task::spawn;
use tower::Service;
use tower::load::Load;
use towline_core::sync::Lock;
use towline_core::{CloseReason, Event, Lend, Observer, Observers};
use towline_pool::{Pool, PoolBuilder};
use towline_test::{ScriptedMaker, settle};

use crate::support::{capped, check, handle};

#[tokio::test(start_paused = true)]
async fn waits_and_their_time_are_counted_and_told() {
    #[derive(Clone, Default)]
    struct Waits(Arc<Lock<Vec<Duration>>>);
    impl Observer for Waits {
        fn on(&self, event: &Event<'_>) {
            if let Event::Waited { took, .. } = event {
                self.0.lock().push(*took);
            }
        }
    }
    let (make, waits) = (ScriptedMaker::exclusive(), Waits::default());
    let builder = PoolBuilder::new().max_connections(1).observers(Observers::new(waits.clone()));
    let handle = handle(builder, &make).await;
    handle.warm(1).await.unwrap();
    let held = handle.lend(None).await.unwrap();
    let mut waiter = spawn(handle.lend(None));
    assert!(waiter.poll().is_pending());
    sleep(Duration::from_secs(2)).await;
    drop(held);
    assert!(waiter.poll().is_ready());
    let stats = handle.stats();
    assert_eq!((stats.waits, stats.wait_time), (1, Duration::from_secs(2)));
    assert_eq!(*waits.0.lock(), [Duration::from_secs(2)]);
}

#[tokio::test(start_paused = true)]
async fn the_sum_over_endpoints_counts_those_that_are_gone() {
    let make = ScriptedMaker::exclusive();
    let mut pool: Pool<_, &str> = PoolBuilder::new().build(make.clone()).unwrap();
    let (mut a, mut b) = (pool.call("a").await.unwrap(), pool.call("b").await.unwrap());
    for _ in 0..3 {
        a.call(()).await.unwrap();
        b.call(()).await.unwrap();
    }
    assert_eq!((pool.stats().opened, pool.stats().reused, pool.stats().idle), (2, 4, 2));
    drop(a);
    settle().await;
    let stats = pool.stats();
    assert_eq!((stats.opened, stats.reused, stats.idle, stats.live), (2, 4, 1, 1));
    assert_eq!((stats.closed.total(), stats.closed.by(CloseReason::Shutdown)), (1, 1));
    assert_eq!(format!("{:?}", stats.closed), r#"{"shutdown": 1}"#);
}

#[tokio::test(start_paused = true)]
async fn the_load_is_what_is_in_flight_and_waits() {
    for (make, connections) in [(ScriptedMaker::exclusive(), 2), (ScriptedMaker::shared(2), 1)] {
        let handle = capped(connections, &make).await;
        assert_eq!(handle.load(), 0);
        let held = (handle.lend(None).await.unwrap(), handle.lend(None).await.unwrap());
        let mut waiter = spawn(handle.lend(None));
        assert!(waiter.poll().is_pending());
        assert_eq!(handle.clone().load(), 3);
        drop(waiter);
        drop(held);
        assert_eq!(handle.load(), 0);
        check(&handle);
    }
}
