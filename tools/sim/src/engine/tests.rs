//! What the engine promises, seen by a strategy that writes down whatever it is told.

mod attempts;
mod reach;

use std::cell::RefCell;
use std::rc::Rc;

use super::config::{Config, Fault, Keys, MICROS, MILLIS, Restart, SECONDS, Span};
use super::fleet::{Condition, Discipline, Fleet};
use super::record::Record;
use super::run;
use crate::chance::{Dist, Rng};
use crate::figures::{Metric, Run};
use crate::strategies;
use crate::strategy::{Change, Connection, LoadReport, Outcome, Pick, ServerId, Strategy, Token};

#[derive(Clone, Debug, PartialEq)]
enum Told {
    Picked { at: u64, server: ServerId },
    Ended { at: u64, begun: u64, outcome: Outcome, report: Option<LoadReport> },
    Changed { at: u64, change: Change },
    Connected { at: u64, server: ServerId, connection: Connection },
    Woken { at: u64 },
    Probed { at: u64, server: ServerId },
}

/// Always goes to the last server that it was told of, and to the others when that cannot be reached and it may.
struct Notes {
    told: Rc<RefCell<Vec<Told>>>,
    last: ServerId,
    wakes: Vec<u64>,
    probes: bool,
    asks: usize,
}

impl Notes {
    fn note(&self, told: Told) {
        self.told.borrow_mut().push(told);
    }
}

impl Strategy for Notes {
    fn pick(&mut self, now: u64, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        self.note(Told::Picked { at: now, server: self.last });
        Some(Pick { server: self.last, token: now })
    }

    fn end(&mut self, token: Token, now: u64, outcome: Outcome, report: Option<LoadReport>) {
        self.note(Told::Ended { at: now, begun: token, outcome, report });
    }

    fn change(&mut self, now: u64, change: Change) {
        self.note(Told::Changed { at: now, change });
        if let Change::Added(id) = change {
            self.last = id;
        }
    }

    fn another(&mut self, now: u64, _: &mut Rng, _: &Fleet, asked: &[ServerId]) -> Option<Pick> {
        let server = self.last - asked.len() as ServerId;
        (asked.len() < self.asks).then_some(Pick { server, token: now })
    }

    fn connection(&mut self, now: u64, server: ServerId, connection: Connection) {
        self.note(Told::Connected { at: now, server, connection });
    }

    fn reads_reports(&self) -> bool {
        true
    }

    fn next_wake(&self) -> Option<u64> {
        self.wakes.first().copied()
    }

    fn wake(&mut self, now: u64, _: &mut Rng) {
        self.wakes.remove(0);
        self.note(Told::Woken { at: now });
    }

    fn probes(&mut self, _: &mut Rng, targets: &mut Vec<ServerId>) {
        if self.probes {
            targets.push(0);
        }
    }

    fn probed(&mut self, now: u64, server: ServerId, _: LoadReport) {
        self.note(Told::Probed { at: now, server });
    }
}

/// A second of 100 calls from one client to servers of one slot, 1 ms each.
fn config() -> Config {
    Config {
        servers: 2,
        discipline: Discipline::Slots { slots: 1, queue: 1_000 },
        demand: Dist::LogNormal { mean: MILLIS as f64, sigma: 0.0 },
        mean_demand: MILLIS as f64,
        clients: 1,
        rates: vec![(0, 100.0)],
        length: SECONDS,
        deadline: None,
        measured: vec![Span { from: 0, to: SECONDS }],
        slow_ns: 10 * MILLIS,
        ..Config::default()
    }
}

fn noted(config: &Config, wakes: &[u64], probes: bool) -> (Vec<Told>, Record) {
    noted_asking(config, wakes, probes, 1)
}

/// Up to so many servers per call.
fn noted_asking(config: &Config, wakes: &[u64], probes: bool, asks: usize) -> (Vec<Told>, Record) {
    let told = Rc::new(RefCell::new(Vec::new()));
    let wakes = wakes.to_vec();
    let notes = |told| Notes { told, last: 0, wakes: wakes.clone(), probes, asks };
    let record = run(config, 1, |_| Box::new(notes(told.clone())));
    (told.take(), record)
}

fn ended(told: &[Told]) -> Vec<(u64, Outcome, Option<LoadReport>)> {
    let latency = |told: &Told| match told {
        Told::Ended { at, begun, outcome, report } => Some((at - begun, *outcome, *report)),
        _ => None,
    };
    told.iter().filter_map(latency).collect()
}

#[test]
fn a_seed_gives_the_same_run_again_and_another_seed_another_one() {
    let keys = Some(Keys { count: 100, exponent: 1.0, hot: (0, 0.1), cached: 10, miss: 2.0 });
    let config = Config { clients: 3, rates: vec![(0, 500.0)], keys, ..config() };
    for strategy in strategies::ALL {
        let run = |seed| Run::new(&config, &run(&config, seed, strategy.make));
        assert_eq!(run(1), run(1), "{}", strategy.name);
        assert_ne!(run(1), run(2), "{}", strategy.name);
    }
}

#[test]
fn all_strategies_of_a_seed_meet_the_same_arrivals() {
    let arrivals = |probes| {
        let picked = noted(&config(), &[], probes).0.into_iter().filter_map(|told| match told {
            Told::Picked { at, .. } => Some(at),
            _ => None,
        });
        picked.collect::<Vec<_>>()
    };
    let (without, with) = (arrivals(false), arrivals(true));
    assert!((60..140).contains(&without.len()), "{}", without.len());
    assert_eq!(without, with);
}

#[test]
fn a_call_takes_its_demand_and_a_round_trip_and_waits_for_a_slot() {
    let alone = Config { rates: vec![(0, 1.0)], length: 10 * SECONDS, ..config() };
    for (latency, outcome, report) in ended(&noted(&alone, &[], false).0) {
        assert!((1_400 * MICROS..=1_600 * MICROS).contains(&latency), "{latency}");
        assert_eq!(outcome, Outcome::Ok);
        assert!(report.is_some_and(|report| report == LoadReport { in_flight: 0, latency_ns: MILLIS }));
    }
    // Twice as many as one server can do: who comes last waits for half of them.
    let crowded = Config { rates: vec![(0, 2_000.0)], ..config() };
    let latencies = ended(&noted(&crowded, &[], false).0);
    let longest = latencies.iter().map(|(latency, ..)| *latency).max().unwrap_or(0);
    assert!((800 * MILLIS..1_200 * MILLIS).contains(&longest), "{longest}");
}

#[test]
fn a_full_queue_refuses() {
    let discipline = Discipline::Slots { slots: 1, queue: 3 };
    let config = Config { discipline, rates: vec![(0, 2_000.0)], ..config() };
    let calls = ended(&noted(&config, &[], false).0);
    let refused = calls.iter().filter(|(_, outcome, _)| *outcome == Outcome::Failed).count();
    assert!((800..1_200).contains(&refused), "{refused}");
    assert!(calls.iter().all(|(latency, ..)| *latency < 6 * MILLIS));
}

#[test]
fn a_call_is_cut_at_its_deadline_and_the_server_works_on() {
    let config = Config { deadline: Some(20 * MILLIS), rates: vec![(0, 2_000.0)], ..config() };
    let (told, record) = noted(&config, &[], false);
    let calls = ended(&told);
    let cut: Vec<_> = calls.iter().filter(|(_, outcome, _)| *outcome == Outcome::Cut).collect();
    assert!(cut.iter().all(|(latency, _, report)| *latency == 20 * MILLIS && report.is_none()));
    // Nothing is saved by giving up, so soon all calls come too late.
    assert!(cut.len() > calls.len() * 9 / 10, "{} of {}", cut.len(), calls.len());
    assert_eq!((record.spans[0].errors, record.spans[0].longest), (cut.len() as u64, 20 * MILLIS));
}

#[test]
fn a_fault_lasts_as_long_as_it_says() {
    let condition = Condition { fails: Some((1.0, MILLIS / 2)), ..Condition::default() };
    let span = Span { from: 300 * MILLIS, to: 600 * MILLIS };
    let config = Config { faults: vec![Fault { servers: vec![1], span, condition }], ..config() };
    for told in noted(&config, &[], false).0 {
        if let Told::Ended { at, begun, outcome, .. } = told {
            let failed = span.contains(begun + MILLIS / 2);
            let near_the_edge = span.contains(begun) != span.contains(at);
            assert!(near_the_edge || failed == (outcome == Outcome::Failed), "{begun} {at} {outcome:?}");
        }
    }
}

#[test]
fn a_new_server_is_cold_and_an_old_one_finishes_what_it_has() {
    let restart = Restart {
        every: SECONDS,
        span: Span { from: 500 * MILLIS, to: SECONDS },
        drain: 100 * MILLIS,
        cold: (5.0, 400 * MILLIS),
    };
    let config = Config { restart: Some(restart), rates: vec![(0, 50.0)], ..config() };
    let (told, record) = noted(&config, &[], false);
    let changes: Vec<_> = told.iter().filter(|told| matches!(told, Told::Changed { at: 1.., .. })).collect();
    let at = 500 * MILLIS;
    let (removed, added) = (Change::Removed(0), Change::Added(2));
    assert_eq!(changes, [&Told::Changed { at, change: removed }, &Told::Changed { at, change: added }]);
    assert_eq!(record.lost_in_drain, 0);
    assert_eq!((record.members[0].left, record.members[2].joined), (at, at));
    let calls = told.iter().filter_map(|told| match told {
        Told::Ended { at, begun, .. } => Some((*begun, at - begun)),
        _ => None,
    });
    let (mut cold, mut warm) = (0, 0);
    for (begun, latency) in calls {
        cold += u64::from(begun > at && begun < at + 100 * MILLIS && latency > 4 * MILLIS);
        warm += u64::from(begun > at + 400 * MILLIS && latency < 3 * MILLIS);
    }
    assert!(cold > 0 && warm > 0, "{cold} {warm}");
}

#[test]
fn who_calls_a_server_that_has_ended_fails() {
    let restart = Restart { every: SECONDS, span: Span { from: 0, to: SECONDS }, drain: 500 * MILLIS, cold: (1.0, 1) };
    let demand = Dist::LogNormal { mean: 20.0 * MILLIS as f64, sigma: 0.0 };
    let discipline = Discipline::Slots { slots: 100, queue: 0 };
    let config = Config { servers: 1, restart: Some(restart), demand, discipline, ..config() };
    /// Never listens.
    struct First;
    impl Strategy for First {
        fn pick(&mut self, _: u64, _: &mut Rng, _: &Fleet) -> Option<Pick> {
            Some(Pick { server: 0, token: 0 })
        }
        fn end(&mut self, _: Token, _: u64, _: Outcome, _: Option<LoadReport>) {}
        fn change(&mut self, _: u64, _: Change) {}
    }
    let record = run(&config, 1, |_| Box::new(First));
    assert!(record.lost_in_drain > 20);
    assert_eq!(record.lost_in_drain, record.spans[0].errors);
    // At once, but for those that it has when it ends. Only these fail and are slow.
    let late = record.spans[0].slow + record.lost_in_drain - record.calls;
    assert!((1..10).contains(&late), "{late}");
}

#[test]
fn a_strategy_is_woken_when_it_asks_and_probes_take_a_round_trip() {
    let wakes = [10 * MILLIS, 20 * MILLIS, 700 * MILLIS];
    let (told, record) = noted(&config(), &wakes, true);
    let woken: Vec<_> = told.iter().filter(|told| matches!(told, Told::Woken { .. })).cloned().collect();
    assert_eq!(woken, wakes.map(|at| Told::Woken { at }));
    let probed: Vec<_> = told.iter().filter(|told| matches!(told, Told::Probed { server: 0, .. })).collect();
    assert_eq!((record.probes, record.calls), (probed.len() as u64, probed.len() as u64));
    let first = told.iter().find_map(|told| match told {
        Told::Picked { at, .. } => Some(*at),
        _ => None,
    });
    let Told::Probed { at, .. } = probed[0] else { panic!("{probed:?}") };
    assert!((400 * MICROS..=600 * MICROS).contains(&(at - first.unwrap_or(0))), "{at} {first:?}");
}

#[test]
fn round_robin_is_even() {
    let config = Config { servers: 4, ..config() };
    let round_robin = strategies::named(&["round-robin"])[0];
    let run = Run::new(&config, &run(&config, 1, round_robin.make));
    assert!(run.whole.get(Metric::MaxMean).is_some_and(|max_mean| max_mean < 1.05), "{run:?}");
}
