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
    let docs = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [option] if option == "--docs" => true,
        other => {
            eprintln!("not understood: {other:?}; there is --docs");
            return ExitCode::from(2);
        }
    };
    match run(docs) {
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

/// Whether towline has none of them.
fn run(docs: bool) -> Result<bool> {
    let mut found: Vec<Bug> = Vec::new();
    for replay in bugs::ALL {
        let bug = replay()?;
        println!("{}", bug.text());
        found.push(bug);
    }
    print!("{}", table(&found));
    if docs {
        docs::write(&found)?;
    }
    Ok(found.iter().all(Bug::is_not_ours))
}
