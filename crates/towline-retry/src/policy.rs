//! What may go again: the settings, and what has come of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use towline_core::{Backoff, ByError, EndpointKey, Error, Event, Kind, Observers, Outcome, Phase, Rng, Sent};

use crate::budget::{Budget, Permit};
use crate::decide::{Again, Ended, Rules, Stop};

/// Which calls go again, how often, after what pauses, and who pays. For [`RetryLayer`](crate::RetryLayer), and for
/// tower's own `Retry` (feature `tower`).
///
/// Three attempts, full jitter from 25 ms to 1 s, the default [`Budget`], failures told by [`ByError`]. Clones, and all
/// layers made of them, share the budget and the [statistics](Self::stats).
///
/// ```
/// use std::time::Duration;
/// use towline_core::{Backoff, Jitter};
/// use towline_retry::{Budget, RetryPolicy};
///
/// // Every call of this client only reads.
/// let policy = RetryPolicy::idempotent()
///     .attempts(4)?
///     .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(200)).with_jitter(Jitter::Equal))
///     .budget(Budget::new(0.2, 10)?);
/// assert!(policy.clone().attempts(0).is_err());
/// assert_eq!(policy.stats().retries, 0);
/// # Ok::<(), towline_core::Error>(())
/// ```
pub struct RetryPolicy<K = ByError> {
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
    pub(crate) classify: K,
    observers: Observers,
    counts: Arc<Counts>,
}

impl RetryPolicy {
    /// The default: what was never sent goes again, and what the caller has marked
    /// [idempotent](towline_core::CallContext::is_idempotent).
    pub fn never_sent() -> Self {
        let backoff = Backoff::new(Duration::from_millis(25), Duration::from_secs(1));
        Self {
            rules: Rules { attempts: 3, backoff, all_idempotent: false },
            budget: Budget::default(),
            classify: ByError,
            observers: Observers::default(),
            counts: Arc::default(),
        }
    }

    /// Every call may be repeated, marked or not: for clients that only read, or whose server recognises repetitions.
    pub fn idempotent() -> Self {
        let mut policy = Self::never_sent();
        policy.rules.all_idempotent = true;
        policy
    }

    /// Nothing goes again. A layer further in may still retry.
    pub fn none() -> Self {
        let mut policy = Self::never_sent();
        policy.rules.attempts = 1;
        policy
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::never_sent()
    }
}

impl<K> RetryPolicy<K> {
    /// The most attempts, the first included.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when that is 0.
    pub fn attempts(mut self, attempts: u32) -> Result<Self, Error> {
        if attempts == 0 {
            return Err(Error::new(Kind::Config, Phase::Build)
                .with_message("attempts is 0: no call would ever be sent; use 1 for no retry"));
        }
        self.rules.attempts = attempts;
        Ok(self)
    }

    /// The most attempts, as set.
    pub fn max_attempts(&self) -> u32 {
        self.rules.attempts
    }

    /// How long to wait before each further attempt.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.rules.backoff = backoff;
        self
    }

    /// What pays for attempts that may repeat work.
    #[must_use]
    pub fn budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// Sends events here.
    #[must_use]
    pub fn observers(self, observers: Observers) -> Self {
        Self { observers, ..self }
    }

    /// Tells failures by `classify`.
    pub fn classify<L>(self, classify: L) -> RetryPolicy<L> {
        let Self { rules, budget, classify: _, observers, counts } = self;
        RetryPolicy { rules, budget, classify, observers, counts }
    }

    /// What it decides by, for simulators that drive the core. Not part of the stable surface.
    #[doc(hidden)]
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// What has happened so far.
    pub fn stats(&self) -> RetryStats {
        let Counts { retries, not_replayable, too_late, budget_exhausted, nested } = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RetryStats {
            retries: read(retries),
            not_replayable: read(not_replayable),
            too_late: read(too_late),
            budget_exhausted: read(budget_exhausted),
            nested: read(nested),
        }
    }

    /// A call came in that a layer further out retries. That is a fault of the stack, not of the call: it is told once.
    #[cold]
    pub(crate) fn found_nested(&self) {
        if self.counts.nested.fetch_add(1, Ordering::Relaxed) == 0 {
            self.observers.emit(Event::NestedRetry);
        }
    }

    /// An attempt has failed: the pause before the next one, and what it is paid with, if there is to be one.
    #[cold]
    pub(crate) fn next(&self, failed: &Failed<'_>) -> Option<(Duration, Option<Permit>)> {
        let &Failed { attempt, outcome, sent, is_idempotent, is_replayable, deadline, last_pause, .. } = failed;
        let &Failed { endpoint, error, .. } = failed;
        if Handle::try_current().is_err() {
            return None; // Nobody would wake us from the pause.
        }
        let now = Instant::now();
        let left = deadline.map(|at| at.saturating_duration_since(now));
        let ended = Ended { attempt, outcome, sent, is_idempotent, is_replayable, left, last_pause };
        let count = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        let Again { after, costs } = match self.rules.decide(&ended, &mut Rng::new()) {
            Ok(again) => again,
            Err(stop) => {
                match stop {
                    Stop::NotReplayable => {
                        count(&self.counts.not_replayable);
                        self.observers.emit(Event::NotReplayable { endpoint });
                    }
                    Stop::TooLate | Stop::PushedBack => {
                        count(&self.counts.too_late);
                    }
                    Stop::Done | Stop::Attempts | Stop::Unsafe => {}
                }
                return None;
            }
        };
        let permit = if costs {
            let Some(permit) = self.budget.withdraw_at(now) else {
                count(&self.counts.budget_exhausted);
                self.observers.emit(Event::BudgetExhausted { endpoint });
                return None;
            };
            Some(permit)
        } else {
            None
        };
        count(&self.counts.retries);
        self.observers.emit(Event::Retrying { endpoint, attempt, error, after });
        Some((after, permit))
    }
}

/// An attempt that has failed, as a layer knows it.
pub(crate) struct Failed<'a> {
    pub(crate) attempt: u32,
    pub(crate) outcome: Outcome,
    pub(crate) sent: Sent,
    pub(crate) is_idempotent: bool,
    pub(crate) is_replayable: bool,
    pub(crate) deadline: Option<Instant>,
    pub(crate) last_pause: Duration,
    pub(crate) endpoint: Option<&'a EndpointKey>,
    pub(crate) error: Option<&'a Error>,
}

impl<K: Clone> Clone for RetryPolicy<K> {
    fn clone(&self) -> Self {
        Self {
            rules: self.rules,
            budget: self.budget.clone(),
            classify: self.classify.clone(),
            observers: self.observers.clone(),
            counts: self.counts.clone(),
        }
    }
}

// Without the classifier, which need not be `Debug`.
impl<K> fmt::Debug for RetryPolicy<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rules { attempts, backoff, all_idempotent } = &self.rules;
        f.debug_struct("RetryPolicy")
            .field("attempts", attempts)
            .field("backoff", backoff)
            .field("all_idempotent", all_idempotent)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// Of failures only: a call that succeeds at once counts nothing.
#[derive(Debug, Default)]
struct Counts {
    retries: AtomicU64,
    not_replayable: AtomicU64,
    too_late: AtomicU64,
    budget_exhausted: AtomicU64,
    nested: AtomicU64,
}

/// What a [`RetryPolicy`] has done, in all layers made of it and of its clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryStats {
    /// Attempts after the first. One that was given up during its pause counts, too.
    pub retries: u64,
    /// Failures that could have gone again, had there been a copy of the request.
    pub not_replayable: u64,
    /// Failures that did not go again because the pause would have reached the deadline, or because the server asked for one of
    /// more than a minute.
    pub too_late: u64,
    /// Failures that did not go again because the budget was spent.
    pub budget_exhausted: u64,
    /// Calls that were let through because a layer further out retries them.
    pub nested: u64,
}
