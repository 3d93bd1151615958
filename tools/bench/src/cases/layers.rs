//! What retry and a limit of time cost a call that needs neither.
//!
//! A timer costs nothing before a call has to wait, and a fresh one costs most where it is the only one: the runtime has to be
//! told that it may sleep no longer than that. So there are four tables.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::batched::{self, Callee};
use crate::measure::Round;
use crate::peers::balancers::Through;
use crate::peers::layers::{self, Bare};
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

    fn round(self, bare: Bare) -> Round<'static> {
        fn one(callee: impl Callee) -> Round<'static> {
            batched::round(vec![callee])
        }
        match self {
            Self::Bare => one(Through(bare)),
            Self::Tower => one(layers::tower(bare)),
            Self::Towline => one(layers::carried(bare)),
            Self::TowlineBlind => one(layers::blind(bare)),
        }
    }
}

/// Times tower's speed, for calls that have to wait where no other timer does.
const GOAL_SPEED: f64 = 4.0;
/// For a timer that nobody waits for.
const HOUR: Duration = Duration::from_secs(3_600);

/// A table.
#[derive(Clone, Copy)]
struct Load {
    waits: bool,
    /// Another timer waits.
    is_armed: bool,
}

impl Load {
    const ALL: [Self; 4] = [
        Self { waits: true, is_armed: false },
        Self { waits: true, is_armed: true },
        Self { waits: false, is_armed: false },
        Self { waits: false, is_armed: true },
    ];

    fn title(self) -> String {
        let call = if self.waits { "calls that wait once" } else { "calls that are answered at once" };
        format!("{call}, {} other timer waits", if self.is_armed { "an" } else { "no" }).replace("an other", "another")
    }
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::default();
    let mut panels = Vec::new();
    for load in Load::ALL {
        eprintln!("  {}", load.title());
        let timer = load.is_armed.then(|| bench.runtime.spawn(async { tokio::time::sleep(HOUR).await }));
        let rows = measure(bench, load)?;
        timer.inspect(tokio::task::JoinHandle::abort);
        report.add_lines(&rows)?;
        report.tables.push(table(load, &rows));
        let bars = rows.iter().map(|row| Bar::new(row.peer, row.ns_per_op)).collect();
        panels.push(Panel { title: load.title(), bars });
    }
    report.chart =
        Some(bars::draw("Retry and a limit of time", "ns per call that needs neither; less is better", &panels));
    report.note = "\
tower's retry has its own budget and the policy of its documentation; its timeout makes a timer for every call, which costs most \
where it is the only one. Ours parks one. The row without a context takes any request; the other carries one and says that the \
call may be repeated. A call that waits once is polled twice, which is in all rows."
        .into();
    Ok(report)
}

fn measure(bench: &Bench, load: Load) -> Result<Vec<Row>> {
    let names = |peer: LayersPeer| (peer.name(), LayersPeer::FLOOR.name());
    // The other timer is there once it has been polled.
    bench.runtime.block_on(tokio::task::yield_now());
    let rows = bench.timed(&LayersPeer::ALL, names, |peer| Ok(peer.round(Bare { waits: load.waits })))?;
    let complete = |row: Row| {
        let is_held = load.waits && !load.is_armed && row.peer == LayersPeer::Towline.name();
        let met = is_held.then_some(row.ratio >= GOAL_SPEED && row.allocs_per_op == 0.0);
        Row { case: "layers", concurrency: 1, extra: Extra { met, ..Extra::default() }, ..row }
    };
    Ok(rows.into_iter().map(complete).collect())
}

fn table(load: Load, rows: &[Row]) -> Table {
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
        title: format!("Through layers: {}", load.title()),
        head: ["", "ns", "times tower's speed", "slowest", "fastest", "allocs"].map(str::to_owned).to_vec(),
        rows: rows.iter().map(cells).collect(),
        prose: false,
        detail: false,
    }
}
