//! S2 with retries: what callers see of servers that fail fast, when calls may be sent again.
//!
//! A balancer cannot know that a server has broken before somebody has failed there. Who sends such calls again, elsewhere,
//! hides that; who sends them to the same servers again needs many attempts and still fails.

use super::fast_failures::{self, BAD, FAULT_S, case_name, fails, refuses};
use super::{Case, RETRY, Scenario, World};
use crate::engine::config::{Config, Span};
use crate::engine::fleet::Condition;
use crate::figures::Metric;
use crate::goals::Goal;
use crate::results::Results;
use crate::strategies::TOWLINE;
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s2-retry",
    title: "S2 with retries: servers that fail fast",
    page: RETRY,
    about: "\
S2 of [balancing](balance.md): 10 clients with 200 calls per second each, 20 servers, of which some fail every call after 1 ms
between 20 s and 50 s, or refuse connections, or fail three calls in ten. All calls are idempotent, and three attempts are all.
*towline* is the balancer and the retry layer as they are by default, *towline-once* the balancer alone; *tower+tps-budget* is
tower's `Balance` by `PeakEwma` with its own `TpsBudget`, *finagle+budget* and *grpc-a50+throttle* are these balancers with
their own budgets. All others pause alike, 25 ms at most before the second attempt and 50 ms before the third. Figures are of
the 30 s of the fault; *tier 1* is attempts per call, those that were refused a connection and went elsewhere counted once.",
    cases,
    tables,
    goals,
    picture: None,
};

/// Percent of the calls that do not fail, and attempts per call.
const SUCCESS_LIMIT: f64 = 99.99;
const ATTEMPTS_LIMIT: f64 = 1.01;

fn config(bad: u32, condition: Condition) -> Config {
    Config { measured: vec![Span::seconds(FAULT_S.0, FAULT_S.1)], ..fast_failures::config(bad, condition) }
}

fn cases() -> Vec<Case> {
    const STACKS: &[&str] = &[TOWLINE, "towline-once", "tower+tps-budget", "finagle+budget", "grpc-a50+throttle"];
    let case = |name, bad, condition| Case {
        name,
        world: World::Stacks(config(bad, condition).into()),
        strategies: STACKS.to_vec(),
        spans: Vec::new(),
    };
    let failing = BAD.map(|bad| case(case_name(bad), bad, fails(1.0)));
    let refusing = case(format!("{} refuse", case_name(2)), 2, refuses());
    let intermittent = case(format!("{} fail 0.3 of their calls", case_name(2)), 2, fails(0.3));
    failing.into_iter().chain([refusing, intermittent]).collect()
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 6] =
        [Metric::Success, Metric::Errors, Metric::FirstTier, Metric::P50, Metric::P99, Metric::P999];
    const WORST: [Metric; 2] = [Metric::Success, Metric::FirstTier];
    results.cases.iter().map(|case| Table::of_case(results, case, &COLUMNS, &WORST)).collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let of_case = |name: String| {
        let case = results.case(&name)?;
        let (failed, attempts) = (
            format!("S2 with retries, {name}: failed calls ≤ {:.2} %", 100.0 - SUCCESS_LIMIT),
            format!("S2 with retries, {name}: attempts ≤ {ATTEMPTS_LIMIT}× the calls"),
        );
        Some([
            Goal::worst(failed, case, Metric::Success, SUCCESS_LIMIT),
            Goal::worst(attempts, case, Metric::FirstTier, ATTEMPTS_LIMIT),
        ])
    };
    BAD.map(case_name).into_iter().filter_map(of_case).flatten().collect()
}
