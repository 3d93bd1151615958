//! S1: one server of eleven is twelve times slower than the others for half a minute.
//!
//! Linkerd's experiment ("Beyond Round Robin", 2016): 1,000 calls per second from one client, latencies of 167 ms that
//! do not depend on load. Round robin sends the slow server its share, the fewest requests in flight one part in 12 of it,
//! and a metric of latency times load one part in 144.

use super::{BALANCE, CONTESTANTS, Case, Scenario, World};
use crate::chance::Dist;
use crate::engine::config::{Config, Fault, MILLIS, SECONDS, Span};
use crate::engine::fleet::{Condition, Discipline};
use crate::figures::Metric;
use crate::goals::Goal;
use crate::plot::lines;
use crate::results::Results;
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s1",
    title: "S1: one of 11 servers is 12 times slower",
    page: BALANCE,
    about: "\
One client, 1,000 calls per second over 60 s, 11 servers without queues, 167 ms ± 5 each. Server 3 takes 2 s for calls that
come between 15 s and 45 s. A call is slow above three times the healthy median. The picture shows the slow server's share of
the calls; its fair share is 1.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

pub(super) const SERVERS: u32 = 11;
const SLOW: u32 = 3;
/// Calls per second.
const RATE: f64 = 1_000.0;
const LATENCY_MS: (f64, f64) = (167.0, 5.0);
const SLOW_MS: u64 = 2_000;
/// As many times slower.
pub(super) const FACTOR: f64 = SLOW_MS as f64 / LATENCY_MS.0;
const LENGTH_S: u64 = 60;
const FAULT_S: (u64, u64) = (15, 45);
/// Slow calls: percent of all.
const SLOW_LIMIT: (f64, f64) = (0.04, 0.05);
const RECOVER_LIMIT_S: f64 = 5.0;

pub(super) fn config() -> Config {
    let millis = MILLIS as f64;
    Config {
        servers: SERVERS,
        discipline: Discipline::Slots { slots: u32::MAX, queue: 0 },
        demand: Dist::Normal { mean: LATENCY_MS.0 * millis, sd: LATENCY_MS.1 * millis },
        mean_demand: LATENCY_MS.0 * millis,
        clients: 1,
        rates: vec![(0, RATE)],
        length: LENGTH_S * SECONDS,
        deadline: None,
        measured: vec![Span::seconds(0, LENGTH_S)],
        slow_ns: (3.0 * LATENCY_MS.0 * millis) as u64,
        faults: vec![Fault {
            servers: vec![SLOW],
            span: Span::seconds(FAULT_S.0, FAULT_S.1),
            condition: Condition { fixed_ns: Some(SLOW_MS * MILLIS), ..Condition::default() },
        }],
        ..Config::default()
    }
}

fn cases() -> Vec<Case> {
    vec![Case {
        name: "1 of 11".to_owned(),
        world: World::Calls(config().into()),
        strategies: CONTESTANTS.to_vec(),
        spans: Vec::new(),
    }]
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 11] = [
        Metric::P50,
        Metric::P99,
        Metric::P999,
        Metric::Slow,
        Metric::SlowInFault,
        Metric::SteadyShare,
        Metric::Detect,
        Metric::Recover,
        Metric::MaxMean,
        Metric::Overhead,
        Metric::Regret,
    ];
    const WORST: [Metric; 2] = [Metric::Slow, Metric::Recover];
    vec![Table::of_case(results, &results.cases[0], &COLUMNS, &WORST)]
}

fn goals(results: &Results) -> Vec<Goal> {
    let case = &results.cases[0];
    vec![
        Goal::mean("S1 slow calls ≤ 0.04 %, mean", case, Metric::Slow, SLOW_LIMIT.0),
        Goal::worst("S1 slow calls ≤ 0.05 %, worst seed", case, Metric::Slow, SLOW_LIMIT.1),
        Goal::worst("S1 recovery ≤ 5 s", case, Metric::Recover, RECOVER_LIMIT_S),
    ]
}

fn picture(results: &Results) -> String {
    const SHOWN: [&str; 6] =
        ["round-robin", "p2c-least-request", "tower-p2c-ewma", "prequal", "prequal-no-probes", "towline"];
    let case = &results.cases[0];
    let axes = lines::Axes { x: "seconds", y: "share of the slow server; 1 is fair", logarithmic: false };
    lines::draw(results.scenario.title, &axes, &[lines::Panel::of_curves(case, &SHOWN)])
}
