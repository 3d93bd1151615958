//! The cap over all endpoints of a pool.
//!
//! Every connection, and every dial, has a [`Place`]. Handing out an idle connection needs none, so calls never come
//! here. An endpoint whose callers wait and that finds no place free *claims* one: places that become free go to the
//! claims in the order in which they came. Nothing is idle while anybody claims: whoever claims evicts what was used
//! least recently, and an endpoint to which a connection comes back that nobody there waits for closes it. Where some wait,
//! it goes to them, unless an endpoint that has none at all claims, and this one has several or has kept it waiting for
//! longer than any of its own; else a busy endpoint could keep another out for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use crate::sync::{AtomicU8, Lock, Ordering};

/// An endpoint, as the cap sees it.
pub(crate) trait Member: Send + Sync {
    /// A place that it has claimed; back, if nobody is there to use it.
    fn offer(&self, place: Place) -> Option<Place>;

    /// When its least recently used idle connection was used.
    fn least_recent(&self) -> Option<Instant>;

    /// Closes that connection; whether there was one.
    fn evict_least_recent(&self) -> bool;
}

/// Room for one connection; free again when it is dropped, which must not happen under an endpoint's lock.
#[derive(Default)]
pub(crate) struct Place(Option<Arc<Total>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(total) = self.0.take() {
            total.pass_on();
        }
    }
}

/// Who wants a place, as endpoints see it without the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Nobody,
    /// Somebody.
    Some,
    /// Somebody who has no connection at all.
    Destitute,
}

pub(crate) struct Hunger {
    want: AtomicU8,
    /// Since when an endpoint has claimed that has no connection at all.
    since: Lock<Option<Instant>>,
}

impl Hunger {
    pub(crate) fn new() -> Self {
        Self { want: AtomicU8::new(Want::Nobody as u8), since: Lock::new(None) }
    }

    pub(crate) fn since(&self) -> Option<Instant> {
        *self.since.lock()
    }

    pub(crate) fn get(&self) -> Want {
        match self.want.load(Ordering::Acquire) {
            0 => Want::Nobody,
            1 => Want::Some,
            _ => Want::Destitute,
        }
    }
}

pub(crate) struct Total {
    max: usize,
    hunger: Arc<Hunger>,
    state: Lock<State>,
}

#[derive(Default)]
struct State {
    /// Places that are taken; all of them while anybody claims one.
    used: usize,
    claims: VecDeque<Claim>,
    members: Vec<Weak<dyn Member>>,
}

struct Claim {
    member: Weak<dyn Member>,
    since: Instant,
    destitute: bool,
}

impl Total {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, hunger: Arc::new(Hunger::new()), state: Lock::default() }
    }

    pub(crate) fn hunger(&self) -> Arc<Hunger> {
        self.hunger.clone()
    }

    pub(crate) fn join(&self, member: Weak<dyn Member>) {
        let mut state = self.state.lock();
        state.members.retain(|member| member.strong_count() > 0);
        state.members.push(member);
    }

    /// A place if one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.state.lock();
        let free = state.used < self.max;
        state.used += usize::from(free);
        free.then(|| Place(Some(self.clone())))
    }

    /// A place if one is free; else the member will be offered one.
    pub(crate) fn claim(self: &Arc<Self>, member: &Weak<dyn Member>, destitute: bool) -> Option<Place> {
        let mut state = self.state.lock();
        if state.used < self.max {
            state.used += 1;
            return Some(Place(Some(self.clone())));
        }
        // Under the same lock: a place that became free in between would be nobody's.
        match state.claims.iter_mut().find(|claim| is(&claim.member, member)) {
            Some(claim) => claim.destitute = destitute,
            None => state.claims.push_back(Claim { member: member.clone(), since: Instant::now(), destitute }),
        }
        self.tell(&state);
        None
    }

    /// The member wants no place any more.
    pub(crate) fn withdraw(&self, member: &Weak<dyn Member>) {
        if self.hunger.get() != Want::Nobody {
            let mut state = self.state.lock();
            state.claims.retain(|claim| !is(&claim.member, member));
            self.tell(&state);
        }
    }

    /// Closes the connection that was used least recently of all that are idle.
    pub(crate) fn evict(&self) -> bool {
        let members: Vec<_> = self.state.lock().members.iter().filter_map(Weak::upgrade).collect();
        // Somebody else may take the one that is chosen, and then another is.
        members.iter().any(|_| {
            let idle = members.iter().filter_map(|member| Some((member.least_recent()?, member)));
            idle.min_by_key(|(since, _)| *since).is_some_and(|(_, member)| member.evict_least_recent())
        })
    }

    fn pass_on(self: Arc<Self>) {
        loop {
            let member = {
                let mut state = self.state.lock();
                let Some(claim) = state.claims.pop_front() else {
                    state.used -= 1;
                    return;
                };
                self.tell(&state);
                claim.member
            };
            let Some(member) = member.upgrade() else { continue };
            match member.offer(Place(Some(self.clone()))) {
                None => return,
                Some(mut refused) => drop(refused.0.take()), // On to the next.
            }
        }
    }

    fn tell(&self, state: &State) {
        let since = state.claims.iter().filter(|claim| claim.destitute).map(|claim| claim.since).min();
        *self.hunger.since.lock() = since;
        let want = match since {
            Some(_) => Want::Destitute,
            None if state.claims.is_empty() => Want::Nobody,
            None => Want::Some,
        };
        self.hunger.want.store(want as u8, Ordering::Release);
    }

    #[cfg(test)]
    fn used(&self) -> usize {
        self.state.lock().used
    }
}

fn is(one: &Weak<dyn Member>, other: &Weak<dyn Member>) -> bool {
    std::ptr::addr_eq(one.as_ptr(), other.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Endpoint {
        places: Lock<Vec<Place>>,
        asleep: bool,
    }

    impl Member for Endpoint {
        fn offer(&self, place: Place) -> Option<Place> {
            if self.asleep {
                return Some(place);
            }
            self.places.lock().push(place);
            None
        }

        fn least_recent(&self) -> Option<Instant> {
            None
        }

        fn evict_least_recent(&self) -> bool {
            false
        }
    }

    fn members(total: &Total, endpoints: &[&Arc<Endpoint>]) -> Vec<Weak<dyn Member>> {
        let members: Vec<Weak<dyn Member>> =
            endpoints.iter().map(|endpoint| Arc::downgrade(*endpoint) as Weak<dyn Member>).collect();
        members.iter().for_each(|member| total.join(member.clone()));
        members
    }

    #[test]
    fn free_places_go_to_claims_in_the_order_in_which_they_came_past_those_who_cannot_use_them() {
        let total = Arc::new(Total::new(2));
        let asleep = Arc::new(Endpoint { asleep: true, ..Endpoint::default() });
        let (a, b) = (Arc::<Endpoint>::default(), Arc::<Endpoint>::default());
        let members = members(&total, &[&asleep, &a, &b]);
        let places = [total.take(), total.take()].map(Option::unwrap);
        assert!(total.take().is_none());
        for member in &members {
            assert!(total.claim(member, false).is_none());
        }
        assert_eq!(total.hunger.get(), Want::Some);
        let [first, second] = places;
        drop(first);
        assert_eq!((a.places.lock().len(), b.places.lock().len()), (1, 0));
        total.withdraw(&members[2]);
        assert_eq!(total.hunger.get(), Want::Nobody);
        drop(second);
        assert_eq!((b.places.lock().len(), total.used()), (0, 1));
        let places = std::mem::take(&mut *a.places.lock());
        drop(places);
        assert_eq!(total.used(), 0);
    }
}
