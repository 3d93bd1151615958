//! Which core the processes run on: all on the same one, but for threads that are about working side by side.
//!
//! Measured both ways on a two-core virtual machine: with a core for each side, a caller that waits alone for its
//! answer spends its time in waking the other core (60 µs a call instead of 15, and rounds that differ by a fifth
//! instead of a fiftieth), and how many calls get batched hangs on how fast that goes. On one core both sides share
//! what there is, and ratios repeat. Calls per second are therefore those of client and server together;
//! `cpu_us_per_op` is the client alone.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// How the header says it.
pub(crate) const CHOICE: &str = "client and server are pinned to the same core";

/// Where this process might run before it was pinned.
static ALLOWED: OnceLock<CpuSet> = OnceLock::new();

/// Pins this process to the first core that it may use.
pub(crate) fn pin() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("reading which cores are allowed")?;
    let core =
        (0..CpuSet::count()).find(|core| allowed.is_set(*core).unwrap_or(false)).context("no core is allowed")?;
    let mut only = CpuSet::new();
    only.set(core)?;
    sched_setaffinity(this, &only).context("pinning to one core")?;
    ALLOWED.get_or_init(|| allowed);
    Ok(())
}

/// Lets the calling thread run wherever the process might.
pub(crate) fn spread() -> Result<()> {
    let allowed = ALLOWED.get().context("not pinned")?;
    sched_setaffinity(Pid::from_raw(0), allowed).context("leaving the one core")
}

/// How many cores the process might use.
pub(crate) fn allowed() -> usize {
    let is_set = |allowed: &CpuSet, core: usize| allowed.is_set(core).unwrap_or(false);
    ALLOWED.get().map_or(1, |allowed| (0..CpuSet::count()).filter(|core| is_set(allowed, *core)).count())
}
