//! Who waits, in the order of arrival. Joining, leaving and being served take constant time.
//!
//! There is one line for whoever takes any connection, and one per connection for calls that are pinned to it. Tickets
//! say who came first across them.

use std::task::Waker;

use slab::Slab;
use tokio::time::Instant;

use crate::list::{Linked, Links, List};

/// A place in the queue, and after that the place where the grant lies until it is picked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize);

/// From when to when somebody waits at the most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) since: Instant,
    pub(crate) until: Instant,
    /// Not to be told of a first failure, which may be an accident.
    pub(crate) patient: bool,
}

#[derive(Debug)]
struct Waiter<G> {
    waker: Waker,
    /// Present once served; then the waiter is in no line.
    grant: Option<G>,
    links: Links,
    ticket: u64,
    wait: Wait,
    /// The connection that it is pinned to.
    slot: Option<usize>,
}

impl<G> Linked for Waiter<G> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[derive(Debug)]
pub(crate) struct Queue<G> {
    waiters: Slab<Waiter<G>>,
    /// Those who take any connection.
    line: List,
    /// Those who are pinned to a connection, by its slot.
    pinned: Vec<List>,
    waiting: usize,
    tickets: u64,
}

impl<G> Queue<G> {
    pub(crate) fn new() -> Self {
        Self { waiters: Slab::new(), line: List::default(), pinned: Vec::new(), waiting: 0, tickets: 0 }
    }

    /// How many wait and are not served yet.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// How many of them take any connection.
    pub(crate) fn in_line(&self) -> usize {
        self.line.len()
    }

    /// Waits for any connection, or for the one in `slot`.
    pub(crate) fn join(&mut self, slot: Option<usize>, wait: Wait, waker: Waker) -> Place {
        self.tickets += 1;
        self.waiting += 1;
        let waiter = Waiter { waker, grant: None, links: Links::default(), ticket: self.tickets, wait, slot };
        let waiter = self.waiters.insert(waiter);
        if let Some(slot) = slot.filter(|slot| *slot >= self.pinned.len()) {
            self.pinned.resize_with(slot + 1, List::default);
        }
        line(&mut self.line, &mut self.pinned, slot).push(&mut self.waiters, waiter);
        Place(waiter)
    }

    /// Whether anybody waits whom the connection in `slot` can serve.
    pub(crate) fn is_waited_for(&self, slot: usize) -> bool {
        !self.line.is_empty() || self.is_pinned_to(slot)
    }

    /// Whether anybody waits for the connection in `slot` and no other.
    pub(crate) fn is_pinned_to(&self, slot: usize) -> bool {
        self.pinned.get(slot).is_some_and(|line| !line.is_empty())
    }

    /// Serves whoever came first of those whom the connection in `slot` can serve.
    pub(crate) fn serve(&mut self, slot: usize, grant: G) -> Result<Waker, G> {
        let pinned = self.pinned.get(slot).and_then(List::first);
        let first = match (self.line.first(), pinned) {
            (Some(any), Some(own)) if self.waiters[own].ticket < self.waiters[any].ticket => Some(own),
            (any, own) => any.or(own),
        };
        self.hand_over(first, grant)
    }

    /// Serves the first in the line for any connection, or in that for the one in `slot`.
    pub(crate) fn serve_first(&mut self, slot: Option<usize>, grant: G) -> Result<Waker, G> {
        self.hand_over(self.first(slot), grant)
    }

    /// The first in the line for any connection who is not patient.
    pub(crate) fn serve_first_impatient(&mut self, grant: G) -> Result<Waker, G> {
        let mut next = self.line.first();
        while let Some(waiter) = next.filter(|waiter| self.waiters[*waiter].wait.patient) {
            next = self.waiters[waiter].links.after();
        }
        self.hand_over(next, grant)
    }

    fn hand_over(&mut self, waiter: Option<usize>, grant: G) -> Result<Waker, G> {
        let Some(waiter) = waiter else { return Err(grant) };
        self.unlink(waiter);
        let waiter = &mut self.waiters[waiter];
        waiter.grant = Some(grant);
        Ok(waiter.waker.clone())
    }

    /// Until when the first in a line waits at the most: nobody behind has to be served, or told, before.
    pub(crate) fn first_until(&self, slot: Option<usize>) -> Option<Instant> {
        self.first(slot).map(|waiter| self.waiters[waiter].wait.until)
    }

    /// Since when the first in the line for any connection waits.
    pub(crate) fn first_since(&self) -> Option<Instant> {
        self.first(None).map(|waiter| self.waiters[waiter].wait.since)
    }

    fn first(&self, slot: Option<usize>) -> Option<usize> {
        match slot {
            Some(slot) => self.pinned.get(slot).and_then(List::first),
            None => self.line.first(),
        }
    }

    /// The grant and since when it was waited for, if it is there; the place is free then. Else notes whom to wake. In
    /// either case there may be a waker that is to be dropped without the lock.
    pub(crate) fn pick_up(&mut self, place: Place, waker: &Waker) -> (Option<(G, Instant)>, Option<Waker>) {
        let waiter = &mut self.waiters[place.0];
        if waiter.grant.is_some() {
            let Waiter { grant, wait, waker, .. } = self.waiters.remove(place.0);
            return (grant.map(|grant| (grant, wait.since)), Some(waker));
        }
        let changed = !waiter.waker.will_wake(waker);
        (None, changed.then(|| std::mem::replace(&mut waiter.waker, waker.clone())))
    }

    /// Leaves the queue; a grant that came in the meantime has to go to somebody else. The waker is to be dropped without
    /// the lock.
    pub(crate) fn leave(&mut self, place: Place) -> (Option<G>, Waker) {
        if self.waiters[place.0].grant.is_none() {
            self.unlink(place.0);
        }
        let Waiter { grant, waker, .. } = self.waiters.remove(place.0);
        (grant, waker)
    }

    /// Everybody who waits.
    pub(crate) fn wakers(&self) -> impl Iterator<Item = Waker> {
        self.waiters.iter().filter(|(_, waiter)| waiter.grant.is_none()).map(|(_, waiter)| waiter.waker.clone())
    }

    fn unlink(&mut self, waiter: usize) {
        let slot = self.waiters[waiter].slot;
        line(&mut self.line, &mut self.pinned, slot).remove(&mut self.waiters, waiter);
        self.waiting -= 1;
    }
}

fn line<'a>(any: &'a mut List, pinned: &'a mut [List], slot: Option<usize>) -> &'a mut List {
    match slot {
        Some(slot) => &mut pinned[slot],
        None => any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait() -> Wait {
        let now = Instant::now();
        Wait { since: now, until: now, patient: false }
    }

    fn join(queue: &mut Queue<char>, slot: Option<usize>) -> Place {
        queue.join(slot, wait(), Waker::noop().clone())
    }

    fn picked_up(queue: &mut Queue<char>, place: Place) -> Option<char> {
        queue.pick_up(place, Waker::noop()).0.map(|(grant, _)| grant)
    }

    #[test]
    fn the_first_to_come_is_the_first_to_be_served_whoever_leaves() {
        let mut queue = Queue::new();
        let places: Vec<_> = (0..5).map(|_| join(&mut queue, None)).collect();
        assert_eq!(queue.leave(places[0]).0, None);
        assert_eq!(queue.leave(places[2]).0, None);
        assert_eq!(queue.leave(places[4]).0, None);
        queue.serve(0, 'a').unwrap();
        queue.serve(0, 'b').unwrap();
        assert_eq!(queue.serve(0, 'c').unwrap_err(), 'c');
        assert_eq!(picked_up(&mut queue, places[1]), Some('a'));
        assert_eq!(queue.leave(places[3]).0, Some('b'));
        assert!(queue.is_empty() && queue.waiters.is_empty() && queue.line.is_empty());
    }

    #[test]
    fn a_connection_serves_those_pinned_to_it_and_the_others_in_the_order_of_arrival() {
        let mut queue = Queue::new();
        let places = [None, Some(3), Some(1), None, Some(3)].map(|slot| join(&mut queue, slot));
        "abcd".chars().for_each(|grant| drop(queue.serve(3, grant).unwrap()));
        assert_eq!(queue.serve(3, 'e').unwrap_err(), 'e', "the one that is left waits for another connection");
        let got = [0, 1, 3, 4].map(|place: usize| picked_up(&mut queue, places[place]).unwrap());
        assert_eq!(got, ['a', 'b', 'c', 'd']);
        assert!(queue.is_waited_for(1) && !queue.is_waited_for(3));
        assert_eq!((queue.len(), queue.in_line()), (1, 0));
        queue.leave(places[2]);
        assert_eq!(queue.len(), 0);
    }
}
