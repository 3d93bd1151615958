//! What Envoy's and gRPC's outlier detection share: counts per interval, the success-rate rule, and how long an ejection
//! lasts.

use super::super::Members;
use crate::engine::config::SECONDS;
use crate::strategy::{Change, ServerId};

pub(super) const INTERVAL: u64 = 10 * SECONDS;
const BASE: u64 = 30 * SECONDS;
const LONGEST: u64 = 300 * SECONDS;
/// Of the hosts, percent.
pub(super) const MAX_EJECTED: usize = 10;
/// Hosts with so many calls in an interval are compared, if there are so many of them.
const LEAST_CALLS: u32 = 100;
pub(super) const LEAST_HOSTS: usize = 5;
/// Standard deviations below the mean.
const DEVIATIONS: f64 = 1.9;

/// Calls of an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) all: u32,
    pub(super) good: u32,
}

/// A host as the detection sees it.
#[derive(Default)]
pub(super) struct Host {
    tally: Tally,
    ejected_at: Option<u64>,
    /// How many base times the next ejection lasts, less one.
    times: u64,
}

impl Host {
    pub(super) fn count(&mut self, is_good: bool) {
        self.tally.all += 1;
        self.tally.good += u32::from(is_good);
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejected_at.is_some()
    }

    /// Each ejection lasts longer, until it has been lengthened `most` times.
    pub(super) fn eject(&mut self, now: u64, most: u64) {
        self.ejected_at = Some(now);
        self.times = (self.times + 1).min(most);
    }

    /// Looks whether an ejection is over; who stays in is forgiven one of the earlier ones.
    pub(super) fn look(&mut self, now: u64) -> bool {
        match self.ejected_at {
            None => self.times = self.times.saturating_sub(1),
            Some(at) if now >= at + (self.times * BASE).min(LONGEST) => self.ejected_at = None,
            Some(_) => return false,
        }
        self.ejected_at.is_none()
    }
}

/// All of them, by server.
#[derive(Default)]
pub(super) struct Hosts {
    pub(super) members: Members,
    hosts: Vec<Host>,
}

impl Hosts {
    pub(super) fn change(&mut self, change: Change) {
        self.members.change(change);
        if let Change::Added(id) = change {
            self.hosts.resize_with(id as usize + 1, Host::default);
        }
    }

    pub(super) fn get(&mut self, id: ServerId) -> &mut Host {
        &mut self.hosts[id as usize]
    }

    pub(super) fn is_ejected(&self, id: ServerId) -> bool {
        self.hosts[id as usize].is_ejected()
    }

    pub(super) fn ejected(&self) -> usize {
        self.members.iter().filter(|id| self.is_ejected(*id)).count()
    }

    /// The interval is over.
    pub(super) fn take(&mut self) -> Vec<(ServerId, Tally)> {
        let Self { members, hosts } = self;
        members.iter().map(|id| (id, std::mem::take(&mut hosts[id as usize].tally))).collect()
    }
}

/// As often may Envoy's ejections be lengthened.
pub(super) const MOST_TIMES: u64 = LONGEST / BASE + 1;

/// The success rate, in percent, below which a host is ejected; `None` when too few have enough calls to be compared.
pub(super) fn least_rate(tallies: impl Iterator<Item = Tally>) -> Option<f64> {
    let rates: Vec<_> = tallies.filter_map(rate).collect();
    if rates.len() < LEAST_HOSTS {
        return None;
    }
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / rates.len() as f64;
    Some(mean - DEVIATIONS * variance.sqrt())
}

/// Of a host with enough calls.
pub(super) fn rate(tally: Tally) -> Option<f64> {
    (tally.all >= LEAST_CALLS).then(|| 100.0 * f64::from(tally.good) / f64::from(tally.all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies(good: &[u32]) -> Vec<Tally> {
        good.iter().map(|good| Tally { all: 100, good: *good }).collect()
    }

    #[test]
    fn the_least_rate_is_nearly_two_deviations_below_the_mean() {
        // Envoy's documentation has this example.
        let least = least_rate(tallies(&[50, 100, 100, 100, 100]).into_iter());
        assert!(least.is_some_and(|least| (least - 52.0).abs() < 1e-9), "{least:?}");
        assert_eq!(least_rate(tallies(&[50, 100, 100, 100]).into_iter()), None);
        let seldom = Tally { all: 99, good: 0 };
        assert_eq!(least_rate(tallies(&[100; 4]).into_iter().chain([seldom])), None);
    }

    #[test]
    fn from_21_7_percent_on_nobody_is_bad_enough_for_the_success_rate_however_bad() {
        for (bad, all, is_found) in [(1, 20, true), (2, 20, true), (4, 20, true), (5, 20, false), (10, 30, false)] {
            let good: Vec<_> = (0..all).map(|host| if host < bad { 0 } else { 100 }).collect();
            let least = least_rate(tallies(&good).into_iter()).unwrap_or(f64::NAN);
            assert_eq!(0.0 < least, is_found, "{bad} of {all}: {least}");
        }
    }

    #[test]
    fn an_ejection_lasts_so_many_base_times_and_is_forgiven_interval_by_interval() {
        let mut host = Host::default();
        let mut eject = |now, lasts: u64| {
            host.eject(now, MOST_TIMES);
            assert!(!host.look(now + lasts - 1), "{now}");
            assert!(host.look(now + lasts), "{now}");
        };
        let mut now = 0;
        for times in 1..=12 {
            eject(now, (times * BASE).min(LONGEST));
            now += LONGEST;
        }
        // Eleven are remembered.
        for _ in 0..9 {
            host.look(now);
        }
        host.eject(now, MOST_TIMES);
        assert!(!host.look(now + 3 * BASE - 1) && host.look(now + 3 * BASE));
    }
}
