//! S12: connections that were opened together, and would come to their end together.

use super::{Case, POOL, Scenario, World};
use crate::engine::config::SECONDS;
use crate::figures::Metric;
use crate::goals::Goal;
use crate::lives::Config;
use crate::plot::lines;
use crate::results::Results;
use crate::strategies::TOWLINE;
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s12",
    title: "S12: connections of one age",
    page: POOL,
    about: "\
1,000 clients open 10 connections each at the same time, to be used for 30 minutes, with 40 calls per second and client for four
hours; one whose time is over is dialled anew at once. *Peak/mean dials* is of windows of 10 s, but for the first. *towline* draws lives
as the pool does: first ones from 20–100 % of the age, those of replacements from 90–110 %. HikariCP takes up to 2.5 % from the age,
gRPC's servers add or take up to 10 %. *first-half* draws first lives from 50–100 %, which cannot do: all come back within a
quarter of an hour once, and then within another every half hour, which is twice the mean before chance adds anything. The picture
shows dials per minute over their mean, from the second minute on; HikariCP's would hide the others.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

const CONFIG: Config =
    Config { clients: 1_000, connections: 10, max_age: 1_800 * SECONDS, length: 14_400 * SECONDS, calls: 40.0 };
const PEAK_LIMIT: f64 = 2.0;
/// Percent.
const REUSE_LIMIT: f64 = 99.95;
const CASE: &str = "four hours";

fn cases() -> Vec<Case> {
    const STRATEGIES: &[&str] = &[TOWLINE, "hikari-2.5", "grpc-10", "first-half", "no-jitter"];
    vec![Case {
        name: CASE.to_owned(),
        world: World::Lives(CONFIG),
        strategies: STRATEGIES.to_vec(),
        spans: Vec::new(),
    }]
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 2] = [Metric::PeakDials, Metric::Reuse];
    results.cases.iter().map(|case| Table::of_case(results, case, &COLUMNS, &COLUMNS)).collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let Some(case) = results.case(CASE) else { return Vec::new() };
    let peak = format!("S12 most dials in 10 s ≤ {PEAK_LIMIT}× the mean");
    let reuse = format!("S12 calls on connections that had served before ≥ {REUSE_LIMIT} %");
    vec![Goal::worst(peak, case, Metric::PeakDials, PEAK_LIMIT), Goal::worst(reuse, case, Metric::Reuse, REUSE_LIMIT)]
}

fn picture(results: &Results) -> String {
    const SHOWN: [&str; 3] = [TOWLINE, "first-half", "grpc-10"];
    let axes = lines::Axes { x: "minutes", y: "dials per minute over the mean", logarithmic: false };
    lines::draw(results.scenario.title, &axes, &[lines::Panel::of_curves(&results.cases[0], &SHOWN)])
}
