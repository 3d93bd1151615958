//! Where in a set an endpoint is, by the hash of its key.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use towline_core::{Home, Members};

/// For keys that are hashes.
#[derive(Clone, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

type ByHash = BuildHasherDefault<AsIs>;

#[derive(Clone, Debug)]
pub(crate) struct Places {
    homes: Vec<Home>,
    indices: HashMap<u64, u32, ByHash>,
}

impl Places {
    pub(crate) fn new(set: &Members) -> Self {
        let homes: Vec<_> = set.iter().map(|member| Home::from(member.endpoint.key())).collect();
        let indices = homes.iter().map(|home| home.to_u64()).zip(0..).collect();
        Self { homes, indices }
    }

    /// Where it is; `None` when it is not in the set.
    #[inline]
    pub(crate) fn index(&self, home: Home) -> Option<usize> {
        self.indices.get(&home.to_u64()).map(|index| *index as usize)
    }

    /// What is there.
    pub(crate) fn home(&self, index: usize) -> Home {
        self.homes[index]
    }
}
