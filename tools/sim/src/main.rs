//! Simulates balancers beside each other, and checks what is promised about ours: `cargo xtask sim`.
//!
//! A run is a scenario, a strategy and a seed: virtual time, one thread, the same figures every time. `engine` is the world
//! that all strategies share; `strategy` is what one has to be; `strategies` has those that are compared; `scenarios` has
//! what befalls them, and the goals.

mod args;
mod chance;
mod docs;
mod engine;
mod figures;
mod goals;
mod json;
mod lives;
mod plot;
mod repeats;
mod results;
mod scenarios;
mod stacks;
mod strategies;
mod strategy;
mod subsets;
mod table;
mod tables;

use std::process::ExitCode;

use tokio::time::Instant;

use crate::args::Args;
use crate::results::Results;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let mut goals = Vec::new();
    let mut all = Vec::new();
    for scenario in &args.scenarios {
        let begun = Instant::now();
        let results = Results::new(scenario, args.seeds);
        eprintln!("{}: {:.1} s", scenario.name, begun.elapsed().as_secs_f64());
        if args.json {
            json::lines(&results).iter().for_each(|line| println!("{line}"));
        } else {
            (scenario.tables)(&results).iter().for_each(|table| println!("{}", table.text()));
        }
        goals.extend((scenario.goals)(&results));
        all.push(results);
    }
    if args.docs
        && let Err(error) = docs::write(&all)
    {
        eprintln!("writing docs: {error}");
        return ExitCode::FAILURE;
    }
    if args.check {
        goals.iter().for_each(|goal| println!("{}", goal.line()));
        println!("{}", goals::count(&goals));
        if goals.iter().any(|goal| !goal.held) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
