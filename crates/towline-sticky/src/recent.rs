//! Entries by id, in the order in which they were last moved to the back.
//!
//! The libraries' linked maps (`hashlink`, `lru`) have a node on the heap for each entry, and a hit waits for memory more than
//! once, one time after the other: with a hundred thousand sessions that is most of what a pick costs. Here the table holds
//! numbers, which fit into a core's own cache, and the entries lie side by side: a hit waits once, in less than half the time
//! of `hashlink`'s, and an entry takes half the memory.

use hashbrown::HashTable;

/// A hash of 128 bits, of which half is enough to find it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) high: u64,
    pub(crate) low: u64,
}

struct Slot<V> {
    id: Id,
    value: V,
    prev: u32,
    next: u32,
}

/// Nobody: the end of the list.
const NONE: u32 = u32::MAX;

/// A map whose entries are in an order.
pub(crate) struct Recent<V> {
    /// Numbers of slots.
    index: HashTable<u32>,
    /// Without gaps.
    slots: Vec<Slot<V>>,
    front: u32,
    back: u32,
}

/// Where an entry is, until the next is removed.
#[derive(Clone, Copy)]
pub(crate) struct Place(u32);

impl<V> Recent<V> {
    pub(crate) fn new() -> Self {
        Self { index: HashTable::new(), slots: Vec::new(), front: NONE, back: NONE }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(crate) fn find(&self, id: Id) -> Option<Place> {
        self.index.find(id.low, |slot| self.slots[*slot as usize].id == id).map(|slot| Place(*slot))
    }

    #[inline]
    pub(crate) fn get(&mut self, place: Place) -> &mut V {
        &mut self.slots[place.0 as usize].value
    }

    /// The one that has not been moved for longest.
    pub(crate) fn front(&self) -> Option<&V> {
        self.slots.get(self.front as usize).map(|slot| &slot.value)
    }

    pub(crate) fn move_to_back(&mut self, place: Place) {
        if self.back != place.0 {
            self.unlink(place.0);
            self.link(place.0);
        }
    }

    /// Adds one that is not there, at the back.
    pub(crate) fn insert(&mut self, id: Id, value: V) {
        let Self { index, slots, .. } = self;
        let slot = slots.len() as u32;
        slots.push(Slot { id, value, prev: NONE, next: NONE });
        index.insert_unique(id.low, slot, |slot| slots[*slot as usize].id.low);
        self.link(slot);
    }

    pub(crate) fn remove(&mut self, place: Place) -> V {
        let gone = place.0;
        self.unlink(gone);
        let id = self.slots[gone as usize].id;
        if let Ok(entry) = self.index.find_entry(id.low, |slot| *slot == gone) {
            entry.remove();
        }
        // The last one takes its place.
        let last = self.slots.len() as u32 - 1;
        if last != gone {
            let Slot { id, prev, next, .. } = self.slots[last as usize];
            if let Some(slot) = self.index.find_mut(id.low, |slot| *slot == last) {
                *slot = gone;
            }
            self.join(prev, gone);
            self.join(gone, next);
        }
        self.slots.swap_remove(gone as usize).value
    }

    pub(crate) fn pop_front(&mut self) -> Option<V> {
        (self.front != NONE).then(|| self.remove(Place(self.front)))
    }

    /// Gives memory back that was needed once.
    pub(crate) fn shrink(&mut self) {
        let Self { index, slots, .. } = self;
        if slots.len() < slots.capacity() / 4 {
            slots.shrink_to(slots.len() * 2);
            index.shrink_to(slots.len() * 2, |slot| slots[*slot as usize].id.low);
        }
    }

    /// Takes a slot out of the list.
    fn unlink(&mut self, slot: u32) {
        let Slot { prev, next, .. } = self.slots[slot as usize];
        self.join(prev, next);
    }

    /// Puts a slot at the end of the list.
    fn link(&mut self, slot: u32) {
        let back = self.back;
        self.join(back, slot);
        self.join(slot, NONE);
    }

    /// Says to both that they are next to each other. Either may be an end.
    fn join(&mut self, first: u32, second: u32) {
        match self.slots.get_mut(first as usize) {
            Some(slot) => slot.next = second,
            None => self.front = second,
        }
        match self.slots.get_mut(second as usize) {
            Some(slot) => slot.prev = first,
            None => self.back = first,
        }
    }
}

#[cfg(test)]
impl<V> Recent<V> {
    /// From the front.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        let slot = |slot: u32| self.slots.get(slot as usize);
        std::iter::successors(slot(self.front), move |last| slot(last.next)).map(|slot| &slot.value)
    }

    /// Entries that fit without another allocation.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> Id {
        // Few hashes, so that entries share them.
        Id { high: n, low: n % 3 }
    }

    proptest! {
        #[test]
        fn it_is_a_list_that_is_searched(steps in vec((0..4u8, 0..12u64), 1..200)) {
            let (mut recent, mut model) = (Recent::new(), Vec::<u64>::new());
            for (step, n) in steps {
                let (place, known) = (recent.find(id(n)), model.iter().position(|m| *m == n));
                prop_assert_eq!(place.is_some(), known.is_some());
                match (step, place.zip(known)) {
                    (0, Some((place, known))) => {
                        prop_assert_eq!(recent.remove(place), model.remove(known));
                    }
                    (1, _) => {
                        let first = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(recent.pop_front(), first);
                    }
                    (2, _) => recent.shrink(),
                    (_, Some((place, known))) => {
                        prop_assert_eq!(*recent.get(place), n);
                        recent.move_to_back(place);
                        let n = model.remove(known);
                        model.push(n);
                    }
                    (_, None) => {
                        recent.insert(id(n), n);
                        model.push(n);
                    }
                }
                prop_assert_eq!(recent.iter().copied().collect::<Vec<_>>(), model.clone());
                prop_assert_eq!((recent.front(), recent.len()), (model.first(), model.len()));
            }
        }
    }
}
