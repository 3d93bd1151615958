//! Instructions per checkout, one task and nobody in its way, and the record of them, `instructions.json`: time is too
//! noisy to notice that a hot path has grown by a twentieth, and this count is not.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::peers::{PoolPeer, Visit};
use crate::args::Recorded;
use crate::cases::{Bench, callgrind, runtime};
use crate::child::CHECKOUT;
use crate::peers::pools::{Pool, warm};
use crate::report::{Extra, Report, Row, Table, rounded};

/// The floor tells whether the compiler has changed, or we have.
const PEERS: [PoolPeer; 2] = [PoolPeer::FloorLock, PoolPeer::Towline];
/// Checkouts in the shorter and in the longer run.
const CHECKOUTS: [u64; 2] = [1_000, 51_000];
/// How much more than recorded is too much.
const GROWTH: f64 = 1.05;
const AGAIN: &str = "cargo xtask bench checkout-instructions --record";

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct Record {
    compiler: String,
    instructions_per_checkout: BTreeMap<String, u64>,
}

impl Record {
    fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
    }

    fn read() -> Result<Self> {
        let text = std::fs::read(Self::path()).with_context(|| format!("nothing is recorded; do so with: {AGAIN}"))?;
        serde_json::from_slice(&text).with_context(|| format!("the record is damaged; write it anew with: {AGAIN}"))
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(Self::path(), text).context("writing instructions.json")
    }

    /// The error names every row that has grown.
    fn check(&self, now: &Self) -> Result<()> {
        let mut grown = Vec::new();
        for (peer, count) in &now.instructions_per_checkout {
            let Some(recorded) = self.instructions_per_checkout.get(peer) else {
                bail!("{peer} is not recorded; do so with: {AGAIN}");
            };
            let growth = *count as f64 / *recorded as f64;
            if growth > GROWTH {
                grown.push(format!("{peer} has grown by {:.1} %: {recorded} to {count}", (growth - 1.0) * 100.0));
            }
        }
        if grown.is_empty() {
            return Ok(());
        }
        let compiler = match self.compiler == now.compiler {
            true => String::new(),
            false => format!("; recorded with {}, this is {}", self.compiler, now.compiler),
        };
        bail!("instructions per checkout: {}{compiler}; if they are worth it: {AGAIN}", grown.join(", "))
    }
}

pub(in crate::cases) fn run(bench: &Bench, recorded: Recorded) -> Result<Report> {
    let mut counts = BTreeMap::new();
    for peer in PEERS {
        eprintln!("  {}", peer.name());
        let count = |checkouts: u64| callgrind::count(bench, &[CHECKOUT, peer.name(), &checkouts.to_string()]);
        let [short, long] = CHECKOUTS.map(count);
        counts.insert(peer.name().to_owned(), (long? - short?) / (CHECKOUTS[1] - CHECKOUTS[0]));
    }
    let now = Record { compiler: compiler()?, instructions_per_checkout: counts };
    match recorded {
        Recorded::Show => {}
        Recorded::Check => Record::read()?.check(&now)?,
        Recorded::Write => now.write()?,
    }
    report(&now.instructions_per_checkout)
}

fn report(counts: &BTreeMap<String, u64>) -> Result<Report> {
    let of = |peer: PoolPeer| counts.get(peer.name()).copied().unwrap_or(0);
    let row = |peer: PoolPeer| Row {
        case: "checkout-instructions",
        peer: peer.name(),
        floor: PoolPeer::FLOOR.name(),
        concurrency: 1,
        ratio: rounded(of(peer) as f64 / of(PoolPeer::FLOOR) as f64, 3),
        extra: Extra { instructions_per_op: Some(of(peer)), ..Extra::default() },
        ..Row::default()
    };
    let rows = PEERS.map(row);
    let mut report = Report::default();
    report.add_lines(&rows)?;
    let cells = |row: &Row| {
        let count = row.extra.instructions_per_op.unwrap_or(0);
        vec![row.peer.to_owned(), count.to_string(), format!("{:.2}", row.ratio)]
    };
    report.tables.push(Table {
        title: "Instructions to acquire and release, 1 task".to_owned(),
        head: ["", "instructions", "of floor"].map(str::to_owned).to_vec(),
        rows: rows.iter().map(cells).collect(),
        prose: false,
        detail: false,
    });
    Ok(report)
}

fn compiler() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().context("asking rustc for its version")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The process under callgrind.
pub(crate) fn checkout(words: &[String]) -> Result<()> {
    let [name, checkouts] = words else { bail!("expected a row and a number") };
    let peer = PEERS.into_iter().find(|peer| peer.name() == name).with_context(|| format!("no row {name:?}"))?;
    let checkouts = checkouts.parse().context("the number of checkouts")?;
    runtime()?.block_on(peer.open(1, Checkouts(checkouts)))
}

struct Checkouts(u64);

impl Visit for Checkouts {
    type Output = ();

    async fn visit<P: Pool>(self, mut pool: P) -> Result<()> {
        warm(&pool, 1).await?;
        for _ in 0..self.0 {
            drop(black_box(pool.acquire().await?));
        }
        Ok(())
    }
}
