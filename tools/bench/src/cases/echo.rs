//! Echo over loopback TCP, small and larger messages, from one caller to many.

use anyhow::Result;

use super::{Bench, EchoRound, names, pooled, stack};
use crate::dial::Tcp;
use crate::peers::Peer;
use crate::plot::lines::{self, Panel};
use crate::report::{Report, Row, Table, callers, size, thousands};

const PAYLOADS: [usize; 2] = [64, 4096];
const CONCURRENCIES: [usize; 4] = [1, 16, 64, 256];

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::default();
    let (mut details, mut panels) = (Vec::new(), Vec::new());
    for payload in PAYLOADS {
        let mut all = Vec::new();
        for concurrency in CONCURRENCIES {
            let title = format!("{}, {}", size(payload), callers(concurrency));
            eprintln!("  {title}");
            let rows = measure(bench, payload, concurrency)?;
            report.add_lines(&rows)?;
            details.push(Table::timed(title, &rows));
            all.push(rows);
        }
        report.tables.push(summary(payload, &all));
        panels.push(Panel { title: format!("{} messages", size(payload)), series: series(&all) });
    }
    let pooled = pooled::measure(bench)?;
    report.add_lines(&pooled)?;
    report.tables.push(pooled::table(&pooled));
    let stacks = stack::measure(bench)?;
    report.add_lines(&stacks.concat())?;
    report.tables.extend([stack::summary(&stacks), stack::goals(&stacks)]);
    details.extend(stack::details(&stacks));
    report.tables.append(&mut details);
    report.note = format!("{}\n\n{}", pooled::NOTE, stack::NOTE).into();
    report.chart = Some(lines::draw("Echo over loopback TCP", "callers", "calls per second", &CONCURRENCIES, &panels));
    Ok(report)
}

fn measure(bench: &Bench, payload: usize, concurrency: usize) -> Result<Vec<Row>> {
    let addresses = &bench.server.addresses;
    let rows = bench.timed(&Peer::ALL, names, |peer| {
        bench.runtime.block_on(peer.connect(&Tcp(addresses), addresses, concurrency, EchoRound(payload)))
    })?;
    Ok(rows.into_iter().map(|row| Row { case: "echo", concurrency, payload, ..row }).collect())
}

/// A line per peer, a column per number of callers.
fn summary(payload: usize, all: &[Vec<Row>]) -> Table {
    let head = CONCURRENCIES.map(callers);
    let cells = |index: usize| {
        let name = Peer::ALL[index].name().to_owned();
        let cell = |rows: &Vec<Row>| format!("{} ({:.2})", thousands(rows[index].ops_per_s), rows[index].ratio);
        std::iter::once(name).chain(all.iter().map(cell)).collect()
    };
    Table {
        title: format!("Calls per second, {} (in brackets: of the floor)", size(payload)),
        head: std::iter::once(String::new()).chain(head).collect(),
        rows: (0..Peer::ALL.len()).map(cells).collect(),
        prose: false,
        detail: false,
    }
}

fn series(all: &[Vec<Row>]) -> Vec<(&'static str, Vec<f64>)> {
    let values = |index: usize| all.iter().map(|rows| rows[index].ops_per_s).collect();
    Peer::ALL.iter().enumerate().map(|(index, peer)| (peer.name(), values(index))).collect()
}
