//! Prequal (NSDI 2024): a pool of recent reports, and the hot-cold lexicographic rule over it.
//!
//! The pool is fed by probes, as in the paper, or by the reports that answers carry. Parameters are the paper's; those of
//! the second form are the ones that the crate `prequal-core` recommends for such reports.

use std::collections::VecDeque;

use super::Members;
use crate::chance::Rng;
use crate::engine::config::SECONDS;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, LoadReport, Outcome, Pick, ServerId, Strategy, Token};

const POOL: usize = 16;
const MAX_AGE: u64 = SECONDS;
/// A server is hot when its requests in flight are above this quantile of what was seen lately: 2^-¼.
const HOT_QUANTILE: f64 = 0.840_896;
/// Reports that the quantile is of.
const SEEN: usize = 64;
/// How much faster the pool may be refilled than emptied, in the rule for reuse.
const DELTA: f64 = 1.0;
/// Where that rule has no answer, because the pool is nearly as large as the set.
const MAX_USES: f64 = 16.0;
/// With a smaller pool, any server will do.
const LEAST_POOL: usize = 2;

const PROBES_PER_CALL: usize = 3;
const REMOVED_PER_CALL: f64 = 1.0;
const REMOVED_PER_CALL_WITHOUT_PROBES: f64 = 0.34;

struct Entry {
    server: ServerId,
    received: u64,
    in_flight: u32,
    latency: u64,
    uses: u32,
}

pub(crate) struct Prequal {
    members: Members,
    pool: Vec<Entry>,
    seen: Seen,
    probes: bool,
    /// Parts of an entry that are still to be removed, and parts of a use that are still to be given.
    removal: f64,
    spare_use: f64,
    /// The last one removed was the oldest, so the next is the worst.
    removed_oldest: bool,
}

impl Prequal {
    pub(crate) fn with_probes() -> Self {
        Self::new(true)
    }

    pub(crate) fn without_probes() -> Self {
        Self::new(false)
    }

    fn new(probes: bool) -> Self {
        let (members, seen) = (Members::default(), Seen::default());
        Self {
            members,
            pool: Vec::with_capacity(POOL),
            seen,
            probes,
            removal: 0.0,
            spare_use: 0.0,
            removed_oldest: false,
        }
    }

    /// A report replaces an older one of the same server, or else the oldest of all. One of a server that was removed in
    /// the meantime is late.
    fn insert(&mut self, now: u64, server: ServerId, report: LoadReport) {
        if !self.members.contains(server) {
            return;
        }
        self.seen.insert(report.in_flight);
        self.pool.retain(|entry| entry.server != server);
        if self.pool.len() == POOL {
            self.remove_oldest();
        }
        let LoadReport { in_flight, latency_ns: latency } = report;
        let uses = self.uses();
        self.pool.push(Entry { server, received: now, in_flight, latency, uses });
    }

    /// How often an entry may be used; parts of a use add up over the entries.
    fn uses(&mut self) -> u32 {
        let (fed, removed) = if self.probes {
            (PROBES_PER_CALL as f64, REMOVED_PER_CALL)
        } else {
            (1.0, REMOVED_PER_CALL_WITHOUT_PROBES)
        };
        let net = (1.0 - POOL as f64 / self.members.len() as f64) * fed - removed;
        self.spare_use += if net > 0.0 { ((1.0 + DELTA) / net).clamp(1.0, MAX_USES) } else { MAX_USES };
        let uses = self.spare_use.floor();
        self.spare_use -= uses;
        uses as u32
    }

    fn is_hot(&self, entry: &Entry) -> bool {
        entry.in_flight > self.seen.hot()
    }

    /// The fastest of the cold, or the least loaded when all are hot.
    fn choose(&self) -> Option<usize> {
        let indices = 0..self.pool.len();
        let cold = indices.clone().filter(|i| !self.is_hot(&self.pool[*i]));
        let fastest = cold.min_by_key(|i| (self.pool[*i].latency, self.pool[*i].in_flight));
        fastest.or_else(|| indices.min_by_key(|i| (self.pool[*i].in_flight, self.pool[*i].latency)))
    }

    fn remove_oldest(&mut self) {
        if let Some(oldest) = (0..self.pool.len()).min_by_key(|i| self.pool[*i].received) {
            self.pool.swap_remove(oldest);
        }
    }

    /// The rule of choice backwards.
    fn remove_worst(&mut self) {
        let indices = 0..self.pool.len();
        let hot = indices.clone().filter(|i| self.is_hot(&self.pool[*i]));
        let most_loaded = hot.max_by_key(|i| self.pool[*i].in_flight);
        if let Some(worst) = most_loaded.or_else(|| indices.max_by_key(|i| self.pool[*i].latency)) {
            self.pool.swap_remove(worst);
        }
    }

    /// Keeps the pool from filling up with what nobody wants.
    fn remove_some(&mut self) {
        self.removal += if self.probes { REMOVED_PER_CALL } else { REMOVED_PER_CALL_WITHOUT_PROBES };
        while self.removal >= 1.0 {
            self.removal -= 1.0;
            if self.removed_oldest {
                self.remove_worst()
            } else {
                self.remove_oldest()
            }
            self.removed_oldest = !self.removed_oldest;
        }
    }
}

impl Strategy for Prequal {
    fn pick(&mut self, now: u64, rng: &mut Rng, _: &Fleet) -> Option<Pick> {
        self.pool.retain(|entry| now - entry.received <= MAX_AGE);
        let chosen = if self.pool.len() < LEAST_POOL { None } else { self.choose() };
        let server = match chosen {
            None => self.members.random(rng)?,
            Some(chosen) => {
                let entry = &mut self.pool[chosen];
                entry.in_flight += 1;
                entry.uses -= 1;
                let (server, used_up) = (entry.server, entry.uses == 0);
                if used_up {
                    self.pool.swap_remove(chosen);
                }
                server
            }
        };
        self.remove_some();
        Some(Pick { server, token: server.into() })
    }

    fn end(&mut self, token: Token, now: u64, _: Outcome, report: Option<LoadReport>) {
        if let Some(report) = report {
            self.insert(now, token as ServerId, report);
        }
    }

    fn change(&mut self, _: u64, change: Change) {
        self.members.change(change);
        if let Change::Removed(id) = change {
            self.pool.retain(|entry| entry.server != id);
        }
    }

    fn reads_reports(&self) -> bool {
        !self.probes
    }

    /// Different servers, at random.
    fn probes(&mut self, rng: &mut Rng, targets: &mut Vec<ServerId>) {
        let wanted = if self.probes { PROBES_PER_CALL.min(self.members.len()) } else { 0 };
        while targets.len() < wanted {
            let Some(target) = self.members.random(rng) else { return };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
    }

    fn probed(&mut self, now: u64, server: ServerId, report: LoadReport) {
        self.insert(now, server, report);
    }
}

/// The requests in flight that servers reported lately.
#[derive(Default)]
struct Seen {
    order: VecDeque<u32>,
    sorted: Vec<u32>,
}

impl Seen {
    fn insert(&mut self, in_flight: u32) {
        if self.order.len() == SEEN {
            let oldest = self.order.pop_front();
            if let Some(Ok(place)) = oldest.map(|oldest| self.sorted.binary_search(&oldest)) {
                self.sorted.remove(place);
            }
        }
        self.order.push_back(in_flight);
        let place = self.sorted.partition_point(|seen| *seen < in_flight);
        self.sorted.insert(place, in_flight);
    }

    /// Above this, a server is hot.
    fn hot(&self) -> u32 {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get((last as f64 * HOT_QUANTILE) as usize).copied().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports of servers 0, 1 and so on: requests in flight and latency.
    fn pool(reports: &[(u32, u64)]) -> Prequal {
        let mut prequal = Prequal::with_probes();
        for (server, (in_flight, latency_ns)) in (0..).zip(reports.iter().copied()) {
            prequal.change(0, Change::Added(server));
            prequal.insert(0, server, LoadReport { in_flight, latency_ns });
        }
        prequal
    }

    fn chosen(prequal: &Prequal) -> Option<ServerId> {
        prequal.choose().map(|chosen| prequal.pool[chosen].server)
    }

    #[test]
    fn the_fastest_of_the_cold_is_chosen_and_a_hot_one_is_not() {
        assert_eq!(chosen(&pool(&[(1, 50), (9, 1), (2, 20), (1, 40), (2, 60), (1, 70)])), Some(2));
    }

    #[test]
    fn the_least_loaded_is_chosen_when_all_are_hot() {
        let mut prequal = pool(&[(8, 10), (7, 90), (9, 5)]);
        for _ in 0..SEEN {
            prequal.seen.insert(1);
        }
        assert_eq!(chosen(&prequal), Some(1));
    }

    #[test]
    fn old_reports_and_those_of_removed_servers_are_not_used() {
        let mut prequal = pool(&[(1, 1), (1, 2)]);
        prequal.change(1, Change::Removed(0));
        assert_eq!(chosen(&prequal), Some(1));
        let fleet = Fleet::nobody();
        let pick = prequal.pick(MAX_AGE + 1, &mut Rng::with_seed(1), &fleet);
        assert!(pick.is_some_and(|pick| pick.server == 1) && prequal.pool.is_empty());
    }
}
