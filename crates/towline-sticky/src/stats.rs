//! What became of sessions, counted without a word that all threads write.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use towline_core::HomeLoss;

/// Counts what becomes of sessions. Clones count together: give one to every part of a stack that is to be counted as
/// one.
///
/// Counting costs one addition to a word of the thread's own stripe; reading adds up the stripes, and is not one moment:
/// calls that run meanwhile may be in one number and not yet in another.
///
/// ```
/// use towline_sticky::{Rendezvous, StickyStats};
///
/// let stats = StickyStats::new();
/// let policy = Rendezvous::new().with_stats(stats.clone());
/// // … calls …
/// assert_eq!(stats.counts().followed, 0);
/// # drop(policy);
/// ```
#[derive(Clone)]
pub struct StickyStats(Arc<[Stripe; STRIPES]>);

/// What [`StickyStats`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StickyCounts {
    /// Calls that went to their session's home, a session's first included.
    pub followed: u64,
    /// Sessions that have another home since a call, by why.
    pub moved: ByLoss,
    /// Calls that went elsewhere while their session's home stayed, by why.
    pub spilled: ByLoss,
    /// Calls that failed because their session's home could not take them, by why.
    pub refused: ByLoss,
    /// Tokens that nobody here has signed, or that were changed: also what is no token at all.
    pub forged: u64,
    /// Tokens that were good once.
    pub stale: u64,
    /// Tokens that were given out.
    pub issued: u64,
    /// Calls whose session key was empty; they count as calls without a session.
    pub empty_keys: u64,
    /// Sessions in tables now, those of pins included.
    pub entries: u64,
    /// Sessions that had to make room for others.
    pub evicted: u64,
    /// Sessions that were idle for too long.
    pub expired: u64,
}

/// A count for each reason why a session's home did not get its call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ByLoss {
    /// It is not in the set any more.
    pub gone: u64,
    /// It cannot be reached, or is ejected.
    pub unready: u64,
    /// It has as many calls as it may have.
    pub overloaded: u64,
    /// An earlier attempt of the call has failed there.
    pub tried: u64,
}

impl ByLoss {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.gone + self.unready + self.overloaded + self.tried
    }
}

/// More than this many threads share, and few machines have more that call at the same moment.
const STRIPES: usize = 8;

// Apart in memory, so that threads do not write to each other's cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Stripe {
    followed: AtomicU64,
    moved: [AtomicU64; LOSSES],
    spilled: [AtomicU64; LOSSES],
    refused: [AtomicU64; LOSSES],
    forged: AtomicU64,
    stale: AtomicU64,
    issued: AtomicU64,
    empty_keys: AtomicU64,
    // Added to on one stripe and taken from on another: only the sum, which wraps, means something.
    entries: AtomicU64,
    evicted: AtomicU64,
    expired: AtomicU64,
}

const LOSSES: usize = 4;

/// Where a reason is counted.
fn place(why: HomeLoss) -> usize {
    match why {
        HomeLoss::Gone => 0,
        HomeLoss::Overloaded => 2,
        HomeLoss::Tried => 3,
        // And whatever else may come to be told apart.
        _ => 1,
    }
}

impl StickyStats {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// What was counted so far.
    pub fn counts(&self) -> StickyCounts {
        let sum = |word: fn(&Stripe) -> &AtomicU64| {
            self.0.iter().map(word).fold(0, |sum: u64, word| sum.wrapping_add(word.load(Ordering::Relaxed)))
        };
        let by_loss = |words: fn(&Stripe) -> &[AtomicU64; LOSSES]| {
            let sum = |why| self.0.iter().map(|stripe| words(stripe)[place(why)].load(Ordering::Relaxed)).sum();
            ByLoss {
                gone: sum(HomeLoss::Gone),
                unready: sum(HomeLoss::Unready),
                overloaded: sum(HomeLoss::Overloaded),
                tried: sum(HomeLoss::Tried),
            }
        };
        StickyCounts {
            followed: sum(|stripe| &stripe.followed),
            moved: by_loss(|stripe| &stripe.moved),
            spilled: by_loss(|stripe| &stripe.spilled),
            refused: by_loss(|stripe| &stripe.refused),
            forged: sum(|stripe| &stripe.forged),
            stale: sum(|stripe| &stripe.stale),
            issued: sum(|stripe| &stripe.issued),
            empty_keys: sum(|stripe| &stripe.empty_keys),
            entries: sum(|stripe| &stripe.entries),
            evicted: sum(|stripe| &stripe.evicted),
            expired: sum(|stripe| &stripe.expired),
        }
    }

    #[inline]
    fn stripe(&self) -> &Stripe {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static STRIPE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
        }
        // While a thread ends, any will do.
        &self.0[STRIPE.try_with(|stripe| *stripe).unwrap_or(0)]
    }

    #[inline]
    pub(crate) fn followed(&self) {
        add(&self.stripe().followed, 1);
    }

    pub(crate) fn moved(&self, why: HomeLoss) {
        add(&self.stripe().moved[place(why)], 1);
    }

    pub(crate) fn spilled(&self, why: HomeLoss) {
        add(&self.stripe().spilled[place(why)], 1);
    }

    pub(crate) fn refused(&self, why: HomeLoss) {
        add(&self.stripe().refused[place(why)], 1);
    }

    pub(crate) fn empty_key(&self) {
        add(&self.stripe().empty_keys, 1);
    }

    pub(crate) fn entered(&self) {
        add(&self.stripe().entries, 1);
    }

    pub(crate) fn left(&self, entries: usize) {
        add(&self.stripe().entries, (entries as u64).wrapping_neg());
    }

    pub(crate) fn evicted(&self) {
        self.left(1);
        add(&self.stripe().evicted, 1);
    }

    pub(crate) fn expired(&self, entries: usize) {
        self.left(entries);
        add(&self.stripe().expired, entries as u64);
    }

    #[cfg(feature = "token")]
    pub(crate) fn ignored(&self, is_stale: bool) {
        let stripe = self.stripe();
        add(if is_stale { &stripe.stale } else { &stripe.forged }, 1);
    }

    #[cfg(feature = "token")]
    pub(crate) fn issued(&self) {
        add(&self.stripe().issued, 1);
    }
}

#[inline]
fn add(word: &AtomicU64, n: u64) {
    word.fetch_add(n, Ordering::Relaxed);
}

impl Default for StickyStats {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StickyStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StickyStats").field(&self.counts()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together_whichever_thread_counts() {
        let stats = StickyStats::new();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let stats = stats.clone();
                    stats.followed();
                    stats.spilled(HomeLoss::Overloaded);
                    stats.entered();
                });
            }
        });
        stats.expired(15);
        stats.evicted();
        let counts = stats.counts();
        assert_eq!((counts.followed, counts.spilled.overloaded, counts.spilled.total()), (20, 20, 20));
        assert_eq!((counts.entries, counts.expired, counts.evicted), (4, 15, 1));
    }
}
