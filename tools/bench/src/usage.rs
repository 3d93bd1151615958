//! What this process has used so far: time, CPU, allocations, memory.

use std::alloc::System;
use std::ops::Sub;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What was used between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) elapsed: Duration,
    /// In user mode and in the kernel, by getrusage.
    pub(crate) cpu: Duration,
    pub(crate) allocations: u64,
}

/// What was used up to a moment.
pub(crate) struct Moment {
    at: Instant,
    cpu: Duration,
    allocations: usize,
}

impl Moment {
    pub(crate) fn now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
        let duration = |time: TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1_000);
        let stats = ALLOCATOR.stats();
        Ok(Self {
            at: Instant::now(),
            cpu: duration(usage.user_time()) + duration(usage.system_time()),
            allocations: stats.allocations + stats.reallocations,
        })
    }
}

impl Sub for Moment {
    type Output = Usage;

    fn sub(self, earlier: Self) -> Usage {
        Usage {
            elapsed: self.at - earlier.at,
            cpu: self.cpu - earlier.cpu,
            allocations: (self.allocations - earlier.allocations) as u64,
        }
    }
}

/// Memory of this process, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// Pages that are in RAM.
    pub(crate) resident: u64,
    /// Allocated and not freed.
    pub(crate) heap: u64,
}

impl Memory {
    pub(crate) fn now() -> Result<Self> {
        let statm = std::fs::read_to_string("/proc/self/statm").context("reading /proc/self/statm")?;
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).context("parsing statm")?;
        let page = sysconf(SysconfVar::PAGE_SIZE)?.context("the page size is unknown")? as u64;
        let stats = ALLOCATOR.stats();
        // A growing reallocation counts in `bytes_allocated`, a shrinking one in `bytes_deallocated`.
        let heap = (stats.bytes_allocated - stats.bytes_deallocated) as u64;
        Ok(Self { resident: pages * page, heap })
    }
}

/// Allows as many open files as the system lets us have.
pub(crate) fn raise_file_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")
}
