//! Bugs that users of other pools and balancers met in the field, replayed against the released peer and against towline:
//! `cargo xtask field-bugs`. What is printed was observed in this run. A peer may have mended its bug, and then that is
//! what it says; towline may not have it, or the program fails.

mod bugs;
mod docs;
mod network;
mod pools;
mod report;

use std::process::ExitCode;

use anyhow::Result;

use crate::report::{Bug, table};

fn main() -> ExitCode {
    let wish = match Wish::parse(std::env::args().skip(1)) {
        Ok(wish) => wish,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    match run(&wish) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("towline has one of these bugs");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked for.
struct Wish {
    /// Of [`bugs::ALL`]; all when none is named.
    about: Vec<String>,
    docs: bool,
}

impl Wish {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wish = Self { about: Vec::new(), docs: false };
        let names = bugs::ALL.map(|(name, _)| name);
        for arg in args {
            match arg.as_str() {
                "--docs" => wish.docs = true,
                name if names.contains(&name) => wish.about.push(arg),
                other => return Err(format!("not understood: {other}; there are {} and --docs", names.join(", "))),
            }
        }
        if wish.docs && !wish.about.is_empty() {
            return Err("--docs writes a page of all bugs: name none".into());
        }
        Ok(wish)
    }

    fn wants(&self, name: &str) -> bool {
        self.about.is_empty() || self.about.iter().any(|wanted| wanted == name)
    }
}

/// Whether towline has none of them.
fn run(wish: &Wish) -> Result<bool> {
    let mut found: Vec<Bug> = Vec::new();
    for (_, replays) in bugs::ALL.iter().filter(|(name, _)| wish.wants(name)) {
        for replay in *replays {
            let bug = replay()?;
            println!("{}", bug.text());
            found.push(bug);
        }
    }
    print!("{}", table(&found));
    if wish.docs {
        docs::write(&found)?;
    }
    Ok(found.iter().all(Bug::is_not_ours))
}
