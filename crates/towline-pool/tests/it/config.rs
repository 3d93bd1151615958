//! Settings that cannot work are refused when the pool is built.

use std::time::Duration;

use towline_core::{Backoff, Kind};
use towline_pool::PoolBuilder;
use towline_test::ScriptedMaker;

#[test]
fn zero_caps_and_contradictions_are_refused_with_what_to_change() {
    for (builder, why) in [
        (PoolBuilder::new().max_connections(0), "max_connections is 0"),
        (PoolBuilder::new().max_dials(0), "max_dials is 0"),
        (PoolBuilder::new().max_waiters(0), "max_waiters is 0"),
        (PoolBuilder::new().wait_deadline(Duration::ZERO), "wait_deadline is 0"),
        (PoolBuilder::new().idle_timeout(Duration::ZERO), "use None"),
        (PoolBuilder::new().max_lifetime(Duration::ZERO), "use None"),
        (PoolBuilder::new().max_connections(2).warm(3), "more than max_connections, which is 2"),
        (PoolBuilder::new().max_connections(2).min_idle(3), "more than max_connections, which is 2"),
        (PoolBuilder::new().max_total(4).warm(5), "warm is 5, more than max_total, which is 4"),
        (PoolBuilder::new().max_total(0), "max_total is 0"),
        (PoolBuilder::new().max_calls(0), "max_calls is 0"),
        (PoolBuilder::new().dial_deadline(Duration::ZERO), "dial_deadline is 0"),
        (
            PoolBuilder::new().dial_backoff(Backoff::new(Duration::ZERO, Duration::MAX)),
            "base or cap of dial_backoff is 0",
        ),
        (
            PoolBuilder::new().dial_backoff(Backoff::new(Duration::MAX, Duration::ZERO)),
            "base or cap of dial_backoff is 0",
        ),
    ] {
        let error = builder.build::<_, &str>(ScriptedMaker::exclusive()).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains(why), "{error}");
    }
}
