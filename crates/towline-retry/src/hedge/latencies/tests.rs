use proptest::prelude::*;
use towline_core::Rng;

use super::*;

const MS: u64 = 1_000_000;

/// One call begins and is recorded each `step`, from `begin` on; what it takes is `latency`.
fn run(latencies: &Latencies, begin: u64, calls: u64, step: u64, mut latency: impl FnMut(u64) -> u64) -> u64 {
    for call in 0..calls {
        latencies.delay(begin + call * step);
        latencies.record(latency(call));
    }
    begin + calls * step
}

proptest! {
    #[test]
    fn a_bucket_ends_at_most_a_thirty_second_above_what_is_in_it(latency in 1_024..(1u64 << 36) - 1) {
        let end = upper_end(bucket(latency));
        prop_assert!(latency < end && end <= latency + latency / 32 + 1, "{latency} in {end}");
        prop_assert!(bucket(end) == bucket(latency) + 1 || end == 1 << 36);
    }
}

#[test]
fn whatever_a_latency_is_it_has_a_bucket() {
    assert_eq!([0, 1, 1_024].map(bucket), [0; 3]);
    assert_eq!([1 << 36, u64::MAX].map(bucket), [BUCKETS - 1; 2]);
}

#[test]
fn the_delay_is_the_percentile_and_never_below_it() {
    let mut rng = Rng::with_seed(3);
    for percentile in [0.5, 0.9, 0.985, 0.99] {
        let latencies = Latencies::new(percentile);
        let mut drawn = Vec::new();
        let end = run(&latencies, 0, 4_000, MS, |_| {
            drawn.push(2 * MS + (rng.unit().powi(4) * 500.0 * MS as f64) as u64);
            drawn[drawn.len() - 1]
        });
        drawn.sort_unstable();
        let exact = drawn[(4_000.0 * percentile) as usize - 1];
        let delay = latencies.delay(end + SECOND).unwrap();
        assert!((exact..=exact + exact / 32 + 1).contains(&delay), "{percentile}: {delay} for {exact}");
        let above = drawn.iter().filter(|latency| **latency > delay).count();
        assert!(above as f64 <= 4_000.0 * (1.0 - percentile), "{percentile}: {above} above");
    }
}

#[test]
fn there_is_no_delay_before_there_are_calls_enough_to_tell() {
    for (percentile, enough) in [(0.5, 20), (0.985, 134), (0.99, 200)] {
        let latencies = Latencies::new(percentile);
        assert_eq!(latencies.delay(0), None);
        (1..enough).for_each(|_| latencies.record(5 * MS));
        assert_eq!(latencies.delay(SECOND), None);
        latencies.record(5 * MS);
        assert!(latencies.delay(2 * SECOND).is_some(), "{percentile}");
    }
}

#[test]
fn ten_seconds_are_remembered_and_no_more() {
    let latencies = Latencies::new(0.9);
    let mut now = run(&latencies, 0, 1_000, MS, |_| 100 * MS);
    let remembered = std::iter::from_fn(|| {
        now = run(&latencies, now, 10, 100 * MS, |_| 5 * MS);
        Some(latencies.last_delay().unwrap())
    });
    let seconds = remembered.take_while(|delay| *delay > 50 * MS).take(100).count();
    assert!((9..=11).contains(&seconds), "{seconds}");
}

#[test]
fn after_a_pause_of_all_calls_nothing_is_known() {
    let latencies = Latencies::new(0.9);
    let now = run(&latencies, 0, 2_000, MS, |_| 5 * MS);
    assert!(latencies.delay(now).is_some());
    assert!(latencies.delay(now + 5 * SECOND).is_some());
    assert_eq!(latencies.delay(now + 60 * SECOND), None);
    // A clock that goes back changes nothing.
    assert_eq!(latencies.delay(now), None);
}

#[test]
fn when_everything_is_slow_the_delay_rises_within_the_second_after() {
    let latencies = Latencies::new(0.98);
    let now = run(&latencies, 0, 10_000, MS, |_| 5 * MS);
    assert!(latencies.delay(now).unwrap() < 6 * MS);
    // A fifth of a second's calls are a fiftieth of ten seconds'.
    let now = run(&latencies, now, 1_000, MS, |_| 50 * MS);
    assert!(latencies.delay(now + SECOND).unwrap() >= 50 * MS);
}

#[test]
fn the_delay_is_a_millisecond_at_least_and_none_beyond_what_is_told_apart() {
    for (latency, delay) in [(20_000, Some(MS)), (100 * SECOND, None)] {
        let latencies = Latencies::new(0.9);
        let now = run(&latencies, 0, 1_000, MS, |_| latency);
        assert_eq!(latencies.delay(now + SECOND), delay);
    }
}

#[test]
fn one_of_all_callers_turns_the_windows_and_hardly_a_latency_is_lost() {
    let latencies = Latencies::new(0.9);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| run(&latencies, 0, 40_000, SECOND / 5_000, |call| (1 + call % 10) * MS));
        }
    });
    let delay = latencies.delay(8 * SECOND).unwrap();
    assert!((8 * MS..10 * MS).contains(&delay), "{delay}");
    let kept: u64 = latencies.windows.iter().flatten().map(|count| u64::from(count.load(Ordering::Relaxed))).sum();
    assert!(kept <= 160_000);
    assert_ne!(latencies.turns_at.load(Ordering::Relaxed), u64::MAX, "nobody is left turning");
}

#[test]
fn hedges_are_never_more_than_their_part_of_the_calls() {
    let hedging = Hedging::new(0.98, 0.02).unwrap();
    let mut hedges = 0u64;
    for calls in 1..=10_000u64 {
        hedging.begin(calls * MS);
        hedging.may_hedge().into_iter().for_each(|permit| {
            permit.spend();
            hedges += 1;
        });
        assert!(hedges * 50 <= calls, "{hedges} of {calls}");
    }
    assert_eq!(hedges, 200);
}

#[test]
fn by_default_fewer_calls_are_late_than_may_be_hedged_so_that_some_are_left_for_a_burst() {
    let (hedging, mut rng) = (crate::HedgePolicy::new().hedging(), Rng::with_seed(3));
    let hedged = |calls: &[u64]| calls.iter().filter_map(|_| hedging.may_hedge()).map(|permit| permit.spend()).count();
    for call in 0..10_000 {
        let latency = (-rng.unit().ln() * 10.0 * MS as f64) as u64;
        let delay = hedging.begin(call * MS);
        hedging.record(latency);
        if delay.is_some_and(|delay| latency > delay) {
            assert_eq!(hedged(&[latency]), 1);
        }
    }
    let burst = hedged(&[200 * MS; 200]);
    assert!((65..=100).contains(&burst), "{burst}");
}
