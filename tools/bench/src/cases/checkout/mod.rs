//! Acquiring and releasing a connection that is there and idle: what a pool costs when nothing is dialled.
//!
//! The clock takes longer than the floor's whole checkout, so it is read once per batch of checkouts; latencies are of
//! one acquisition in many.

pub(crate) mod instructions;
mod peers;

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio::time::Instant;

use self::peers::{PoolPeer, Visit};
use super::{Bench, WORKERS, workers};
use crate::cores;
use crate::measure::{Outcome, Plan, Round, Sample, interleave};
use crate::peers::pools::{Pool, warm};
use crate::plot::bars::{self, Bar, Panel};
use crate::report::{Extra, Report, Row, Table, rounded};
use crate::usage;

const CONNECTIONS: usize = 8;
/// Checkouts between two readings of the clock; then others get their turn.
const BATCH: u64 = 512;
/// One acquisition in so many is timed: a prime, so as not to keep step with tokio, which suspends a task after 128 of
/// them.
const TIMED: u64 = 61;

/// Times what the floor takes, where nobody holds what he got.
const GOAL_TIME: f64 = 2.0;

/// A table.
#[derive(Clone, Copy)]
struct Load {
    tasks: usize,
    connections: usize,
    /// The connection is held while its task lets all others run.
    held: bool,
}

const LOADS: [Load; 4] = [
    Load { tasks: 1, connections: 1, held: false },
    Load { tasks: 1, connections: 1, held: true },
    Load { tasks: 64, connections: CONNECTIONS, held: false },
    Load { tasks: 64, connections: CONNECTIONS, held: true },
];

impl Load {
    fn is_contended(self) -> bool {
        self.tasks > 1
    }

    fn title(self) -> String {
        let Self { tasks, connections, held } = self;
        let held = if held { ", held across an await" } else { "" };
        match self.is_contended() {
            true => format!("{tasks} tasks over {connections} connections on {WORKERS} workers{held}"),
            false => format!("{tasks} task{held}"),
        }
    }
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let workers = workers()?;
    let mut report = Report::default();
    let (mut all, mut details, mut panels) = (Vec::new(), Vec::new(), Vec::new());
    for load in LOADS {
        eprintln!("  {}", load.title());
        let rows = if load.is_contended() { contended(bench, &workers, load)? } else { alone(bench, load)? };
        report.add_lines(&rows)?;
        details.push(detail(load, &rows));
        let bars = rows.iter().map(|row| Bar::new(row.peer, row.ns_per_op)).collect();
        panels.push(Panel { title: load.title(), bars });
        all.push(rows);
    }
    report.tables.push(summary(&all));
    report.tables.push(goals(&all));
    report.tables.append(&mut details);
    report.chart = Some(bars::draw("Checkouts", "ns to acquire and release; less is better", &panels));
    report.note = "\
Not all rows do the same. The floors lend and take back, nothing more. hyper-util's cache has no cap: who finds it empty \
makes another connection, so nobody waits in it for long, and a dial costs nothing here. \
deadpool's unmanaged pool lends what it was given and makes nothing. bb8 and deadpool's managed pool run without \
their checks, bb8 without ages, and deadpool without deadlines. towline's pool has its defaults: it watches idle \
connections, knows their age, and whoever waits does so under a deadline. Allocations are counted on one thread.".into();
    Ok(report)
}

fn alone(bench: &Bench, load: Load) -> Result<Vec<Row>> {
    Ok(rows(load, &measure(&bench.runtime, &bench.plan(), load)?))
}

/// The allocations are those of the same tasks on one thread, because they are counted per thread.
fn contended(bench: &Bench, workers: &Runtime, load: Load) -> Result<Vec<Row>> {
    let measured = rows(load, &measure(workers, &bench.plan(), load)?);
    let counted = measure(&bench.runtime, &Plan { rounds: 1, ..bench.plan() }, load)?;
    let with = |(row, (_, outcome)): (Row, &(PoolPeer, Outcome))| Row { allocs_per_op: allocs(outcome), ..row };
    Ok(measured.into_iter().zip(&counted).map(with).collect())
}

fn measure(runtime: &Runtime, plan: &Plan, load: Load) -> Result<Vec<(PoolPeer, Outcome)>> {
    interleave(runtime, plan, &PoolPeer::ALL, |peer| {
        // Pools that have tasks of their own start them on the runtime that they are measured on.
        runtime.block_on(peer.open(load.connections, Checkouts(load)))
    })
}

/// Two digits would hide an allocation in every hundredth checkout.
fn allocs(outcome: &Outcome) -> f64 {
    rounded(outcome.allocs_per_op, 3)
}

fn rows(load: Load, measured: &[(PoolPeer, Outcome)]) -> Vec<Row> {
    let floor = measured.iter().find(|(peer, _)| *peer == PoolPeer::FLOOR).map_or(f64::NAN, |(_, o)| o.ops_per_s);
    let row = |(peer, outcome): &(PoolPeer, Outcome)| Row {
        case: "checkout",
        peer: peer.name(),
        floor: PoolPeer::FLOOR.name(),
        concurrency: load.tasks,
        p50_us: rounded(outcome.p50_us, 3),
        p99_us: rounded(outcome.p99_us, 3),
        cpu_us_per_op: rounded(outcome.cpu_us_per_op, 4),
        allocs_per_op: allocs(outcome),
        extra: Extra {
            connections: Some(load.connections),
            workers: Some(if load.is_contended() { WORKERS } else { 1 }),
            held: Some(load.held),
            ..Extra::default()
        },
        ..Row::timed(outcome, floor)
    };
    measured.iter().map(row).collect()
}

/// A round of checkouts with whatever pool it is shown.
struct Checkouts(Load);

impl Visit for Checkouts {
    type Output = Round<'static>;

    async fn visit<P: Pool>(self, pool: P) -> Result<Round<'static>> {
        let Self(load) = self;
        warm(&pool, load.connections).await?;
        Ok(Box::new(move |runtime, plan, latencies| {
            runtime.block_on(all(&pool, load, plan.warm_up))?;
            let ((calls, timed), used) = usage::measure(|| runtime.block_on(all(&pool, load, plan.time)))?;
            timed.into_iter().for_each(|time| latencies.saturating_record(time.as_nanos() as u64));
            Ok(Sample { calls, used })
        }))
    }
}

/// Runs the tasks of a load; says how many checkouts they made, and how long the timed ones waited.
async fn all<P: Pool>(pool: &P, load: Load, time: Duration) -> Result<(u64, Vec<Duration>)> {
    let began = Instant::now();
    let tasks: Vec<_> = (0..load.tasks).map(|_| tokio::spawn(one(pool.clone(), load, began, time))).collect();
    let (mut calls, mut timed) = (0, Vec::new());
    for task in tasks {
        let (made, mut waits) = task.await.context("a task panicked")??;
        calls += made;
        timed.append(&mut waits);
    }
    Ok((calls, timed))
}

async fn one<P: Pool>(mut pool: P, load: Load, began: Instant, time: Duration) -> Result<(u64, Vec<Duration>)> {
    let (mut calls, mut timed) = (0, Vec::new());
    loop {
        for index in 0..BATCH {
            let asked = (load.is_contended() && (calls + index) % TIMED == 0).then(Instant::now);
            let loan = pool.acquire().await?;
            timed.extend(asked.map(|asked| asked.elapsed()));
            if load.held {
                yield_now().await;
            }
            drop(black_box(loan));
        }
        calls += BATCH;
        yield_now().await;
        if began.elapsed() >= time {
            return Ok((calls, timed));
        }
    }
}

/// What `towline-pool` is held to, at its worst.
fn goals(all: &[Vec<Row>]) -> Table {
    let of =
        |peer: PoolPeer, rows: &[Row]| rows.iter().find(|row| row.peer == peer.name()).cloned().unwrap_or_default();
    let worst = |which: &dyn Fn(Load) -> bool, figure: &dyn Fn(&[Row]) -> f64| {
        let figures = LOADS.iter().zip(all).filter(|(load, _)| which(**load)).map(|(_, rows)| figure(rows));
        figures.fold(0.0, f64::max)
    };
    let times = |floor: PoolPeer| move |rows: &[Row]| of(PoolPeer::Towline, rows).ns_per_op / of(floor, rows).ns_per_op;
    let time = worst(&|load| !load.held, &times(PoolPeer::FLOOR));
    let cache = worst(&|load| !load.held, &times(PoolPeer::HyperUtilCache));
    let wait = worst(&Load::is_contended, &|rows| {
        of(PoolPeer::Towline, rows).p99_us / of(PoolPeer::FloorSemaphore, rows).p99_us
    });
    let allocs = worst(&|_| true, &|rows| of(PoolPeer::Towline, rows).allocs_per_op);
    let line = |what: &str, goal: String, figure: String, met: bool| {
        vec![what.to_owned(), goal, figure, if met { "yes" } else { "no" }.to_owned()]
    };
    Table {
        title: format!("Goals of {}, at its worst", PoolPeer::Towline.name()),
        head: ["", "goal", "measured", "met"].map(str::to_owned).to_vec(),
        rows: vec![
            line("times floor-lock, not held", format!("≤ {GOAL_TIME}"), format!("{time:.2}"), time <= GOAL_TIME),
            line("times hyper-util-cache, not held", "< 1".to_owned(), format!("{cache:.2}"), cache < 1.0),
            line("wait p99, times floor-semaphore", "≤ 1".to_owned(), format!("{wait:.2}"), wait <= 1.0),
            line("allocations per checkout", "0".to_owned(), format!("{allocs:.3}"), allocs == 0.0),
        ],
        prose: false,
        detail: false,
    }
}

/// A line per pool, a column per load.
fn summary(all: &[Vec<Row>]) -> Table {
    let head = ["", "1 task", "1 task, held", "64 over 8", "64 over 8, held"];
    let cells = |index: usize| {
        let name = PoolPeer::ALL[index].name().to_owned();
        let cell = |rows: &Vec<Row>| format!("{:.0} ({:.1})", rows[index].ns_per_op, 1.0 / rows[index].ratio);
        std::iter::once(name).chain(all.iter().map(cell)).collect()
    };
    Table {
        title: "ns to acquire and release (in brackets: times what floor-lock takes)".to_owned(),
        head: head.map(str::to_owned).to_vec(),
        rows: (0..PoolPeer::ALL.len()).map(cells).collect(),
        prose: false,
        detail: false,
    }
}

fn detail(load: Load, rows: &[Row]) -> Table {
    let head = ["", "ns", "of floor", "slowest", "fastest", "wait p50 µs", "wait p99 µs", "CPU ns", "allocs"];
    let cells = |row: &Row| {
        let wait = |us: f64| if load.is_contended() { format!("{us:.2}") } else { "–".to_owned() };
        vec![
            row.peer.to_owned(),
            format!("{:.1}", row.ns_per_op),
            format!("{:.2}", row.ratio),
            format!("{:.1}", 1e9 / row.min),
            format!("{:.1}", 1e9 / row.max),
            wait(row.p50_us),
            wait(row.p99_us),
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
