//! S5: a rolling restart, where every new server is cold.
//!
//! A new one joins as an old one leaves discovery, five times slower than it will be half a minute later, so three of twenty
//! are cold at any time. Who leaves answers what it has, for five seconds; calls after that fail.

use super::{BALANCE, CONTESTANTS, Case, Scenario, World};
use crate::chance::Dist;
use crate::engine::config::{Config, MILLIS, Restart, SECONDS, Span};
use crate::engine::fleet::Discipline;
use crate::figures::Metric;
use crate::goals::Goal;
use crate::plot::lines;
use crate::results::Results;
use crate::strategies::TOWLINE;
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s5",
    title: "S5: a rolling restart with cold servers",
    page: BALANCE,
    about: "\
10 clients, 20 servers of 8 slots at 70 % of what they can do warm, log-normal service of 50 ms (σ 0.5 of the logarithm).
Every 10 s a server leaves discovery and ends 5 s later, and a new one joins, 5 times slower at first and warm after 30 s.
*Steady* is the same without restarts. The picture shows the share of a new server by its age; its fair share is 1.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

const SERVERS: u32 = 20;
const SLOTS: u32 = 8;
const QUEUE: usize = 10_000;
const CLIENTS: u32 = 10;
const UTILISATION: f64 = 0.7;
const SERVICE_MS: (f64, f64) = (50.0, 0.5);
const LENGTH_S: u64 = 110;
const WARM_UP_S: u64 = 15;
const STEADY_LENGTH_S: u64 = 60;
const EVERY_S: u64 = 10;
const DRAIN_S: u64 = 5;
const COLD: (f64, u64) = (5.0, 30 * SECONDS);
const P99_LIMIT: f64 = 1.2;
const OVERSHOOT_LIMIT: f64 = 1.1;

const RESTART: &str = "restart";
const STEADY: &str = "steady";

fn config(length: u64, restart: bool) -> Config {
    let (mean, sigma) = (SERVICE_MS.0 * MILLIS as f64, SERVICE_MS.1);
    let healthy_p50 = mean * (-sigma * sigma / 2.0).exp();
    Config {
        servers: SERVERS,
        discipline: Discipline::Slots { slots: SLOTS, queue: QUEUE },
        demand: Dist::LogNormal { mean, sigma },
        mean_demand: mean,
        clients: CLIENTS,
        rates: vec![(0, UTILISATION * f64::from(SERVERS * SLOTS) / (SERVICE_MS.0 / 1e3))],
        length: length * SECONDS,
        deadline: None,
        measured: vec![Span::seconds(WARM_UP_S, length)],
        slow_ns: (3.0 * healthy_p50) as u64,
        restart: restart.then_some(Restart {
            every: EVERY_S * SECONDS,
            span: Span::seconds(WARM_UP_S, length),
            drain: DRAIN_S * SECONDS,
            cold: COLD,
        }),
        ..Config::default()
    }
}

fn cases() -> Vec<Case> {
    let case = |name: &str, length| {
        let world = World::Calls(config(length, name == RESTART).into());
        Case { name: name.to_owned(), world, strategies: CONTESTANTS.to_vec(), spans: Vec::new() }
    };
    vec![case(RESTART, LENGTH_S), case(STEADY, STEADY_LENGTH_S)]
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 10] = [
        Metric::P50,
        Metric::P99,
        Metric::P999,
        Metric::Slow,
        Metric::Success,
        Metric::LostInDrain,
        Metric::Overshoot,
        Metric::MaxMean,
        Metric::Overhead,
        Metric::Regret,
    ];
    results.cases.iter().map(|case| Table::of_case(results, case, &COLUMNS, &[Metric::P99])).collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let p99 = |name, strategy| Some(results.case(name)?.whole(strategy, Metric::P99)?.mean());
    let ratio = |strategy| Some(p99(RESTART, strategy)? / p99(STEADY, strategy)?);
    let judged = ratio(TOWLINE).map(|ours| {
        let others = ["oracle", "tower-p2c-ewma", "prequal"]
            .map(|peer| ratio(peer).map_or(String::new(), |ratio| format!(", {peer} {ratio:.2}×")));
        (ours <= P99_LIMIT, format!("{ours:.2}×{}", others.concat()))
    });
    let mut goals = vec![Goal::of_ours("S5 p99 ≤ 1.2× steady", judged)];
    if let Some(case) = results.case(RESTART) {
        goals.push(Goal::worst("S5 failed calls in drain 0", case, Metric::LostInDrain, 0.0));
        goals.push(Goal::worst("S5 overshoot ≤ 1.1", case, Metric::Overshoot, OVERSHOOT_LIMIT));
    }
    goals
}

fn picture(results: &Results) -> String {
    const SHOWN: [&str; 6] = ["round-robin", "p2c-least-request", "tower-p2c-ewma", "prequal", "towline", "oracle"];
    let axes = lines::Axes { x: "age in seconds", y: "share of a new server; 1 is fair", logarithmic: false };
    lines::draw(results.scenario.title, &axes, &[lines::Panel::of_curves(&results.cases[0], &SHOWN)])
}
