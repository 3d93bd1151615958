//! What an idle connection costs: thousands of them after one echo each and two seconds of silence, held by a process
//! that did nothing else, so that no row inherits another's heap.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio_util::codec::Framed;
use towline_core::Poolable;
use towline_proto::{Request, Response};

use super::{Bench, runtime};
use crate::child::{self, HOLD};
use crate::dial::{Dial, Io, Rustls, Tcp, Tls};
use crate::measure::Caller;
use crate::peers::{Tonic, floor, towline};
use crate::plot::bars::{self, Bar, Panel};
use crate::report::{Extra, Report, Row, Table, rounded, thousands};
use crate::usage;

/// Rows by transport, the floor first.
const ROWS: [(&str, &[&str]); 3] = [
    ("tcp", &["floor-tcp", "towline-exclusive", "towline-multiplexed", "framed", "tonic"]),
    ("tls", &["floor-tls", "towline-exclusive", "towline-multiplexed", "framed"]),
    ("rustls", &["floor-tls", "towline-exclusive", "towline-multiplexed"]),
];
const SILENCE: Duration = Duration::from_secs(2);

/// Bytes per connection.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Cost {
    resident: i64,
    heap: i64,
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let connections = if bench.quick { 500 } else { 2_000 };
    let mut report = Report::default();
    let mut panels = Vec::new();
    for (transport, peers) in ROWS {
        let mut rows: Vec<Row> = Vec::new();
        for peer in peers {
            eprintln!("  {transport} {peer}");
            let cost = ask(bench, transport, peer, connections)?;
            let of_floor = rows.first().and_then(|floor| floor.extra.bytes).unwrap_or(cost.resident);
            rows.push(row(transport, peer, peers[0], cost, of_floor));
        }
        report.add_lines(&rows)?;
        let bars = rows.iter().map(|row| Bar::new(row.peer, row.extra.bytes.unwrap_or(0) as f64)).collect();
        panels.push(Panel { title: transport.to_uppercase(), bars });
        report.tables.push(table(transport, connections, &rows));
    }
    report.chart = Some(bars::draw("Idle connections", "resident bytes per connection; less is better", &panels));
    report.note = "The sockets' buffers in the kernel are in no row.".into();
    Ok(report)
}

fn ask(bench: &Bench, transport: &str, peer: &str, connections: usize) -> Result<Cost> {
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the path of this program is no text")?;
    let words = [program, HOLD, transport, peer, &connections.to_string()];
    let output = child::run_client(&words, &bench.server.addresses)?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("what {transport} {peer} found"))
}

fn row(transport: &'static str, peer: &'static str, floor: &'static str, cost: Cost, of_floor: i64) -> Row {
    let extra = Extra {
        transport: Some(transport),
        bytes: Some(cost.resident),
        bytes_above_floor: Some(cost.resident - of_floor),
        heap_bytes: Some(cost.heap),
        ..Extra::default()
    };
    let ratio = if of_floor > 0 { rounded(cost.resident as f64 / of_floor as f64, 3) } else { 0.0 };
    Row { case: "memory", peer, floor, ratio, extra, ..Row::default() }
}

fn table(transport: &str, connections: usize, rows: &[Row]) -> Table {
    let cells = |row: &Row| {
        let bytes = |value: Option<i64>| thousands(value.unwrap_or(0) as f64);
        let Extra { bytes: resident, bytes_above_floor, heap_bytes, .. } = row.extra;
        vec![row.peer.to_owned(), bytes(resident), bytes(bytes_above_floor), bytes(heap_bytes)]
    };
    Table {
        title: format!("Bytes per idle connection, {}, {connections} connections", transport.to_uppercase()),
        head: ["", "resident", "above floor", "allocated"].map(str::to_owned).to_vec(),
        rows: rows.iter().map(cells).collect(),
        prose: false,
        detail: false,
    }
}

/// The process of one row: prints what it found.
pub(crate) fn hold(words: &[String]) -> Result<()> {
    let [transport, peer, connections] = words else { bail!("expected a transport, a row and a number") };
    let connections = connections.parse().context("the number of connections")?;
    let addresses = child::addresses()?;
    child::settle()?;
    let cost = match (transport.as_str(), peer.as_str()) {
        ("tcp", "tonic") => idle(connections, async || greeted(Tonic::connect(addresses.grpc[0]).await?).await),
        ("tcp", peer) => hold_over(&Tcp(&addresses), peer, connections),
        ("tls", peer) => hold_over(&Tls::new(&addresses)?, peer, connections),
        ("rustls", peer) => hold_over(&Rustls::new(&addresses)?, peer, connections),
        (transport, _) => bail!("no transport {transport:?}"),
    };
    println!("{}", serde_json::to_string(&cost?)?);
    Ok(())
}

fn hold_over<D: Dial>(dial: &D, peer: &str, connections: usize) -> Result<Cost> {
    match peer {
        "floor-tcp" | "floor-tls" => idle(connections, async || bare(dial.by_hand().await?).await),
        "framed" => idle(connections, async || framed(dial.by_hand().await?).await),
        "towline-exclusive" => idle(connections, async || trimmed(towline::exclusive(dial.ours().await?)).await),
        "towline-multiplexed" => idle(connections, async || greeted(towline::multiplexed(dial.ours().await?)).await),
        peer => bail!("no row {peer:?}"),
    }
}

fn hello() -> Request {
    Request { id: "1".to_owned(), payload: Bytes::from_static(&[b'x'; 64]) }
}

fn check(answer: &Response) -> Result<()> {
    ensure!(answer.id == "1" && answer.payload.len() == 64, "a wrong answer");
    Ok(())
}

async fn greeted<C: Caller>(mut caller: C) -> Result<C> {
    check(&caller.call(hello()).await?)?;
    Ok(caller)
}

/// What a pool does with an exclusive connection that has been idle for a second.
async fn trimmed<C: Caller + Poolable>(caller: C) -> Result<C> {
    let mut caller = greeted(caller).await?;
    caller.trim();
    Ok(caller)
}

/// The stream itself: its one echo is made with a buffer that does not stay.
async fn bare<I: Io>(io: I) -> Result<I> {
    Ok(greeted(floor::Exclusive::new(io)).await?.into_io())
}

async fn framed<I: Io>(io: I) -> Result<Framed<I, towline::Codec>> {
    let mut framed = Framed::new(io, towline::Codec::default());
    framed.send(hello()).await?;
    check(&framed.next().await.context("the server closed the connection")??)?;
    Ok(framed)
}

/// Makes so many connections and waits; the first is not counted, it has what all share.
fn idle<T>(connections: usize, connect: impl AsyncFn() -> Result<T>) -> Result<Cost> {
    let runtime = runtime()?;
    let _first = runtime.block_on(connect())?;
    let before = usage::resident()?;
    let hold = async {
        let mut held = Vec::with_capacity(connections);
        for _ in 0..connections {
            held.push(connect().await?);
        }
        tokio::time::sleep(SILENCE).await;
        Ok(held)
    };
    let (_held, used) = usage::measure(|| runtime.block_on(hold))?;
    let each = |bytes: i64| bytes / connections as i64;
    Ok(Cost { resident: each(usage::resident()? - before), heap: each(used.heap) })
}
