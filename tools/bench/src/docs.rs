//! `docs/benchmarks.md` and its pictures. Each case has a section between two markers, and a run replaces the sections
//! of its own cases only.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cases::Case;
use crate::machine;
use crate::report::{Report, Table};

const INTRO: &str = "intro";
const INTRO_TEXT: &str = "\
Written by `cargo xtask bench --docs`.

The server is a process of its own and the same for all framed rows; hyper and tonic have their own servers. Every row
makes the same calls from the same tasks on one current-thread runtime and checks that each answer is its own. Rows are
measured in interleaved rounds; figures are medians over the rounds, min and max are the slowest and the fastest round,
latencies are of all calls. CPU (getrusage) and allocations (a counting allocator) are the client's alone, requests and
answers included; calls per second are what client and server reach together on one core.

A *floor* is hand-written code that does the same work with no library: `floor-exclusive` one request at a time on a
connection per caller, `floor-multiplexed` one connection for all callers with batched writes. Absolute figures are the
machine's; the ratios to the floor carry over.

Checkouts from a pool need no server: tasks run on one thread, or on two workers with a core each. Their floors are
`floor-lock`, one mutex over the idle connections and the queue of waiters, and `floor-semaphore`, tokio's semaphore and a
mutex over a vector. Balancers need none either, and run in the same way over endpoints that answer at once; their floor is
`floor-p2c`, two endpoints at random and an atomic count of the calls in flight on each.
";

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Writes what the cases have to say.
pub(crate) fn write(reports: &[(Case, Report)], quick: bool) -> Result<()> {
    let path = docs().join("benchmarks.md");
    let mut text = std::fs::read_to_string(&path).unwrap_or_else(|_| format!("# Benchmarks\n{}", empty(INTRO)));
    for case in Case::ALL {
        if !text.contains(&markers(case.name()).0) {
            text.push_str(&format!("\n## {}\n{}", heading(case), empty(case.name())));
        }
    }
    replace(&mut text, INTRO, INTRO_TEXT);
    let run = if quick { "A quick run" } else { "A full run" };
    for (case, report) in reports {
        let name = case.name();
        let mut section = format!("*{run} on {}, with {}.*\n\n", machine::processor(), machine::pinned());
        if let Some(chart) = &report.chart {
            let images = docs().join("images");
            std::fs::create_dir_all(&images).context("creating the folder of the images")?;
            std::fs::write(images.join(format!("bench-{name}.svg")), chart).context("writing an image")?;
            section.push_str(&format!("![{}](images/bench-{name}.svg)\n\n", heading(*case)));
        }
        let tables: Vec<_> = report.tables.iter().map(Table::markdown).collect();
        section.push_str(&tables.join("\n"));
        if !report.note.is_empty() {
            section.push_str(&format!("\n{}\n", report.note));
        }
        replace(&mut text, name, &section);
    }
    std::fs::write(&path, text).context("writing docs/benchmarks.md")
}

fn markers(name: &str) -> (String, String) {
    (format!("<!-- bench:{name} -->\n"), format!("<!-- /bench:{name} -->\n"))
}

/// A section that waits for its figures.
fn empty(name: &str) -> String {
    let (begin, end) = markers(name);
    format!("\n{begin}\nNot measured yet.\n\n{end}")
}

/// Replaces what is between the markers of `name`; a section that is not there goes to the end.
fn replace(text: &mut String, name: &str, section: &str) {
    let (begin, end) = markers(name);
    let start = text.find(&begin).map(|at| at + begin.len());
    let place = start.and_then(|start| text[start..].find(&end).map(|length| start..start + length));
    match place {
        Some(place) => text.replace_range(place, &format!("\n{section}\n")),
        None => text.push_str(&format!("\n{begin}\n{section}\n{end}")),
    }
}

fn heading(case: Case) -> &'static str {
    match case {
        Case::Echo => "Echo over TCP",
        Case::Tls => "TLS",
        Case::Memory => "Memory of idle connections",
        Case::Instructions => "Instructions per call",
        Case::HeadToHead => "Head to head with tokio-tower",
        Case::Checkout => "Checkouts from a pool",
        Case::CheckoutInstructions => "Instructions per checkout",
        Case::Balance => "Balancers",
        Case::BalanceInstructions => "Instructions per balanced call",
        Case::Layers => "Retry and a limit of time",
        Case::Sticky => "Sessions",
        Case::Http => "A channel for HTTP and gRPC",
        Case::Discover => "A large set of endpoints",
    }
}
