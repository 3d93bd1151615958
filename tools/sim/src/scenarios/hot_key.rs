//! S7: a key that everybody asks for, where calls about the same go to the same server.
//!
//! A fifth of the calls is ten servers' worth. Without a bound they bury one; with one they spill, and where they spill to, others
//! are at home. Who pushes those out has made one hot key everybody's: all that they ask for is somewhere else, and a miss
//! costs ten times as much.

use super::{Case, STICKY, Scenario, World};
use crate::chance::Dist;
use crate::engine::config::{Config, Keys, MILLIS, SECONDS, Span};
use crate::engine::fleet::Discipline;
use crate::figures::{Metric, Spread};
use crate::goals::Goal;
use crate::plot::lines;
use crate::results::{CaseResults, Results};
use crate::strategies::{TOWLINE_MAGLEV, TOWLINE_RENDEZVOUS};
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s7",
    title: "S7: a hot key",
    page: STICKY,
    about: "\
One client, 50 servers of 128 slots, of which 60 % would be busy if all calls were hits; a hit takes 500 ms (log-normal, σ 0.5 of
the logarithm), a miss ten times as long. 100,000 keys by Zipf's law (exponent 1.1), and from 20 s on one more with a fifth of all
calls. A server has the 4,000 keys at hand that it was asked for last; the first that is asked for a key has it. Figures are
from 25 s on, *over the bound* from the beginning: calls that were admitted where more than ⌈1.25 × mean⌉ were in flight
then, themselves included. *Filling* are calls away from home that filled a server up to that. *Affinity* is of the calls
about keys that alone have less than half of what a server may have, *at most* what it could be when these are all a home
has, up to the bound; *same second* of those of them that went elsewhere,
by whether their second choice was the one before. *Hot servers* have a hundredth or more of the hot key's calls. *haproxy-125*
and *envoy-125* bound a ring, the one going on to the next server and the other in a shuffled order; *ring-1024*, *maglev*
and *rendezvous* have no bound. The picture shows how many calls take how long: at 2 it is one in a hundred.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

const SERVERS: u32 = 50;
const SLOTS: u32 = 128;
const UTILISATION: f64 = 0.6;
const SERVICE_MS: (f64, f64) = (500.0, 0.5);
const LENGTH_S: u64 = 36;
const KEYS: Keys = Keys { count: 100_000, exponent: 1.1, hot: (20 * SECONDS, 0.2), cached: 4_000, miss: 10.0 };
const MEASURED_S: (u64, u64) = (25, LENGTH_S);
/// Percent.
const AFFINITY_LIMIT: f64 = 97.0;
const SAME_SECOND_LIMIT: f64 = 95.0;

const CASE: &str = "hot key of 20 %";

fn cases() -> Vec<Case> {
    const STRATEGIES: &[&str] = &[
        TOWLINE_RENDEZVOUS,
        TOWLINE_MAGLEV,
        "ring-1024",
        "maglev",
        "rendezvous",
        "haproxy-125",
        "envoy-125",
        "p2c-least-request",
    ];
    let (mean, sigma) = (SERVICE_MS.0 * MILLIS as f64, SERVICE_MS.1);
    let config = Config {
        servers: SERVERS,
        discipline: Discipline::Slots { slots: SLOTS, queue: usize::MAX },
        demand: Dist::LogNormal { mean, sigma },
        mean_demand: mean,
        rates: vec![(0, UTILISATION * f64::from(SERVERS * SLOTS) * 1e3 / SERVICE_MS.0)],
        length: LENGTH_S * SECONDS,
        measured: vec![Span::seconds(MEASURED_S.0, MEASURED_S.1)],
        slow_ns: (3.0 * mean) as u64,
        keys: Some(KEYS),
        ..Config::default()
    };
    vec![Case {
        name: CASE.to_owned(),
        world: World::Calls(config.into()),
        strategies: STRATEGIES.to_vec(),
        spans: Vec::new(),
    }]
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 11] = [
        Metric::OverBound,
        Metric::MaxMean,
        Metric::Affinity,
        Metric::AtMost,
        Metric::Filling,
        Metric::SameSecond,
        Metric::HotServers,
        Metric::Missed,
        Metric::P50,
        Metric::P99,
        Metric::P999,
    ];
    const WORST: [Metric; 4] = [Metric::OverBound, Metric::Affinity, Metric::AtMost, Metric::Filling];
    results.cases.iter().map(|case| Table::of_case(results, case, &COLUMNS, &WORST)).collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let Some(case) = results.case(CASE) else { return Vec::new() };
    let of = |ours| {
        let goal = |what: &str, metric, limit| Goal::worst_of(ours, format!("S7 {ours}: {what}"), case, metric, limit);
        [
            goal("no call is admitted over the bound", Metric::OverBound, 0.0),
            affinity(case, ours),
            goal("no overflow fills a server up to the bound", Metric::Filling, 0.0),
            goal(&format!("same second choice ≥ {SAME_SECOND_LIMIT} %"), Metric::SameSecond, SAME_SECOND_LIMIT),
        ]
    };
    [TOWLINE_RENDEZVOUS, TOWLINE_MAGLEV].into_iter().flat_map(of).collect()
}

/// On average: chance may put several keys that are nearly hot into one home, which then is often full.
fn affinity(case: &CaseResults, ours: &str) -> Goal {
    let what = format!("S7 {ours}: affinity of keys below half the cap ≥ {AFFINITY_LIMIT} %");
    let judge = |spread: Spread| {
        let (mean, worst) = (spread.mean(), spread.worst(Metric::Affinity));
        (mean >= AFFINITY_LIMIT, format!("mean {mean:.2}, worst seed {worst:.2}"))
    };
    Goal::of_ours(what, case.whole(ours, Metric::Affinity).map(judge))
}

fn picture(results: &Results) -> String {
    let panels: Vec<_> = results.cases.iter().map(|case| lines::Panel::by_nines(case, &case.case.strategies)).collect();
    lines::draw(results.scenario.title, &lines::Axes::BY_NINES, &panels)
}
