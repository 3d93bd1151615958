//! Processor sharing on the cores that a server's neighbours leave it.
//!
//! All calls progress at the same rate, so each has a finish on one common scale, the work that a call would have got which
//! had been there from the start. What changes with every arrival and departure is only how fast that scale is walked.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::call::CallId;
use super::fleet::Machine;

/// Progress that is nobody's latency: rounding.
const NOTHING_NS: f64 = 0.5;

/// Which of the events that were made for a server counts.
pub(crate) type Version = u32;

pub(crate) struct Shared {
    machine: Machine,
    speed: f64,
    /// Cores to be had now.
    cores: f64,
    /// Work given to each call so far, and until when that is true.
    given: f64,
    at: u64,
    jobs: BinaryHeap<Reverse<Job>>,
    /// When the event that is under way fires. Those of other versions are void.
    due: u64,
    version: Version,
}

impl Shared {
    /// A speed of 1 does a nanosecond of demand in a nanosecond.
    pub(crate) fn new(machine: Machine, speed: f64) -> Self {
        let cores = machine.allocation;
        Self { machine, speed, cores, given: 0.0, at: 0, jobs: BinaryHeap::new(), due: u64::MAX, version: 0 }
    }

    /// Work per nanosecond that each of `count` calls gets.
    pub(crate) fn rate(&self, count: usize) -> f64 {
        self.speed * (self.cores / count as f64).min(1.0)
    }

    /// The neighbours need so many cores from now on.
    pub(crate) fn leave(&mut self, now: u64, needed: f64) -> Option<(u64, Version)> {
        self.walk(now);
        self.cores = (self.machine.cores - needed).max(self.machine.allocation);
        self.arm(now)
    }

    pub(crate) fn add(&mut self, now: u64, call: CallId, demand: f64) -> Option<(u64, Version)> {
        self.walk(now);
        self.jobs.push(Reverse(Job { finish: self.given + demand, call }));
        self.arm(now)
    }

    /// The event of `version` fires: puts who is done into `done`. Whoever is armed for has to be in time.
    pub(crate) fn turn(&mut self, now: u64, version: Version, done: &mut Vec<CallId>) -> Option<(u64, Version)> {
        if version != self.version {
            return None;
        }
        self.walk(now);
        while self.jobs.peek().is_some_and(|Reverse(job)| job.finish <= self.given + NOTHING_NS) {
            done.extend(self.jobs.pop().map(|Reverse(job)| job.call));
        }
        self.due = u64::MAX;
        self.arm(now)
    }

    fn walk(&mut self, now: u64) {
        if !self.jobs.is_empty() {
            self.given += (now - self.at) as f64 * self.rate(self.jobs.len());
        }
        self.at = now;
    }

    /// The event to make, if the one under way comes too late. One that comes too early finds nobody done and arms anew:
    /// that is cheaper than an event for every arrival.
    fn arm(&mut self, now: u64) -> Option<(u64, Version)> {
        let Reverse(first) = self.jobs.peek()?;
        let remaining = (first.finish - self.given).max(0.0) / self.rate(self.jobs.len());
        let due = now + remaining.ceil() as u64;
        if self.due <= due {
            return None;
        }
        self.due = due;
        self.version += 1;
        Some((due, self.version))
    }
}

/// Ordered by `finish`.
struct Job {
    finish: f64,
    call: CallId,
}

impl Ord for Job {
    fn cmp(&self, other: &Self) -> Ordering {
        self.finish.total_cmp(&other.finish).then(self.call.cmp(&other.call))
    }
}

impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Job {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Job {}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine =
        Machine { cores: 10.0, allocation: 1.0, neighbours: (0.0, 10.0), redraw: 1_000, half_speed: 0 };

    /// Runs until nobody is left; who is done when.
    fn finish(shared: &mut Shared, mut event: Option<(u64, Version)>) -> Vec<(u64, CallId)> {
        let mut all = Vec::new();
        while let Some((time, version)) = event {
            let mut done = Vec::new();
            event = shared.turn(time, version, &mut done);
            all.extend(done.into_iter().map(|call| (time, call)));
        }
        all
    }

    #[test]
    fn calls_share_the_cores_that_there_are() {
        let mut shared = Shared::new(MACHINE, 1.0);
        let first = shared.add(0, 1, 100.0);
        assert_eq!(first, Some((100, 1)));
        // Both on one core: the first has 50 to go, at half the rate.
        assert_eq!(shared.add(50, 2, 100.0), None);
        assert_eq!(finish(&mut shared, first), [(150, 1), (200, 2)]);
    }

    #[test]
    fn a_call_has_one_core_at_most_and_a_slow_machine_takes_longer() {
        let mut shared = Shared::new(MACHINE, 0.5);
        assert_eq!(shared.leave(0, 4.0), None);
        let event = shared.add(0, 1, 100.0);
        assert_eq!(finish(&mut shared, event), [(200, 1)]);
    }

    #[test]
    fn neighbours_take_all_but_the_allocation() {
        let mut shared = Shared::new(MACHINE, 1.0);
        assert_eq!(shared.leave(0, 8.0), None);
        let event = shared.add(0, 1, 100.0).or(shared.add(0, 2, 100.0));
        // Two cores for 50, one from then on.
        assert_eq!(shared.leave(50, 12.0), None);
        assert_eq!(finish(&mut shared, event), [(150, 1), (150, 2)]);
    }

    #[test]
    fn who_comes_later_may_be_done_sooner_and_so_may_all_when_neighbours_go() {
        let mut shared = Shared::new(MACHINE, 1.0);
        assert_eq!(shared.add(0, 1, 100.0), Some((100, 1)));
        let sooner = shared.add(10, 2, 20.0);
        assert_eq!(sooner, Some((50, 2)));
        let at_once = shared.leave(20, 5.0);
        assert_eq!(at_once, Some((35, 3)));

        assert_eq!(finish(&mut shared, at_once), [(35, 2), (105, 1)]);
    }
}
