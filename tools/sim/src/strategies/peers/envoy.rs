//! Envoy: two choices by calls in flight, and outlier detection with the defaults of 1.31 and later: five failures in a row or a
//! success rate far below the others', a tenth of the hosts at most, and everybody when more than half are out.

use super::super::Members;
use super::detection::{Hosts, INTERVAL, MAX_EJECTED, MOST_TIMES, least_rate, rate};
use super::is_good;
use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, LoadReport, Outcome, Pick, ServerId, Strategy, Token};

const CONSECUTIVE: u32 = 5;

pub(in super::super) struct Envoy {
    in_flight: Vec<u32>,
    detector: Detector,
    next_sweep: u64,
}

impl Envoy {
    /// Sweeps begin at a time of its own.
    pub(in super::super) fn new(mut rng: Rng) -> Self {
        Self { in_flight: Vec::new(), detector: Detector::default(), next_sweep: rng.u64(0..INTERVAL) }
    }
}

impl Strategy for Envoy {
    /// The two may be the same.
    fn pick(&mut self, _: u64, rng: &mut Rng, _: &Fleet) -> Option<Pick> {
        let usable = self.detector.usable();
        let (a, b) = (usable.random(rng)?, usable.random(rng)?);
        let load = |id: ServerId| self.in_flight[id as usize];
        let server = if load(b) < load(a) { b } else { a };
        self.in_flight[server as usize] += 1;
        Some(Pick { server, token: server.into() })
    }

    fn end(&mut self, token: Token, now: u64, outcome: Outcome, _: Option<LoadReport>) {
        self.in_flight[token as usize] -= 1;
        self.detector.ended(token as ServerId, now, is_good(outcome));
    }

    fn change(&mut self, _: u64, change: Change) {
        self.detector.change(change);
        self.in_flight.resize(self.detector.failures.len(), 0);
    }

    fn next_wake(&self) -> Option<u64> {
        Some(self.next_sweep)
    }

    fn wake(&mut self, now: u64, _: &mut Rng) {
        if now >= self.next_sweep {
            self.next_sweep = now + INTERVAL;
            self.detector.sweep(now);
        }
    }

    fn ejected(&self) -> usize {
        self.detector.hosts.ejected()
    }
}

#[derive(Default)]
struct Detector {
    hosts: Hosts,
    /// In a row, by server.
    failures: Vec<u32>,
}

impl Detector {
    fn change(&mut self, change: Change) {
        self.hosts.change(change);
        if let Change::Added(id) = change {
            self.failures.resize(id as usize + 1, 0);
        }
    }

    /// Everybody in panic.
    fn usable(&self) -> Members {
        let members = &self.hosts.members;
        let healthy = members.only(|id| !self.hosts.is_ejected(id));
        if 2 * healthy.len() < members.len() { members.clone() } else { healthy }
    }

    /// Unless it would be one too many.
    fn eject(&mut self, id: ServerId, now: u64) {
        if 100 * (self.hosts.ejected() + 1) <= MAX_EJECTED * self.hosts.members.len() {
            self.hosts.get(id).eject(now, MOST_TIMES);
        }
    }

    fn ended(&mut self, id: ServerId, now: u64, is_good: bool) {
        self.hosts.get(id).count(is_good);
        let failures = &mut self.failures[id as usize];
        *failures = if is_good { 0 } else { *failures + 1 };
        if *failures >= CONSECUTIVE && !self.hosts.is_ejected(id) {
            *failures = 0;
            self.eject(id, now);
        }
    }

    fn sweep(&mut self, now: u64) {
        let tallies = self.hosts.take();
        for (id, _) in &tallies {
            let was_ejected = self.hosts.is_ejected(*id);
            if self.hosts.get(*id).look(now) && was_ejected {
                self.failures[*id as usize] = 0;
            }
        }
        let compared = || tallies.iter().filter(|(id, _)| !self.hosts.is_ejected(*id));
        let Some(least) = least_rate(compared().map(|(_, tally)| *tally)) else { return };
        let is_bad = |tally| rate(tally).is_some_and(|rate| rate < least);
        let bad: Vec<_> = compared().filter(|(_, tally)| is_bad(*tally)).map(|(id, _)| *id).collect();
        bad.into_iter().for_each(|id| self.eject(id, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::SECONDS;

    fn detector(hosts: ServerId) -> Detector {
        let mut detector = Detector::default();
        (0..hosts).for_each(|id| detector.change(Change::Added(id)));
        detector
    }

    /// These fail so often in a row.
    fn fail(detector: &mut Detector, ids: std::ops::Range<ServerId>, times: u32) {
        for id in ids {
            (0..times).for_each(|_| detector.ended(id, 0, false));
        }
    }

    #[test]
    fn five_failures_in_a_row_eject_and_an_answer_in_between_begins_anew() {
        let mut detector = detector(20);
        fail(&mut detector, 0..1, 4);
        detector.ended(0, 0, true);
        fail(&mut detector, 0..1, 4);
        assert!(!detector.hosts.is_ejected(0));
        fail(&mut detector, 0..1, 1);
        assert!(detector.hosts.is_ejected(0));
        for (after, is_ejected) in [(10, true), (20, true), (30, false)] {
            detector.sweep(after * SECONDS);
            assert_eq!(detector.hosts.is_ejected(0), is_ejected, "{after} s");
        }
    }

    #[test]
    fn a_tenth_may_be_ejected_and_nobody_of_fewer_than_ten() {
        for (hosts, ejected) in [(5, 0), (9, 0), (10, 1), (19, 1), (20, 2), (30, 3)] {
            let mut detector = detector(hosts);
            fail(&mut detector, 0..hosts, 50);
            assert_eq!(detector.hosts.ejected(), ejected, "{hosts}");
        }
    }

    #[test]
    fn a_low_success_rate_ejects_without_failures_in_a_row() {
        let mut detector = detector(20);
        for call in 0..100 {
            (0..20).for_each(|id| detector.ended(id, 0, id != 0 || call % 3 != 0));
        }
        assert_eq!(detector.hosts.ejected(), 0);
        detector.sweep(INTERVAL);
        assert!(detector.hosts.is_ejected(0) && detector.hosts.ejected() == 1);
    }

    #[test]
    fn in_panic_all_are_used() {
        let mut detector = detector(20);
        (0..10).for_each(|id| detector.hosts.get(id).eject(0, MOST_TIMES));
        assert_eq!(detector.usable().len(), 10);
        detector.hosts.get(10).eject(0, MOST_TIMES);
        assert_eq!(detector.usable().len(), 20);
    }
}
