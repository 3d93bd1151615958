//! What the examples share: making things fail, counting what a run did, and showing it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use towline::{Client, Event, Observer, SessionKey};
use towline_proto::{Request, Response};

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A progress bar over this many calls, shown on a terminal.
pub fn progress_bar(calls: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} calls  {per_sec}  {msg}");
    ProgressBar::new(calls).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Turns on the stack's spans and events when the environment variable `RUST_LOG` asks for them.
pub fn init_tracing() {
    use tracing_subscriber::{EnvFilter, fmt};
    fmt().with_env_filter(EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
}

/// Counts, per endpoint, what only events tell.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Mutex<BTreeMap<String, Counts>>>);

#[derive(Clone, Debug, Default)]
struct Counts {
    retries: u64,
    moved_away: BTreeSet<Vec<u8>>,
}

impl Events {
    fn count(&self, endpoint: &str, count: impl FnOnce(&mut Counts)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        count(counts.entry(endpoint.to_owned()).or_default());
    }

    fn of(&self, endpoint: &str) -> Counts {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(endpoint).cloned().unwrap_or_default()
    }
}

impl Observer for Events {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Retrying { endpoint: Some(endpoint), .. } => {
                self.count(endpoint.as_str(), |counts| counts.retries += 1);
            }
            Event::SessionSpilled { session, home: Some(from), .. }
            | Event::SessionMoved { session, from: Some(from), .. } => {
                let session = SessionKey::as_bytes(session).to_vec();
                self.count(from.as_str(), |counts| {
                    counts.moved_away.insert(session);
                });
            }
            _ => {}
        }
    }
}

/// The latencies of successful calls.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // Microseconds, up to a minute, to three digits.
        Self(Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order"))
    }
}

impl Latencies {
    /// Notes that a call took so long.
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_micros().try_into().unwrap_or(u64::MAX));
    }

    /// Adds what another task has noted.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all are made alike");
    }

    /// How many were noted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time within which this part of the calls were done.
    pub fn at(&self, quantile: f64) -> String {
        format!("{:.2} ms", self.0.value_at_quantile(quantile) as f64 / 1_000.0)
    }
}

/// The table that ends a run.
pub fn table(client: &Client<Request, Response>, events: &Events, latencies: &Latencies, took: Duration) -> String {
    let header = ["endpoint", "calls", "opened", "reused", "closed", "retries", "sessions moved away"];
    let rows = client.endpoints().into_iter().map(|endpoint| {
        let counts = events.of(endpoint.key.as_str());
        let numbers = [
            endpoint.calls,
            endpoint.pool.opened,
            endpoint.pool.reused,
            endpoint.pool.closed.total(),
            counts.retries,
            counts.moved_away.len() as u64,
        ];
        [endpoint.key.to_string()].into_iter().chain(numbers.map(|number| number.to_string())).collect()
    });
    let mut out = aligned(&header, rows);
    let calls = latencies.count();
    let _ = writeln!(
        out,
        "{calls} calls in {:.2} s: {:.0} per second; p50 {}, p99 {}, p99.9 {}",
        took.as_secs_f64(),
        calls as f64 / took.as_secs_f64(),
        latencies.at(0.5),
        latencies.at(0.99),
        latencies.at(0.999),
    );
    out
}

/// Rows under a header: names to the left, numbers to the right.
pub fn aligned(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let mut out = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let longest = rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
            let width = longest.max(if column == 0 { 21 } else { 7 });
            let _ = if column == 0 { write!(out, "{cell:<width$}") } else { write!(out, "  {cell:>width$}") };
        }
        out.push('\n');
    }
    out
}

/// Says how a run has ended.
pub fn conclude(result: Result<(), impl Into<BoxError>>) -> ExitCode {
    match result {
        Ok(()) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            println!("not ok: {}", report(wrong));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes.
pub fn report(error: impl Into<BoxError>) -> String {
    let error = error.into();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
