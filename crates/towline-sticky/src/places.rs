//! Where in a set an endpoint is, by the hash of its key.

use std::collections::HashMap;

use towline_core::{Home, Members};

use crate::kept::ByHash;

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
