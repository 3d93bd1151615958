//! gRPC: round robin over what is connected, and the outlier detection of its proposal A50 with the defaults that it lists for
//! both of its rules. There is none for failures in a row.

use super::super::Connections;
use super::detection::{Hosts, INTERVAL, LEAST_HOSTS, MAX_EJECTED, Tally, least_rate, rate};
use super::is_good;
use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, Connection, LoadReport, Outcome, Pick, ServerId, Strategy, Token};

/// Failures of an interval, percent, above which a host is ejected, if there are enough with so many calls.
const MOST_FAILURES: f64 = 85.0;
const LEAST_CALLS: u32 = 50;

pub(in super::super) struct Grpc {
    connections: Connections,
    detector: Detector,
    next: usize,
    next_sweep: u64,
}

impl Grpc {
    pub(in super::super) fn new(mut rng: Rng) -> Self {
        let (connections, detector) = (Connections::default(), Detector::default());
        Self { connections, detector, next: rng.usize(..1 << 20), next_sweep: rng.u64(0..INTERVAL) }
    }
}

impl Strategy for Grpc {
    /// Whoever is ejected counts as not connected. When nobody is left calls fail.
    fn pick(&mut self, _: u64, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        let Self { connections, detector, next, .. } = self;
        let hosts = &detector.hosts;
        let ready = hosts.members.only(|id| connections.is_up(id) && !hosts.is_ejected(id));
        *next += 1;
        let server = ready.get(next.checked_rem(ready.len())?);
        Some(Pick { server, token: server.into() })
    }

    fn end(&mut self, token: Token, _: u64, outcome: Outcome, _: Option<LoadReport>) {
        self.detector.hosts.get(token as ServerId).count(is_good(outcome));
    }

    fn change(&mut self, _: u64, change: Change) {
        self.detector.hosts.change(change);
        self.connections.change(change);
    }

    fn connection(&mut self, _: u64, server: ServerId, connection: Connection) {
        self.connections.set(server, connection);
    }

    fn keeps_connected(&self) -> bool {
        true
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
}

impl Detector {
    /// The cap is looked at before, so that one more than a tenth may be out, and always one.
    fn eject(&mut self, id: ServerId, now: u64) {
        if 100 * self.hosts.ejected() < MAX_EJECTED * self.hosts.members.len() {
            self.hosts.get(id).eject(now, u64::MAX);
        }
    }

    fn sweep(&mut self, now: u64) {
        let tallies = self.hosts.take();
        if let Some(least) = least_rate(tallies.iter().map(|(_, tally)| *tally)) {
            let bad = tallies.iter().filter(|(_, tally)| rate(*tally).is_some_and(|rate| rate < least));
            bad.for_each(|(id, _)| self.eject(*id, now));
        }
        let counted = || tallies.iter().filter(|(_, tally)| tally.all >= LEAST_CALLS);
        if counted().count() >= LEAST_HOSTS {
            let bad = counted().filter(|(_, tally)| failures(*tally) > MOST_FAILURES);
            bad.for_each(|(id, _)| self.eject(*id, now));
        }
        for (id, _) in tallies {
            self.hosts.get(id).look(now);
        }
    }
}

/// In percent.
fn failures(tally: Tally) -> f64 {
    100.0 * f64::from(tally.all - tally.good) / f64::from(tally.all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After an interval in which hosts had so many calls, and so many good ones.
    fn swept(tallies: &[(u32, u32)]) -> Detector {
        let mut detector = Detector::default();
        for (id, (all, good)) in (0..).zip(tallies) {
            detector.hosts.change(Change::Added(id));
            (0..*all).for_each(|call| detector.hosts.get(id).count(call < *good));
        }
        detector.sweep(INTERVAL);
        detector
    }

    #[test]
    fn the_cap_lets_a_tenth_and_the_one_that_passes_it() {
        for (hosts, bad, ejected) in [(5, 1, 1), (10, 1, 1), (11, 2, 2), (20, 2, 2), (20, 4, 2), (30, 6, 3)] {
            let tallies: Vec<_> = (0..hosts).map(|id| (100, if id < bad { 0 } else { 100 })).collect();
            assert_eq!(swept(&tallies).hosts.ejected(), ejected, "{bad} of {hosts}");
        }
    }

    #[test]
    fn who_is_too_many_for_the_success_rate_is_found_by_failures() {
        let tallies: Vec<_> = (0..20).map(|id| (100, if id < 5 { 0 } else { 100 })).collect();
        assert_eq!(swept(&tallies).hosts.ejected(), 2);
        // Only the total failures are.
        let tallies: Vec<_> = (0..20).map(|id| (100, if id < 5 { 15 } else { 100 })).collect();
        assert_eq!(swept(&tallies).hosts.ejected(), 0);
    }

    #[test]
    fn few_calls_are_not_judged() {
        let tallies: Vec<_> = (0..20).map(|id| (49, if id < 1 { 0 } else { 49 })).collect();
        assert_eq!(swept(&tallies).hosts.ejected(), 0);
        let tallies: Vec<_> = (0..20).map(|id| (50, if id < 1 { 0 } else { 50 })).collect();
        assert_eq!(swept(&tallies).hosts.ejected(), 1);
    }
}
