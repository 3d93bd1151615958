//! S10: one of three zones is lost, and the other two have just enough capacity, or a little less.
//!
//! A third of the servers is more than most balancers dare to eject. When the survivors cannot do all the work,
//! somebody has to refuse some of it: a server's queue is longer than anybody waits, so a server that is overloaded for
//! some seconds works for callers who have left, and does so until the load falls below what it can do.

use super::{COMPARED, Case, OUTLIERS, Scenario, World};
use crate::chance::Dist;
use crate::engine::config::{Config, Fault, MILLIS, SECONDS, Span};
use crate::engine::fleet::{Condition, Discipline, Reach};
use crate::figures::Metric;
use crate::goals::Goal;
use crate::plot::lines;
use crate::results::Results;
use crate::strategies::{TOWLINE, TOWLINE_ADAPTIVE};
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s10",
    title: "S10: a zone is lost",
    page: OUTLIERS,
    about: "\
10 clients, three zones of 10 servers of 8 slots each, log-normal service of 50 ms (σ 0.5 of the logarithm), a deadline of 1
s. From 20 s to 50 s of 65 s one zone fails every call after 1 ms, or falls silent (no packet gets through; connections are
given up after 20 s without an answer, and dials after 5 s), or takes ten times as long. The load is 0.8 or 1.07 of what the
other two can do. 200 calls may wait at a server, which takes it 1.25 s: whoever fills the queues waits for longer than the
deadline, and gets nothing for it. Success and latencies are of the calls that came from a second after the beginning of the
fault to its end, *after* is of those that came later. Goodput is the good answers in the fault over what the healthy zones
can do. Overshoot is the largest share that the zone gets in a second of the ten after its return, over its fair one. The
oracle refuses a call that would take longer than half of the deadline, and sends more than its share to a zone that comes
back empty while the others have queues. The picture shows goodput over time where the survivors are overloaded; 1 is what
they can do.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

const SERVERS: u32 = 30;
const ZONE: u32 = 10;
const SLOTS: u32 = 8;
/// Of 160 calls per second, so that the last one waits for 1.25 s.
const QUEUE: usize = 200;
const CLIENTS: u32 = 10;
const SERVICE_MS: (f64, f64) = (50.0, 0.5);
const DEADLINE_S: u64 = 1;
const FAIL_MS: u64 = 1;
const SLOWER: f64 = 10.0;
const LENGTH_S: u64 = 65;
const FAULT_S: (u64, u64) = (20, 50);
/// Parts of what the survivors can do.
const ENOUGH: f64 = 0.8;
const TOO_MUCH: f64 = 1.07;
/// Percent.
const SUCCESS_LIMIT: f64 = 99.9;
const GOODPUT_LIMIT: f64 = 95.0;
const OVERSHOOT_LIMIT: f64 = 1.1;

const LOADS: [f64; 2] = [ENOUGH, TOO_MUCH];
const FAULTS: [&str; 3] = ["fails fast", "silent", "slow"];

fn condition(fault: &str) -> Condition {
    match fault {
        "fails fast" => Condition { fails: Some((1.0, FAIL_MS * MILLIS)), ..Condition::default() },
        "silent" => Condition { reach: Reach::Silent, ..Condition::default() },
        _ => Condition { slower: Some(SLOWER), ..Condition::default() },
    }
}

fn config(fault: &str, load: f64) -> Config {
    let (mean, sigma) = (SERVICE_MS.0 * MILLIS as f64, SERVICE_MS.1);
    let healthy_p50 = mean * (-sigma * sigma / 2.0).exp();
    let capacity = f64::from((SERVERS - ZONE) * SLOTS) / (SERVICE_MS.0 / 1e3);
    let span = Span::seconds(FAULT_S.0, FAULT_S.1);
    Config {
        servers: SERVERS,
        discipline: Discipline::Slots { slots: SLOTS, queue: QUEUE },
        demand: Dist::LogNormal { mean, sigma },
        mean_demand: mean,
        clients: CLIENTS,
        rates: vec![(0, load * capacity)],
        length: LENGTH_S * SECONDS,
        deadline: Some(DEADLINE_S * SECONDS),
        measured: vec![Span::seconds(FAULT_S.0 + 1, FAULT_S.1)],
        slow_ns: (3.0 * healthy_p50) as u64,
        faults: vec![Fault { servers: (0..ZONE).collect(), span, condition: condition(fault) }],
        ..Config::default()
    }
}

fn name(fault: &str, load: f64) -> String {
    format!("{fault}, {load} of capacity")
}

fn cases() -> Vec<Case> {
    let case = |fault, load| {
        let world = World::Calls(config(fault, load).into());
        Case { name: name(fault, load), world, strategies: [COMPARED, &[TOWLINE_ADAPTIVE]].concat(), spans: Vec::new() }
    };
    LOADS.into_iter().flat_map(|load| FAULTS.map(|fault| case(fault, load))).collect()
}

fn tables(results: &Results) -> Vec<Table> {
    const COLUMNS: [Metric; 10] = [
        Metric::Success,
        Metric::Goodput,
        Metric::SuccessAfter,
        Metric::P50,
        Metric::P99,
        Metric::BadHit,
        Metric::Detect,
        Metric::Overshoot,
        Metric::Attempts,
        Metric::Ejected,
    ];
    const WORST: [Metric; 3] = [Metric::Success, Metric::Goodput, Metric::Overshoot];
    results.cases.iter().map(|case| Table::of_case(results, case, &COLUMNS, &WORST)).collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let of = |fault, load| {
        let name = name(fault, load);
        let case = results.case(&name)?;
        // Whoever has too much has to refuse some.
        let ours = if load == ENOUGH { TOWLINE } else { TOWLINE_ADAPTIVE };
        let first = match load {
            ENOUGH => {
                let what = format!("S10 {name}: success ≥ {SUCCESS_LIMIT} % from 1 s on");
                Goal::worst(what, case, Metric::Success, SUCCESS_LIMIT)
            }
            _ => {
                let what = format!("S10 {name}: goodput ≥ {GOODPUT_LIMIT} % of the survivors' capacity");
                Goal::worst_of(ours, what, case, Metric::Goodput, GOODPUT_LIMIT)
            }
        };
        let overshoot = format!("S10 {name}: overshoot on return ≤ {OVERSHOOT_LIMIT}");
        Some([first, Goal::worst_of(ours, overshoot, case, Metric::Overshoot, OVERSHOOT_LIMIT)])
    };
    let cases = LOADS.into_iter().flat_map(|load| FAULTS.map(|fault| of(fault, load)));
    cases.flatten().flatten().collect()
}

fn picture(results: &Results) -> String {
    const SHOWN: [&str; 8] =
        ["round-robin", "p2c-least-request", "tower-p2c-ewma", "envoy", "grpc-a50", "finagle", "linkerd", "towline"];
    let axes = lines::Axes { x: "seconds", y: "goodput; 1 is what the healthy zones can do", logarithmic: false };
    let overloaded = FAULTS.iter().filter_map(|fault| results.case(&name(fault, TOO_MUCH)));
    let panels: Vec<_> = overloaded.map(|case| lines::Panel::of_curves(case, &SHOWN)).collect();
    lines::draw(results.scenario.title, &axes, &panels)
}
