//! How much load retries may add.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;
use towline_core::sync::Lock;
use towline_core::{Error, Kind, Phase};

/// One retry, in the unit that is counted: a ratio such as 0.6 is kept to the millionth.
const TOKEN: u64 = 1_000_000;
/// The reserve holds what the floor earns in this many seconds, so that a quiet client can retry a burst.
const RESERVE_SECONDS: u64 = 10;

/// Tokens for retries: every success earns a fraction of one, time earns a floor, a retry costs one.
///
/// Clones share the tokens. By default 10 % of successes and 10 per second; at most ten seconds' worth of the floor,
/// and at least 100 tokens, are kept (Finagle's and gRPC's budgets work alike).
///
/// ```
/// use towline_retry::Budget;
///
/// let budget = Budget::new(0.2, 5)?;
/// assert!(Budget::new(f64::NAN, 5).is_err());
/// # drop(budget);
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Budget {
    core: Arc<Lock<Core>>,
}

struct Core {
    earn: u64,
    per_second: u64,
    most: u64,
    tokens: u64,
    refilled: Option<Instant>,
}

impl Budget {
    /// `ratio` of a token per success, from 0 to 1,000, and `per_second` tokens from time alone.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when `ratio` is outside that range or not a number.
    pub fn new(ratio: f64, per_second: u32) -> Result<Self, Error> {
        if !(0.0..=1_000.0).contains(&ratio) {
            return Err(Error::new(Kind::Config, Phase::Build)
                .with_message(format!("the ratio of a retry budget is a number from 0 to 1000, not {ratio}")));
        }
        let per_second = u64::from(per_second) * TOKEN;
        let most = (per_second * RESERVE_SECONDS).max(100 * TOKEN);
        let earn = (ratio * TOKEN as f64).round() as u64;
        let core = Core { earn, per_second, most, tokens: per_second * RESERVE_SECONDS, refilled: None };
        Ok(Self { core: Arc::new(Lock::new(core)) })
    }

    /// A call succeeded.
    pub(crate) fn deposit(&self) {
        let mut core = self.core.lock();
        core.tokens = (core.tokens + core.earn).min(core.most);
    }

    /// Takes a token for a retry, if there is one.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.core.lock().withdraw(now)
    }
}

impl Core {
    fn withdraw(&mut self, now: Instant) -> bool {
        // Callers read the time before they have the lock: it must not go back and earn twice.
        let at = self.refilled.map_or(now, |at| at.max(now));
        let since = self.refilled.replace(at).map_or(0.0, |last| at.saturating_duration_since(last).as_secs_f64());
        let floor = (since * self.per_second as f64) as u64;
        self.tokens = self.tokens.saturating_add(floor).min(self.most);
        match self.tokens.checked_sub(TOKEN) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(0.1, 10).expect("0.1 is a ratio")
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.core.lock().tokens / TOKEN;
        f.debug_struct("Budget").field("tokens", &tokens).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Everything that can be withdrawn now.
    fn drain(budget: &Budget, now: Instant) -> u32 {
        (0..).take_while(|_| budget.withdraw(now)).count() as u32
    }

    #[test]
    fn a_ratio_is_honoured_exactly() {
        let now = Instant::now();
        for (ratio, of_a_hundred) in [(0.1, 10), (0.3, 30), (0.6, 60), (1.0, 100)] {
            let budget = Budget::new(ratio, 0).unwrap();
            assert_eq!(drain(&budget, now), 0);
            (0..100).for_each(|_| budget.deposit());
            assert_eq!(drain(&budget, now), of_a_hundred, "{ratio}");
        }
    }

    #[test]
    fn time_earns_the_floor_and_the_reserve_is_bounded() {
        let now = Instant::now();
        let budget = Budget::new(0.0, 10).unwrap();
        assert_eq!(drain(&budget, now), 100, "ten seconds' worth to begin with");
        assert_eq!(drain(&budget, now + Duration::from_secs(1)), 10);
        assert_eq!(drain(&budget, now + Duration::from_secs(3_600)), 100);
        (0..1_000_000).for_each(|_| budget.deposit());
        assert_eq!(drain(&budget, now + Duration::from_secs(3_600)), 0);
    }

    #[test]
    fn time_that_comes_out_of_order_earns_nothing_twice() {
        let budget = Budget::new(0.0, 10).unwrap();
        let now = Instant::now();
        drain(&budget, now);
        let later = now + Duration::from_millis(100);
        let taken = (0..100).filter(|i| budget.withdraw(if i % 2 == 0 { later } else { now })).count();
        assert_eq!(taken, 1);
    }

    #[test]
    fn successes_fill_no_more_than_the_reserve() {
        let budget = Budget::new(1.0, 0).unwrap();
        (0..1_000).for_each(|_| budget.deposit());
        assert_eq!(drain(&budget, Instant::now()), 100);
    }

    #[test]
    fn clones_share_the_tokens_and_never_overdraw() {
        let budget = Budget::new(0.0, 10).unwrap();
        let now = Instant::now();
        let taken: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let budget = budget.clone();
                    scope.spawn(move || drain(&budget, now))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 100);
    }

    #[test]
    fn a_ratio_that_is_no_ratio_is_refused() {
        for ratio in [-0.1, f64::NAN, f64::INFINITY, 1_001.0] {
            assert_eq!(Budget::new(ratio, 10).unwrap_err().kind(), Kind::Config);
        }
    }
}
