//! So many per second, and a second's worth at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

const SECOND: u64 = Duration::from_secs(1).as_nanos() as u64;

/// A token bucket in one word: the time up to which tokens have been taken.
#[derive(Debug)]
pub(super) struct Pace {
    origin: Instant,
    /// Nanoseconds between two tokens.
    gap: u64,
    taken: AtomicU64,
}

impl Pace {
    /// So many tokens per second, at least one.
    pub(super) fn new(per_second: u32) -> Self {
        Self { origin: Instant::now(), gap: SECOND / u64::from(per_second.max(1)), taken: AtomicU64::new(0) }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&self, now: Instant) -> bool {
        // A second of grace, so that the bucket is full at the beginning.
        let now = now.saturating_duration_since(self.origin).as_nanos() as u64 + SECOND;
        let take = |taken: u64| {
            let next = taken.max(now - SECOND) + self.gap;
            (next <= now).then_some(next)
        };
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_s_worth_at_once_and_then_one_by_one() {
        let (pace, start) = (Pace::new(10), Instant::now());
        let taken = |at: Duration| (0..100).filter(|_| pace.take(start + at)).count();
        assert_eq!(taken(Duration::ZERO), 10);
        assert_eq!(taken(Duration::from_millis(99)), 0);
        assert_eq!(taken(Duration::from_millis(100)), 1);
        assert_eq!(taken(Duration::from_millis(450)), 3);
        assert_eq!(taken(Duration::from_secs(60)), 10, "no more than a second's worth is saved");
    }

    #[test]
    fn it_is_never_overdrawn_by_several_at_once() {
        let (pace, start) = (Pace::new(1_000), Instant::now());
        let taken: usize = std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1_000).filter(|_| pace.take(start)).count())).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        assert_eq!(taken, 1_000);
    }
}
