//! The rules, call by call and look by look, on a clock of their own.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use towline_core::{EndpointKey, Outcome, Rng};

use super::{Detector, News, Outliers, SlowStart};
use crate::load::{Clock, Ejection, Entry, Flight, Levels, LoadMetric, Nanos, Settings, Stats, Sweep};
use crate::sync::AtomicU64;

const SECOND: Nanos = 1_000_000_000;
const MS: Nanos = 1_000_000;

struct Fleet {
    levels: Arc<Levels>,
    endpoints: Vec<Arc<Stats>>,
    detector: Detector,
    sweep: Sweep,
    now: Nanos,
}

impl Fleet {
    fn new(size: usize, outliers: Outliers) -> Self {
        Self::with(size, outliers, SlowStart::off(), LoadMetric::in_flight())
    }

    fn with(size: usize, outliers: Outliers, slow_start: SlowStart, metric: LoadMetric) -> Self {
        let settings = Settings { metric, is_watched: true, ..Settings::default() };
        let levels = Levels::new(settings, Clock::Manual(AtomicU64::new(0)));
        let mut fleet = Self {
            endpoints: Vec::new(),
            detector: Detector::new(outliers, slow_start, Rng::with_seed(7)),
            sweep: Sweep::default(),
            levels,
            now: 0,
        };
        (0..size).for_each(|_| fleet.join());
        fleet
    }

    fn join(&mut self) {
        let key = EndpointKey::new(self.endpoints.len().to_string());
        self.endpoints.push(Stats::new(key, self.levels.clone()));
    }

    /// One call for each letter: `f` fails, all others are answered well.
    fn calls(&self, endpoint: usize, calls: &str) {
        for call in calls.chars() {
            let flight = Flight::begin(self.endpoints[endpoint].clone(), self.now).unwrap();
            flight.end_at(self.now, Some(if call == 'f' { Outcome::Failure } else { Outcome::Success }));
        }
    }

    fn dial_fails(&self, endpoint: usize) {
        Flight::ask(self.endpoints[endpoint].clone(), self.now, false, false, Entry::default()).unwrap().unreachable();
    }

    fn after(&mut self, time: Nanos) -> &mut Self {
        self.now += time;
        self.levels.clock().set(self.now);
        self
    }

    /// A look, a tenth of a second later.
    fn look(&mut self) -> Vec<String> {
        self.after(100 * MS);
        self.sweep.run(&self.levels, self.endpoints.iter(), self.now);
        let line = |news| match news {
            News::Ejected { stats, rule, .. } => format!("{} {rule}", stats.key()),
            News::Returned(stats) => format!("{} returned", stats.key()),
        };
        self.detector.run(&self.levels, self.endpoints.iter(), self.now).map(line).collect()
    }

    /// Fails until it is ejected; for how long.
    fn eject(&mut self, endpoint: usize) -> Duration {
        self.calls(endpoint, "ffffffffff");
        self.after(100 * MS);
        let news: Vec<_> = self.detector.run(&self.levels, self.endpoints.iter(), self.now).collect();
        match &*news {
            [News::Ejected { length, .. }] => *length,
            other => panic!("{other:?}"),
        }
    }

    /// The probe of an endpoint whose time is over.
    fn probe(&mut self, endpoint: usize, succeeds: bool) -> Vec<String> {
        self.look();
        assert!(self.endpoints[endpoint].admits_probe(true));
        self.calls(endpoint, if succeeds { "." } else { "f" });
        self.look()
    }

    fn is_ejected(&self) -> Vec<usize> {
        (0..self.endpoints.len()).filter(|index| self.endpoints[*index].is_ejected()).collect()
    }

    /// All others do well.
    fn healthy(&self, others: std::ops::Range<usize>) {
        others.for_each(|index| self.calls(index, &".".repeat(500)));
    }
}

#[test]
fn a_row_of_failures_is_enough_when_chance_does_not_explain_it() {
    for (known, enough) in [(2, 5), (20, 4), (100, 3), (2_000, 2)] {
        let mut fleet = Fleet::new(2, Outliers::new());
        fleet.calls(1, &".".repeat(known));
        fleet.look();
        fleet.calls(0, &"f".repeat(enough - 1));
        assert!(fleet.look().is_empty(), "{enough} - 1 of {known}");
        fleet.calls(0, "f");
        assert_eq!(fleet.look(), ["0 consecutive_failures"], "{enough} of {known}");
    }
}

#[test]
fn an_endpoint_that_fails_more_often_than_the_set_is_ejected_for_its_success_rate() {
    // Never two in a row.
    let mut fleet = Fleet::new(4, Outliers::new());
    fleet.healthy(1..4);
    fleet.look();
    fleet.calls(0, &"f..".repeat(5));
    assert_eq!(fleet.look(), ["0 success_rate"]);
    // With two it is the better one that sets the measure.
    let mut fleet = Fleet::new(2, Outliers::new());
    fleet.healthy(1..2);
    fleet.look();
    fleet.calls(0, &"f..".repeat(6));
    assert_eq!(fleet.look(), ["0 success_rate"]);
    let mut fleet = Fleet::new(4, Outliers::new().success_rate(40).unwrap());
    fleet.healthy(1..4);
    fleet.look();
    fleet.calls(0, &"f..".repeat(20));
    assert!(fleet.look().is_empty(), "within the margin");
}

#[test]
fn a_set_whose_rates_differ_has_no_outlier_for_that() {
    let mut fleet = Fleet::new(5, Outliers::new());
    for (index, calls) in ["..........", "f.........", "f....f....", "f..f..f...", "f.f.f.f..."].into_iter().enumerate()
    {
        fleet.calls(index, &calls.repeat(20));
    }
    assert!(fleet.look().is_empty());
}

#[test]
fn an_endpoint_that_nearly_always_fails_is_ejected_whatever_the_others_do() {
    let mut fleet = Fleet::new(4, Outliers::new().success_rate(99).unwrap());
    let some = "f.f..".repeat(20);
    (1..4).for_each(|index| fleet.calls(index, &some));
    fleet.calls(0, &"fffffffff.".repeat(3));
    assert!(fleet.look().is_empty(), "one in two could be chance");
    fleet.calls(0, &"fffffffff.".repeat(3));
    assert_eq!(fleet.look(), ["0 failure_percentage"]);
}

// F23
#[test]
fn who_is_out_already_counts_against_the_cap_and_the_clearest_case_goes_first() {
    let mut fleet = Fleet::new(7, Outliers::new().max_ejected(30).unwrap());
    fleet.healthy(0..7);
    fleet.look();
    fleet.eject(0);
    fleet.calls(1, "fff");
    fleet.calls(2, "ffffff");
    assert_eq!(fleet.look(), ["2 consecutive_failures"]);
    fleet.healthy(3..7);
    assert!(fleet.look().is_empty());
    assert_eq!(fleet.is_ejected(), [0, 2]);
}

#[test]
fn the_time_grows_with_each_ejection_up_to_five_minutes_with_jitter_and_is_forgiven() {
    let outliers = Outliers::new().base(Duration::from_secs(120)).unwrap();
    let mut fleet = Fleet::new(2, outliers);
    fleet.healthy(0..2);
    fleet.look();
    let mut lengths = vec![fleet.eject(0)];
    for _ in 0..3 {
        let last = lengths.last().unwrap().as_nanos() as Nanos;
        assert_eq!(fleet.after(last).probe(0, false), ["0 consecutive_failures"]);
        let ejected = fleet.endpoints[0].ejected().0.unwrap();
        lengths.push(Duration::from_nanos(ejected.until - fleet.now));
    }
    let seconds = lengths.iter().map(Duration::as_secs_f64).zip([120.0, 240.0, 300.0, 300.0]);
    let factors: Vec<_> = seconds.map(|(length, base)| length / base).collect();
    assert!(factors.iter().all(|factor| (1.0..=1.2).contains(factor)), "{factors:?}");
    assert!(factors.windows(2).all(|two| two[0] != two[1]), "{factors:?}");
    fleet.after(400 * SECOND);
    assert_eq!(fleet.probe(0, true), ["0 returned"]);
    assert_eq!(fleet.endpoints[0].ejected(), (None, 4));
    fleet.after(4 * 120 * SECOND).look();
    assert_eq!(fleet.endpoints[0].ejected(), (None, 0));
}

#[test]
fn dials_are_judged_apart_for_a_second_each_time_up_to_thirty_and_not_while_most_fail() {
    let mut fleet = Fleet::new(4, Outliers::new());
    fleet.healthy(0..4);
    fleet.look();
    fleet.dial_fails(0);
    assert!(fleet.look().is_empty());
    fleet.dial_fails(0);
    assert_eq!(fleet.look(), ["0 dial_failures"]);
    for n in 1..40 {
        let until = fleet.endpoints[0].ejected().0.unwrap().until;
        let length = (until - fleet.now) / MS;
        assert!((900 * n.min(30)..=1_200 * n.min(30)).contains(&length), "{n}: {length}");
        fleet.after(until - fleet.now);
        fleet.look();
        assert!(fleet.endpoints[0].admits_probe(true));
        fleet.dial_fails(0);
        assert_eq!(fleet.look(), ["0 dial_failures"]);
    }
    let mut fleet = Fleet::new(3, Outliers::new());
    (0..3).for_each(|index| (0..5).for_each(|_| fleet.dial_fails(index)));
    assert!(fleet.look().is_empty() && fleet.is_ejected().is_empty());
}

#[test]
fn when_most_fail_all_are_taken_back_but_those_that_fail_more_than_the_rest() {
    let mut fleet = Fleet::new(6, Outliers::new());
    fleet.healthy(0..6);
    fleet.look();
    fleet.calls(0, &"f..".repeat(300));
    assert_eq!(fleet.look(), ["0 success_rate"]);
    fleet.eject(1);
    (2..6).for_each(|index| fleet.calls(index, &"f".repeat(1_000)));
    let news: Vec<_> = (0..4).flat_map(|_| fleet.look()).collect();
    assert_eq!((news, fleet.is_ejected()), (vec!["1 returned".to_owned()], vec![0]));
    assert_eq!(fleet.endpoints[1].ejected().1, 0, "it was not its own doing");
}

#[test]
fn rows_from_an_outage_of_most_eject_nobody_when_the_first_do_well_again() {
    let mut fleet = Fleet::new(4, Outliers::new());
    fleet.healthy(0..4);
    fleet.look();
    (0..4).for_each(|index| fleet.calls(index, &"f".repeat(50)));
    assert!(fleet.look().is_empty());
    fleet.after(20 * SECOND).healthy(0..2);
    for _ in 0..10 {
        assert!(fleet.look().is_empty());
    }
}

#[test]
fn what_was_before_an_ejection_is_forgotten_when_it_is_over() {
    let mut fleet = Fleet::new(3, Outliers::new().base(Duration::from_millis(100)).unwrap());
    fleet.healthy(0..3);
    fleet.look();
    fleet.eject(0);
    fleet.look();
    assert_eq!(fleet.probe(0, true), ["0 returned"]);
    assert!(fleet.look().is_empty());
    assert_eq!(fleet.endpoints[0].seen().ejection(), Ejection::None);
}

#[test]
fn a_server_that_asks_for_more_time_than_its_ejection_gets_it() {
    let mut fleet = Fleet::new(2, Outliers::new());
    fleet.healthy(0..2);
    fleet.look();
    let length = fleet.eject(0);
    fleet.after(length.as_nanos() as Nanos).look();
    assert!(fleet.endpoints[0].admits_probe(true));
    let pushback = Outcome::Pushback(Some(Duration::from_secs(200)));
    Flight::begin(fleet.endpoints[0].clone(), fleet.now).unwrap().end_at(fleet.now, Some(pushback));
    let asked = fleet.now + 200 * SECOND;
    fleet.look();
    assert_eq!(fleet.endpoints[0].ejected().0.unwrap().until, asked);
}

#[test]
fn endpoints_that_join_an_older_set_or_return_to_it_start_slowly() {
    let mut fleet = Fleet::with(3, Outliers::new(), SlowStart::default(), LoadMetric::in_flight());
    fleet.after(20 * SECOND).healthy(0..3);
    fleet.look();
    assert!(fleet.endpoints.iter().all(|stats| stats.share() == 1.0));
    fleet.join();
    assert!((0.1..0.11).contains(&fleet.endpoints[3].share()) && fleet.endpoints[3].seen().in_slow_start());
    fleet.after(5 * SECOND).look();
    assert!((0.4..0.6).contains(&fleet.endpoints[3].share()));
    let length = fleet.eject(0);
    fleet.after(length.as_nanos() as Nanos);
    fleet.probe(0, true);
    assert!(fleet.endpoints[0].share() < 0.11 && fleet.endpoints[0].seen().in_slow_start());
    fleet.after(10 * SECOND).look();
    assert!(fleet.endpoints.iter().all(|stats| stats.share() == 1.0 && !stats.seen().in_slow_start()));
}

#[test]
fn an_endpoint_that_refuses_calls_while_all_have_too_much_to_do_is_not_ejected_for_that() {
    let ejected = |takes: Nanos| {
        let mut fleet = Fleet::with(4, Outliers::new(), SlowStart::off(), LoadMetric::default());
        let answer = |fleet: &mut Fleet, takes: Nanos| {
            for stats in &fleet.endpoints {
                let flight = Flight::begin(stats.clone(), fleet.now.saturating_sub(takes)).unwrap();
                flight.end_at(fleet.now, Some(Outcome::Success));
            }
            fleet.look();
        };
        (0..300).for_each(|_| answer(fleet.after(SECOND), 10 * MS));
        (0..10).for_each(|_| answer(&mut fleet, takes));
        fleet.calls(0, "ffffffffff");
        fleet.look()
    };
    assert_eq!(ejected(20 * MS), ["0 consecutive_failures"]);
    assert!(ejected(60 * MS).is_empty());
}

/// What may happen to an endpoint.
#[derive(Clone, Copy, Debug)]
enum Step {
    Calls(usize, &'static str),
    DialFails(usize),
    /// Takes the probe, if one is due.
    Probe(usize, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let calls = prop::sample::select(vec!["f", "fff", "ffffffffff", ".", "..........", "f.", "ff......"]);
    prop_oneof![
        4 => (0..6usize, calls).prop_map(|(endpoint, calls)| Step::Calls(endpoint, calls)),
        1 => (0..6usize).prop_map(Step::DialFails),
        1 => (0..6usize, any::<bool>()).prop_map(|(endpoint, well)| Step::Probe(endpoint, well)),
        1 => (0..400u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    // F23
    #[test]
    fn no_sequence_of_outcomes_empties_the_set_or_goes_over_the_cap(
        size in 1..7usize,
        percent in 1..100u32,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let outliers = Outliers::new().max_ejected(percent).unwrap();
        let mut fleet = Fleet::new(size, outliers);
        for step in steps {
            match step {
                Step::Calls(endpoint, calls) => fleet.calls(endpoint % size, calls),
                Step::DialFails(endpoint) => fleet.dial_fails(endpoint % size),
                Step::Probe(endpoint, well) => {
                    if fleet.endpoints[endpoint % size].admits_probe(true) {
                        fleet.calls(endpoint % size, if well { "." } else { "f" });
                    }
                }
                Step::Wait(seconds) => drop(fleet.after(seconds * SECOND)),
            }
            fleet.look();
            let ejected = fleet.is_ejected().len();
            prop_assert!(ejected < size && ejected <= outliers.cap(size), "{ejected} of {size}");
        }
    }
}
