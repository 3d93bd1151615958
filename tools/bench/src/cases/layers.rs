//! What retry and a limit of time cost a call that needs neither.
//!
//! A timer costs nothing before a call has to wait, and a fresh one costs most where the runtime has looked for events since the
//! last timer was gone: it has to be told that it may sleep no longer than that. So there are three tables. What the look itself
//! costs is in the row without layers, and speeds are compared without that row's time.

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

    fn round(self, load: Load) -> Round<'static> {
        let one = Before { looks: load.waits };
        let bare = Bare { waits: load.waits };
        match self {
            Self::Bare => one.round(Through(bare)),
            Self::Tower => one.round(layers::tower(bare)),
            Self::Towline => one.round(layers::carried(bare)),
            Self::TowlineBlind => one.round(layers::blind(bare)),
        }
    }
}

/// What happens before each call.
#[derive(Clone, Copy)]
struct Before {
    looks: bool,
}

impl Before {
    fn round(self, callee: impl Callee) -> Round<'static> {
        if self.looks { batched::round(vec![AfterLook(callee)]) } else { batched::round(vec![callee]) }
    }
}

/// The runtime looks for events before each call, as it does while a client has nothing to do.
struct AfterLook<C>(C);

impl<C: Callee> Callee for AfterLook<C> {
    async fn call(&mut self, request: u64) -> Result<u64> {
        // The only task that can run: its turn comes after a look at the driver.
        tokio::task::yield_now().await;
        self.0.call(request).await
    }
}

/// Times tower's speed above what is there without layers, for calls that have to wait where no other timer does.
const GOAL_SPEED: f64 = 4.0;
/// Of another timer: later than the table is done, and earlier than any of the calls' limits.
const EARLIER: Duration = Duration::from_secs(25);

/// A table.
#[derive(Clone, Copy)]
struct Load {
    waits: bool,
    /// Another timer waits, which is earlier.
    is_armed: bool,
}

impl Load {
    const ALL: [Self; 3] = [
        Self { waits: true, is_armed: false },
        Self { waits: true, is_armed: true },
        Self { waits: false, is_armed: false },
    ];

    fn title(self) -> &'static str {
        match (self.waits, self.is_armed) {
            (true, false) => "calls that wait once, no other timer waits",
            (true, true) => "calls that wait once, an earlier timer waits",
            (false, _) => "calls that are answered at once",
        }
    }
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::default();
    let mut panels = Vec::new();
    for load in Load::ALL {
        eprintln!("  {}", load.title());
        let timer = load.is_armed.then(|| bench.runtime.spawn(async { tokio::time::sleep(EARLIER).await }));
        let rows = measure(bench, load)?;
        timer.inspect(tokio::task::JoinHandle::abort);
        report.add_lines(&rows)?;
        report.tables.push(table(load, &rows));
        let bars = rows.iter().map(|row| Bar::new(row.peer, row.ns_per_op)).collect();
        panels.push(Panel { title: load.title().to_owned(), bars });
    }
    report.chart =
        Some(bars::draw("Retry and a limit of time", "ns per call that needs neither; less is better", &panels));
    report.note = "\
tower's retry has its own budget and the policy of its documentation; its timeout makes a timer for every call that waits, which \
costs most where it is the only one: the runtime is woken for it, by a system call. Ours parks one. The blind row takes any \
request; the other carries a context and says that the call may be repeated. Before a call that waits once the runtime looks for \
events, and the call is polled twice, which is in all rows; the speeds are those of what the layers add."
        .into();
    Ok(report)
}

fn measure(bench: &Bench, load: Load) -> Result<Vec<Row>> {
    let names = |peer: LayersPeer| (peer.name(), LayersPeer::FLOOR.name());
    // The other timer is there once it has been polled.
    bench.runtime.block_on(tokio::task::yield_now());
    let mut rows = bench.timed(&LayersPeer::ALL, names, |peer| Ok(peer.round(load)))?;
    let ns = |name: &str| rows.iter().find(|row| row.peer == name).map_or(f64::NAN, |row| row.ns_per_op);
    let (bare, tower) = (ns(LayersPeer::Bare.name()), ns(LayersPeer::Tower.name()));
    for row in &mut rows {
        row.ratio = rounded((tower - bare) / (row.ns_per_op - bare), 3);
    }
    let complete = |row: Row| {
        let is_held = load.waits && !load.is_armed && row.peer == LayersPeer::Towline.name();
        let met = is_held.then_some(row.ratio >= GOAL_SPEED && row.allocs_per_op == 0.0);
        Row { case: "layers", concurrency: 1, extra: Extra { met, ..Extra::default() }, ..row }
    };
    Ok(rows.into_iter().map(complete).collect())
}

fn table(load: Load, rows: &[Row]) -> Table {
    let cells = |row: &Row| {
        let is_bare = row.peer == LayersPeer::Bare.name();
        vec![
            row.peer.to_owned(),
            format!("{:.1}", row.ns_per_op),
            if is_bare { "–".to_owned() } else { format!("{:.2}", row.ratio) },
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
