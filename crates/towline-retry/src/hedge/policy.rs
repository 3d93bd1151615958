//! Which calls are hedged, when, and how many.

use std::fmt;
use std::time::Duration;

use towline_core::{ByError, Error, Kind, Observers, Phase};

use crate::budget::Budget;
use crate::hedge::latencies::Hedging;
use crate::policy::RetryPolicy;

/// Which calls get a second attempt, after how long, and how many do at most. For [`HedgeLayer`](crate::HedgeLayer).
///
/// Calls that the caller has marked [idempotent](towline_core::CallContext::is_idempotent) and that take longer than 98.5 % of
/// those of the last ten seconds, and no more than 2 % of all. Calls that are late come together, when an endpoint pauses: what
/// the others have left over is for them. Failures are told by [`ByError`].
///
/// ```
/// use towline_retry::{Budget, HedgeLayer, HedgePolicy, RetryLayer, RetryPolicy};
///
/// // One budget for all that is sent twice.
/// let budget = Budget::default();
/// let hedge = HedgeLayer::with_policy(HedgePolicy::idempotent().percentile(0.95)?.extra_load(0.05)?.budget(budget.clone()));
/// let retry = RetryLayer::with_policy(RetryPolicy::idempotent().budget(budget));
/// # drop((hedge, retry));
/// assert!(HedgePolicy::new().percentile(98.0).is_err());
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone)]
pub struct HedgePolicy<K = ByError> {
    percentile: f64,
    extra_load: f64,
    pub(crate) all_idempotent: bool,
    pub(crate) budget: Option<Budget>,
    pub(crate) classify: K,
    pub(crate) observers: Observers,
}

impl HedgePolicy {
    /// For calls that the caller has marked.
    pub fn new() -> Self {
        Self {
            percentile: 0.985,
            extra_load: 0.02,
            all_idempotent: false,
            budget: None,
            classify: ByError,
            observers: Observers::default(),
        }
    }

    /// For all calls: of clients that only read, or whose server recognises repetitions.
    pub fn idempotent() -> Self {
        Self { all_idempotent: true, ..Self::new() }
    }
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> HedgePolicy<K> {
    /// The part of calls that is answered before a second attempt is due, more than 0 and less than 1.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is outside that range or not a number.
    pub fn percentile(mut self, percentile: f64) -> Result<Self, Error> {
        if !(percentile > 0.0 && percentile < 1.0) {
            let message = format!("the percentile of a hedge is a part, more than 0 and less than 1, not {percentile}");
            return Err(Error::new(Kind::Config, Phase::Build).with_message(message));
        }
        self.percentile = percentile;
        Ok(self)
    }

    /// The most second attempts, as a part of the calls that could have one: more than 0, at most 1.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is outside that range or not a number.
    pub fn extra_load(mut self, extra_load: f64) -> Result<Self, Error> {
        if !(extra_load > 0.0 && extra_load <= 1.0) {
            let message = format!("the extra load of hedges is a part, more than 0 and at most 1, not {extra_load}");
            return Err(Error::new(Kind::Config, Phase::Build).with_message(message));
        }
        self.extra_load = extra_load;
        Ok(self)
    }

    /// Pays for second attempts from this budget, too: that of the retry policy of the same stack, which fills it.
    #[must_use]
    pub fn budget(self, budget: Budget) -> Self {
        Self { budget: Some(budget), ..self }
    }

    /// Pays from the budget of this retry policy, too.
    #[must_use]
    pub fn paid_by<L>(self, retry: &RetryPolicy<L>) -> Self {
        self.budget(retry.budget.clone())
    }

    /// Sends events here.
    #[must_use]
    pub fn observers(self, observers: Observers) -> Self {
        Self { observers, ..self }
    }

    /// Tells failures by `classify`.
    pub fn classify<L>(self, classify: L) -> HedgePolicy<L> {
        let Self { percentile, extra_load, all_idempotent, budget, classify: _, observers } = self;
        HedgePolicy { percentile, extra_load, all_idempotent, budget, classify, observers }
    }

    /// The core of a layer with this policy, for simulators that drive it. Not part of the stable surface.
    #[doc(hidden)]
    pub fn hedging(&self) -> Hedging {
        Hedging::new(self.percentile, self.extra_load).expect("both were checked when they were set")
    }
}

// Without the classifier, which need not be `Debug`.
impl<K> fmt::Debug for HedgePolicy<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgePolicy")
            .field("percentile", &self.percentile)
            .field("extra_load", &self.extra_load)
            .field("all_idempotent", &self.all_idempotent)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// What a [`HedgeLayer`](crate::HedgeLayer) has done, in all services made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgeStats {
    /// After how long a second attempt is due; `None` while too little is known.
    pub delay: Option<Duration>,
    /// Second attempts.
    pub hedges: u64,
    /// Of these, answered first.
    pub won: u64,
    /// Calls that took long and got no second attempt, because of the extra load or the retry budget.
    pub budget_exhausted: u64,
    /// Calls that took long and got no second attempt, because there was no copy of the request.
    pub not_replayable: u64,
}
