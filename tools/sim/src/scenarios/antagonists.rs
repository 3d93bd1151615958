//! S4: a hundred clients and a hundred servers of which each shares its machine with neighbours, at rising load.
//!
//! Prequal's experiment. A server owns one core of a machine of ten, and may use what its neighbours leave of the rest. Over
//! a third of the neighbours leave nothing at any time, and a fifth of the machines are half as fast, so who spreads load
//! evenly overloads some servers long before the fleet is full; the fleet as a whole has more than twice its allocation.

use super::{BALANCE, CONTESTANTS, Case, Scenario, World};
use crate::chance::Dist;
use crate::engine::config::{Config, MILLIS, SECONDS, Span};
use crate::engine::fleet::{Discipline, Machine};
use crate::figures::{Metric, Spread};
use crate::goals::Goal;
use crate::plot::lines;
use crate::results::{CaseResults, Results};
use crate::strategies::{TOWLINE, TOWLINE_HOT_COLD};
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s4",
    title: "S4: neighbours who take the processor, at rising load",
    page: BALANCE,
    about: "\
100 clients, 100 servers, calls of 13 ms of a core (normal with σ = μ, cut off at zero), a deadline of 5 s. A server has one
core of its own on a machine of ten, and what its neighbours leave; their needs are drawn anew every 10 s. A fifth of the
machines run at half the speed. Load is given in parts of the servers' own cores and rises every 8 s; the first 2 s after
each rise are not measured. The picture shows p99.9 over load; 5 s is the deadline.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

/// Parts of the allocation.
const LADDER: [f64; 9] = [0.75, 0.83, 0.93, 1.03, 1.14, 1.27, 1.41, 1.57, 1.74];
const RUNG_S: u64 = 8;
/// Of which the first are not measured.
const SETTLE_S: u64 = 2;
const CLIENTS: u32 = 100;
const SERVERS: u32 = 100;
const DEADLINE_S: u64 = 5;
/// Mean of a call in milliseconds of a core.
const COST_MS: f64 = 13.0;
/// Cutting a normal of σ = μ at zero raises its mean by φ(1) / Φ(1).
const CUT: f64 = 1.287_6;
const MACHINE: Machine = Machine {
    cores: 10.0,
    allocation: 1.0,
    // Nine cores and more leave nothing but the allocation: three eighths of the draws. The mean that is left is 2.6 cores.
    neighbours: (4.0, 12.0),
    redraw: 10 * SECONDS,
    half_speed: SERVERS / 5,
};
/// Above this, a call is slow: three times what it takes an idle machine.
const SLOW_MS: f64 = 3.0 * COST_MS;

fn config() -> Config {
    let mean_demand = COST_MS * MILLIS as f64;
    let rungs = || LADDER.iter().zip(0u64..).map(|(load, rung)| (rung * RUNG_S, *load));
    let rate = |load: f64| load * f64::from(SERVERS) * MACHINE.allocation / (COST_MS / 1e3);
    Config {
        servers: SERVERS,
        discipline: Discipline::Shared { machine: MACHINE },
        demand: Dist::Normal { mean: mean_demand / CUT, sd: mean_demand / CUT },
        mean_demand,
        clients: CLIENTS,
        rates: rungs().map(|(from, load)| (from * SECONDS, rate(load))).collect(),
        length: LADDER.len() as u64 * RUNG_S * SECONDS,
        deadline: Some(DEADLINE_S * SECONDS),
        measured: rungs().map(|(from, _)| Span::seconds(from + SETTLE_S, from + RUNG_S)).collect(),
        slow_ns: (SLOW_MS * MILLIS as f64) as u64,
        ..Config::default()
    }
}

fn cases() -> Vec<Case> {
    let spans = LADDER.map(|load| format!("{load:.2}")).into();
    vec![Case {
        name: "ladder".to_owned(),
        world: World::Calls(config().into()),
        strategies: CONTESTANTS.to_vec(),
        spans,
    }]
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 8] = [
        Metric::P50,
        Metric::P99,
        Metric::P999,
        Metric::Success,
        Metric::InFlight99,
        Metric::MaxMean,
        Metric::Overhead,
        Metric::Regret,
    ];
    let case = &results.cases[0];
    let by_rung = [Metric::P50, Metric::P99, Metric::P999, Metric::Errors, Metric::InFlight99];
    let mut tables: Vec<_> = by_rung.iter().map(|metric| Table::by_span(results, case, *metric)).collect();
    tables.push(Table::of_case(results, case, &COLUMNS, &[Metric::P999]));
    tables
}

fn goals(results: &Results) -> Vec<Goal> {
    let case = &results.cases[0];
    let probes = case.whole(TOWLINE_HOT_COLD, Metric::Overhead).map(|spread| spread.worst(Metric::Overhead));
    let probes = probes.map(|probes| (probes == 0.0, format!("{probes:.0} per call")));
    vec![
        errors(case),
        beside(case, TOWLINE_HOT_COLD, Metric::P999, "prequal", 1.1),
        beside(case, TOWLINE_HOT_COLD, Metric::P999, "prequal-no-probes", 1.0),
        beside(case, TOWLINE_HOT_COLD, Metric::P50, "p2c-least-request", 1.0),
        Goal::of_ours("S4 probe requests 0", probes),
    ]
}

fn errors(case: &CaseResults) -> Goal {
    let worst = case.whole(TOWLINE_HOT_COLD, Metric::Errors).map(|spread| spread.worst(Metric::Errors));
    let judged = worst.map(|worst| (worst == 0.0, format!("{worst:.0} in the worst seed")));
    Goal::of_ours("S4 errors 0 up to 1.74 of the allocation", judged)
}

/// A figure of `ours` is at most `limit` times a peer's at each rung, and over the ladder (the geometric mean). Both met the same
/// calls under each seed, so the ratio is taken seed by seed. A rung has few calls beyond its p99.9: what its ratio may be
/// off by, two standard errors over the seeds, is forgiven at a rung, but not over the ladder.
fn beside(case: &CaseResults, ours: &str, metric: Metric, peer: &str, limit: f64) -> Goal {
    let ratio = |span| {
        let (ours, theirs) = (case.span(span, ours, metric)?, case.span(span, peer, metric)?);
        Some(Spread(ours.0.iter().zip(&theirs.0).map(|(ours, theirs)| ours / theirs).collect()))
    };
    let judged = (0..LADDER.len()).map(ratio).collect::<Option<Vec<_>>>().map(|ratios| {
        let over_all = ratios.iter().map(|ratio| ratio.mean().ln()).sum::<f64>() / ratios.len() as f64;
        let noise = |ratio: &Spread| 2.0 * ratio.standard_error();
        let above: Vec<_> = ratios.iter().map(|ratio| ratio.mean() - noise(ratio)).collect();
        let highest = (0..ratios.len()).max_by(|a, b| above[*a].total_cmp(&above[*b])).unwrap_or(0);
        let held = over_all.exp() <= limit && above[highest] <= limit;
        let (mean, noise) = (ratios[highest].mean(), noise(&ratios[highest]));
        let rung = &case.case.spans[highest];
        (held, format!("over the ladder {:.3}×, highest at {rung}: {mean:.3}× ± {noise:.3}", over_all.exp()))
    });
    Goal::of_ours(format!("S4 {} ≤ {limit}× {peer}'s", metric.title()), judged)
}

fn picture(results: &Results) -> String {
    const SHOWN: [&str; 8] = [
        "round-robin",
        "p2c-least-request",
        "tower-p2c-ewma",
        "prequal-no-probes",
        "prequal",
        TOWLINE,
        TOWLINE_HOT_COLD,
        "oracle",
    ];
    let case = &results.cases[0];
    let axes = lines::Axes { x: "load over allocation", y: "milliseconds", logarithmic: true };
    let panel = |metric: Metric| {
        let line = |strategy: &'static str| {
            let value = |rung| case.span(rung, strategy, metric).map(|spread| spread.mean());
            let points: Option<Vec<_>> = (0..LADDER.len()).map(|rung| Some((LADDER[rung], value(rung)?))).collect();
            points.map(|points| (strategy, points))
        };
        lines::Panel { title: metric.title().to_owned(), lines: SHOWN.into_iter().filter_map(line).collect() }
    };
    lines::draw(results.scenario.title, &axes, &[panel(Metric::P50), panel(Metric::P999)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Figures, Run};

    /// A peer at 100 under all seeds, and one at what is given by rung and seed.
    fn held(p50: [[f64; 2]; LADDER.len()]) -> bool {
        let run = |value: &dyn Fn(usize) -> f64| {
            let figures = |rung| {
                let mut figures = Figures::default();
                figures.set(Metric::P50, value(rung));
                figures
            };
            Run { whole: Figures::default(), spans: (0..LADDER.len()).map(figures).collect(), curve: Vec::new() }
        };
        let one = (0..2).map(|seed| run(&|rung| p50[rung][seed])).collect();
        let other = (0..2).map(|_| run(&|_| 100.0)).collect();
        let case = cases().remove(0);
        let results = CaseResults { case, strategies: vec![("one", one), ("other", other)] };
        beside(&results, "one", Metric::P50, "other", 1.0).held
    }

    #[test]
    fn noise_is_forgiven_at_a_rung_and_not_over_the_ladder() {
        assert!(held([[99.0, 99.5]; LADDER.len()]));
        let mut one_rung = [[95.0, 96.0]; LADDER.len()];
        one_rung[4] = [99.0, 103.0];
        assert!(held(one_rung));
        one_rung[4] = [103.0, 103.2];
        assert!(!held(one_rung));
        assert!(!held([[99.0, 103.0]; LADDER.len()]));
    }
}
