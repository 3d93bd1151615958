//! S8: clients that are connected to a part of the servers each, while servers come and go.
//!
//! How even the connections are, and how many of them are exchanged, is decided before any call: there is nothing to
//! simulate but the changes.

use super::{BALANCE, Case, Scenario, World};
use crate::figures::Metric;
use crate::goals::Goal;
use crate::results::{CaseResults, Results};
use crate::strategies::TOWLINE;
use crate::subsets::{self, Config, TOWLINE_NAMED};
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s8",
    title: "S8: subsets",
    page: BALANCE,
    about: "\
Each client connects to 20 servers, or to all where there are no more. For five minutes 5 % of the servers are replaced every
minute: one leaves and another joins, in any order, and every single change counts. *Over limit* is the part of the time in
which some server has more than ⌈1.1 × mean⌉ connections; *max/mean* and *at zero* are the worst moment; *swaps* are
the connections that a client opens because of a change, on average and the most that any client opens because of one.
*towline* is `Subset::nth`, *towline-named* `Subset::named`; the latter is the algorithm of *grpc-random* with another hash. Where
the mean is below one, ⌈1.1 × mean⌉ is one, and somebody is at zero.",
    cases,
    tables,
    goals,
    picture: None,
};

const SIZE: usize = 20;
const SIZES: [usize; 3] = [10, 100, 1_000];
/// Percent of the servers each minute, and minutes.
const CHURN: (usize, usize) = (5, 5);
const SWAPS_LIMIT: f64 = 1.5;

fn configs() -> impl Iterator<Item = Config> {
    let config = |servers, clients| Config {
        servers: servers as u32,
        clients,
        size: SIZE,
        replaced: (servers * CHURN.0 * CHURN.1 / 100) as u32,
    };
    SIZES.into_iter().flat_map(move |servers| SIZES.map(|clients| config(servers, clients)))
}

fn connections(config: &Config) -> usize {
    config.clients * config.size.min(config.servers as usize)
}

fn case_name(config: &Config) -> String {
    let (all, servers) = (connections(config), config.servers as usize);
    let (mean, limit) = (all as f64 / servers as f64, subsets::limit(all, servers));
    format!("{servers} servers, {} clients; mean {mean}, limit {limit}", config.clients)
}

fn cases() -> Vec<Case> {
    const STRATEGIES: &[&str] = &[TOWLINE, TOWLINE_NAMED, "grpc-random", "google-deterministic", "finagle-aperture"];
    let case = |config| Case {
        name: case_name(&config),
        world: World::Subsets(config),
        strategies: STRATEGIES.to_vec(),
        spans: Vec::new(),
    };
    configs().map(case).collect()
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 6] =
        [Metric::PerClient, Metric::MaxMean, Metric::OverLimit, Metric::AtZero, Metric::Swaps, Metric::MostSwaps];
    const WORST: [Metric; 5] = [Metric::MaxMean, Metric::OverLimit, Metric::AtZero, Metric::Swaps, Metric::MostSwaps];
    results.cases.iter().map(|case| Table::of_case(results, case, &COLUMNS, &WORST)).collect()
}

/// Our worst seed in the worst of these cases.
fn worst<'a>(cases: impl Iterator<Item = &'a CaseResults>, metric: Metric) -> Option<f64> {
    let of_case = |case: &CaseResults| case.whole(TOWLINE, metric).map(|spread| spread.worst(metric));
    cases.map(of_case).collect::<Option<Vec<_>>>()?.into_iter().reduce(f64::max)
}

fn goals(results: &Results) -> Vec<Goal> {
    let all = || results.cases.iter();
    let enough = configs().zip(all()).filter(|(config, _)| connections(config) >= config.servers as usize);
    let judge = |worst: Option<f64>, metric: Metric, limit| {
        worst.map(|worst| (worst <= limit, format!("worst case and seed {}", metric.show(worst))))
    };
    let over = judge(worst(all(), Metric::OverLimit), Metric::OverLimit, 0.0);
    let at_zero = judge(worst(enough.map(|(_, case)| case), Metric::AtZero), Metric::AtZero, 0.0);
    let most = worst(all(), Metric::MostSwaps).unwrap_or(f64::NAN);
    let swaps = judge(worst(all(), Metric::Swaps), Metric::Swaps, SWAPS_LIMIT)
        .map(|(held, seen)| (held, format!("{seen}; one client at one change {most}")));
    vec![
        Goal::of_ours("S8 most connections on a server > ⌈1.1 × mean⌉ in 0 % of the steps", over),
        Goal::of_ours("S8 servers without a client 0, where clients × 20 ≥ servers", at_zero),
        Goal::of_ours(format!("S8 swaps per client and change ≤ {SWAPS_LIMIT}"), swaps),
    ]
}
