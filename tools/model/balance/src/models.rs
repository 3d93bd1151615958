//! The models.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use loom::future::block_on;
use loom::thread;
use towline_core::{EndpointKey, Outcome};

use crate::load::{
    Admission, Circuit, Clock, Ejection, Flight, Levels, LoadMetric, Nanos, Settings, Standing, Stats, Sweep,
};
use crate::sync::{AtomicU64, Ordering};

const MS: Nanos = 1_000_000;

fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions)); // LOOM_MAX_PREEMPTIONS goes before.
    builder.check(check);
}

fn levels() -> Arc<Levels> {
    limited(Circuit::new())
}

fn limited(circuit: Circuit) -> Arc<Levels> {
    let metric = LoadMetric::peak_ewma(Duration::from_secs(10)).unwrap();
    Levels::new(Settings { metric, circuit, ..Settings::default() }, Clock::Manual(AtomicU64::new(0)))
}

fn endpoint(levels: &Arc<Levels>) -> Arc<Stats> {
    Stats::new(EndpointKey::new("a"), levels.clone())
}

fn begin(stats: Arc<Stats>, now: Nanos) -> Flight {
    Flight::begin(stats, now).expect("there is no limit")
}

/// A call that has ended well after `took`.
fn call(stats: &Arc<Stats>, began: Nanos, took: Nanos) {
    begin(stats.clone(), began).end_at(began + took, Some(Outcome::Success));
}

/// An endpoint whose latency of a millisecond is the median, after enough calls to be compared with it.
fn known(levels: &Arc<Levels>) -> Arc<Stats> {
    let stats = endpoint(levels);
    (0..3).for_each(|_| call(&stats, 0, MS));
    Sweep::default().run(levels, [&stats].into_iter(), MS);
    stats
}

#[test]
fn calls_that_end_or_are_dropped_at_once_leave_no_count_behind() {
    model(3, || {
        let stats = endpoint(&levels());
        let others: Vec<_> = [Some(Outcome::Success), None]
            .map(|outcome| {
                let stats = stats.clone();
                thread::spawn(move || {
                    let flight = begin(stats, MS);
                    match outcome {
                        Some(_) => flight.end_at(2 * MS, outcome),
                        None => drop(flight),
                    }
                })
            })
            .into();
        let seen = stats.in_flight();
        assert!(seen <= 2);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!((stats.in_flight(), stats.begun()), (0, 2));
        assert_eq!(stats.oldest_age(5 * MS), 0, "no slot is held");
    });
}

#[test]
fn a_peak_is_not_overwritten_by_who_looked_before_it() {
    model(3, || {
        let stats = known(&levels());
        let peak = {
            let stats = stats.clone();
            thread::spawn(move || call(&stats, MS, 3 * MS))
        };
        call(&stats, MS, MS);
        peak.join().unwrap();
        assert_eq!(stats.average(4 * MS).unwrap(), 3e6);
    });
}

#[test]
fn one_of_all_that_ask_gets_the_probe_and_when_it_fails_another_comes_after_a_pause() {
    model(3, || {
        let stats = known(&levels());
        (0..2).for_each(|_| begin(stats.clone(), MS).end_at(MS, Some(Outcome::Failure)));
        assert_eq!(stats.standing(MS), Standing::OnProbation);
        assert_eq!(stats.admits(MS), Admission::No);
        let second = 1_001 * MS;
        let other = {
            let stats = stats.clone();
            thread::spawn(move || stats.admits(second))
        };
        let mine = stats.admits(second);
        let probes = [mine, other.join().unwrap()].into_iter().filter(|admission| *admission == Admission::Probe);
        assert_eq!(probes.count(), 1);
        begin(stats.clone(), second).end_at(second, Some(Outcome::Failure));
        assert_eq!(stats.admits(second + 2_000 * MS), Admission::No);
        assert_eq!(stats.admits(second + 3_001 * MS), Admission::Probe);
    });
}

#[test]
fn tracked_calls_share_no_slot() {
    model(3, || {
        let stats = endpoint(&levels());
        let first = {
            let stats = stats.clone();
            thread::spawn(move || begin(stats, MS))
        };
        let second = begin(stats.clone(), 2 * MS);
        let first = first.join().unwrap();
        assert_eq!(stats.oldest_age(10 * MS), 9 * MS);
        drop(first);
        // The second is tracked, unless the first had just been: then nothing is.
        assert!([0, 8 * MS].contains(&stats.oldest_age(10 * MS)));
        drop(second);
        assert_eq!(stats.oldest_age(10 * MS), 0);
    });
}

#[test]
fn a_call_that_comes_while_the_driver_goes_to_sleep_wakes_it() {
    model(3, || {
        let levels = levels();
        let stats = endpoint(&levels);
        let caller = thread::spawn(move || drop(begin(stats, MS)));
        // As the driver does: registers, then looks.
        block_on(std::future::poll_fn(|cx| {
            levels.driver.register(cx.waker());
            if levels.touched.swap(false, Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
        }));
        caller.join().unwrap();
    });
}

#[test]
fn calls_of_an_earlier_life_leave_the_next_alone() {
    model(3, || {
        let levels = levels();
        let (before, after) = (known(&levels), endpoint(&levels));
        assert_ne!(before.id(), after.id());
        let late = begin(before.clone(), MS);
        let ends = thread::spawn(move || late.end_at(9 * MS, Some(Outcome::Failure)));
        let flight = begin(after.clone(), 2 * MS);
        assert_eq!(after.in_flight(), 1);
        flight.end_at(3 * MS, Some(Outcome::Success));
        ends.join().unwrap();
        assert_eq!((after.in_flight(), after.begun(), after.average(3 * MS).unwrap()), (0, 1, 1e6));
        assert_eq!(before.in_flight(), 0);
    });
}

#[test]
fn no_more_calls_than_the_limit_are_in_flight_however_many_begin_at_once() {
    model(3, || {
        let stats = endpoint(&limited(Circuit::new().in_flight(1).unwrap()));
        let other = {
            let stats = stats.clone();
            thread::spawn(move || Flight::begin(stats, MS))
        };
        let mine = Flight::begin(stats.clone(), MS);
        let other = other.join().unwrap();
        // One that sees the other's attempt may go as well: that is a call fewer, never one more.
        assert!(!(mine.is_some() && other.is_some()));
        drop((mine, other));
        assert_eq!(stats.in_flight(), 0);
        assert!(Flight::begin(stats, 2 * MS).is_some());
    });
}

// F24
#[test]
fn of_all_that_find_a_probe_due_one_is_the_probe_and_whoever_gives_up_leaves_it_to_the_next() {
    model(3, || {
        let stats = known(&levels());
        stats.status().set_ejection(Ejection::Due);
        let try_it = |stats: Arc<Stats>| stats.admits_probe(false).then(|| begin(stats, MS));
        let other = {
            let stats = stats.clone();
            thread::spawn(move || drop(try_it(stats)))
        };
        let mine = try_it(stats.clone());
        other.join().unwrap();
        match mine {
            None => assert_eq!(stats.seen().ejection(), Ejection::Due, "given up"),
            Some(probe) => {
                probe.end_at(2 * MS, Some(Outcome::Success));
                assert_eq!(stats.seen().ejection(), Ejection::None);
            }
        }
    });
}

#[test]
fn a_probe_that_ends_while_the_driver_takes_the_endpoint_back_leaves_it_in() {
    model(3, || {
        let stats = known(&levels());
        stats.status().set_ejection(Ejection::Due);
        assert!(stats.admits_probe(false));
        let probe = begin(stats.clone(), MS);
        let fails = thread::spawn(move || probe.end_at(2 * MS, Some(Outcome::Failure)));
        stats.status().set_ejection(Ejection::None);
        fails.join().unwrap();
        assert_eq!(stats.seen().ejection(), Ejection::None);
    });
}
