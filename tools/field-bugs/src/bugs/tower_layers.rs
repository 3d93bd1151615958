//! What tower's layers for one request do: a budget that cannot be two thirds, retries that come back in step, a timeout that
//! leaves out the waiting, and a hedge that gives up with the first failure.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tower::retry::backoff::{Backoff as _, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::budget::{Budget as _, TpsBudget};
use tower::{Layer, Service, ServiceExt, service_fn};
use towline_core::{Backoff, Call, Error, Kind, Phase};
use towline_retry::{Budget, HedgeLayer, HedgePolicy, RetryLayer, RetryPolicy};
use towline_timeout::DeadlineLayer;

use super::{STUCK, paused};
use crate::pools::version;
use crate::report::{Bug, Observed};

const RATIO: f64 = 0.6;
const SUCCESSES: usize = 1_000;

fn tower() -> String {
    version("tower")
}

fn observed(pool: String, did: String, has_bug: bool) -> Observed {
    Observed { pool, did, has_bug: Some(has_bug) }
}

pub(super) fn budget() -> Result<Bug> {
    let right = (SUCCESSES as f64 * RATIO) as usize;
    let theirs = TpsBudget::new(Duration::from_secs(10), 0, RATIO as f32);
    (0..SUCCESSES).for_each(|_| theirs.deposit());
    let theirs = (0..).take_while(|_| theirs.withdraw()).count();
    // Ours keeps a hundred at most, so it is asked as often.
    let ours = Budget::new(RATIO, 0)?;
    let mut taken = 0;
    for _ in 0..SUCCESSES / 100 {
        (0..100).for_each(|_| ours.deposit());
        let permits: Vec<_> = std::iter::from_fn(|| ours.withdraw()).collect();
        taken += permits.len();
        permits.into_iter().for_each(towline_retry::Permit::spend);
    }
    let did = |retries: usize| format!("{retries} retries for {SUCCESSES} successes");
    Ok(Bug {
        name: "tower's retry budget, its ratio",
        url: "https://github.com/tower-rs/tower/blob/tower-0.5.3/tower/src/retry/budget/tps_budget.rs",
        met: "Not reported: it follows from the source. The ratio is turned into a whole number of retries per success, or of successes \
              per retry: what lies between is rounded up.",
        replayed: format!(
            "A budget of {RATIO} retries per success, and nothing from time: {SUCCESSES} successes are to pay for {right}."
        ),
        observed: vec![
            observed(tower(), did(theirs), theirs != right),
            observed(version("towline-retry"), did(taken), taken != right),
        ],
    })
}

const FAILING: usize = 100;
const BASE: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(10);

pub(super) fn jitter() -> Result<Bug> {
    Ok(Bug {
        name: "tower's backoff, its jitter",
        url: "https://github.com/tower-rs/tower/blob/tower-0.5.3/tower/src/retry/backoff.rs",
        met: "Not reported: it follows from the source. Every call's backoff begins with a copy of the same random numbers, so calls \
              that failed together come back together.",
        replayed: format!(
            "{FAILING} calls fail at the same time and are retried once, after {BASE:?} with full jitter."
        ),
        observed: vec![paused(jitter_tower())?, paused(jitter_ours())?],
    })
}

/// How many moments there were, of as many calls.
fn moments(pool: String, mut at: Vec<Duration>) -> Observed {
    at.sort();
    at.dedup();
    observed(pool, format!("{FAILING} calls come back at {} different moments", at.len()), at.len() < FAILING / 4)
}

async fn jitter_tower() -> Result<Observed> {
    let rng = tower::util::rng::HasherRng::default();
    let mut maker = ExponentialBackoffMaker::new(BASE, MOST, 0.99, rng)?;
    let start = Instant::now();
    let pauses = (0..FAILING).map(|_| {
        let mut backoff = maker.make_backoff();
        async move {
            backoff.next_backoff().await;
            start.elapsed()
        }
    });
    Ok(moments(tower(), join_all(pauses.collect::<Vec<_>>()).await))
}

async fn jitter_ours() -> Result<Observed> {
    let start = Instant::now();
    let seconds: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let noted = seconds.clone();
    let fails = service_fn(move |call: Call<()>| {
        if call.context().attempt() == 1 {
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(start.elapsed());
        }
        ready(Err::<(), _>(Error::new(Kind::Unavailable, Phase::Dial)))
    });
    let policy = RetryPolicy::never_sent().attempts(2)?.backoff(Backoff::new(BASE, MOST));
    let service = RetryLayer::with_policy(policy).layer(fails);
    join_all((0..FAILING).map(|_| service.clone().oneshot(Call::new(())))).await;
    let at = seconds.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(moments(version("towline-retry"), at))
}

const LIMIT: Duration = Duration::from_secs(1);

/// Is never ready.
#[derive(Clone)]
struct Busy;

impl<Req> Service<Req> for Busy {
    type Response = ();
    type Error = Error;
    type Future = Ready<Result<(), Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Pending
    }

    fn call(&mut self, _request: Req) -> Self::Future {
        ready(Ok(()))
    }
}

pub(super) fn readiness() -> Result<Bug> {
    Ok(Bug {
        name: "tower #648",
        url: "https://github.com/tower-rs/tower/issues/648",
        met: "A timeout begins with the call: what a caller waits for readiness, in a queue or for a connection, is not in it.",
        replayed: format!("A call through a timeout of {LIMIT:?} to a service that is never ready."),
        observed: vec![paused(readiness_tower())?, paused(readiness_ours())?],
    })
}

async fn readiness_tower() -> Result<Observed> {
    let call = tower::timeout::Timeout::new(Busy, LIMIT).oneshot(());
    Ok(match timeout(STUCK, call).await {
        Ok(_) => observed(tower(), format!("the call ends after {LIMIT:?}"), false),
        Err(_) => observed(tower(), format!("the call waits for {STUCK:?} and more"), true),
    })
}

async fn readiness_ours() -> Result<Observed> {
    let start = Instant::now();
    let call = DeadlineLayer::new(LIMIT).layer(Busy).oneshot(Call::new(()));
    let ended = timeout(STUCK, call).await.is_ok();
    Ok(observed(version("towline-timeout"), format!("the call ends after {:?}", start.elapsed()), !ended))
}

const QUICK: Duration = Duration::from_millis(10);
const FIRST_FAILS: Duration = Duration::from_millis(200);
const SECOND_ANSWERS: Duration = Duration::from_millis(300);

/// Answers quickly, until it is told otherwise: then the first to ask waits and fails, and the second waits longer and is
/// answered.
#[derive(Clone, Default)]
struct Flaky {
    asked: Arc<AtomicUsize>,
    is_flaky: Arc<AtomicUsize>,
}

impl<Req> Service<Req> for Flaky {
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Req) -> Self::Future {
        if self.is_flaky.load(Relaxed) == 0 {
            return Box::pin(async {
                sleep(QUICK).await;
                Ok(())
            });
        }
        match self.asked.fetch_add(1, Relaxed) {
            0 => Box::pin(async {
                sleep(FIRST_FAILS).await;
                Err(Error::new(Kind::Io, Phase::Read))
            }),
            _ => Box::pin(async {
                sleep(SECOND_ANSWERS - QUICK).await;
                Ok(())
            }),
        }
    }
}

/// May be repeated, always.
#[derive(Clone)]
struct Repeat;

impl tower::hedge::Policy<()> for Repeat {
    fn clone_request(&self, (): &()) -> Option<()> {
        Some(())
    }

    fn can_retry(&self, (): &()) -> bool {
        true
    }
}

pub(super) fn hedge() -> Result<Bug> {
    Ok(Bug {
        name: "tower's hedge, the first to fail",
        url: "https://github.com/tower-rs/tower/blob/tower-0.5.3/tower/src/hedge/select.rs",
        met: "Not reported: it follows from the source. Of a call's two attempts the first that ends is the result, also when it has \
              failed and the other would be answered.",
        replayed: format!(
            "Calls are answered after {QUICK:?}. Then one fails after {FIRST_FAILS:?}; the second attempt, sent meanwhile, would be \
             answered after some {SECOND_ANSWERS:?}."
        ),
        observed: vec![paused(hedge_tower())?, paused(hedge_ours())?],
    })
}

const LEARNING: usize = 400;

async fn hedge_tower() -> Result<Observed> {
    let flaky = Flaky::default();
    let mut hedge = tower::hedge::Hedge::new(flaky.clone(), Repeat, 100, 0.9, Duration::from_secs(1));
    for _ in 0..LEARNING {
        hedge.ready().await.map_err(anyhow::Error::from_boxed)?.call(()).await.map_err(anyhow::Error::from_boxed)?;
    }
    flaky.is_flaky.store(1, Relaxed);
    let result = hedge.ready().await.map_err(anyhow::Error::from_boxed)?.call(()).await;
    Ok(ended(tower(), result.is_ok(), flaky.asked.load(Relaxed)))
}

async fn hedge_ours() -> Result<Observed> {
    let flaky = Flaky::default();
    let mut hedge = HedgeLayer::with_policy(HedgePolicy::idempotent()).layer(flaky.clone());
    for _ in 0..LEARNING {
        hedge.call(Call::new(())).await?; // It is always ready.
    }
    flaky.is_flaky.store(1, Relaxed);
    let result = hedge.call(Call::new(())).await;
    Ok(ended(version("towline-retry"), result.is_ok(), flaky.asked.load(Relaxed)))
}

fn ended(pool: String, is_answered: bool, attempts: usize) -> Observed {
    let did = format!("{attempts} attempts, and the call {}", if is_answered { "is answered" } else { "fails" });
    observed(pool, did, !is_answered)
}
