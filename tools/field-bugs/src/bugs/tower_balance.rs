//! What tower's balancer does when an endpoint is removed, while nobody calls, and with one that says ready and fails.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tower::balance::p2c::Balance;
use tower::load::{CompleteOnResponse, Load, PendingRequests};
use tower::{Service, ServiceExt, service_fn};
use towline_balance::{BalanceBuilder, Change, LoadMetric, P2c};
use towline_core::{Blind, Endpoint, Error, Kind, Lent, Phase, Target};

use super::paused;
use crate::pools::version;
use crate::report::{Bug, Observed};

const RUNS: u64 = 300;
const CONNECTS: Duration = Duration::from_millis(100);
const CALLS: usize = 1_000;
const AT_ONCE: usize = 10;

/// An endpoint as tower's balancer wants it.
struct Named {
    name: &'static str,
    load: usize,
    takes: Duration,
    fails: bool,
    /// Runs from the first poll for readiness on, as a lazy connector does.
    connects: Option<Pin<Box<Sleep>>>,
    is_connected: bool,
}

impl Named {
    fn new(name: &'static str) -> Self {
        Self { name, load: 0, takes: Duration::ZERO, fails: false, connects: None, is_connected: true }
    }
}

impl Service<()> for Named {
    type Response = &'static str;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<&'static str, tower::BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if !self.is_connected {
            let connects = self.connects.get_or_insert_with(|| Box::pin(sleep(CONNECTS)));
            if connects.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.is_connected = true;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let (name, takes, fails) = (self.name, self.takes, self.fails);
        Box::pin(async move {
            sleep(takes).await;
            if fails { Err("refused".into()) } else { Ok(name) }
        })
    }
}

impl Load for Named {
    type Metric = usize;

    fn load(&self) -> usize {
        self.load
    }
}

type Changes = mpsc::Sender<Result<tower::discover::Change<&'static str, Named>, tower::BoxError>>;

fn tower_balance() -> (
    Changes,
    Balance<impl tower::discover::Discover<Key = &'static str, Service = Named, Error = tower::BoxError> + Unpin, ()>,
) {
    let (changes, mut receiver) = mpsc::channel(8);
    (changes, Balance::new(stream::poll_fn(move |cx| receiver.poll_recv(cx))))
}

fn ours() -> String {
    version("towline-balance")
}

fn tower() -> String {
    version("tower")
}

pub(super) fn stale_index() -> Result<Bug> {
    Ok(Bug {
        name: "tower #856",
        url: "https://github.com/tower-rs/tower/issues/856",
        met: "The endpoint that `poll_ready` has chosen is removed before the call, and the call goes to another one at its place in \
              a list, however loaded that is.",
        replayed: format!(
            "Three endpoints with loads of 0, 1 and 10; the balancer is ready, the one with load 1 is removed, it is ready again and \
             called: {RUNS} runs. The least loaded one is the right answer, always."
        ),
        observed: vec![paused(stale_index_tower())?, paused(stale_index_ours())?],
    })
}

async fn stale_index_tower() -> Result<Observed> {
    let mut wrong = 0;
    for _ in 0..RUNS {
        let (changes, mut balance) = tower_balance();
        for (name, load) in [("a", 0), ("b", 1), ("c", 10)] {
            changes.send(Ok(tower::discover::Change::Insert(name, Named { load, ..Named::new(name) }))).await?;
        }
        balance.ready().await.map_err(|error| anyhow::anyhow!(error))?;
        changes.send(Ok(tower::discover::Change::Remove("b"))).await?;
        let ready = balance.ready().await.map_err(|error| anyhow::anyhow!(error))?;
        let answer = ready.call(()).await.map_err(|error| anyhow::anyhow!(error))?;
        wrong += u64::from(answer == "c");
    }
    Ok(Observed {
        pool: tower(),
        did: format!("{wrong} of {RUNS} calls went to the most loaded"),
        has_bug: Some(wrong > 0),
    })
}

async fn stale_index_ours() -> Result<Observed> {
    let mut wrong = 0;
    for seed in 0..RUNS {
        let (changes, mut receiver) = mpsc::channel::<Result<Change<_, _>, Error>>(8);
        let make = service_fn(|target: Target| {
            let name = target.to_string();
            let call = service_fn(move |takes: Duration| {
                let name = name.clone();
                async move {
                    sleep(takes).await;
                    Ok::<_, Error>(name)
                }
            });
            std::future::ready(Ok::<_, Error>(Lent::new(call)))
        });
        let builder = BalanceBuilder::new(P2c::new()).with_access(Blind).load(LoadMetric::in_flight());
        let builder = builder.rng(towline_core::Rng::with_seed(seed));
        let (mut balance, driver) = builder.pair(stream::poll_fn(move |cx| receiver.poll_recv(cx)), make);
        tokio::spawn(driver);
        for key in ["a:1", "b:1", "c:1"] {
            changes.send(Ok(Change::Insert(key.into(), key.parse::<Endpoint>()?))).await?;
        }
        balance.discovered().await;
        sleep(Duration::from_millis(1)).await;
        // Calls hold the loads: ten each, and then those are given up that are too many.
        let mut held =
            BTreeMap::from([("a:1", 0), ("b:1", 1), ("c:1", 10)].map(|(key, load)| (key, (load, Vec::new()))));
        while held.values().any(|(_, calls)| calls.len() < 10) {
            let mut call = Box::pin(balance.clone().call(Duration::from_secs(3_600)));
            let before = balance.endpoints();
            // A call picks when it is polled.
            anyhow::ensure!(
                call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(),
                "it takes an hour"
            );
            let after = balance.endpoints();
            let mut both = before.iter().zip(&after);
            let (_, taken) =
                both.find(|(before, after)| after.in_flight > before.in_flight).context("it counts nowhere")?;
            let (_, calls) = held.get_mut(taken.endpoint.key().as_str()).context("there are three")?;
            calls.push(call);
        }
        held.values_mut().for_each(|(load, calls)| calls.truncate(*load));
        balance.ready().await?;
        changes.send(Ok(Change::Remove("b:1".into()))).await?;
        sleep(Duration::from_millis(1)).await;
        wrong += u64::from(balance.ready().await?.call(Duration::ZERO).await? == "c:1");
    }
    Ok(Observed {
        pool: ours(),
        did: format!("{wrong} of {RUNS} calls went to the most loaded"),
        has_bug: Some(wrong > 0),
    })
}

pub(super) fn idle() -> Result<Bug> {
    Ok(Bug {
        name: "tower #824",
        url: "https://github.com/tower-rs/tower/issues/824",
        met: "Endpoints that are not ready yet get no further while nobody polls the balancer, so the first call after a pause pays \
              for everything.",
        replayed: format!(
            "Two endpoints that take {CONNECTS:?} to connect; nobody calls for ten seconds. For towline they are pools, and the balancer \
             is told to warm."
        ),
        observed: vec![paused(idle_tower())?, paused(idle_ours())?],
    })
}

async fn idle_tower() -> Result<Observed> {
    let (changes, mut balance) = tower_balance();
    for name in ["a", "b"] {
        changes
            .send(Ok(tower::discover::Change::Insert(name, Named { is_connected: false, ..Named::new(name) })))
            .await?;
    }
    sleep(Duration::from_secs(10)).await;
    let began = Instant::now();
    let ready = balance.ready().await.map_err(|error| anyhow::anyhow!(error))?;
    ready.call(()).await.map_err(|error| anyhow::anyhow!(error))?;
    Ok(first_call(tower(), began.elapsed()))
}

async fn idle_ours() -> Result<Observed> {
    let connect = service_fn(|_: Target| async {
        sleep(CONNECTS).await;
        let call = service_fn(|()| async { Ok::<_, Error>(()) });
        Ok::<_, Error>(towline_core::Unwatched::new(call))
    });
    let pool = towline_pool::PoolBuilder::new().build(connect)?;
    let builder = BalanceBuilder::new(P2c::new()).with_access(Blind).warm(2);
    let endpoints = ["a:1", "b:1"].map(|key| key.parse::<Endpoint>().expect("a host and a port"));
    let (balance, driver) = builder.pair(towline_balance::fixed(endpoints), pool);
    tokio::spawn(driver);
    sleep(Duration::from_secs(10)).await;
    let began = Instant::now();
    balance.oneshot(()).await?;
    Ok(first_call(ours(), began.elapsed()))
}

fn first_call(pool: String, took: Duration) -> Observed {
    Observed { pool, did: format!("the first call takes {took:?}"), has_bug: Some(took >= CONNECTS) }
}

pub(super) fn ready_and_fails() -> Result<Bug> {
    Ok(Bug {
        name: "grpc-rust #2839",
        url: "https://github.com/grpc/grpc-rust/issues/2839",
        met: "An endpoint whose connection failed says that it is ready, and fails the call that it is given; the balancer above sees an \
              endpoint that is never busy.",
        replayed: format!(
            "The shape of it, without gRPC: one of two endpoints is always ready and refuses at once, the other takes 10ms. {CALLS} calls, \
             {AT_ONCE} at a time, over tower's balancer by pending requests and over ours. A fair share would be half; more is the bug."
        ),
        observed: vec![paused(fails_tower())?, paused(fails_ours())?],
    })
}

async fn fails_tower() -> Result<Observed> {
    let (changes, mut receiver) = mpsc::channel(8);
    let discover = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let balance: Balance<_, ()> = Balance::new(discover);
    for (name, takes, fails) in [("good", Duration::from_millis(10), false), ("bad", Duration::ZERO, true)] {
        let service = PendingRequests::new(Named { takes, fails, ..Named::new(name) }, CompleteOnResponse::default());
        changes.send(Ok::<_, tower::BoxError>(tower::discover::Change::Insert(name, service))).await?;
    }
    let buffer = tower::buffer::Buffer::new(balance, AT_ONCE);
    let failed = failures(|| buffer.clone().oneshot(())).await;
    Ok(failures_of(tower(), failed))
}

async fn fails_ours() -> Result<Observed> {
    let refused = Arc::new(AtomicUsize::new(0));
    let make = service_fn(move |target: Target| {
        let bad = target.to_string() == "bad:1";
        let refused = refused.clone();
        let call = service_fn(move |()| {
            refused.fetch_add(usize::from(bad), Relaxed);
            async move {
                if bad {
                    return Err(Error::new(Kind::Unavailable, Phase::Dial));
                }
                sleep(Duration::from_millis(10)).await;
                Ok(())
            }
        });
        std::future::ready(Ok::<_, Error>(Lent::new(call)))
    });
    let endpoints = ["good:1", "bad:1"].map(|key| key.parse::<Endpoint>().expect("a host and a port"));
    let builder = BalanceBuilder::new(P2c::new()).with_access(Blind);
    let (balance, driver) = builder.pair(towline_balance::fixed(endpoints), make);
    tokio::spawn(driver);
    balance.discovered().await;
    let failed = failures(|| balance.clone().oneshot(())).await;
    Ok(failures_of(ours(), failed))
}

/// How many calls fail.
async fn failures<Fut, T, E>(call: impl Fn() -> Fut) -> usize
where
    Fut: Future<Output = Result<T, E>>,
{
    let calls = stream::iter(0..CALLS).map(|_| call()).buffer_unordered(AT_ONCE);
    calls.filter(|result| std::future::ready(result.is_err())).count().await
}

fn failures_of(pool: String, failed: usize) -> Observed {
    Observed { pool, did: format!("{failed} of {CALLS} calls fail"), has_bug: Some(failed * 2 > CALLS) }
}
