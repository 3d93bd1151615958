//! Counting the instructions of a process of ours.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::child;

/// Looks for what this needs.
pub(super) fn check() -> Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        bail!("there is no valgrind; install it, on Debian and Ubuntu with: apt-get install -y valgrind");
    }
    Ok(())
}

/// Instructions of a whole process: this program with `words`, the first of which is its role.
pub(super) fn count(bench: &Bench, words: &[&str]) -> Result<u64> {
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the path of this program is no text")?;
    let callgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program];
    let output = child::run_client(&[&callgrind, words].concat(), &bench.server.addresses)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim().parse());
    collected.with_context(|| format!("callgrind counted nothing: {said}"))?.context("callgrind's count")
}
