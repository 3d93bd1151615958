//! S9: a retry storm. Behind two other tiers all servers fail for ten seconds, and everybody who calls them may call again.
//!
//! Each tier that sends every call three times triples the load of the next, and work is not less work because it fails: the last
//! tier has far more than it can do, the queues fill, and what waits there is not wanted any more when it is done. So the
//! outage goes on when its cause has gone, for as long as the attempts do not get fewer.

use super::{Case, RETRY, Scenario, World};
use crate::chance::Dist;
use crate::engine::config::{Config, Fault, MILLIS, SECONDS, Span};
use crate::engine::fleet::{Condition, Discipline};
use crate::figures::Metric;
use crate::goals::Goal;
use crate::plot::lines;
use crate::results::Results;
use crate::strategies::TOWLINE;
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s9",
    title: "S9: a retry storm through three tiers",
    page: RETRY,
    about: "\
Three tiers of 10 servers of 4 slots, each 80 % busy, service of 20 ms (log-normal, σ 0.5 of the logarithm); 5 clients call the
first tier, its servers the second, and those the third. Between 10 s and 20 s all servers of the third tier work on calls and
then fail them. Callers wait for 1 s, and the time that is left travels along; servers work on what they have. Everybody, servers too, makes three attempts of a call with full jitter from 25 ms. *towline* is its
balancer and its retry layer; all others balance by two choices of calls in flight, so that only the rule for retries
differs, *towline-budget* among them. *Tier 1* and so on are attempts per call by those who call that tier, in the outage;
*T_good again* is from the end of the outage until 95 % of the good answers before it are back. The picture shows good answers,
of what the servers can do. With 2 slots half as many calls are made, and what a budget allows whatever happens, 10 per second and
what it held before, is twice as much of them: a quarter, which fills a tier that is 80 % busy. There are no goals for the attempts then.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

const SERVERS: u32 = 10;
const TIERS: u32 = 3;
/// Slots, and so what a server can do, and what it calls the next tier.
const SLOTS: u32 = 4;
const FEW_SLOTS: u32 = 2;
const QUEUE: usize = 1_000;
const CLIENTS: u32 = 5;
const UTILISATION: f64 = 0.8;
const SERVICE_MS: (f64, f64) = (20.0, 0.5);
const DEADLINE_S: u64 = 1;
const FAULT_S: (u64, u64) = (10, 20);
const LENGTH_S: u64 = 30;
/// Retries per second that our budget allows whatever happens, and the part of the calls; what is over is from before.
const FLOOR: f64 = 10.0;
const AMPLIFIED_LIMIT: f64 = 1.1;
const GOOD_AGAIN_LIMIT: f64 = 2.0;

const CASE: &str = "160 calls per second and server";
const SMALL: &str = "80 calls per second and server";
const TIER_METRICS: [Metric; TIERS as usize] = [Metric::FirstTier, Metric::SecondTier, Metric::ThirdTier];

/// Calls per second of all.
fn rate(slots: u32) -> f64 {
    UTILISATION * f64::from(SERVERS * slots) * 1e3 / SERVICE_MS.0
}

fn config(slots: u32) -> Config {
    let (mean, sigma) = (SERVICE_MS.0 * MILLIS as f64, SERVICE_MS.1);
    let condition = Condition { fails_late: 1.0, ..Condition::default() };
    let last = (TIERS - 1) * SERVERS..TIERS * SERVERS;
    Config {
        servers: SERVERS,
        tiers: TIERS,
        discipline: Discipline::Slots { slots, queue: QUEUE },
        demand: Dist::LogNormal { mean, sigma },
        mean_demand: mean,
        clients: CLIENTS,
        rates: vec![(0, rate(slots))],
        length: LENGTH_S * SECONDS,
        deadline: Some(DEADLINE_S * SECONDS),
        measured: vec![Span::seconds(FAULT_S.1, LENGTH_S)],
        slow_ns: SECONDS,
        faults: vec![Fault { servers: last.collect(), span: Span::seconds(FAULT_S.0, FAULT_S.1), condition }],
        ..Config::default()
    }
}

fn cases() -> Vec<Case> {
    const STACKS: &[&str] = &[
        TOWLINE,
        "towline-budget",
        "no-retries",
        "no-budget",
        "finagle-budget",
        "grpc-throttle",
        "aws-standard",
        "tower-tps-budget",
    ];
    let case = |name: &str, slots| Case {
        name: name.to_owned(),
        world: World::Stacks(config(slots).into()),
        strategies: STACKS.to_vec(),
        spans: Vec::new(),
    };
    vec![case(CASE, SLOTS), case(SMALL, FEW_SLOTS)]
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 7] = [
        Metric::FirstTier,
        Metric::SecondTier,
        Metric::ThirdTier,
        Metric::GoodAgain,
        Metric::SuccessAfter,
        Metric::P99,
        Metric::Ejected,
    ];
    const WORST: [Metric; 4] = [Metric::FirstTier, Metric::SecondTier, Metric::ThirdTier, Metric::GoodAgain];
    results.cases.iter().map(|case| Table::of_case(results, case, &COLUMNS, &WORST)).collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let Some(case) = results.case(CASE) else { return Vec::new() };
    let mut goals = Vec::new();
    for (tier, metric) in TIER_METRICS.into_iter().enumerate() {
        // Each of the servers of a tier has a budget of its own when it calls the next.
        let callers = f64::from(if tier == 0 { CLIENTS } else { SERVERS });
        let limit = AMPLIFIED_LIMIT + FLOOR / (rate(SLOTS) / callers);
        let what = format!("S9 tier {}: attempts ≤ 1.1 + floor/rate = {limit:.3} per call", tier + 1);
        goals.push(Goal::worst(what, case, metric, limit));
    }
    for case in &results.cases {
        let again = format!("S9 {}: 95 % of the good answers are back within {GOOD_AGAIN_LIMIT} s", case.case.name);
        goals.push(Goal::worst(again, case, Metric::GoodAgain, GOOD_AGAIN_LIMIT));
    }
    goals
}

fn picture(results: &Results) -> String {
    let axes = lines::Axes { x: "seconds", y: "good answers; 1 is what the servers can do", logarithmic: false };
    let panels: Vec<_> =
        results.cases.iter().map(|case| lines::Panel::of_curves(case, &case.case.strategies)).collect();
    lines::draw(results.scenario.title, &axes, &panels)
}
