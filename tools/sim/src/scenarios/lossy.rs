//! S6: three servers of thirty whose packets are lost now and then, and one that new connections vanish into.
//!
//! A lost packet is a call that takes a fifth of a second more: no error, and no reason to eject anybody, but three bad
//! servers of thirty make the slowest calls of all. Whoever dials the black hole hears nothing for five seconds.

use super::{COMPARED, Case, OUTLIERS, Scenario, World};
use crate::chance::Dist;
use crate::engine::config::{Config, Fault, MILLIS, SECONDS, Span};
use crate::engine::fleet::{Condition, Discipline, Reach};
use crate::figures::Metric;
use crate::goals::Goal;
use crate::plot::lines;
use crate::results::{CaseResults, Results};
use crate::strategies::TOWLINE;
use crate::strategy::ServerId;
use crate::table::Table;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "s6",
    title: "S6: packets that are lost, and a black hole",
    page: OUTLIERS,
    about: "\
10 clients with 300 calls per second each over 60 s, 30 servers of 16 slots, a third of them busy, log-normal service of 50
ms (σ 0.5 of the logarithm). Between 20 s and 50 s three servers lose 2 % of the packets in each direction, each sent again
after 200 ms, and after twice as long each time that it is lost again; connections to a fourth are reset, and dials to it
get no answer and fail after 5 s. Figures are of the calls that came in these 30 s; *clean* is the same without faults.
Latencies are of calls that were answered well. With calls of 50 ms a lost packet hardly shows in p99.9, and even round
robin is within the goal for it; with calls of 20 ms it shows, and there is no goal: no rule here tells a server that is
late for one call in 25 from one that is not. Bad-hit, share, T_detect and T_recover are of the black hole, max/mean is of
the other 26. The picture shows the share of the black hole; its fair share is 1.",
    cases,
    tables,
    goals,
    picture: Some(picture),
};

const SERVERS: u32 = 30;
const BLACK_HOLE: ServerId = 0;
const LOSSY: std::ops::Range<ServerId> = 1..4;
const LOSS: f64 = 0.02;
const SLOTS: u32 = 16;
const QUEUE: usize = 1_000;
const CLIENTS: u32 = 10;
/// Calls per second of all.
const RATE: f64 = 3_000.0;
const SERVICE_MS: f64 = 50.0;
/// So short that a packet that is sent again makes all the difference.
const SHORT_MS: f64 = 20.0;
const SIGMA: f64 = 0.5;
const LENGTH_S: u64 = 60;
const FAULT_S: (u64, u64) = (20, 50);
/// The deadline of one dial, in seconds.
const DETECT_LIMIT: f64 = 5.0;
const TAIL_LIMIT: f64 = 1.5;
/// Percent of the servers.
const EJECTED_LIMIT: f64 = 50.0;

const FAULTY: &str = "3 lossy, 1 black hole";
const CLEAN: &str = "clean";
const SHORT: &str = "3 lossy, 1 black hole, calls of 20 ms";

fn config(service_ms: f64, faults: Vec<Fault>) -> Config {
    let mean = service_ms * MILLIS as f64;
    let healthy_p50 = mean * (-SIGMA * SIGMA / 2.0).exp();
    Config {
        servers: SERVERS,
        discipline: Discipline::Slots { slots: SLOTS, queue: QUEUE },
        demand: Dist::LogNormal { mean, sigma: SIGMA },
        mean_demand: mean,
        clients: CLIENTS,
        rates: vec![(0, RATE)],
        length: LENGTH_S * SECONDS,
        deadline: None,
        measured: vec![Span::seconds(FAULT_S.0, FAULT_S.1)],
        slow_ns: (3.0 * healthy_p50) as u64,
        faults,
        ..Config::default()
    }
}

fn cases() -> Vec<Case> {
    let span = Span::seconds(FAULT_S.0, FAULT_S.1);
    let unreachable = Condition { reach: Reach::IgnoresDials, ..Condition::default() };
    let lossy = Condition { loss: Some(LOSS), ..Condition::default() };
    let faults = vec![
        Fault { servers: vec![BLACK_HOLE], span, condition: unreachable },
        Fault { servers: LOSSY.collect(), span, condition: lossy },
    ];
    let case = |name: &str, service_ms, faults| Case {
        name: name.to_owned(),
        world: World::Calls(config(service_ms, faults).into()),
        strategies: COMPARED.to_vec(),
        spans: Vec::new(),
    };
    vec![case(FAULTY, SERVICE_MS, faults.clone()), case(CLEAN, SERVICE_MS, Vec::new()), case(SHORT, SHORT_MS, faults)]
}

fn tables(results: &Results) -> Vec<Table> {
    const LATENCIES: [Metric; 6] =
        [Metric::P50, Metric::P99, Metric::P999, Metric::Regret, Metric::Slow, Metric::Success];
    const OF_FAULT: [Metric; 7] = [
        Metric::BadHit,
        Metric::SteadyShare,
        Metric::Detect,
        Metric::Recover,
        Metric::HealthyMaxMean,
        Metric::Attempts,
        Metric::Ejected,
    ];
    const WORST: [Metric; 2] = [Metric::P999, Metric::Detect];
    let all = [&LATENCIES[..], &OF_FAULT].concat();
    let table = |case: &CaseResults| {
        let columns = if case.case.name == CLEAN { &LATENCIES[..] } else { &all };
        Table::of_case(results, case, columns, &WORST)
    };
    results.cases.iter().map(table).collect()
}

fn goals(results: &Results) -> Vec<Goal> {
    let Some(case) = results.case(FAULTY) else { return Vec::new() };
    let found = format!("S6 the black hole has less than a tenth of its share within {DETECT_LIMIT} s");
    let ejected = format!("S6 never more than {EJECTED_LIMIT} % of the servers ejected");
    vec![
        Goal::worst(found, case, Metric::Detect, DETECT_LIMIT),
        tail(results),
        Goal::worst(ejected, case, Metric::Ejected, EJECTED_LIMIT),
    ]
}

/// Both cases of a seed have the same calls, so the ratio is taken seed by seed.
fn tail(results: &Results) -> Goal {
    let worst = |strategy| {
        let of = |name| results.case(name).and_then(|case| case.whole(strategy, Metric::P999));
        let (faulty, clean) = (of(FAULTY)?, of(CLEAN)?);
        faulty.0.iter().zip(&clean.0).map(|(faulty, clean)| faulty / clean).reduce(f64::max)
    };
    let judged = worst(TOWLINE).map(|ours| {
        let others = ["finagle", "linkerd", "envoy", "oracle"]
            .map(|peer| worst(peer).map_or(String::new(), |ratio| format!(", {peer} {ratio:.2}×")));
        (ours <= TAIL_LIMIT, format!("worst seed {ours:.2}×{}", others.concat()))
    });
    Goal::of_ours(format!("S6 p99.9 ≤ {TAIL_LIMIT}× clean"), judged)
}

fn picture(results: &Results) -> String {
    const SHOWN: [&str; 7] = ["round-robin", "tower-p2c-ewma", "envoy", "grpc-a50", "finagle", "linkerd", "towline"];
    let axes = lines::Axes { x: "seconds", y: "share of the black hole; 1 is fair", logarithmic: false };
    lines::draw(results.scenario.title, &axes, &[lines::Panel::of_curves(&results.cases[0], &SHOWN)])
}
