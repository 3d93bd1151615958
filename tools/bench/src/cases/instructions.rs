//! Instructions per call, which no neighbour on the machine can disturb: the client runs under callgrind twice, with
//! different numbers of calls, and the difference is divided by the difference, so that start-up cancels out.

use anyhow::{Context, Result, bail};

use super::{Bench, callgrind, names, runtime};
use crate::child::{self, CALL};
use crate::dial::Tcp;
use crate::measure::{Caller, Echo, Until, latencies, repeat};
use crate::peers::{Peer, Visit};
use crate::plot::bars::{self, Bar, Panel};
use crate::report::{Extra, Report, Row, Table, rounded, thousands};

const CALLERS: usize = 64;
const PAYLOAD: usize = 64;
/// Calls of each caller in the shorter and in the longer run.
const CALLS: [u64; 2] = [50, 250];
/// The floors before those who are compared with them.
const PEERS: [Peer; 16] = [
    Peer::FloorMultiplexed,
    Peer::TowlineMultiplexed,
    Peer::TokioTower,
    Peer::HyperHttp2,
    Peer::TowlineHttp2,
    Peer::Tonic,
    Peer::TowlineTonic,
    Peer::FloorExclusive,
    Peer::TowlineExclusive,
    Peer::HyperHttp1,
    Peer::TowlineHttp1,
    Peer::FloorMux3,
    Peer::TowlineStack3,
    Peer::TowerStack3,
    Peer::TonicBalanced3,
    Peer::TowlineTonic3,
];

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut counts: Vec<(Peer, u64)> = Vec::new();
    for peer in PEERS {
        eprintln!("  {}", peer.name());
        let count = |calls: u64| callgrind::count(bench, &[CALL, peer.name(), &calls.to_string()]);
        let [short, long] = CALLS.map(count);
        counts.push((peer, (long? - short?) / ((CALLS[1] - CALLS[0]) * CALLERS as u64)));
    }
    let of = |peer| counts.iter().find(|(other, _)| *other == peer).map_or(0, |(_, count)| *count);
    let row = |(peer, count): &(Peer, u64)| {
        let (name, floor) = names(*peer);
        let ratio = rounded(*count as f64 / of(peer.floor()) as f64, 3);
        let extra = Extra { instructions_per_op: Some(*count), ..Extra::default() };
        let (concurrency, payload) = (CALLERS, PAYLOAD);
        Row { case: "instructions", peer: name, floor, concurrency, payload, ratio, extra, ..Row::default() }
    };
    let rows: Vec<_> = counts.iter().map(row).collect();
    let mut report = Report::default();
    report.add_lines(&rows)?;
    report.tables.push(table(&rows));
    let bars = |floor: Peer| {
        let ours = counts.iter().filter(|(peer, _)| peer.floor() == floor);
        ours.map(|(peer, count)| Bar::new(peer.name(), *count as f64)).collect()
    };
    let panels = [
        Panel { title: "One connection for all callers".to_owned(), bars: bars(Peer::FloorMultiplexed) },
        Panel { title: "A connection per caller".to_owned(), bars: bars(Peer::FloorExclusive) },
        Panel { title: "A stack over three servers".to_owned(), bars: bars(Peer::FloorMux3) },
    ];
    let unit = "in user mode, 64 callers, 64 B messages; fewer is better";
    report.chart = Some(bars::draw("Instructions of the client per call", unit, &panels));
    report.note = "The kernel's share is not counted, nor the server.".into();
    Ok(report)
}

fn table(rows: &[Row]) -> Table {
    let cells = |row: &Row| {
        let count = row.extra.instructions_per_op.unwrap_or(0);
        vec![row.peer.to_owned(), thousands(count as f64), format!("{:.2}", row.ratio), row.floor.to_owned()]
    };
    Table {
        title: format!("Instructions of the client per call, {CALLERS} callers, {PAYLOAD} B"),
        head: ["", "instructions", "of floor", "floor"].map(str::to_owned).to_vec(),
        rows: rows.iter().map(cells).collect(),
        prose: false,
        detail: false,
    }
}

/// The process under callgrind.
pub(crate) fn call(words: &[String]) -> Result<()> {
    let [name, calls] = words else { bail!("expected a row and a number") };
    let peer = PEERS.into_iter().find(|peer| peer.name() == name).with_context(|| format!("no row {name:?}"))?;
    let calls = calls.parse().context("the number of calls")?;
    let addresses = child::addresses()?;
    child::settle()?;
    runtime()?.block_on(async {
        let work = peer.connect(&Tcp(&addresses), &addresses, CALLERS, Calls(calls)).await?;
        work.await
    })
}

/// Makes so many calls from each caller.
struct Calls(u64);

impl Visit for Calls {
    type Output = std::pin::Pin<Box<dyn Future<Output = Result<()>>>>;

    fn visit<C: Caller>(self, callers: Vec<C>) -> Self::Output {
        Box::pin(async move {
            repeat(Echo::all(callers, PAYLOAD), 0, Until::Calls(self.0), latencies()).await?;
            Ok(())
        })
    }
}
