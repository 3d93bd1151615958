//! Finagle: two choices by peak EWMA, drawn anew up to four times until one is open, with failure accrual and fail fast.
//!
//! A node is closed while its pool's last dial failed: that is what fail fast does, with the pool's redials for its own.

use super::super::{Connections, Members};
use super::accrual::Accrual;
use super::ewma::Peak;
use super::is_good;
use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, Connection, LoadReport, Outcome, Pick, ServerId, Strategy, Token};

/// What a node costs that has not answered yet and is being asked.
const PENALTY: f64 = (i64::MAX >> 16) as f64;
const MAX_EFFORT: u32 = 4;

struct Node {
    accrual: Accrual,
    peak: Peak,
    pending: u32,
}

pub(in super::super) struct Finagle {
    members: Members,
    connections: Connections,
    /// By server.
    nodes: Vec<Node>,
    /// Calls under way: where, and since when.
    calls: slab::Slab<(ServerId, u64)>,
    rng: Rng,
}

impl Finagle {
    pub(in super::super) fn new(rng: Rng) -> Self {
        let (members, connections) = (Members::default(), Connections::default());
        Self { members, connections, nodes: Vec::new(), calls: slab::Slab::new(), rng }
    }

    fn is_open(&mut self, id: ServerId, now: u64) -> bool {
        self.nodes[id as usize].accrual.is_open(now) && self.connections.get(id) != Connection::Down
    }

    /// Whoever is open goes before who is not.
    fn better(&mut self, a: ServerId, b: ServerId, now: u64) -> ServerId {
        let (a_is_open, b_is_open) = (self.is_open(a, now), self.is_open(b, now));
        let is_less = self.nodes[b as usize].load(now) < self.nodes[a as usize].load(now);
        if b_is_open && (!a_is_open || is_less) || !a_is_open && is_less { b } else { a }
    }
}

impl Node {
    fn load(&self, now: u64) -> f64 {
        let (cost, pending) = (self.peak.at(now), f64::from(self.pending));
        if cost == 0.0 && self.pending > 0 { PENALTY + pending } else { cost * (pending + 1.0) }
    }
}

impl Strategy for Finagle {
    fn pick(&mut self, now: u64, rng: &mut Rng, _: &Fleet) -> Option<Pick> {
        let mut effort = 0;
        let server = loop {
            let (a, b) = self.members.two(rng)?;
            let better = self.better(a, b, now);
            effort += 1;
            if effort == MAX_EFFORT || self.is_open(better, now) {
                break better;
            }
        };
        let node = &mut self.nodes[server as usize];
        node.accrual.begin();
        node.pending += 1;
        Some(Pick { server, token: self.calls.insert((server, now)) as Token })
    }

    /// A failure takes as long as it takes.
    fn end(&mut self, token: Token, now: u64, outcome: Outcome, _: Option<LoadReport>) {
        let (server, began) = self.calls.remove(token as usize);
        let node = &mut self.nodes[server as usize];
        node.pending -= 1;
        node.peak.observe(now, (now - began) as f64);
        node.accrual.end(now, is_good(outcome), &mut self.rng);
    }

    fn change(&mut self, now: u64, change: Change) {
        self.members.change(change);
        self.connections.change(change);
        if let Change::Added(id) = change {
            let since = (now > 0).then_some(now);
            let node = || Node { accrual: Accrual::new(since), peak: Peak::default(), pending: 0 };
            self.nodes.resize_with(id as usize + 1, node);
        }
    }

    fn connection(&mut self, _: u64, server: ServerId, connection: Connection) {
        self.connections.set(server, connection);
    }

    fn ejected(&self) -> usize {
        self.members.iter().filter(|id| !self.nodes[*id as usize].accrual.is_alive()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::MILLIS;

    fn finagle(nodes: ServerId) -> Finagle {
        let mut finagle = Finagle::new(Rng::with_seed(1));
        (0..nodes).for_each(|id| finagle.change(0, Change::Added(id)));
        finagle
    }

    #[test]
    fn a_node_without_history_is_free_once() {
        let mut node = Node { accrual: Accrual::new(None), peak: Peak::default(), pending: 0 };
        assert_eq!(node.load(0), 0.0);
        node.pending = 1;
        assert!(node.load(0) > PENALTY);
        node.peak.observe(0, MILLIS as f64);
        assert_eq!(node.load(0), 2.0 * MILLIS as f64);
    }

    #[test]
    fn open_goes_before_load_and_load_before_nothing() {
        let mut finagle = finagle(2);
        for (id, cost) in [(0, 1.0), (1, 2.0)] {
            finagle.nodes[id].peak.observe(0, cost);
        }
        assert_eq!((finagle.better(0, 1, 0), finagle.better(1, 0, 0)), (0, 0));
        finagle.connection(0, 0, Connection::Down);
        assert_eq!((finagle.better(0, 1, 0), finagle.better(1, 0, 0)), (1, 1));
        finagle.connection(0, 1, Connection::Down);
        assert_eq!((finagle.better(0, 1, 0), finagle.better(1, 0, 0)), (0, 0));
    }

    #[test]
    fn four_draws_find_who_is_open_but_for_one_in_a_hundred() {
        let mut finagle = finagle(20);
        (0..10).for_each(|id| finagle.connection(0, id, Connection::Down));
        let (mut rng, fleet) = (Rng::with_seed(1), Fleet::nobody());
        let mut closed = 0;
        for now in 0..100_000 {
            let pick = finagle.pick(now, &mut rng, &fleet).expect("there are nodes");
            closed += u32::from(pick.server < 10);
            finagle.end(pick.token, now, Outcome::Ok, None);
        }
        // Both of a pair, four times.
        let expected = 100_000.0 * (10.0f64 * 9.0 / (20.0 * 19.0)).powi(4);
        assert!((f64::from(closed) / expected - 1.0).abs() < 0.2, "{closed} {expected}");
    }
}
