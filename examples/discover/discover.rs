//! Follows a source of endpoints: prints the set, and every change as it happens.
//!
//! On a terminal it is a table that changes; elsewhere it is lines, each with the seconds since the start:
//! `+` came, `~` changed, `-` went, `!` failed (the set stays), `=` holds again after a failure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until};
use towline_core::{Endpoint, EndpointKey, EndpointSet, Error, Kind, Phase, Target};
use towline_discover::{Defaults, Schemes, Source, Timing};
use towline_discover_dns::Dns;

/// Prints the endpoints that a source has, and every change as it happens, until it is interrupted.
#[derive(Parser)]
struct Options {
    /// A source: dns:///NAME:PORT, dns+srv:///_SERVICE._tcp.NAME, dns://SERVER:PORT/NAME:PORT, file:PATH, static:HOST:PORT,HOST:PORT.
    source: String,
    /// Asks names no more often than this, in seconds.
    #[arg(long, default_value_t = 5.0)]
    floor: f64,
    /// Asks names at least so often, in seconds.
    #[arg(long, default_value_t = 300.0)]
    ceiling: f64,
    /// Gives up the last set when the source has failed for so long, in seconds.
    #[arg(long)]
    stale_after: Option<f64>,
    /// The zone of endpoints that have none of their own.
    #[arg(long)]
    zone: Option<String>,
    /// Ends after so many seconds.
    #[arg(long = "for")]
    seconds: Option<f64>,
    /// Lines also on a terminal.
    #[arg(long)]
    lines: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Error> {
    let mut source = open(&options)?;
    let mut view = View::new(!options.lines && std::io::stdout().is_terminal(), options.source);
    let end = match options.seconds {
        Some(seconds) => Some(Instant::now() + duration(seconds, "--for")?),
        None => None,
    };
    let ending = async {
        match end {
            Some(end) => sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    let mut ending = std::pin::pin!(ending);
    loop {
        tokio::select! {
            item = source.next() => match item {
                Some(Ok(set)) => view.show(set),
                Some(Err(error)) => view.fail(&chain(&error)),
                None => {
                    view.fail("the source has ended: nothing will change any more");
                    return Ok(());
                }
            },
            () = &mut ending => return Ok(()),
            interrupted = tokio::signal::ctrl_c() => {
                return interrupted.map_err(|error| Error::io(Phase::Call, error));
            }
        }
    }
}

fn open(options: &Options) -> Result<Source, Error> {
    let floor = duration(options.floor, "--floor")?;
    let timing = Timing::default().floor(floor).ceiling(duration(options.ceiling, "--ceiling")?);
    let schemes = Dns::new().timing(timing).register(Schemes::default());
    let mut source = schemes.open(&options.source)?;
    if let Some(seconds) = options.stale_after {
        source = source.keep_last_good(duration(seconds, "--stale-after")?);
    }
    if let Some(zone) = &options.zone {
        source = source.with_defaults(Defaults::new().zone(zone.as_str()));
    }
    Ok(source)
}

fn duration(seconds: f64, option: &str) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(seconds).map_err(|cause| {
        let why = format!("{option} takes seconds, from 0 on");
        Error::new(Kind::Config, Phase::Build).with_message(why).with_source(cause)
    })
}

/// What is known, as it is shown.
struct View {
    known: BTreeMap<EndpointKey, Endpoint>,
    start: Instant,
    title: String,
    /// On a terminal.
    is_table: bool,
    failure: Option<String>,
    changes: u64,
}

impl View {
    fn new(is_table: bool, title: String) -> Self {
        Self { known: BTreeMap::new(), start: Instant::now(), title, is_table, failure: None, changes: 0 }
    }

    fn show(&mut self, set: EndpointSet) {
        let had_failed = self.failure.take().is_some();
        let new: BTreeMap<_, _> = set.iter().map(|endpoint| (endpoint.key().clone(), endpoint.clone())).collect();
        let mut lines = Vec::new();
        for key in self.known.keys().filter(|key| !new.contains_key(*key)) {
            lines.push(format!("- {key}"));
        }
        for (key, endpoint) in &new {
            match self.known.get(key) {
                None => lines.push(format!("+ {key}{}", attributes(endpoint))),
                Some(known) if known != endpoint => lines.push(format!("~ {key}{}", attributes(endpoint))),
                Some(_) => {}
            }
        }
        self.changes += lines.len() as u64;
        self.known = new;
        match (lines.is_empty(), had_failed) {
            (true, true) => lines.push(format!("= {} endpoints", self.known.len())),
            (true, false) if self.known.is_empty() => lines.push("= none, on purpose".to_owned()),
            _ => {}
        }
        self.print(&lines);
    }

    fn fail(&mut self, why: &str) {
        self.failure = Some(why.to_owned());
        self.print(&[format!("! {why}")]);
    }

    fn print(&mut self, lines: &[String]) {
        let at = self.start.elapsed().as_secs_f64();
        let mut out = String::new();
        if self.is_table {
            // As `watch` does it: lines that are longer than the terminal is wide leave nothing behind.
            out.push_str("\x1b[H\x1b[2J");
            for row in self.rows(at) {
                let _ = writeln!(out, "{row}");
            }
        } else {
            for line in lines {
                let _ = writeln!(out, "{at:9.3}  {line}");
            }
        }
        let mut stdout = std::io::stdout().lock();
        // Nobody is left to print to.
        if stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
    }

    fn rows(&self, at: f64) -> Vec<String> {
        let width = self.known.keys().map(|key| key.as_str().len()).max().unwrap_or_default().max(21);
        let head = format!("{}: {} endpoints, {} changes, {at:.1} s", self.title, self.known.len(), self.changes);
        let rows =
            self.known.iter().map(|(key, endpoint)| format!("  {:<width$}{}", key.as_str(), attributes(endpoint)));
        // What does not fit onto a screen would scroll away, and leave its copies behind.
        let (most, more) = (30, self.known.len().saturating_sub(30));
        let more = (more > 0).then(|| format!("  … and {more} more"));
        let failure = self.failure.as_ref().map(|why| format!("! {why}"));
        std::iter::once(head).chain(rows.take(most)).chain(more).chain(failure).collect()
    }
}

/// Those that are not as for all.
fn attributes(endpoint: &Endpoint) -> String {
    let mut text = String::new();
    if endpoint.key().as_str() != endpoint.target().to_string() {
        let _ = write!(text, "  at {}", endpoint.target());
    }
    if endpoint.weight().get() != 1.0 {
        let _ = write!(text, "  weight {}", endpoint.weight().get());
    }
    if endpoint.priority() != 0 {
        let _ = write!(text, "  priority {}", endpoint.priority());
    }
    if let Some(zone) = endpoint.zone() {
        let _ = write!(text, "  zone {zone}");
    }
    let own = Target::new(endpoint.target().address().clone());
    if let Some(name) = endpoint.target().tls_name().filter(|name| own.tls_name() != Some(name)) {
        let _ = write!(text, "  TLS name {name}");
    }
    for (name, value) in endpoint.metadata().iter() {
        let _ = write!(text, "  {name}={value}");
    }
    text
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
