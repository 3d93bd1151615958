//! Linkerd: two choices among the endpoints that are connected and whose breaker lets a call pass, by a peak EWMA that takes a
//! failed answer for a slow one.

use super::super::{Connections, Members};
use super::breaker::Breaker;
use super::ewma::Peak;
use super::is_good;
use crate::chance::Rng;
use crate::engine::config::SECONDS;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, Connection, LoadReport, Outcome, Pick, ServerId, Strategy, Token};

/// What an endpoint is taken for before its first answer.
const SEED: f64 = SECONDS as f64;
/// What a failed answer is taken for, at least.
const PENALTY: f64 = 5.0 * SECONDS as f64;

struct Endpoint {
    breaker: Breaker,
    peak: Peak,
    pending: u32,
}

impl Endpoint {
    fn load(&self, now: u64) -> f64 {
        self.peak.at(now) * f64::from(self.pending + 1)
    }

    /// Only failures that were answered are slow: the rest takes as long as it takes.
    fn learn(&mut self, now: u64, took: f64, outcome: Outcome) {
        let value = if outcome == Outcome::Failed { self.peak.at(now).max(PENALTY) } else { took };
        self.peak.observe(now, value);
    }
}

pub(in super::super) struct Linkerd {
    members: Members,
    connections: Connections,
    /// By server.
    endpoints: Vec<Endpoint>,
    /// Calls under way: where, and since when.
    calls: slab::Slab<(ServerId, u64)>,
    rng: Rng,
}

impl Linkerd {
    pub(in super::super) fn new(rng: Rng) -> Self {
        let (members, connections) = (Members::default(), Connections::default());
        Self { members, connections, endpoints: Vec::new(), calls: slab::Slab::new(), rng }
    }
}

impl Strategy for Linkerd {
    /// When nobody is ready calls fail.
    fn pick(&mut self, now: u64, rng: &mut Rng, _: &Fleet) -> Option<Pick> {
        let Self { members, connections, endpoints, .. } = self;
        let ready = members.only(|id| connections.is_up(id) && endpoints[id as usize].breaker.admits(now));
        let (a, b) = ready.two(rng)?;
        let load = |id: ServerId| endpoints[id as usize].load(now);
        let server = if load(b) < load(a) { b } else { a };
        let endpoint = &mut endpoints[server as usize];
        endpoint.breaker.begin();
        endpoint.pending += 1;
        Some(Pick { server, token: self.calls.insert((server, now)) as Token })
    }

    fn end(&mut self, token: Token, now: u64, outcome: Outcome, _: Option<LoadReport>) {
        let (server, began) = self.calls.remove(token as usize);
        let endpoint = &mut self.endpoints[server as usize];
        endpoint.pending -= 1;
        endpoint.learn(now, (now - began) as f64, outcome);
        endpoint.breaker.end(now, is_good(outcome), &mut self.rng);
    }

    fn change(&mut self, now: u64, change: Change) {
        self.members.change(change);
        self.connections.change(change);
        if let Change::Added(id) = change {
            let endpoint = || Endpoint { breaker: Breaker::default(), peak: Peak::new(now, SEED), pending: 0 };
            self.endpoints.resize_with(id as usize + 1, endpoint);
        }
    }

    fn connection(&mut self, _: u64, server: ServerId, connection: Connection) {
        self.connections.set(server, connection);
    }

    fn keeps_connected(&self) -> bool {
        true
    }

    fn ejected(&self) -> usize {
        self.members.iter().filter(|id| self.endpoints[*id as usize].breaker.is_shut()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::MILLIS;

    #[test]
    fn a_failed_answer_counts_five_seconds_and_an_error_of_the_way_what_it_took() {
        let took = 100.0 * MILLIS as f64;
        for (outcome, cost) in
            [(Outcome::Ok, took), (Outcome::Failed, PENALTY), (Outcome::Cut, took), (Outcome::Unreachable, took)]
        {
            let (breaker, peak) = (Breaker::default(), Peak::new(0, MILLIS as f64));
            let mut endpoint = Endpoint { breaker, peak, pending: 1 };
            endpoint.learn(SECONDS, took, outcome);
            assert_eq!(endpoint.load(SECONDS), 2.0 * cost, "{outcome:?}");
        }
    }

    #[test]
    fn who_is_not_connected_or_shut_is_passed_over_and_without_anybody_calls_fail() {
        let mut linkerd = Linkerd::new(Rng::with_seed(1));
        (0..3).for_each(|id| linkerd.change(0, Change::Added(id)));
        linkerd.connection(0, 0, Connection::Lost);
        (0..7).for_each(|_| linkerd.endpoints[1].breaker.end(0, false, &mut Rng::with_seed(1)));
        let (mut rng, fleet) = (Rng::with_seed(1), Fleet::nobody());
        for now in 0..100 {
            assert!(linkerd.pick(now, &mut rng, &fleet).is_some_and(|pick| pick.server == 2));
        }
        assert_eq!(linkerd.ejected(), 1);
        linkerd.connection(0, 2, Connection::Down);
        assert!(linkerd.pick(100, &mut rng, &fleet).is_none());
    }
}
