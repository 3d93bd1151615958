//! What retry and a limit of time cost a call that needs neither.
//!
//! A fresh timer costs most where it is the only one: the runtime has to be told that it may sleep no longer than that. So there
//! are two tables, with and without another timer that waits.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::batched::{self, Callee};
use crate::measure::Round;
use crate::peers::balancers::{Noop, Through};
use crate::peers::layers;
use crate::plot::bars::{self, Bar, Panel};
use crate::report::{Extra, Report, Row, Table, rounded};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LayersPeer {
    Bare,
    Tower,
    Towline,
    TowlineBlind,
}

impl LayersPeer {
    const ALL: [Self; 4] = [Self::Bare, Self::Tower, Self::Towline, Self::TowlineBlind];
    /// What ours is held against.
    const FLOOR: Self = Self::Tower;

    fn name(self) -> &'static str {
        match self {
            Self::Bare => "no layers",
            Self::Tower => "tower-retry+timeout",
            Self::Towline => "towline-retry+deadline",
            Self::TowlineBlind => "towline-retry+deadline-blind",
        }
    }

    fn round(self) -> Round<'static> {
        fn one(callee: impl Callee) -> Round<'static> {
            batched::round(vec![callee])
        }
        match self {
            Self::Bare => one(Through(Noop)),
            Self::Tower => one(layers::tower()),
            Self::Towline => one(layers::carried()),
            Self::TowlineBlind => one(layers::blind()),
        }
    }
}

/// Times tower's speed, where no other timer waits; where one does, tower's timer costs a fraction.
const GOAL_SPEED: f64 = 4.0;
/// For a timer that nobody waits for.
const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::default();
    let mut panels = Vec::new();
    for is_armed in [false, true] {
        let title = if is_armed { "another timer waits" } else { "no other timer waits" };
        eprintln!("  {title}");
        let timer = is_armed.then(|| bench.runtime.spawn(async { tokio::time::sleep(HOUR).await }));
        let rows = measure(bench, is_armed)?;
        timer.inspect(tokio::task::JoinHandle::abort);
        report.add_lines(&rows)?;
        report.tables.push(table(title, &rows));
        let bars = rows.iter().map(|row| Bar::new(row.peer, row.ns_per_op)).collect();
        panels.push(Panel { title: title.to_owned(), bars });
    }
    report.chart =
        Some(bars::draw("Retry and a limit of time", "ns per call that needs neither; less is better", &panels));
    report.note = "\
tower's retry has its own budget and the policy of its documentation; its timeout makes a timer for every call. Ours parks one. \
The row without a context takes any request; the other carries one and says that the call may be repeated."
        .into();
    Ok(report)
}

fn measure(bench: &Bench, is_armed: bool) -> Result<Vec<Row>> {
    let names = |peer: LayersPeer| (peer.name(), LayersPeer::FLOOR.name());
    // The runtime looks for timers only when it is polled: the other one must be there first.
    bench.runtime.block_on(tokio::task::yield_now());
    let rows = bench.timed(&LayersPeer::ALL, names, |peer| Ok(peer.round()))?;
    let complete = |row: Row| {
        let is_held = !is_armed && row.peer == LayersPeer::Towline.name();
        let met = is_held.then_some(row.ratio >= GOAL_SPEED && row.allocs_per_op == 0.0);
        Row { case: "layers", concurrency: 1, extra: Extra { met, ..Extra::default() }, ..row }
    };
    Ok(rows.into_iter().map(complete).collect())
}

fn table(title: &str, rows: &[Row]) -> Table {
    let cells = |row: &Row| {
        vec![
            row.peer.to_owned(),
            format!("{:.1}", row.ns_per_op),
            format!("{:.2}", row.ratio),
            format!("{:.1}", rounded(1e9 / row.min, 1)),
            format!("{:.1}", rounded(1e9 / row.max, 1)),
            format!("{:.2}", row.allocs_per_op),
        ]
    };
    Table {
        title: format!("Calls through layers, {title}"),
        head: ["", "ns", "times tower's speed", "slowest", "fastest", "allocs"].map(str::to_owned).to_vec(),
        rows: rows.iter().map(cells).collect(),
        prose: false,
        detail: false,
    }
}
