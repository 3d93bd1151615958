//! native-tls and rustls under our connections and under the floors: fresh connections with their handshakes, and echo.

use std::sync::Arc;

use anyhow::Result;

use super::{Bench, EchoRound, names};
use crate::dial::{Dial, Rustls, Tls};
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
struct Handshakes<D> {
    dial: Arc<D>,
    who: Handshake,
}

impl<D: Dial + Send + Sync + 'static> Job for Handshakes<D> {
    async fn once(&mut self, _sequence: u64) -> Result<()> {
        match self.who {
            Handshake::ByHand => drop(self.dial.by_hand().await?),
            Handshake::Ours => drop(self.dial.ours().await?),
        }
        Ok(())
    }
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::default();
    let mut panels = Vec::new();
    let addresses = &bench.server.addresses;
    measure(bench, "native-tls", Tls::new(addresses)?, &mut report, &mut panels)?;
    measure(bench, "rustls", Rustls::new(addresses)?, &mut report, &mut panels)?;
    report.chart = Some(bars::draw("TLS over loopback", "per second; higher is better", &panels));
    report.note = "\
The floors use the same library by hand. The server's is native-tls throughout. No handshake is resumed: connections are closed \
before the server's tickets are read."
        .into();
    Ok(report)
}

/// With one library.
fn measure<D: Dial + Send + Sync + 'static>(
    bench: &Bench,
    library: &'static str,
    dial: D,
    report: &mut Report,
    panels: &mut Vec<Panel>,
) -> Result<()> {
    let dial = Arc::new(dial);
    for concurrency in CONCURRENCIES {
        let callers = callers(concurrency);
        let mut add = |what: &str, rows: Vec<Row>, payload| -> Result<()> {
            let extra = Extra { transport: Some(library), ..Extra::default() };
            let complete = |row| Row { case: "tls", concurrency, payload, extra: extra.clone(), ..row };
            let rows: Vec<_> = rows.into_iter().map(complete).collect();
            report.add_lines(&rows)?;
            let bars = rows.iter().map(|row| Bar::new(row.peer, row.ops_per_s)).collect();
            let title = format!("{what} by {library}, {callers}");
            panels.push(Panel { title: title.clone(), bars });
            report.tables.push(Table { detail: false, ..Table::timed(title, &rows) });
            Ok(())
        };
        eprintln!("  {library}, {callers}");
        add("Handshakes", handshakes(bench, &dial, concurrency)?, 0)?;
        add("Echo, 64 B,", echo(bench, &*dial, concurrency)?, PAYLOAD)?;
    }
    Ok(())
}

fn handshakes<D>(bench: &Bench, dial: &Arc<D>, concurrency: usize) -> Result<Vec<Row>>
where
    D: Dial + Send + Sync + 'static,
{
    let names = |who| (if who == Handshake::Ours { "towline-handshake" } else { "floor-handshake" }, "floor-handshake");
    bench.timed(&[Handshake::ByHand, Handshake::Ours], names, |who| {
        Ok(round((0..concurrency).map(|_| Handshakes { dial: dial.clone(), who }).collect()))
    })
}

fn echo<D: Dial>(bench: &Bench, dial: &D, concurrency: usize) -> Result<Vec<Row>> {
    bench.timed(&ECHO, names, |peer| {
        bench.runtime.block_on(peer.connect(dial, &bench.server.addresses, concurrency, EchoRound(PAYLOAD)))
    })
}
