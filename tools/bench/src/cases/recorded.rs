//! Instructions of a hot path, and the record of them, `instructions.json`: time is too noisy to notice that one has grown
//! by a twentieth, and this count is not. A process runs under callgrind twice, with different numbers of operations, and
//! the difference is divided by the difference, so that start-up cancels out.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Bench, Case, callgrind};
use crate::args::Recorded;
use crate::report::{Extra, Report, Row, Table, rounded};

/// Operations in the shorter and in the longer run.
const OPERATIONS: [u64; 2] = [1_000, 51_000];
/// How much more than recorded is too much.
const GROWTH: f64 = 1.05;

/// What is counted.
pub(super) struct Counted<'a> {
    pub(super) case: Case,
    /// The first argument of the process; a row and a number of operations follow.
    pub(super) role: &'static str,
    /// The floor first: it tells whether the compiler has changed, or we have.
    pub(super) peers: &'a [&'static str],
    pub(super) title: &'static str,
}

/// What is in the file, by case.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Records(BTreeMap<String, Record>);

#[derive(Serialize, Deserialize)]
struct Record {
    compiler: String,
    instructions_per_op: BTreeMap<String, u64>,
}

impl Records {
    fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
    }

    fn read() -> Result<Self> {
        match std::fs::read(Self::path()) {
            Ok(text) => serde_json::from_slice(&text).context("instructions.json is damaged: remove it, and --record"),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).context("reading instructions.json"),
        }
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(Self::path(), text).context("writing instructions.json")
    }
}

impl Record {
    /// The error names every row of ours that has grown.
    fn check(&self, now: &Self, case: Case) -> Result<()> {
        let mut grown = Vec::new();
        for (peer, count) in &now.instructions_per_op {
            let Some(recorded) = self.instructions_per_op.get(peer) else {
                bail!("{peer} is not recorded; do so with: {}", again(case));
            };
            let growth = *count as f64 / *recorded as f64;
            // Floors are the program's own: how they are compiled changes with whatever stands beside them.
            if growth > GROWTH && !peer.starts_with("floor") {
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
        bail!("{}{compiler}; if it is worth it: {}", grown.join(", "), again(case))
    }
}

fn again(case: Case) -> String {
    format!("cargo xtask bench {} --record", case.name())
}

pub(super) fn run(bench: &Bench, recorded: Recorded, counted: &Counted<'_>) -> Result<Report> {
    let case = counted.case;
    let mut counts = BTreeMap::new();
    for peer in counted.peers {
        eprintln!("  {peer}");
        let count = |operations: u64| callgrind::count(bench, &[counted.role, peer, &operations.to_string()]);
        let [short, long] = OPERATIONS.map(count);
        counts.insert((*peer).to_owned(), (long? - short?) / (OPERATIONS[1] - OPERATIONS[0]));
    }
    let report = report(counted, &counts)?;
    let now = Record { compiler: compiler()?, instructions_per_op: counts };
    match recorded {
        Recorded::Show => {}
        Recorded::Check => match Records::read()?.0.get(case.name()) {
            Some(record) => record.check(&now, case)?,
            None => bail!("nothing is recorded; do so with: {}", again(case)),
        },
        Recorded::Write => {
            let mut records = Records::read()?;
            records.0.insert(case.name().to_owned(), now);
            records.write()?;
        }
    }
    Ok(report)
}

fn report(counted: &Counted<'_>, counts: &BTreeMap<String, u64>) -> Result<Report> {
    let floor = counted.peers.first().copied().context("there is no floor")?;
    let of = |peer: &str| counts.get(peer).copied().unwrap_or(0);
    let row = |peer: &&'static str| Row {
        case: counted.case.name(),
        peer,
        floor,
        concurrency: 1,
        ratio: rounded(of(peer) as f64 / of(floor) as f64, 3),
        extra: Extra { instructions_per_op: Some(of(peer)), ..Extra::default() },
        ..Row::default()
    };
    let rows: Vec<_> = counted.peers.iter().map(row).collect();
    let mut report = Report::default();
    report.add_lines(&rows)?;
    let cells = |row: &Row| {
        let count = row.extra.instructions_per_op.unwrap_or(0);
        vec![row.peer.to_owned(), count.to_string(), format!("{:.2}", row.ratio)]
    };
    report.tables.push(Table {
        title: counted.title.to_owned(),
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
