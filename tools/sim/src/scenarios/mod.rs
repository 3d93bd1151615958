//! What is simulated: each scenario says who runs, what is shown and what is promised.

mod antagonists;
mod disruption;
mod fast_failures;
mod fidelity;
mod hot_key;
mod lossy;
mod pauses;
mod restart;
mod retries;
mod slow_server;
mod stampede;
mod storm;
mod subsetting;
mod zones;

use crate::engine::config::Config;
use crate::goals::Goal;
use crate::results::Results;
use crate::table::Table;
use crate::{lives, subsets, tables};

/// What the strategies of a case have to deal with.
pub(crate) enum World {
    /// Some servers, and the same calls for each strategy, in the engine.
    Calls(Box<Config>),
    /// The same, where calls may be sent more than once; its strategies are those of `stacks`.
    Stacks(Box<Config>),
    /// Clients and servers that are connected, without calls; its strategies are those of `subsets`.
    Subsets(subsets::Config),
    /// Servers that hashes belong to, without calls; its strategies are those of `tables`.
    Tables(tables::Config),
    /// Connections that come to their end, without calls; its strategies are those of `lives`.
    Lives(lives::Config),
}

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) world: World,
    pub(crate) strategies: Vec<&'static str>,
    /// The names of the spans that are measured, if there are several.
    pub(crate) spans: Vec<String>,
}

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// The page of the documentation that has its section, and what is said there.
    pub(crate) page: &'static str,
    pub(crate) about: &'static str,
    pub(crate) cases: fn() -> Vec<Case>,
    pub(crate) tables: fn(&Results) -> Vec<Table>,
    pub(crate) goals: fn(&Results) -> Vec<Goal>,
    /// An SVG document.
    pub(crate) picture: Option<fn(&Results) -> String>,
}

pub(crate) static ALL: [Scenario; 14] = [
    fidelity::SCENARIO,
    slow_server::SCENARIO,
    fast_failures::SCENARIO,
    retries::SCENARIO,
    pauses::SCENARIO,
    antagonists::SCENARIO,
    restart::SCENARIO,
    lossy::SCENARIO,
    zones::SCENARIO,
    hot_key::SCENARIO,
    subsetting::SCENARIO,
    storm::SCENARIO,
    disruption::SCENARIO,
    stampede::SCENARIO,
];

/// Pages with sections: how we balance, how we keep away from who does badly, and what we do about calls that fail or are late.
const BALANCE: &str = "balance.md";
const OUTLIERS: &str = "outliers.md";
const RETRY: &str = "retry.md";
const STICKY: &str = "sticky.md";
const POOL: &str = "pool.md";

/// Everybody but the yardsticks and those who eject.
const CONTESTANTS: &[&str] = &[
    "random",
    "round-robin",
    "least-request",
    "p2c-least-request",
    "tower-p2c-pending",
    "tower-p2c-ewma",
    "prequal-no-probes",
    "prequal",
    crate::strategies::TOWLINE,
    crate::strategies::TOWLINE_HOT_COLD,
    crate::strategies::ORACLE,
];

const EJECTING: &[&str] = &["envoy", "grpc-a50", "finagle", "linkerd"];

/// Those who eject, and of the others the ones that are worth a comparison.
const COMPARED: &[&str] = &[
    "round-robin",
    "p2c-least-request",
    "tower-p2c-ewma",
    "prequal",
    "envoy",
    "grpc-a50",
    "finagle",
    "linkerd",
    crate::strategies::TOWLINE,
    crate::strategies::ORACLE,
];
