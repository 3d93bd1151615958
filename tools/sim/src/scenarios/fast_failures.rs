//! S2: one, two or five of twenty servers answer every call with an error, after one millisecond, or refuse
//! connections.
//!
//! Who takes a fast failure for a fast answer sends the broken servers more than their share; and with two choices even
//! a perfect metric goes wrong when both are broken, so only who ejects them can do better.

use super::{BALANCE, COMPARED, CONTESTANTS, Case, EJECTING, Scenario, World};
use crate::chance::Dist;
use crate::engine::config::{Config, Fault, MILLIS, SECONDS, Span};
use crate::engine::fleet::{Condition, Discipline, Reach};
use crate::figures::Metric;
use crate::goals::Goal;
use crate::plot::lines;
use crate::results::Results;
use crate::strategies::{TOWLINE, TOWLINE_NO_EJECTION, yardstick};
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s2",
    title: "S2: servers that fail fast",
    page: BALANCE,
    about: "\
10 clients with 200 calls per second each over 70 s, 20 servers of 16 slots, log-normal service of 50 ms (σ 0.5 of the
logarithm). Between 20 s and 50 s some servers fail every call after 1 ms, or refuse connections and reset those that there
are, or fail three calls in ten. Bad-hit is the share of the attempts that goes to them; the floor of two choices with a
perfect metric is k(k−1)/n(n−1). Max/mean is of the healthy servers over the 30 s of the fault: in one second chance alone
makes more of a difference than it may. *towline-no-ejection* ejects nobody: the load and probation alone. Latencies are of
calls that were answered well. What Prequal does against servers that attract by failing is not published, so its rule is
bare. Envoy, gRPC, Finagle and Linkerd follow their documented rules and defaults. The picture shows the share of the broken
servers; their fair share is 1.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

pub(super) const SERVERS: u32 = 20;
pub(super) const BAD: [u32; 3] = [1, 2, 5];
/// A third of the slots are busy, so that latency is service and not waiting.
const SLOTS: u32 = 16;
const QUEUE: usize = 1_000;
const CLIENTS: u32 = 10;
/// Calls per second of all.
const RATE: f64 = 2_000.0;
const SERVICE_MS: (f64, f64) = (50.0, 0.5);
const FAIL_MS: u64 = 1;
const LENGTH_S: u64 = 70;
pub(super) const FAULT_S: (u64, u64) = (20, 50);
/// Percentage points above the floor.
const MARGIN: f64 = 0.2;
/// Percent.
const BAD_HIT_LIMIT: f64 = 0.2;
const MAX_MEAN_LIMIT: f64 = 1.15;
/// So many fail this part of their calls.
const INTERMITTENT: (u32, f64) = (2, 0.3);

/// A part of the calls fails.
pub(super) fn fails(part: f64) -> Condition {
    Condition { fails: Some((part, FAIL_MS * MILLIS)), ..Condition::default() }
}

pub(super) fn refuses() -> Condition {
    Condition { reach: Reach::Refuses, ..Condition::default() }
}

pub(super) fn config(bad: u32, condition: Condition) -> Config {
    let (mean, sigma) = (SERVICE_MS.0 * MILLIS as f64, SERVICE_MS.1);
    let healthy_p50 = mean * (-sigma * sigma / 2.0).exp();
    Config {
        servers: SERVERS,
        discipline: Discipline::Slots { slots: SLOTS, queue: QUEUE },
        demand: Dist::LogNormal { mean, sigma },
        mean_demand: mean,
        clients: CLIENTS,
        rates: vec![(0, RATE)],
        length: LENGTH_S * SECONDS,
        deadline: None,
        measured: vec![Span::seconds(0, LENGTH_S)],
        slow_ns: (3.0 * healthy_p50) as u64,
        faults: vec![Fault { servers: (0..bad).collect(), span: Span::seconds(FAULT_S.0, FAULT_S.1), condition }],
        ..Config::default()
    }
}

pub(super) fn case_name(bad: u32) -> String {
    format!("{bad} of {SERVERS}")
}

fn refusing(bad: u32) -> String {
    format!("{} refuse", case_name(bad))
}

fn cases() -> Vec<Case> {
    let case = |name, strategies: &[_], bad, condition| Case {
        name,
        world: World::Calls(config(bad, condition).into()),
        strategies: strategies.to_vec(),
        spans: Vec::new(),
    };
    let everybody = [CONTESTANTS, &[TOWLINE_NO_EJECTION], EJECTING].concat();
    let (some, part) = INTERMITTENT;
    let failing = BAD.map(|bad| case(case_name(bad), &everybody, bad, fails(1.0)));
    let refusing = BAD.map(|bad| case(refusing(bad), COMPARED, bad, refuses()));
    let name = format!("{} fail {part} of their calls", case_name(some));
    let intermittent = case(name, COMPARED, some, fails(part));
    failing.into_iter().chain(refusing).chain([intermittent]).collect()
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 10] = [
        Metric::BadHit,
        Metric::Success,
        Metric::P50,
        Metric::P99,
        Metric::P999,
        Metric::Detect,
        Metric::Recover,
        Metric::HealthyMaxMean,
        Metric::Attempts,
        Metric::Overhead,
    ];
    const WORST: [Metric; 2] = [Metric::BadHit, Metric::HealthyMaxMean];
    results.cases.iter().map(|case| Table::of_case(results, case, &COLUMNS, &WORST)).collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let goal = |ours: &'static str, bad| {
        let name = case_name(bad);
        let floor = 100.0 * yardstick::floor(bad, SERVERS);
        let what =
            format!("S2 {name} bad: {ours}, bad-hit ≤ the floor of two choices, {floor:.2} %, + {MARGIN} points");
        let case = results.case(&name);
        let mean = |strategy| case.and_then(|case| case.whole(strategy, Metric::BadHit)).map(|spread| spread.mean());
        let others = ["round-robin", "tower-p2c-ewma", "tower-p2c-pending"]
            .map(|peer| mean(peer).map_or(String::new(), |share| format!(", {peer} {share:.2} %")));
        let judged = mean(ours).map(|share| (share <= floor + MARGIN, format!("{share:.2} %{}", others.concat())));
        Goal::of_ours(what, judged)
    };
    let ours = [TOWLINE, TOWLINE_NO_EJECTION];
    let mut goals: Vec<_> = ours.into_iter().flat_map(|ours| BAD.map(|bad| goal(ours, bad))).collect();
    for name in BAD.map(case_name).into_iter().chain(BAD.map(refusing)) {
        let Some(case) = results.case(&name) else { continue };
        let (share, even) = (
            format!("S2 {name}: bad-hit ≤ {BAD_HIT_LIMIT} %"),
            format!("S2 {name}: max/mean of the healthy ≤ {MAX_MEAN_LIMIT}"),
        );
        goals.push(Goal::worst(share, case, Metric::BadHit, BAD_HIT_LIMIT));
        goals.push(Goal::worst(even, case, Metric::HealthyMaxMean, MAX_MEAN_LIMIT));
    }
    goals
}

fn picture(results: &Results) -> String {
    const SHOWN: [&str; 8] =
        ["round-robin", "p2c-least-request", "tower-p2c-ewma", "envoy", "grpc-a50", "finagle", "linkerd", "towline"];
    let axes = lines::Axes { x: "seconds", y: "share of the broken servers; 1 is fair", logarithmic: false };
    let failing = &results.cases[..BAD.len()];
    let panels: Vec<_> = failing.iter().map(|case| lines::Panel::of_curves(case, &SHOWN)).collect();
    lines::draw(results.scenario.title, &axes, &panels)
}
