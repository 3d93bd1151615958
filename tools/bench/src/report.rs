//! What a case has to say: lines of JSON for machines, tables and a picture for people.

use std::borrow::Cow;

use anyhow::Result;
use serde::Serialize;

use crate::measure::Outcome;

/// The keys that every measured row has, in this order; 0 where one means nothing.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) peer: &'static str,
    /// The row that `ratio` is against.
    pub(crate) floor: &'static str,
    pub(crate) concurrency: usize,
    /// Bytes.
    pub(crate) payload: usize,
    /// Median over the rounds; `min` and `max` are of the same.
    pub(crate) ops_per_s: f64,
    pub(crate) ns_per_op: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) cpu_us_per_op: f64,
    pub(crate) allocs_per_op: f64,
    /// Speed over the floor's; where no speed is measured, cost over the floor's.
    pub(crate) ratio: f64,
    #[serde(flatten)]
    pub(crate) extra: Extra,
}

/// The keys of some cases.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Extra {
    /// `tcp` or `tls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transport: Option<&'static str>,
    /// Resident bytes per connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_above_floor: Option<i64>,
    /// Allocated bytes per connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heap_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instructions_per_op: Option<u64>,
    /// How many a pool may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<usize>,
    /// That calls are spread over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoints: Option<usize>,
    /// Threads that the tasks run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workers: Option<usize>,
    /// Whether a connection is held across an await.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) held: Option<bool>,
    /// Whether the row reaches what it is held to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) met: Option<bool>,
}

impl Row {
    /// A row whose speed was measured; `floor_ops` is its floor's.
    pub(crate) fn timed(outcome: &Outcome, floor_ops: f64) -> Self {
        Self {
            ops_per_s: rounded(outcome.ops_per_s, 0),
            ns_per_op: rounded(1e9 / outcome.ops_per_s, 1),
            min: rounded(outcome.min, 0),
            max: rounded(outcome.max, 0),
            p50_us: rounded(outcome.p50_us, 1),
            p99_us: rounded(outcome.p99_us, 1),
            cpu_us_per_op: rounded(outcome.cpu_us_per_op, 3),
            allocs_per_op: rounded(outcome.allocs_per_op, 2),
            ratio: rounded(outcome.ops_per_s / floor_ops, 3),
            ..Self::default()
        }
    }
}

pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// What a case has to say.
#[derive(Default)]
pub(crate) struct Report {
    /// One JSON object each.
    pub(crate) lines: Vec<String>,
    pub(crate) tables: Vec<Table>,
    /// An SVG document.
    pub(crate) chart: Option<String>,
    /// A sentence after the tables.
    pub(crate) note: Cow<'static, str>,
}

impl Report {
    pub(crate) fn add_lines<T: Serialize>(&mut self, rows: &[T]) -> Result<()> {
        for row in rows {
            self.lines.push(serde_json::to_string(row)?);
        }
        Ok(())
    }
}

/// Cells under a title. The first column is aligned to the left, and all of them when the cells are prose.
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) prose: bool,
    /// Folded away where the reader has to ask for it.
    pub(crate) detail: bool,
}

/// The columns of a table of timed rows.
const TIMED: [&str; 9] = ["", "calls/s", "of floor", "min", "max", "p50 µs", "p99 µs", "CPU µs/call", "allocs/call"];

impl Table {
    /// Timed rows that share everything but their peer.
    pub(crate) fn timed(title: String, rows: &[Row]) -> Self {
        let cells = |row: &Row| {
            vec![
                row.peer.to_owned(),
                thousands(row.ops_per_s),
                format!("{:.2}", row.ratio),
                thousands(row.min),
                thousands(row.max),
                format!("{:.1}", row.p50_us),
                format!("{:.1}", row.p99_us),
                format!("{:.2}", row.cpu_us_per_op),
                format!("{:.2}", row.allocs_per_op),
            ]
        };
        let head = TIMED.map(str::to_owned).to_vec();
        Self { title, head, rows: rows.iter().map(cells).collect(), prose: false, detail: true }
    }

    fn left(&self, column: usize) -> bool {
        column == 0 || self.prose
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| lines().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..self.head.len()).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for cells in lines() {
            let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if self.left(column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            text.push_str(&format!("  {}\n", padded.collect::<Vec<_>>().join("  ").trim_end()));
        }
        text
    }

    /// For `docs/benchmarks.md`.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rules: Vec<_> =
            (0..self.head.len()).map(|c| if self.left(c) { "---" } else { "---:" }.to_owned()).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        let table = format!("{}{}{rows}", line(&self.head), line(&rules));
        match self.detail {
            true => format!("<details><summary>{}</summary>\n\n{table}\n</details>\n", self.title),
            false => format!("{}:\n\n{table}", self.title),
        }
    }
}

/// `1 caller`, `16 callers`.
pub(crate) fn callers(count: usize) -> String {
    if count == 1 { "1 caller".to_owned() } else { format!("{count} callers") }
}

/// `64 B`, `4 KiB`.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes > 0 && bytes % 1024 == 0 => format!("{} KiB", bytes / 1024),
        bytes => format!("{bytes} B"),
    }
}

/// A whole number with commas: 1,279,000.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value <= -0.5 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
