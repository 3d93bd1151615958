//! What this process uses: time, CPU, allocations, memory.
//!
//! The counting allocator counts in thread-local cells, since a pair of atomic counters would cost a call of the floor
//! a seventh of its time, and flatter whoever is compared with it. It counts on the measuring thread alone, which is
//! the one that everything runs on. A reallocation counts as an allocation.

use std::ops::AddAssign;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};
use tokio::time::Instant;

/// What some work has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) elapsed: Duration,
    /// In user mode and in the kernel, by getrusage.
    pub(crate) cpu: Duration,
    pub(crate) allocations: u64,
    /// Bytes that it allocated and has not freed.
    pub(crate) heap: i64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.elapsed += more.elapsed;
        self.cpu += more.cpu;
        self.allocations += more.allocations;
        self.heap += more.heap;
    }
}

/// Does the work, on this thread.
pub(crate) fn measure<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Usage)> {
    let mut done = None;
    let (began, cpu) = (Instant::now(), cpu()?);
    let counted = allocation_counter::measure(|| done = Some(work()));
    let (elapsed, cpu) = (began.elapsed(), self::cpu()? - cpu);
    let done = done.context("the work was not done")??;
    Ok((done, Usage { elapsed, cpu, allocations: counted.count_total, heap: counted.bytes_current }))
}

fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let duration = |time: TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1_000);
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

/// The bytes of this process that are in RAM.
pub(crate) fn resident() -> Result<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").context("reading /proc/self/statm")?;
    let pages: i64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).context("parsing statm")?;
    Ok(pages * sysconf(SysconfVar::PAGE_SIZE)?.context("the page size is unknown")?)
}

/// Allows as many open files as the system lets us have.
pub(crate) fn raise_file_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")
}
