//! native-tls under our connections and under the floors: fresh connections with their handshakes, and echo.

use std::sync::Arc;

use anyhow::Result;

use super::{Bench, EchoRound, names};
use crate::dial::{Dial, Tls};
use crate::measure::{Job, round};
use crate::peers::Peer;
use crate::plot::bars::{self, Bar, Panel};
use crate::report::{Extra, Report, Row, Table, callers};

const CONCURRENCIES: [usize; 2] = [1, 16];
const PAYLOAD: usize = 64;
const ECHO: [Peer; 4] =
    [Peer::FloorExclusive, Peer::TowlineExclusive, Peer::FloorMultiplexed, Peer::TowlineMultiplexed];

/// Who makes the handshakes.
#[derive(Clone, Copy, PartialEq)]
enum Handshake {
    ByHand,
    Ours,
}

/// Dials and shakes hands, then closes.
struct Handshakes {
    dial: Arc<Tls>,
    who: Handshake,
}

impl Job for Handshakes {
    async fn once(&mut self, _sequence: u64) -> Result<()> {
        match self.who {
            Handshake::ByHand => drop(self.dial.by_hand().await?),
            Handshake::Ours => drop(self.dial.ours().await?),
        }
        Ok(())
    }
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let dial = Arc::new(Tls::new(&bench.server.addresses)?);
    let mut report = Report::default();
    let mut panels = Vec::new();
    for concurrency in CONCURRENCIES {
        let callers = callers(concurrency);
        let mut add = |what: &str, rows: Vec<Row>, payload| -> Result<()> {
            let extra = Extra { transport: Some("tls"), ..Extra::default() };
            let complete = |row| Row { case: "tls", concurrency, payload, extra: extra.clone(), ..row };
            let rows: Vec<_> = rows.into_iter().map(complete).collect();
            report.add_lines(&rows)?;
            let bars = rows.iter().map(|row| Bar::new(row.peer, row.ops_per_s)).collect();
            panels.push(Panel { title: format!("{what}, {callers}"), bars });
            report.tables.push(Table { detail: false, ..Table::timed(format!("{what}, {callers}"), &rows) });
            Ok(())
        };
        eprintln!("  {callers}");
        add("Handshakes", handshakes(bench, &dial, concurrency)?, 0)?;
        add("Echo, 64 B", echo(bench, &dial, concurrency)?, PAYLOAD)?;
    }
    report.chart = Some(bars::draw("TLS over loopback (native-tls)", "per second; higher is better", &panels));
    Ok(report)
}

fn handshakes(bench: &Bench, dial: &Arc<Tls>, concurrency: usize) -> Result<Vec<Row>> {
    let names = |who| (if who == Handshake::Ours { "towline-handshake" } else { "floor-handshake" }, "floor-handshake");
    bench.timed(&[Handshake::ByHand, Handshake::Ours], names, |who| {
        Ok(round((0..concurrency).map(|_| Handshakes { dial: dial.clone(), who }).collect()))
    })
}

fn echo(bench: &Bench, dial: &Tls, concurrency: usize) -> Result<Vec<Row>> {
    bench.timed(&ECHO, names, |peer| {
        bench.runtime.block_on(peer.connect(dial, &bench.server.addresses, concurrency, EchoRound(PAYLOAD)))
    })
}
