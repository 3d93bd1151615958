//! Lists through the entries of a slab: joining, and leaving from anywhere, take constant time and no memory.

use slab::Slab;

/// An entry's neighbours in the one list that it can be in.
#[derive(Debug, Default)]
pub(crate) struct Links {
    before: Option<usize>,
    after: Option<usize>,
}

impl Links {
    pub(crate) fn after(&self) -> Option<usize> {
        self.after
    }
}

pub(crate) trait Linked {
    fn links(&mut self) -> &mut Links;
}

/// The ends of a list.
#[derive(Debug, Default)]
pub(crate) struct List {
    first: Option<usize>,
    last: Option<usize>,
    len: usize,
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn first(&self) -> Option<usize> {
        self.first
    }

    pub(crate) fn push(&mut self, entries: &mut Slab<impl Linked>, entry: usize) {
        *entries[entry].links() = Links { before: self.last, after: None };
        match self.last {
            Some(last) => entries[last].links().after = Some(entry),
            None => self.first = Some(entry),
        }
        self.last = Some(entry);
        self.len += 1;
    }

    /// Takes out an entry that is in this list.
    pub(crate) fn remove(&mut self, entries: &mut Slab<impl Linked>, entry: usize) {
        let Links { before, after } = std::mem::take(entries[entry].links());
        match before {
            Some(before) => entries[before].links().after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => entries[after].links().before = before,
            None => self.last = before,
        }
        self.len -= 1;
    }
}
