//! The endpoints as the driver keeps them, to be published.

use std::collections::HashMap;
use std::sync::Arc;

use towline_core::{Endpoint, EndpointKey, Member, Policy};

use crate::load::Levels;
use crate::set::{Node, Snapshot};

/// The endpoints that calls see after the next publication, found by key.
#[derive(Debug)]
pub struct Set<L> {
    pub(crate) members: Vec<Member>,
    /// In parallel.
    pub(crate) nodes: Vec<Node<L>>,
    position: HashMap<EndpointKey, usize>,
}

// By hand: endpoints need no default.
impl<L> Default for Set<L> {
    fn default() -> Self {
        Self { members: Vec::new(), nodes: Vec::new(), position: HashMap::new() }
    }
}

impl<L> Set<L> {
    pub(crate) fn get(&self, key: &EndpointKey) -> Option<usize> {
        self.position.get(key).copied()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &EndpointKey> {
        self.position.keys()
    }

    /// Attributes of an endpoint that stays.
    pub(crate) fn change(&mut self, index: usize, endpoint: Endpoint) {
        self.members[index].endpoint = Arc::new(endpoint);
    }

    /// A new life of an endpoint; whether it ends another under the same key, which drains.
    pub fn put(&mut self, endpoint: Endpoint, lend: L, levels: &Arc<Levels>) -> bool {
        let node = Node::new(&endpoint, lend, levels);
        let member = Member { id: node.id(), endpoint: Arc::new(endpoint) };
        let key = member.endpoint.key();
        match self.get(key) {
            Some(index) => {
                self.nodes[index].stats().left();
                (self.members[index], self.nodes[index]) = (member, node);
                true
            }
            None => {
                self.position.insert(key.clone(), self.members.len());
                self.members.push(member);
                self.nodes.push(node);
                false
            }
        }
    }

    /// What is to be published.
    pub fn snapshot<P: Policy>(
        &self,
        levels: &Arc<Levels>,
        policy: &mut P,
        last: Option<&P::Picker>,
    ) -> Snapshot<L, P::Picker> {
        levels.moved();
        Snapshot::new(levels.clone(), self.members.clone(), self.nodes.clone(), policy, last)
    }

    /// Whether it was there.
    pub fn remove(&mut self, key: &EndpointKey) -> bool {
        let Some(index) = self.position.remove(key) else { return false };
        self.members.swap_remove(index);
        self.nodes.swap_remove(index).stats().left();
        if let Some(moved) = self.members.get(index) {
            self.position.insert(moved.endpoint.key().clone(), index);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use towline_core::{LoadReport, Outcome};

    use super::*;
    use crate::load::{Clock, Flight, Settings};
    use crate::pick::P2c;
    use crate::sync::AtomicU64;

    // F17
    #[test]
    fn a_late_report_of_one_that_is_gone_is_not_taken_for_its_successors() {
        let report = LoadReport { in_flight: 0, latency: std::time::Duration::ZERO };
        for is_replaced in [false, true] {
            let levels = Levels::new(Settings::default(), Clock::Manual(AtomicU64::new(0)));
            let mut set = Set::default();
            for key in ["a:1", "b:1"] {
                set.put(key.parse().unwrap(), (), &levels);
            }
            let before = set.snapshot(&levels, &mut P2c::new(), None);
            let late = Flight::begin(before.nodes()[0].stats().clone(), 0).unwrap();
            late.report(report);
            assert_eq!(levels.recent(0), Some(0));
            if is_replaced {
                assert!(set.put("a:1".parse().unwrap(), (), &levels));
            } else {
                assert!(set.remove(&EndpointKey::new("a:1")));
            }
            let after = set.snapshot(&levels, &mut P2c::new(), Some(before.picker()));
            late.report(report);
            late.end(Outcome::Success);
            assert_eq!(levels.recent(0), None);
            Flight::begin(after.nodes()[0].stats().clone(), 0).unwrap().report(report);
            assert_eq!(levels.recent(0), Some(0));
        }
    }
}
