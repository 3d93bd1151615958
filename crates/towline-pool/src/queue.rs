//! Who waits, in the order of arrival. Joining, leaving and being served take constant time.

use std::task::Waker;

use slab::Slab;

/// A place in the queue, and after that the place where the grant lies until it is picked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize);

#[derive(Debug)]
struct Node<G> {
    waker: Waker,
    /// Present once served; then the node is no longer linked.
    grant: Option<G>,
    before: Option<usize>,
    after: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Queue<G> {
    nodes: Slab<Node<G>>,
    first: Option<usize>,
    last: Option<usize>,
    waiting: usize,
}

impl<G> Queue<G> {
    pub(crate) fn new() -> Self {
        Self { nodes: Slab::new(), first: None, last: None, waiting: 0 }
    }

    /// How many wait and are not served yet.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    pub(crate) fn join(&mut self, waker: Waker) -> Place {
        let node = self.nodes.insert(Node { waker, grant: None, before: self.last, after: None });
        match self.last {
            Some(last) => self.nodes[last].after = Some(node),
            None => self.first = Some(node),
        }
        self.last = Some(node);
        self.waiting += 1;
        Place(node)
    }

    /// Serves whoever came first; `None`, and the grant back, when nobody waits.
    pub(crate) fn serve(&mut self, grant: G) -> Result<Waker, G> {
        let Some(first) = self.first else { return Err(grant) };
        self.unlink(first);
        let node = &mut self.nodes[first];
        node.grant = Some(grant);
        Ok(node.waker.clone())
    }

    /// The grant, if it is there; the place is free then. Else notes whom to wake.
    pub(crate) fn pick_up(&mut self, place: Place, waker: &Waker) -> Option<G> {
        let node = &mut self.nodes[place.0];
        if node.grant.is_some() {
            return self.nodes.remove(place.0).grant;
        }
        node.waker.clone_from(waker);
        None
    }

    /// Leaves the queue; a grant that came in the meantime has to go to somebody else.
    pub(crate) fn leave(&mut self, place: Place) -> Option<G> {
        if self.nodes[place.0].grant.is_none() {
            self.unlink(place.0);
        }
        self.nodes.remove(place.0).grant
    }

    /// Everybody who waits.
    pub(crate) fn wakers(&self) -> impl Iterator<Item = Waker> {
        self.nodes.iter().filter(|(_, node)| node.grant.is_none()).map(|(_, node)| node.waker.clone())
    }

    fn unlink(&mut self, node: usize) {
        let (before, after) = (self.nodes[node].before.take(), self.nodes[node].after.take());
        match before {
            Some(before) => self.nodes[before].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => self.nodes[after].before = before,
            None => self.last = before,
        }
        self.waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_come_is_the_first_to_be_served_whoever_leaves() {
        let mut queue = Queue::new();
        let places: Vec<_> = (0..5).map(|_| queue.join(Waker::noop().clone())).collect();
        assert_eq!(queue.leave(places[0]), None);
        assert_eq!(queue.leave(places[2]), None);
        assert_eq!(queue.leave(places[4]), None);
        queue.serve('a').unwrap();
        queue.serve('b').unwrap();
        assert_eq!(queue.serve('c').unwrap_err(), 'c');
        assert_eq!(queue.pick_up(places[1], Waker::noop()), Some('a'));
        assert_eq!(queue.leave(places[3]), Some('b'));
        assert!(queue.is_empty() && queue.nodes.is_empty() && queue.first.is_none() && queue.last.is_none());
    }
}
