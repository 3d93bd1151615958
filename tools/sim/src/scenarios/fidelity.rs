//! Whether the simulator can be believed: where theory has a figure, the baselines have to land on it.
//!
//! Balancers even out what they measure. If one server is slower by a factor s, round robin gives it as many calls as a fast
//! one; equal requests in flight mean 1/s as many; equal latency times requests in flight mean 1/s². Two choices among n servers of
//! which k are bad go wrong for C(k,2)/C(n,2) of the calls with a perfect metric, and for 1 − C(n−k,2)/C(n,2) with one that
//! likes fast failures.

use super::{BALANCE, Case, Scenario, World, fast_failures, slow_server};
use crate::figures::Metric;
use crate::goals::Goal;
use crate::results::Results;
use crate::strategies::yardstick;
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "fidelity",
    title: "Fidelity: the baselines beside theory",
    page: BALANCE,
    about: "\
The fault of S1 from its tenth second on, and S2 with yardsticks that know who fails: the shares that theory gives, and those
that are measured.",
    cases,
    tables,
    goals,
    picture: None,
};

const SLOW: &str = "slow server";
/// Who, the power of 1/s that its share is, and how far from it is near enough, as a part of it.
const LAWS: [(&str, i32, f64); 5] = [
    // Chance has no part in round robin; random is as good as its sample.
    ("round-robin", 0, 0.01),
    ("random", 0, 0.05),
    // Fast servers are even only up to a spread, of one request or two of 16 here. The slow one, which forgets slowly, stays
    // at the upper end of it: that is where it gets as few calls as it can end. Two choices leave more of a spread.
    ("least-request", 1, 0.15),
    ("p2c-least-request", 1, 0.3),
    // A call or two are under way there, never a part of one.
    ("tower-p2c-ewma", 2, 0.3),
];
/// Percentage points.
const FLOOR_TOLERANCE: f64 = 0.3;

fn cases() -> Vec<Case> {
    let slow = Case {
        name: SLOW.to_owned(),
        world: World::Calls(slow_server::config().into()),
        strategies: vec!["random", "round-robin", "least-request", "p2c-least-request", "tower-p2c-ewma"],
        spans: Vec::new(),
    };
    let failing = fast_failures::BAD.map(|bad| Case {
        name: fast_failures::case_name(bad),
        world: World::Calls(fast_failures::config(bad, fast_failures::fails(1.0)).into()),
        strategies: vec!["p2c-perfect", "p2c-error-blind"],
        spans: Vec::new(),
    });
    [slow].into_iter().chain(failing).collect()
}

/// What theory says and what was seen.
struct Law {
    what: String,
    theory: f64,
    seen: f64,
    tolerance: f64,
    metric: Metric,
}

fn laws(results: &Results) -> Vec<Law> {
    let mean = |case: &str, strategy: &str, metric| {
        let spread = results.case(case).and_then(|case| case.whole(strategy, metric));
        spread.map_or(f64::NAN, |spread| spread.mean())
    };
    let slow = LAWS.iter().map(|(strategy, power, tolerance)| {
        let (servers, calls) = (f64::from(slow_server::SERVERS), slow_server::FACTOR.powi(-power));
        let (metric, theory) = (Metric::SteadyShare, servers * calls / (calls + servers - 1.0));
        let law = ["1", "1/s", "1/s²"][*power as usize];
        let what = format!("{strategy}: a slow server's share over the fair one, by {law}");
        Law { what, theory, seen: mean(SLOW, strategy, metric), tolerance: theory * tolerance, metric }
    });
    let failing = fast_failures::BAD.into_iter().flat_map(|bad| {
        let (name, all) = (fast_failures::case_name(bad), fast_failures::SERVERS);
        let law = |strategy, theory: f64| {
            let (metric, tolerance) = (Metric::BadHit, FLOOR_TOLERANCE);
            let what = format!("{strategy}: percent of calls to {name} bad servers");
            Law { what, theory: 100.0 * theory, seen: mean(&name, strategy, metric), tolerance, metric }
        };
        let floor = law("p2c-perfect", yardstick::floor(bad, all));
        [floor, law("p2c-error-blind", yardstick::error_blind(bad, all))]
    });
    slow.chain(failing).collect()
}

fn tables(results: &Results) -> Vec<Table> {
    let row = |law: Law| {
        let show = |value| law.metric.show(value);
        vec![law.what.clone(), show(law.theory), show(law.seen), format!("±{}", show(law.tolerance))]
    };
    let head = ["", "theory", "seen", "tolerance"].map(str::to_owned).into();
    let title = format!("{}, {} seeds", results.scenario.title, results.seeds);
    vec![Table { title, head, rows: laws(results).into_iter().map(row).collect() }]
}

fn goals(results: &Results) -> Vec<Goal> {
    let goal = |law: Law| {
        let held = (law.seen - law.theory).abs() <= law.tolerance;
        let show = |value| law.metric.show(value);
        let seen = format!("theory {}, seen {}", show(law.theory), show(law.seen));
        Goal::new(format!("fidelity, {}", law.what), held, seen)
    };
    laws(results).into_iter().map(goal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios;

    #[test]
    fn baselines_land_on_theory() {
        let results = Results::new(&scenarios::ALL[0], 3);
        for goal in goals(&results) {
            assert!(goal.held, "{}", goal.line());
        }
    }
}
