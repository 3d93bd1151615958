//! Measures towline beside the floor (hand-written code with no library) and its peers: `cargo xtask bench`.
//!
//! What a figure means is in `measure.rs`; who runs on which core, and why, in `cores.rs`; what each case does, in its
//! file under `cases`. The program starts itself again for the server and for clients that need a process of their own.

mod args;
mod cases;
mod child;
mod cores;
mod dial;
mod docs;
mod machine;
mod measure;
mod peers;
mod plot;
mod report;
mod server;
mod usage;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::args::Args;
use crate::cases::{Bench, balance, checkout, instructions, memory};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let done = match words.split_first() {
        Some((role, _)) if role == child::SERVE => server::serve(),
        Some((role, words)) if role == child::HOLD => memory::hold(words),
        Some((role, words)) if role == child::CALL => instructions::call(words),
        Some((role, words)) if role == child::CHECKOUT => checkout::instructions::checkout(words),
        Some((role, words)) if role == child::BALANCE => balance::instructions::call(words),
        _ => match Args::parse(words.into_iter()) {
            Ok(args) => run(&args),
            Err(why) => {
                eprintln!("{why}");
                return ExitCode::from(2);
            }
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    eprintln!("{}", machine::processor());
    eprintln!("{}", machine::pinned());
    args.cases.iter().try_for_each(|case| case.check())?;
    child::settle()?;
    let bench = Bench::start(args.quick)?;
    let mut reports = Vec::new();
    for case in &args.cases {
        let report = case.run(&bench, args.recorded).with_context(|| format!("case {}", case.name()))?;
        if args.json {
            report.lines.iter().for_each(|line| println!("{line}"));
        } else {
            report.tables.iter().for_each(|table| println!("{}", table.text()));
            if !report.note.is_empty() {
                println!("{}\n", report.note);
            }
        }
        reports.push((*case, report));
    }
    if args.docs {
        docs::write(&reports, args.quick)?;
    }
    Ok(())
}
