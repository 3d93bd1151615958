//! Our channel beside the clients that it stands in for: tonic's channels under tonic's client, and hyper-util's client.

use anyhow::Result;

use super::{Bench, EchoRound};
use crate::dial::Tcp;
use crate::peers::Peer;
use crate::plot::lines::{self, Panel};
use crate::report::{Extra, Report, Row, Table, callers, thousands};
use crate::server::BACKENDS;

const CONCURRENCIES: [usize; 4] = [1, 16, 64, 256];
const PAYLOAD: usize = 64;
/// Theirs before ours.
const GRPC: [Peer; 4] = [Peer::Tonic, Peer::TowlineTonic, Peer::TonicBalanced3, Peer::TowlineTonic3];
const HTTP: [Peer; 4] = [Peer::HyperHttp1, Peer::TowlineHttp1, Peer::HyperHttp2, Peer::TowlineHttp2];

/// What ours are held to, with any number of callers: so many times another's speed.
fn goal(peer: Peer) -> Option<(Peer, f64)> {
    match peer {
        Peer::TowlineTonic => Some((Peer::Tonic, 1.0)),
        Peer::TowlineTonic3 => Some((Peer::TonicBalanced3, 1.2)),
        Peer::TowlineHttp1 => Some((Peer::HyperHttp1, 1.0)),
        Peer::TowlineHttp2 => Some((Peer::HyperHttp2, 1.0)),
        _ => None,
    }
}

fn peers() -> Vec<Peer> {
    [GRPC, HTTP].concat()
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::default();
    let mut all = Vec::new();
    for concurrency in CONCURRENCIES {
        eprintln!("  {}", title(concurrency));
        let rows = measure(bench, concurrency)?;
        report.add_lines(&rows)?;
        all.push(rows);
    }
    report.tables.extend([summary(&all), goals(&all)]);
    report.tables.extend(all.iter().zip(CONCURRENCIES).map(|(rows, concurrency)| detail(concurrency, rows)));
    let panels = [("gRPC", GRPC), ("HTTP", HTTP)];
    let panels = panels.map(|(title, peers)| Panel { title: title.to_owned(), series: series(&peers, &all) });
    report.chart = Some(lines::draw("Clients of HTTP", "callers", "calls per second", &CONCURRENCIES, &panels));
    report.note = "\
All callers of a row have clones of one client. towline-tonic and towline-tonic3 are tonic's client over our channel, which has all that \
it has by default: deadline, retry, balancer, and a pool per endpoint. towline-http1 and towline-http2 are the same channel called with \
requests of HTTP, beside hyper-util's client. That one has a connection per caller over HTTP/1; so that ours does, too, its pool may \
have that many, in place of 32."
        .into();
    Ok(report)
}

fn measure(bench: &Bench, concurrency: usize) -> Result<Vec<Row>> {
    let addresses = &bench.server.addresses;
    let peers = peers();
    let names = |peer: Peer| (peer.name(), goal(peer).map_or(peer, |(theirs, _)| theirs).name());
    let rows = bench.timed(&peers, names, |peer| {
        bench.runtime.block_on(peer.connect(&Tcp(addresses), addresses, concurrency, EchoRound(PAYLOAD)))
    })?;
    let complete = |(row, peer): (Row, Peer)| {
        let endpoints = if matches!(peer, Peer::TonicBalanced3 | Peer::TowlineTonic3) { BACKENDS } else { 1 };
        let met = goal(peer).map(|(_, times)| row.ratio >= times);
        let extra = Extra { endpoints: Some(endpoints), met, ..Extra::default() };
        Row { case: "http", concurrency, payload: PAYLOAD, extra, ..row }
    };
    Ok(rows.into_iter().zip(peers).map(complete).collect())
}

fn title(concurrency: usize) -> String {
    format!("{PAYLOAD} B, {}", callers(concurrency))
}

/// Of all numbers of callers.
fn of(peer: Peer, all: &[Vec<Row>]) -> impl Iterator<Item = &Row> {
    all.iter().flatten().filter(move |row| row.peer == peer.name())
}

/// A line per client, a column per number of callers.
fn summary(all: &[Vec<Row>]) -> Table {
    let cell = |row: &Row| format!("{} ({:.2})", thousands(row.ops_per_s), row.ratio);
    let cells = |peer: Peer| std::iter::once(peer.name().to_owned()).chain(of(peer, all).map(cell)).collect();
    Table {
        title: format!("Calls per second, {PAYLOAD} B (in brackets: of the client above)"),
        head: std::iter::once(String::new()).chain(CONCURRENCIES.map(callers)).collect(),
        rows: peers().into_iter().map(cells).collect(),
        prose: false,
        detail: false,
    }
}

fn goals(all: &[Vec<Row>]) -> Table {
    let line = |peer: Peer| {
        let (theirs, times) = goal(peer)?;
        let worst = of(peer, all).map(|row| row.ratio).fold(f64::INFINITY, f64::min);
        let met = if worst >= times { "yes" } else { "no" };
        let cells = [peer.name(), theirs.name(), &format!("≥ {times:.1}"), &format!("{worst:.2}"), met];
        Some(cells.map(str::to_owned).to_vec())
    };
    Table {
        title: "Goals: of another's speed, at the worst".to_owned(),
        head: ["", "of", "goal", "measured", "met"].map(str::to_owned).to_vec(),
        rows: peers().into_iter().filter_map(line).collect(),
        prose: false,
        detail: false,
    }
}

fn detail(concurrency: usize, rows: &[Row]) -> Table {
    let mut table = Table::timed(title(concurrency), rows);
    table.head[2] = "of the one above".to_owned();
    table
}

fn series(peers: &[Peer], all: &[Vec<Row>]) -> Vec<(&'static str, Vec<f64>)> {
    peers.iter().map(|peer| (peer.name(), of(*peer, all).map(|row| row.ops_per_s).collect())).collect()
}
