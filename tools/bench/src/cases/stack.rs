//! Echo through whole stacks over three servers. Printed with case `echo`.

use anyhow::Result;

use super::{Bench, EchoRound, names};
use crate::dial::Tcp;
use crate::peers::Peer;
use crate::report::{Extra, Row, Table, callers, thousands};
use crate::server::BACKENDS;

pub(super) const PEERS: [Peer; 4] = [Peer::FloorMux3, Peer::TowlineStack3, Peer::TowerStack3, Peer::TonicBalanced3];
const CONCURRENCIES: [usize; 4] = [1, 16, 64, 256];
const PAYLOAD: usize = 64;

/// What `towline-stack3` is held to, of the floor's speed, alone and with 64 callers; and in allocations per call.
const GOALS: [(usize, f64); 2] = [(1, 0.9), (64, 0.7)];
const GOAL_ALLOCS: f64 = 6.0;

pub(super) const NOTE: &str = "\
The stacks spread calls over three servers. floor-mux3 is three of the floor's multiplexed connections in turn: it knows neither \
dead nor slow servers. towline-stack3 is the client as its builder makes it: deadline, retry of idempotent calls, a session \
per caller, balancer, and a pool per server. tower-stack3 is tower's `Buffer` around its balancer of tokio-tower's connections, \
without retry, deadline or sessions, and tonic-balance-list3 tonic's balanced channel.";

pub(super) fn measure(bench: &Bench) -> Result<Vec<Vec<Row>>> {
    let addresses = &bench.server.addresses;
    let at = |concurrency: usize| {
        eprintln!("  {}", title(concurrency));
        let rows = bench.timed(&PEERS, names, |peer| {
            bench.runtime.block_on(peer.connect(&Tcp(addresses), addresses, concurrency, EchoRound(PAYLOAD)))
        })?;
        let goal = GOALS.into_iter().find(|(callers, _)| *callers == concurrency).map(|(_, goal)| goal);
        let complete = |row: Row| {
            let met = goal.filter(|_| row.peer == Peer::TowlineStack3.name());
            let met = met.map(|goal| row.ratio >= goal && row.allocs_per_op <= GOAL_ALLOCS);
            let extra = Extra { endpoints: Some(BACKENDS), met, ..Extra::default() };
            Row { case: "echo", concurrency, payload: PAYLOAD, extra, ..row }
        };
        Ok(rows.into_iter().map(complete).collect())
    };
    CONCURRENCIES.into_iter().map(at).collect()
}

fn title(concurrency: usize) -> String {
    format!("{PAYLOAD} B, {} over {BACKENDS} servers", callers(concurrency))
}

/// A line per stack, a column per number of callers.
pub(super) fn summary(all: &[Vec<Row>]) -> Table {
    let cells = |index: usize| {
        let cell = |rows: &Vec<Row>| format!("{} ({:.2})", thousands(rows[index].ops_per_s), rows[index].ratio);
        std::iter::once(PEERS[index].name().to_owned()).chain(all.iter().map(cell)).collect()
    };
    Table {
        title: format!("Stacks over {BACKENDS} servers, calls per second, {PAYLOAD} B (in brackets: of the floor)"),
        head: std::iter::once(String::new()).chain(CONCURRENCIES.map(callers)).collect(),
        rows: (0..PEERS.len()).map(cells).collect(),
        prose: false,
        detail: false,
    }
}

pub(super) fn details(all: &[Vec<Row>]) -> impl Iterator<Item = Table> {
    all.iter().zip(CONCURRENCIES).map(|(rows, concurrency)| Table::timed(title(concurrency), rows))
}

/// What `towline-stack3` is held to.
pub(super) fn goals(all: &[Vec<Row>]) -> Table {
    let ours = Peer::TowlineStack3.name();
    let of = |concurrency: usize| all.iter().flatten().find(|row| row.peer == ours && row.concurrency == concurrency);
    let line = |what: String, goal: String, figure: f64, met: bool| {
        vec![what, goal, format!("{figure:.2}"), if met { "yes" } else { "no" }.to_owned()]
    };
    let speed = |(concurrency, goal): (usize, f64)| {
        let ratio = of(concurrency).map_or(f64::NAN, |row| row.ratio);
        line(format!("of the floor's speed, {}", callers(concurrency)), format!("≥ {goal}"), ratio, ratio >= goal)
    };
    let allocs = GOALS.into_iter().filter_map(|(concurrency, _)| of(concurrency)).map(|row| row.allocs_per_op);
    let allocs = allocs.fold(0.0, f64::max);
    let allocs = line("allocations per call".to_owned(), format!("≤ {GOAL_ALLOCS}"), allocs, allocs <= GOAL_ALLOCS);
    Table {
        title: format!("Goals of {ours}"),
        head: ["", "goal", "measured", "met"].map(str::to_owned).to_vec(),
        rows: GOALS.into_iter().map(speed).chain([allocs]).collect(),
        prose: false,
        detail: false,
    }
}
