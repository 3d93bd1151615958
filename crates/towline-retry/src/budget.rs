//! How much load retries may add.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use towline_core::{Error, Kind, Phase};

/// One token, in the unit that is counted. A token per second is then one unit per nanosecond: nothing is ever rounded but
/// the ratio, to the billionth.
const TOKEN: u64 = 1_000_000_000;
/// The reserve holds what the floor earns in this many seconds, so that a quiet client can retry a burst.
const RESERVE_SECONDS: u64 = 10;
/// The reserve holds at least so many.
const LEAST_RESERVE: u64 = 100;
const MOST_RATIO: f64 = 1_000.0;
const MOST_PER_SECOND: u32 = 1_000_000;

/// Tokens for retries: every success earns a fraction of one, time earns a floor, a retry costs one.
///
/// By default a tenth of a token per success and 10 per second. Ten seconds' worth of the floor is there to begin with; that
/// much is kept at most, or 100 tokens if that is more (Finagle's and gRPC's budgets work alike). Earning and spending is
/// exact: whatever calls do at once, no more is spent than was earned.
///
/// Clones share the tokens. Without a lock: a full budget, as in health, is only read by successes.
///
/// ```
/// use towline_retry::Budget;
///
/// let budget = Budget::new(0.2, 5)?;
/// assert!(Budget::new(f64::NAN, 5).is_err());
///
/// // In a loop of one's own:
/// budget.deposit(); // a call succeeded
/// if let Some(permit) = budget.withdraw() {
///     // … wait, and send again; had it been dropped until here, the token would have gone back …
///     permit.spend();
/// }
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    reserve: Reserve,
    /// Time is counted from the first withdrawal: before that the reserve is full of what time earns.
    epoch: OnceLock<Instant>,
}

impl Budget {
    /// `ratio` of a token per success, from 0 to 1,000 and exact to the billionth, and `per_second` tokens from time alone,
    /// up to a million.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when either is outside its range, or `ratio` is not a number.
    pub fn new(ratio: f64, per_second: u32) -> Result<Self, Error> {
        if !(0.0..=MOST_RATIO).contains(&ratio) {
            return Err(refused(format!(
                "the ratio of a retry budget is a number from 0 to {MOST_RATIO}, not {ratio}"
            )));
        }
        if per_second > MOST_PER_SECOND {
            let message =
                format!("the floor of a retry budget is {MOST_PER_SECOND} per second at most, not {per_second}");
            return Err(refused(message));
        }
        Ok(Self::of((ratio * TOKEN as f64).round() as u64, per_second))
    }

    fn of(earn: u64, per_second: u32) -> Self {
        Self(Arc::new(Shared { reserve: Reserve::new(earn, per_second), epoch: OnceLock::new() }))
    }

    /// A call succeeded. [`Retry`](crate::Retry) says so by itself.
    pub fn deposit(&self) {
        self.0.reserve.deposit();
    }

    /// Takes a token, if there is one.
    pub fn withdraw(&self) -> Option<Permit> {
        self.withdraw_at(Instant::now())
    }

    pub(crate) fn withdraw_at(&self, now: Instant) -> Option<Permit> {
        let since = now.saturating_duration_since(*self.0.epoch.get_or_init(|| now));
        self.withdraw_nanos(nanos(since))
    }

    pub(crate) fn withdraw_nanos(&self, now: u64) -> Option<Permit> {
        self.0.reserve.withdraw(now).then(|| Permit(Some(self.clone())))
    }

    /// Takes back a token that was spent for nothing.
    pub(crate) fn refund(&self) {
        self.0.reserve.refund();
    }
}

fn refused(message: String) -> Error {
    Error::new(Kind::Config, Phase::Build).with_message(message)
}

/// Whole nanoseconds; those of five hundred years and more are all one.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Default for Budget {
    fn default() -> Self {
        Self::of(TOKEN / 10, 10)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("tokens", &self.0.reserve.tokens()).finish_non_exhaustive()
    }
}

/// A token of a [`Budget`], for one more attempt. Dropped before that was sent, it goes back.
#[must_use = "dropped, the token goes back"]
#[derive(Debug)]
pub struct Permit(Option<Budget>);

impl Permit {
    /// The attempt was sent: the token is gone.
    pub fn spend(mut self) {
        self.0 = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(budget) = &self.0 {
            budget.refund();
        }
    }
}

/// The synchronous core of [`Budget`], in nanoseconds since any beginning.
#[derive(Debug)]
pub struct Reserve {
    earn: u64,
    per_second: u64,
    most: u64,
    tokens: AtomicU64,
    /// Until when time has earned.
    refilled: AtomicU64,
}

// Each of the two atomics is exact by itself, and neither guards anything else, so no ordering between them is needed.
// Whoever moves `refilled` on alone adds what the time in between has earned; until it has done so, others may find less
// than there is, never more.
impl Reserve {
    /// `earn` billionths of a token per success, and `per_second` tokens by time.
    pub fn new(earn: u64, per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        let begin = per_second * RESERVE_SECONDS;
        let most = begin.max(LEAST_RESERVE) * TOKEN;
        Self { earn, per_second, most, tokens: AtomicU64::new(begin * TOKEN), refilled: AtomicU64::new(0) }
    }

    /// A call succeeded.
    #[inline]
    pub fn deposit(&self) {
        self.add(self.earn);
    }

    /// A token was not needed.
    pub fn refund(&self) {
        self.add(TOKEN);
    }

    /// Takes a token, if there is one.
    pub fn withdraw(&self, now: u64) -> bool {
        let last = self.refilled.load(Ordering::Relaxed);
        // Callers read the time before they come here: it must not go back and earn twice.
        if now > last && self.refilled.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.add((now - last).saturating_mul(self.per_second));
        }
        let take = |tokens: u64| tokens.checked_sub(TOKEN);
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Whole tokens at present, without what time has earned since the last withdrawal.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed) / TOKEN
    }

    #[inline]
    fn add(&self, amount: u64) {
        let mut tokens = self.tokens.load(Ordering::Relaxed);
        // Full, nothing is written, and the cache line stays with everybody.
        while tokens < self.most && amount > 0 {
            let more = tokens.saturating_add(amount).min(self.most);
            match self.tokens.compare_exchange_weak(tokens, more, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => tokens = other,
            }
        }
    }
}

#[cfg(test)]
mod tests;
