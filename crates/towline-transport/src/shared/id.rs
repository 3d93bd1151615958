//! What calls are told apart by.
//!
//! An id is a sequence number with the entry's index in its low bits: looked up without hashing, and never used twice
//! (44 bits of sequence last 55 years at 10,000 calls per second), so that a late answer finds nobody. There are as many
//! low bits as the limit of calls needs, because ids that are sent as text are the shorter for it.

/// Leaves 44 bits for the sequence. One index is kept for pings, which have no entry.
pub(super) const MAX_ENTRIES: usize = (1 << 20) - 1;

/// One call of this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) u64);

/// Where an id's index ends and its sequence number begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexBits(u32);

impl IndexBits {
    /// Enough for indexes below `limit`, and one that is nobody's.
    pub(crate) fn for_limit(limit: usize) -> Self {
        Self(usize::BITS - limit.leading_zeros())
    }

    pub(crate) fn id(self, sequence: u64, index: usize) -> Id {
        Id(sequence << self.0 | index as u64)
    }

    /// The index that is nobody's.
    pub(crate) fn nobody(self) -> usize {
        (1 << self.0) - 1
    }

    pub(crate) fn index(self, id: Id) -> usize {
        (id.0 & ((1 << self.0) - 1)) as usize
    }
}
