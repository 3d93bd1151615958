//! S3: servers that pause now and then, as for collecting garbage, and who is caught by it.
//!
//! Two servers begin a pause every second, and what is there waits for a fifth of a second: few calls, but the slowest of all.
//! Round robin goes on sending; who counts calls in flight stops after a few; and only a second attempt helps those who are there
//! already.

use super::{Case, RETRY, Scenario, World};
use crate::chance::Dist;
use crate::engine::config::{Config, MILLIS, Pauses, SECONDS, Span};
use crate::engine::fleet::Discipline;
use crate::figures::Metric;
use crate::goals::Goal;
use crate::plot::lines;
use crate::results::Results;
use crate::stacks::TOWLINE_HEDGED;
use crate::strategies::TOWLINE;
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s3",
    title: "S3: servers that pause, and hedging",
    page: RETRY,
    about: "\
10 clients and 20 servers of 4 slots, 60 % of them busy, log-normal service of 10 ms (σ 0.5 of the logarithm). Each server
stops for 200 ms now and then, for itself, 10 s after the last time on average; *healthy* is the same without. Servers work on
when a call is given up. *towline+hedge* is the balancer with the layer for hedges as it is by default, *towline* without;
*p2c+hedge* is the layer over two choices of calls in flight, *finagle+backup* Finagle's balancer with its backup requests for 1 % of
the calls. *Hedges* are second attempts, of the calls. Figures are of the calls after the first 10 s. The picture shows how many calls take how long: at 3 it is one in a thousand.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

const SERVERS: u32 = 20;
const SLOTS: u32 = 4;
const QUEUE: usize = 10_000;
const CLIENTS: u32 = 10;
const UTILISATION: f64 = 0.6;
const SERVICE_MS: (f64, f64) = (10.0, 0.5);
const PAUSES: Pauses = Pauses { length: 200 * MILLIS, mean_gap: 10 * SECONDS };
/// Until then nobody knows how long calls take, and there is nothing in any allowance.
const MEASURED_S: (u64, u64) = (10, 45);

const PAUSING: &str = "pauses";
const HEALTHY: &str = "healthy";

/// Times the same without pauses; times less than round robin; percent of the calls.
const TAIL_LIMIT: f64 = 3.0;
const BELOW_LIMIT: f64 = 1.5;
const HEDGES_LIMIT: f64 = 2.0;

fn cases() -> Vec<Case> {
    const HEALTHY_STACKS: &[&str] = &[TOWLINE_HEDGED, TOWLINE, "round-robin", "finagle+backup"];
    let stacks = [HEALTHY_STACKS, &["p2c+hedge", "p2c-least-request", "tower-p2c-ewma", "prequal"]].concat();
    let (mean, sigma) = (SERVICE_MS.0 * MILLIS as f64, SERVICE_MS.1);
    let healthy_p50 = mean * (-sigma * sigma / 2.0).exp();
    let config = |pauses| Config {
        servers: SERVERS,
        discipline: Discipline::Slots { slots: SLOTS, queue: QUEUE },
        demand: Dist::LogNormal { mean, sigma },
        mean_demand: mean,
        clients: CLIENTS,
        rates: vec![(0, UTILISATION * f64::from(SERVERS * SLOTS) * 1e3 / SERVICE_MS.0)],
        length: MEASURED_S.1 * SECONDS,
        measured: vec![Span::seconds(MEASURED_S.0, MEASURED_S.1)],
        slow_ns: (3.0 * healthy_p50) as u64,
        pauses,
        ..Config::default()
    };
    let case = |name: &str, strategies: &[_], pauses| Case {
        name: name.to_owned(),
        world: World::Stacks(config(pauses).into()),
        strategies: strategies.to_vec(),
        spans: Vec::new(),
    };
    vec![case(PAUSING, &stacks, Some(PAUSES)), case(HEALTHY, HEALTHY_STACKS, None)]
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 6] =
        [Metric::P50, Metric::P99, Metric::P999, Metric::Hedges, Metric::Attempts, Metric::Success];
    const WORST: [Metric; 2] = [Metric::P999, Metric::Hedges];
    results.cases.iter().map(|case| Table::of_case(results, case, &COLUMNS, &WORST)).collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let tail = |name, strategy| results.case(name).and_then(|case| case.whole(strategy, Metric::P999));
    // Seeds have the same calls in both cases and with all strategies, so ratios are taken seed by seed.
    let over = |(name, strategy), (other, than)| {
        let (tail, other) = (tail(name, strategy)?, tail(other, than)?);
        Some(tail.0.iter().zip(&other.0).map(|(tail, other)| tail / other).collect::<Vec<_>>())
    };
    let healthy = over((PAUSING, TOWLINE_HEDGED), (HEALTHY, TOWLINE_HEDGED))
        .and_then(|ratios| ratios.into_iter().reduce(f64::max));
    let below = over((PAUSING, "round-robin"), (PAUSING, TOWLINE_HEDGED))
        .and_then(|ratios| ratios.into_iter().reduce(f64::min));
    let mut goals = vec![
        Goal::of_ours(
            format!("S3 p99.9 ≤ {TAIL_LIMIT}× without pauses"),
            healthy.map(|worst| (worst <= TAIL_LIMIT, format!("worst seed {worst:.2}×"))),
        ),
        Goal::of_ours(
            format!("S3 p99.9 ≥ {BELOW_LIMIT}× below round robin's"),
            below.map(|worst| (worst >= BELOW_LIMIT, format!("worst seed {worst:.2}×"))),
        ),
    ];
    let hedges = format!("S3 hedges ≤ {HEDGES_LIMIT} % of the calls");
    goals.extend(
        results.case(PAUSING).map(|case| Goal::worst_of(TOWLINE_HEDGED, hedges, case, Metric::Hedges, HEDGES_LIMIT)),
    );
    goals
}

fn picture(results: &Results) -> String {
    let panels: Vec<_> = results.cases.iter().map(|case| lines::Panel::by_nines(case, &case.case.strategies)).collect();
    lines::draw(results.scenario.title, &lines::Axes::BY_NINES, &panels)
}
