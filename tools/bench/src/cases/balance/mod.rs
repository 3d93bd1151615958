//! Spreading calls over endpoints that answer at once: what a balancer costs when there is nothing to wait for.

mod change;
pub(crate) mod instructions;
mod peers;

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;

use self::peers::{BalancePeer, Visit};
use super::batched::Callee;
use super::{Bench, WORKERS, batched, workers};
use crate::cores;
use crate::measure::{Outcome, Plan, Round, interleave};
use crate::plot::bars::{self, Bar, Panel};
use crate::report::{Extra, Report, Row, Table, rounded, thousands};

const ENDPOINTS: [usize; 4] = [3, 100, 1_000, 10_000];
const TASKS: [usize; 2] = [1, 64];
/// Long enough for the two or three allocations of each task to be none per call.
const COUNTED: Duration = Duration::from_millis(400);

/// Of the floor's speed, at every size and with every number of tasks.
const GOAL_SPEED: f64 = 0.4;
/// Until a call can see a change of one endpoint in the largest set.
const GOAL_CHANGE_MS: f64 = 2.0;

/// A table.
#[derive(Clone, Copy)]
struct Load {
    endpoints: usize,
    tasks: usize,
}

impl Load {
    fn is_contended(self) -> bool {
        self.tasks > 1
    }

    fn endpoints(self) -> String {
        format!("{} endpoints", thousands(self.endpoints as f64))
    }

    fn title(self) -> String {
        format!("{}, {}", self.endpoints(), tasks(self.tasks))
    }
}

fn tasks(tasks: usize) -> String {
    if tasks > 1 { format!("{tasks} tasks on {WORKERS} workers") } else { format!("{tasks} task") }
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let workers = workers()?;
    let mut report = Report::default();
    let (mut all, mut details, mut panels) = (Vec::new(), Vec::new(), Vec::new());
    for load in ENDPOINTS.into_iter().flat_map(|endpoints| TASKS.map(|tasks| Load { endpoints, tasks })) {
        eprintln!("  {}", load.title());
        let rows = if load.is_contended() { contended(bench, &workers, load)? } else { alone(bench, load)? };
        report.add_lines(&rows)?;
        details.push(detail(load, &rows));
        let bars = rows.iter().map(|row| Bar::new(row.peer, row.ns_per_op)).collect();
        panels.push(Panel { title: load.title(), bars });
        all.push(rows);
    }
    let changes = change::measure(bench)?;
    report.add_lines(&changes)?;
    report.tables.extend(TASKS.map(|tasks| summary(tasks, &all)));
    report.tables.push(change::table(&changes));
    report.tables.push(goals(&all, &changes));
    report.tables.append(&mut details);
    report.chart =
        Some(bars::draw("Balancers", "ns per call to an endpoint that does nothing; less is better", &panels));
    report.note = "\
Not all rows do the same. The floor picks two endpoints at random and takes the one with fewer calls in flight, nothing \
more: it knows neither dead nor slow endpoints, retries nothing and gives no request back. towline-balance counts calls \
in flight, towline-balance-ewma has the default metric, which reads the clock twice per call. tower's balancer counts calls in \
flight too; it is not `Clone`, so one task owns it, or tasks share it through a buffer. Allocations are counted on one \
thread. A change is one poll of the driver, off the path of calls.".into();
    Ok(report)
}

fn alone(bench: &Bench, load: Load) -> Result<Vec<Row>> {
    Ok(rows(load, &measure(&bench.runtime, &bench.plan(), load)?))
}

/// The allocations are those of the same tasks on one thread, because they are counted per thread.
fn contended(bench: &Bench, workers: &Runtime, load: Load) -> Result<Vec<Row>> {
    let mut measured = measure(workers, &bench.plan(), load)?;
    let counted = measure(&bench.runtime, &Plan { rounds: 1, time: COUNTED, ..bench.plan() }, load)?;
    for ((_, outcome), (_, counted)) in measured.iter_mut().zip(&counted) {
        outcome.allocs_per_op = counted.allocs_per_op;
    }
    Ok(rows(load, &measured))
}

fn measure(runtime: &Runtime, plan: &Plan, load: Load) -> Result<Vec<(BalancePeer, Outcome)>> {
    interleave(runtime, plan, &BalancePeer::with(load.tasks), |peer| {
        // Drivers and workers start on the runtime that they are measured on.
        runtime.block_on(peer.open(load, Calls))
    })
}

fn rows(load: Load, measured: &[(BalancePeer, Outcome)]) -> Vec<Row> {
    let floor = measured.iter().find(|(peer, _)| *peer == BalancePeer::FLOOR).map_or(f64::NAN, |(_, o)| o.ops_per_s);
    let row = |(peer, outcome): &(BalancePeer, Outcome)| {
        // Two digits would hide an allocation in every hundredth call.
        let allocs_per_op = rounded(outcome.allocs_per_op, 3);
        let is_fast = outcome.ops_per_s >= GOAL_SPEED * floor;
        Row {
            case: "balance",
            peer: peer.name(),
            floor: BalancePeer::FLOOR.name(),
            concurrency: load.tasks,
            p50_us: rounded(outcome.p50_us, 3),
            p99_us: rounded(outcome.p99_us, 3),
            cpu_us_per_op: rounded(outcome.cpu_us_per_op, 4),
            allocs_per_op,
            extra: Extra {
                endpoints: Some(load.endpoints),
                workers: Some(if load.is_contended() { WORKERS } else { 1 }),
                met: (*peer == BalancePeer::Towline).then_some(is_fast && allocs_per_op == 0.0),
                ..Extra::default()
            },
            ..Row::timed(outcome, floor)
        }
    };
    measured.iter().map(row).collect()
}

/// A round of calls through whatever balancers it is shown.
struct Calls;

impl Visit for Calls {
    type Output = Round<'static>;

    async fn visit<B: Callee>(self, balancers: Vec<B>) -> Result<Round<'static>> {
        Ok(batched::round(balancers))
    }
}

/// A line per balancer, a column per size of the set.
fn summary(concurrency: usize, all: &[Vec<Row>]) -> Table {
    let all: Vec<_> = all.iter().filter(|rows| rows[0].concurrency == concurrency).collect();
    let head = ENDPOINTS.map(|endpoints| Load { endpoints, tasks: concurrency }.endpoints());
    let cells = |(index, peer): (usize, BalancePeer)| {
        let cell = |rows: &&Vec<Row>| format!("{:.0} ({:.2})", rows[index].ns_per_op, rows[index].ratio);
        std::iter::once(peer.name().to_owned()).chain(all.iter().map(cell)).collect()
    };
    Table {
        title: format!("ns per call, {} (in brackets: of the floor's speed)", tasks(concurrency)),
        head: std::iter::once(String::new()).chain(head).collect(),
        rows: BalancePeer::with(concurrency).into_iter().enumerate().map(cells).collect(),
        prose: false,
        detail: false,
    }
}

/// What `towline-balance` is held to, at its worst.
fn goals(all: &[Vec<Row>], changes: &[Row]) -> Table {
    let ours = |rows: &[Row]| -> Vec<Row> {
        rows.iter().filter(|row| row.peer == BalancePeer::Towline.name()).cloned().collect()
    };
    let rows = ours(&all.concat());
    let speed = rows.iter().map(|row| row.ratio).fold(f64::INFINITY, f64::min);
    let allocs = rows.iter().map(|row| row.allocs_per_op).fold(0.0, f64::max);
    let change = ours(changes).iter().map(|row| row.ns_per_op / 1e6).fold(0.0, f64::max);
    let line = |what: &str, goal: String, figure: String, met: bool| {
        vec![what.to_owned(), goal, figure, if met { "yes" } else { "no" }.to_owned()]
    };
    Table {
        title: format!("Goals of {}, at its worst", BalancePeer::Towline.name()),
        head: ["", "goal", "measured", "met"].map(str::to_owned).to_vec(),
        rows: vec![
            line("of the floor's speed", format!("≥ {GOAL_SPEED}"), format!("{speed:.2}"), speed >= GOAL_SPEED),
            line("allocations per call", "0".to_owned(), format!("{allocs:.3}"), allocs == 0.0),
            line("ms per change", format!("≤ {GOAL_CHANGE_MS}"), format!("{change:.3}"), change <= GOAL_CHANGE_MS),
        ],
        prose: false,
        detail: false,
    }
}

fn detail(load: Load, rows: &[Row]) -> Table {
    let head = ["", "ns", "of floor", "slowest", "fastest", "call p50 µs", "call p99 µs", "CPU ns", "allocs"];
    let cells = |row: &Row| {
        let call = |us: f64| if load.is_contended() { format!("{us:.2}") } else { "–".to_owned() };
        vec![
            row.peer.to_owned(),
            format!("{:.1}", row.ns_per_op),
            format!("{:.2}", row.ratio),
            format!("{:.1}", 1e9 / row.min),
            format!("{:.1}", 1e9 / row.max),
            call(row.p50_us),
            call(row.p99_us),
            format!("{:.0}", row.cpu_us_per_op * 1e3),
            format!("{:.3}", row.allocs_per_op),
        ]
    };
    let cores = if load.is_contended() { format!(", {} cores", WORKERS.min(cores::allowed())) } else { String::new() };
    Table {
        title: format!("{}{cores}", load.title()),
        head: head.map(str::to_owned).to_vec(),
        rows: rows.iter().map(cells).collect(),
        prose: false,
        detail: true,
    }
}
