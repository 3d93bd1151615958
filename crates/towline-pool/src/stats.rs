//! What a pool has and what it did.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use towline_core::CloseReason;

/// A snapshot of one endpoint's pool, or the sum over all. The first five are what is, the others count since the pool
/// was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls, and checkouts, that hold a connection or a share of one, and shared connections with a response that is
    /// still being read, or was within the last second: not all say when it is.
    pub in_use: usize,
    /// Connections that nobody uses.
    pub idle: usize,
    /// Dials in progress.
    pub dialling: usize,
    /// Callers that wait for a connection.
    pub waiting: usize,
    /// Open connections, used or not.
    pub live: usize,
    /// Connections that were opened.
    pub opened: u64,
    /// Hand-outs of a connection that had been used before.
    pub reused: u64,
    /// Connections that were closed, by reason.
    pub closed: Closed,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Callers that had to wait and got a connection.
    pub waits: u64,
    /// How long they waited, all together.
    pub wait_time: Duration,
}

/// How many connections were closed, and why.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Closed([u64; CloseReason::ALL.len()]);

impl Closed {
    /// For this reason.
    pub fn by(&self, reason: CloseReason) -> u64 {
        index(reason).map_or(0, |index| self.0[index])
    }

    /// For whatever reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons there were, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        CloseReason::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }

    pub(crate) fn count(&mut self, reason: CloseReason) {
        if let Some(index) = index(reason) {
            self.0[index] += 1;
        }
    }
}

fn index(reason: CloseReason) -> Option<usize> {
    CloseReason::ALL.iter().position(|known| *known == reason)
}

impl fmt::Debug for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(reason, count)| (reason.as_str(), count))).finish()
    }
}

impl Stats {
    /// What counts since the pool was made, without what is.
    pub(crate) fn counters(self) -> Self {
        Self { in_use: 0, idle: 0, dialling: 0, waiting: 0, live: 0, ..self }
    }
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        let Self { in_use, idle, dialling, waiting, live, opened, reused, closed, dials_failed, waits, wait_time } =
            other;
        self.in_use += in_use;
        self.idle += idle;
        self.dialling += dialling;
        self.waiting += waiting;
        self.live += live;
        self.opened += opened;
        self.reused += reused;
        self.closed.0.iter_mut().zip(closed.0).for_each(|(sum, count)| *sum += count);
        self.dials_failed += dials_failed;
        self.waits += waits;
        self.wait_time += wait_time;
    }
}
