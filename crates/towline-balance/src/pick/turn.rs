//! All endpoints once, from somewhere.

/// All of `0..len` once, from a start and around.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    start: usize,
    len: usize,
    next: usize,
}

impl Turn {
    /// Begins at `random` modulo `len`.
    pub(super) fn new(len: usize, random: u64) -> Self {
        // The upper bits decide, by a multiplication: a division would cost as much as the rest of a pick.
        let start = ((u128::from(random) * len as u128) >> 64) as usize;
        Self::from(start, len)
    }

    /// Begins at `start`, which is below `len`.
    #[inline]
    pub(super) fn from(start: usize, len: usize) -> Self {
        Self { start, len, next: 0 }
    }
}

impl Iterator for Turn {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.next == self.len {
            return None;
        }
        let index = self.start + self.next;
        self.next += 1;
        Some(if index >= self.len { index - self.len } else { index })
    }
}
