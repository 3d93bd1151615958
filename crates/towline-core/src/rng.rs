//! Random numbers for picks and jitter: small, fast, seedable, and never for secrets.

/// A seedable generator (wyrand, through the `fastrand` crate).
///
/// Every caller draws from a generator of its own, forked from its parent, so that two calls never share a
/// sequence and a seeded test always repeats.
///
/// ```
/// use towline_core::Rng;
///
/// let mut a = Rng::with_seed(7);
/// let mut b = Rng::with_seed(7);
/// assert_eq!(a.below(1_000), b.below(1_000));
/// assert_ne!(a.fork().next_u64(), a.fork().next_u64());
/// ```
#[derive(Clone, Debug)]
pub struct Rng(fastrand::Rng);

impl Rng {
    /// A generator seeded from the process's entropy.
    pub fn new() -> Self {
        Self(fastrand::Rng::new())
    }

    /// A generator that always yields the same sequence.
    pub fn with_seed(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A new generator whose sequence is its own.
    #[inline]
    pub fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    /// A uniform `u64`.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A uniform number in `0..bound`, or 0 when `bound` is 0.
    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.0.usize(..bound) }
    }

    /// A uniform number in `[0, 1)`.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        self.0.f64()
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}
