//! What it costs to send a session's call to its home: our balancer with policies that keep sessions together, beside the floor of
//! the balancers, which knows none.

use anyhow::Result;
use tokio::runtime::Runtime;
use towline_balance::P2c;
use towline_sticky::{Maglev, Rendezvous, SessionTable};

use super::batched::{self, Callee};
use super::{Bench, WORKERS, workers};
use crate::measure::{Plan, Round, interleave};
use crate::peers::balancers::Floor;
use crate::peers::sticky::{SESSIONS, open};
use crate::plot::bars::{self, Bar, Panel};
use crate::report::{Extra, Report, Row, Table, rounded, thousands};

const ENDPOINTS: [usize; 2] = [3, 100];
const TASKS: [usize; 2] = [1, 64];

/// Above the floor, for one task: of the hashed picks, and of the table.
const GOAL_HASHED_NS: f64 = 25.0;
const GOAL_TABLE_NS: f64 = 60.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StickyPeer {
    FloorP2c,
    NoSession,
    Rendezvous,
    Maglev,
    MaglevBounded,
    Table,
}

impl StickyPeer {
    const ALL: [Self; 6] =
        [Self::FloorP2c, Self::NoSession, Self::Rendezvous, Self::Maglev, Self::MaglevBounded, Self::Table];

    fn name(self) -> &'static str {
        match self {
            Self::FloorP2c => "floor-p2c",
            Self::NoSession => "towline-p2c",
            Self::Rendezvous => "towline-rendezvous",
            Self::Maglev => "towline-maglev",
            Self::MaglevBounded => "towline-maglev-bounded",
            Self::Table => "towline-session-table",
        }
    }

    fn goal(self) -> Option<f64> {
        match self {
            Self::Rendezvous | Self::Maglev => Some(GOAL_HASHED_NS),
            Self::Table => Some(GOAL_TABLE_NS),
            Self::FloorP2c | Self::NoSession | Self::MaglevBounded => None,
        }
    }

    async fn round(self, endpoints: usize, tasks: usize) -> Result<Round<'static>> {
        fn each<C: Callee + Clone>(callee: C, tasks: usize) -> Round<'static> {
            batched::round(vec![callee; tasks])
        }
        Ok(match self {
            Self::FloorP2c => each(Floor::new(endpoints), tasks),
            Self::NoSession => each(open(endpoints, P2c::new(), false).await?, tasks),
            Self::Rendezvous => each(open(endpoints, Rendezvous::new().unbounded(), true).await?, tasks),
            Self::Maglev => each(open(endpoints, Maglev::new().unbounded(), true).await?, tasks),
            Self::MaglevBounded => each(open(endpoints, Maglev::new(), true).await?, tasks),
            Self::Table => each(open(endpoints, SessionTable::new(), true).await?, tasks),
        })
    }
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let workers = workers()?;
    let mut report = Report::default();
    let mut panels = Vec::new();
    let mut all = Vec::new();
    for (endpoints, tasks) in TASKS.into_iter().flat_map(|tasks| ENDPOINTS.map(|endpoints| (endpoints, tasks))) {
        let title = title(endpoints, tasks);
        eprintln!("  {title}");
        let runtime = if tasks > 1 { &workers } else { &bench.runtime };
        let rows = measure(runtime, &bench.plan(), endpoints, tasks)?;
        report.add_lines(&rows)?;
        report.tables.push(table(&title, &rows));
        let bars = rows.iter().map(|row| Bar::new(row.peer, row.ns_per_op)).collect();
        panels.push(Panel { title, bars });
        all.extend(rows);
    }
    report.tables.push(goals(&all));
    report.chart =
        Some(bars::draw("Sessions", "ns per call to an endpoint that does nothing; less is better", &panels));
    report.note = "\
Each call is of another of 100,000 sessions, but in the floor, which picks two endpoints at random, and in towline-p2c, our balancer \
without sessions. All of ours count calls in flight; the bounded row also counts all calls in one word."
        .into();
    Ok(report)
}

fn title(endpoints: usize, tasks: usize) -> String {
    let tasks = if tasks > 1 { format!("{tasks} tasks on {WORKERS} workers") } else { "1 task".to_owned() };
    format!("{endpoints} endpoints, {} sessions, {tasks}", thousands(SESSIONS as f64))
}

fn measure(runtime: &Runtime, plan: &Plan, endpoints: usize, tasks: usize) -> Result<Vec<Row>> {
    let measured = interleave(runtime, plan, &StickyPeer::ALL, |peer| runtime.block_on(peer.round(endpoints, tasks)))?;
    let floor = measured.first().map_or(f64::NAN, |(_, outcome)| outcome.ops_per_s);
    let row = |(peer, outcome): &(StickyPeer, _)| {
        let row = Row::timed(outcome, floor);
        let above = row.ns_per_op - 1e9 / floor;
        let met = peer.goal().filter(|_| tasks == 1).map(|goal| above <= goal);
        let extra = Extra { endpoints: Some(endpoints), met, ..Extra::default() };
        let floor = StickyPeer::FloorP2c.name();
        Row { case: "sticky", peer: peer.name(), floor, concurrency: tasks, extra, ..row }
    };
    Ok(measured.iter().map(row).collect())
}

/// How much more than the floor a row takes.
fn above(row: &Row, rows: &[Row]) -> f64 {
    let is_floor = |other: &&Row| other.peer == StickyPeer::FloorP2c.name() && alike(other, row);
    row.ns_per_op - rows.iter().find(is_floor).map_or(f64::NAN, |floor| floor.ns_per_op)
}

fn alike(one: &Row, other: &Row) -> bool {
    (one.concurrency, one.extra.endpoints) == (other.concurrency, other.extra.endpoints)
}

fn table(title: &str, rows: &[Row]) -> Table {
    let cells = |row: &Row| {
        vec![
            row.peer.to_owned(),
            format!("{:.1}", row.ns_per_op),
            format!("{:+.1}", above(row, rows)),
            format!("{:.2}", row.ratio),
            format!("{:.1}", rounded(1e9 / row.min, 1)),
            format!("{:.1}", rounded(1e9 / row.max, 1)),
            format!("{:.2}", row.allocs_per_op),
        ]
    };
    Table {
        title: title.to_owned(),
        head: ["", "ns", "above the floor", "of its speed", "slowest", "fastest", "allocs"].map(str::to_owned).to_vec(),
        rows: rows.iter().map(cells).collect(),
        prose: false,
        detail: false,
    }
}

/// What one task's calls are held to, at their worst.
fn goals(rows: &[Row]) -> Table {
    let worst = |peer: StickyPeer| {
        let of = rows.iter().filter(|row| row.peer == peer.name() && row.concurrency == 1);
        of.map(|row| above(row, rows)).fold(f64::NEG_INFINITY, f64::max)
    };
    let line = |peer: StickyPeer| {
        let (goal, worst) = (peer.goal()?, worst(peer));
        let met = if worst <= goal { "yes" } else { "no" };
        Some([peer.name(), &format!("≤ {goal}"), &format!("{worst:.1}"), met].map(str::to_owned).to_vec())
    };
    Table {
        title: "Goals: ns above the floor, one task, at the worst".to_owned(),
        head: ["", "goal", "measured", "met"].map(str::to_owned).to_vec(),
        rows: StickyPeer::ALL.into_iter().filter_map(line).collect(),
        prose: false,
        detail: false,
    }
}
