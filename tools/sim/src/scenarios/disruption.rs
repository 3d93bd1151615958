//! S11: who has to find a new home when servers come and go.
//!
//! When a server leaves, the keys that were at home there move, and nobody else has a reason to. Tables that are filled anew
//! move a few more; rings move nobody in vain, and are uneven for it.

use super::{Case, STICKY, Scenario, World};
use crate::figures::Metric;
use crate::goals::Goal;
use crate::results::Results;
use crate::strategies::TOWLINE;
use crate::table::Table;
use crate::tables::{Config, Event};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s11",
    title: "S11: homes when servers come and go",
    page: STICKY,
    about: "\
500 servers and 100,000 keys; 1, 2 or 3 servers leave, one joins, one has twice or half its weight, or five are replaced one
after the other (then figures are per step). *Imbalance* is by how much the largest part of all hashes is above its due, exactly,
from the table or the ring; *max/mean* is of the keys, whom chance spreads too, by 7 % and more. *Excess* are keys that moved
although their home was still there and no lighter, unless to a server that is new or has become heavier. *towline* is the table of
`Maglev::new()`, of 655,373 slots, *towline-65537* a smaller one; *towline-rendezvous* has no table. *maglev-65537* is Envoy's,
*ring-1024* Envoy's and gRPC's with the least entries that they begin with, which are three per server here.",
    cases,
    tables,
    goals,
    picture: None,
};

const SERVERS: u32 = 500;
const KEYS: u32 = 100_000;
const EVENTS: [(&str, Event); 7] = [
    ("1 leaves", Event::Leave(1)),
    ("2 leave", Event::Leave(2)),
    ("3 leave", Event::Leave(3)),
    ("1 joins", Event::Join),
    ("1 twice as heavy", Event::Weigh(2.0)),
    ("1 half as heavy", Event::Weigh(0.5)),
    ("5 replaced", Event::Replace(5)),
];
/// Percent.
const IMBALANCE_LIMIT: f64 = 1.0;
const EXCESS_LIMIT: f64 = 0.5;

fn cases() -> Vec<Case> {
    const STRATEGIES: &[&str] = &[TOWLINE, "towline-65537", "maglev-65537", "ring-1024"];
    let case = |(name, event): (&str, Event)| {
        // It moves nobody in vain by its nature, and takes as long as everything else together to show it.
        let scores: &[_] = if matches!(event, Event::Leave(1) | Event::Join) { &["towline-rendezvous"] } else { &[] };
        Case {
            name: name.to_owned(),
            world: World::Tables(Config { servers: SERVERS, keys: KEYS, event }),
            strategies: [STRATEGIES, scores].concat(),
            spans: Vec::new(),
        }
    };
    EVENTS.map(case).into()
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 4] = [Metric::Imbalance, Metric::MaxMean, Metric::Moved, Metric::Excess];
    results
        .cases
        .iter()
        .map(|case| Table::of_case(results, case, &COLUMNS, &[Metric::Imbalance, Metric::Excess]))
        .collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let of_case = |(name, _)| {
        let case = results.case(name)?;
        let (imbalance, excess) = (
            format!("S11 {name}: imbalance ≤ {IMBALANCE_LIMIT} %"),
            format!("S11 {name}: excess moves ≤ {EXCESS_LIMIT} %"),
        );
        Some([
            Goal::worst(imbalance, case, Metric::Imbalance, IMBALANCE_LIMIT),
            Goal::worst(excess, case, Metric::Excess, EXCESS_LIMIT),
        ])
    };
    EVENTS.into_iter().filter_map(of_case).flatten().collect()
}
