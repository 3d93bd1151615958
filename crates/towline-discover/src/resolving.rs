//! Asking again and again: the loop under every source that has to ask for its endpoints.
//!
//! ```text
//!   answer, good for t ─▶ wait min(max(t, floor), ceiling), less jitter ─┐
//!   answer, unchanged ──▶ say nothing                                    ├─▶ ask ─▶ …
//!   failure ────────────▶ say it; wait its time, or a backoff ───────────┤
//!   somebody cannot reach anybody (refresh) ▶ not before the floor ──────┘
//! ```

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream;
use tokio::time::{Instant, sleep_until, timeout};
use towline_core::sync::after;
use towline_core::{Backoff, Endpoint, EndpointSet, Error, Jitter, Kind, Phase, Rng, Sent};

use crate::adapt::is_same;
use crate::refresh::Asked;
use crate::{Refresh, Source};

/// Something that can be asked for its endpoints: a resolver, a registry.
///
/// [`Resolving`] asks it, again and again, one question at a time.
pub trait Resolve: Send + 'static {
    /// All endpoints there are now, and how long that is good for. May be dropped at any time.
    fn resolve(&mut self) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

/// What there is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// Where to. An empty answer is taken for a failure, unless it is meant.
    pub endpoints: EndpointSet,
    /// For how long that is good; `None` when nobody says.
    pub valid_for: Option<Duration>,
    /// What could not be found out, where the answer has the last that is known of it. It is said before the set, once as long as it stays
    /// the same; the set that follows says that the rest is well.
    pub partial: Option<Error>,
}

impl Answer {
    /// These, for a time that nobody says.
    pub fn new(endpoints: impl Into<EndpointSet>) -> Self {
        Self { endpoints: endpoints.into(), valid_for: None, partial: None }
    }

    /// Good for so long.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.valid_for = Some(time);
        self
    }

    /// Though a part of it is as it was, for this reason.
    #[must_use]
    pub fn partial(mut self, why: Error) -> Self {
        self.partial = Some(why);
        self
    }
}

/// Why there is no answer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// For how long that will be so, when somebody says: a server that knows that there is no such name. Else it is tried again after a backoff.
    pub valid_for: Option<Duration>,
}

impl Failure {
    /// It is so for a while.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.valid_for = Some(time);
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, valid_for: None }
    }
}

/// How a [`Resolve`] becomes a [`Source`]: when it is asked.
///
/// | | default | |
/// |---|---|---|
/// | floor | 5 s | between two questions after an answer, whatever that or anybody who asks for a look says |
/// | ceiling | 5 min | after a longer time than this an answer is old, whatever it says of itself |
/// | interval | 30 s | where the answer says nothing; as gRPC's clients ask for names |
/// | jitter | 10 % | less than that time, so that clients which began together do not ask together |
/// | limit | 10 s | of one question |
/// | backoff | 1 s to 30 s | after a failure that says nothing, doubled with each, with equal jitter |
///
/// A set that is as before is not said again, except after a failure. Dropping the source ends the question that is open. It needs a tokio runtime
/// with time.
///
/// Failures are what the [`Resolve`] says, [`Kind::Timeout`] at the limit, and [`Kind::NoEndpoints`] for an empty answer.
///
/// ```
/// use std::time::Duration;
/// use futures_util::StreamExt;
/// use towline_core::Endpoint;
/// use towline_discover::{Answer, Failure, Resolve, Resolving};
///
/// struct Registry;
///
/// impl Resolve for Registry {
///     async fn resolve(&mut self) -> Result<Answer, Failure> {
///         let endpoint: Endpoint = "10.0.0.7:7000".parse()?;
///         Ok(Answer::new(vec![endpoint]).valid_for(Duration::from_secs(20)))
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut source = Resolving::new(Registry).floor(Duration::from_secs(1)).source()?;
/// assert_eq!(source.next().await.unwrap()?.len(), 1);
/// # Ok::<(), towline_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Resolving<R> {
    resolve: R,
    timing: Timing,
}

/// When to ask, as far as that can be set; see [`Resolving`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct Timing {
    floor: Duration,
    ceiling: Duration,
    interval: Duration,
    jitter: f64,
    limit: Duration,
    backoff: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            floor: Duration::from_secs(5),
            ceiling: Duration::from_secs(300),
            interval: Duration::from_secs(30),
            jitter: 0.1,
            limit: Duration::from_secs(10),
            backoff: (Duration::from_secs(1), Duration::from_secs(30)),
        }
    }
}

impl Timing {
    /// The shortest time between the beginnings of two questions, but for the backoff's after a failure.
    pub fn floor(mut self, floor: Duration) -> Self {
        self.floor = floor;
        self
    }

    /// The longest time until an answer is asked for again.
    pub fn ceiling(mut self, ceiling: Duration) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// The time after an answer that says nothing of it. Floor and ceiling hold for it.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// By what share a time may be shorter, from 0 to 1. Never shorter than the floor.
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// How long one question may take.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// After the first failure, and at most. It may be below the floor.
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.backoff = (first, most);
        self
    }

    /// What cannot work.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`].
    pub fn check(&self) -> Result<(), Error> {
        let refused = |why: &'static str| Err(Error::new(Kind::Config, Phase::Build).with_message(why));
        if self.floor.is_zero() || self.backoff.0.is_zero() {
            return refused(
                "the floor and the backoff of discovery cannot be 0: resolvers would be asked all the time",
            );
        }
        if self.limit.is_zero() {
            return refused("a limit of 0 leaves no time for any answer; use a longer one");
        }
        if self.backoff.1 < self.backoff.0 {
            return refused("the longest backoff of discovery is below the first: raise it, or lower the first");
        }
        if self.ceiling < self.floor {
            return refused("the ceiling of discovery is below its floor: raise it, or lower the floor");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return refused("the jitter of discovery is a share from 0 to 1");
        }
        Ok(())
    }

    /// How long an answer is to be believed.
    fn belief(&self, valid_for: Option<Duration>, rng: &mut Rng) -> Duration {
        // What is longer than this is for ever.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        let time = valid_for.unwrap_or(self.interval).clamp(self.floor, self.ceiling);
        time.min(YEAR).mul_f64(1.0 - self.jitter * rng.unit()).max(self.floor)
    }

    /// How long to wait after the `n`-th failure in a row, from 0.
    fn patience(&self, n: u32, valid_for: Option<Duration>, rng: &mut Rng) -> Duration {
        match valid_for {
            Some(_) => self.belief(valid_for, rng),
            None => Backoff::new(self.backoff.0, self.backoff.1).with_jitter(Jitter::Equal).delay(n, rng),
        }
    }
}

impl<R: Resolve> Resolving<R> {
    /// Asks `resolve`, at the default times.
    pub fn new(resolve: R) -> Self {
        Self { resolve, timing: Timing::default() }
    }

    /// At these times.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// See [`Timing::floor`].
    pub fn floor(mut self, floor: Duration) -> Self {
        self.timing = self.timing.floor(floor);
        self
    }

    /// See [`Timing::ceiling`].
    pub fn ceiling(mut self, ceiling: Duration) -> Self {
        self.timing = self.timing.ceiling(ceiling);
        self
    }

    /// The source.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] for times that cannot work.
    pub fn source(self) -> Result<Source, Error> {
        self.source_with(Rng::new())
    }

    fn source_with(self, rng: Rng) -> Result<Source, Error> {
        self.timing.check()?;
        let (refresh, asked) = Refresh::new();
        let asking = Asking {
            resolve: self.resolve,
            timing: self.timing,
            asked,
            rng,
            last: None,
            partial: None,
            next: None,
            failures: 0,
            asked_at: None,
            due: None,
        };
        let sets = stream::unfold(asking, async |mut asking| {
            let item = asking.next().await;
            Some((item, asking))
        });
        Ok(Source::refreshed(sets, refresh))
    }
}

struct Asking<R> {
    resolve: R,
    timing: Timing,
    asked: Asked,
    rng: Rng,
    /// What was said last, unless a failure came after it.
    last: Option<EndpointSet>,
    /// What was said last of a part that cannot be found out.
    partial: Option<String>,
    /// To be said next.
    next: Option<EndpointSet>,
    failures: u32,
    asked_at: Option<Instant>,
    due: Option<Instant>,
}

impl<R: Resolve> Asking<R> {
    async fn next(&mut self) -> Result<EndpointSet, Error> {
        if let Some(set) = self.next.take() {
            return Ok(set);
        }
        loop {
            self.wait().await;
            self.asked_at = Some(Instant::now());
            let answer = match timeout(self.timing.limit, self.resolve.resolve()).await {
                Ok(answer) => answer.and_then(not_empty),
                Err(_) => {
                    let why = format!("the question for endpoints was not answered within {:?}", self.timing.limit);
                    Err(Error::new(Kind::Timeout, Phase::Resolve).with_sent(Sent::Never).with_message(why).into())
                }
            };
            let (wait, item) = match answer {
                Ok(Answer { endpoints, valid_for, partial }) => {
                    self.failures = 0;
                    let is_known = self.last.as_ref().is_some_and(|last| is_same(last, &endpoints));
                    self.last = Some(endpoints.clone());
                    let text = partial.as_ref().map(ToString::to_string);
                    let is_told = text == self.partial;
                    self.partial = text;
                    let item = match partial {
                        Some(error) if !is_told => {
                            self.next = Some(endpoints);
                            Some(Err(error))
                        }
                        _ => (!is_known).then_some(Ok(endpoints)),
                    };
                    (self.timing.belief(valid_for, &mut self.rng), item)
                }
                Err(Failure { error, valid_for }) => {
                    self.last = None;
                    let wait = self.timing.patience(self.failures, valid_for, &mut self.rng);
                    self.failures = self.failures.saturating_add(1);
                    (wait, Some(Err(error)))
                }
            };
            self.due = Some(after(Instant::now(), wait));
            if let Some(item) = item {
                return item;
            }
        }
    }

    /// Until it is time, or somebody asks, and then not before the floor.
    async fn wait(&mut self) {
        let (Some(due), Some(asked_at)) = (self.due, self.asked_at) else { return };
        if let Either::Right(_) = select(pin!(sleep_until(due)), pin!(self.asked.wait())).await {
            sleep_until(due.min(after(asked_at, self.timing.floor))).await;
        }
        self.due = None;
    }
}

fn not_empty(answer: Answer) -> Result<Answer, Failure> {
    if answer.endpoints.is_empty() && !answer.endpoints.is_none_on_purpose() {
        let error = Error::new(Kind::NoEndpoints, Phase::Resolve).with_sent(Sent::Never);
        return Err(answer.partial.unwrap_or(error.with_message("the answer has no endpoints")).into());
    }
    Ok(answer)
}

/// These as a set that is the same whatever the order in which they came: servers turn their answers around.
pub fn sorted(mut endpoints: Vec<Endpoint>) -> EndpointSet {
    endpoints.sort_by(|one, other| one.key().cmp(other.key()));
    endpoints.dedup();
    endpoints.into()
}

#[cfg(test)]
mod tests;
