//! Ours, with its defaults but for the metric, and for requests that carry no context.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use ::tower::{Service, ServiceExt, service_fn};
use anyhow::{Result, ensure};
use futures_util::stream;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::yield_now;
use tokio::time::sleep;
use towline_balance::core::PERIOD;
use towline_balance::{Balance, BalanceBuilder, Change, LoadMetric, P2c, P2cPicker, fixed};
use towline_core::{Blind, Endpoint, EndpointKey, Error, Lent, Target, TokioExecutor};

use super::Noop;

pub(crate) type Towline = Balance<Lent<Noop>, P2cPicker, Blind>;

type Make = fn(Target) -> Ready<Result<Lent<Noop>, Error>>;

const MAKE: Make = |_| ready(Ok(Lent::new(Noop)));

fn builder(metric: LoadMetric) -> BalanceBuilder<P2c, Blind> {
    BalanceBuilder::new(P2c::new()).load(metric).with_access(Blind)
}

fn endpoint(index: usize) -> Result<Endpoint> {
    let [.., a, b, c] = index.to_be_bytes();
    Ok(format!("10.{a}.{b}.{c}:7000").parse()?)
}

/// With its driver on this runtime, when calls can see all endpoints.
pub(crate) async fn towline(endpoints: usize, metric: LoadMetric) -> Result<Towline> {
    let set: Vec<_> = (0..endpoints).map(endpoint).collect::<Result<_>>()?;
    let balance = builder(metric).spawn(fixed(set), service_fn(MAKE), &TokioExecutor::current())?;
    balance.discovered().await;
    // Large sets come in parts.
    while balance.endpoints().len() < endpoints {
        yield_now().await;
    }
    Ok(balance)
}

/// How long calls take together that settle a balancer.
const SETTLING: Duration = Duration::from_millis(400);
/// How long one of them takes at most.
const LONGEST: Duration = Duration::from_millis(2);

/// Calls until the endpoints' latencies are known and compared with each other. These calls take a while, as those to
/// servers do: measured against a median of a tenth of a microsecond every interrupt would put an endpoint on probation,
/// and the figures would tell how busy the machine was.
pub(crate) async fn settle(balance: &mut Towline) -> Result<()> {
    let calls = 4 * balance.endpoints().len() as u32;
    let takes = (SETTLING / calls).min(LONGEST);
    for _ in 0..calls {
        balance.ready().await?.call(Noop::BUSY + takes.as_nanos() as u64).await?;
    }
    // Until the driver has looked at them.
    sleep(PERIOD + PERIOD / 5).await;
    Ok(())
}

type Changes = Sender<Result<Change<EndpointKey, Endpoint>, Error>>;

/// A balancer whose driver is polled by hand.
pub(crate) struct Driven {
    balance: Towline,
    driver: Pin<Box<dyn Future<Output = ()>>>,
    changes: Changes,
    /// The oldest that is there, and the next to come.
    first: usize,
    next: usize,
}

impl Driven {
    /// To be used on a runtime, like a driver.
    pub(crate) fn new(endpoints: usize, metric: LoadMetric) -> Result<Self> {
        let (changes, mut receiver) = channel(endpoints);
        let discover = stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let (balance, driver) = builder(metric).pair(discover, service_fn(MAKE));
        let mut driven = Self { balance, driver: Box::pin(driver), changes, first: 0, next: 0 };
        for _ in 0..endpoints {
            driven.announce_next()?;
        }
        while driven.balance.endpoints().len() < endpoints {
            driven.poll();
        }
        Ok(driven)
    }

    fn announce_next(&mut self) -> Result<()> {
        let added = endpoint(self.next)?;
        self.changes.try_send(Ok(Change::Insert(added.key().clone(), added)))?;
        self.next += 1;
        Ok(())
    }

    /// One endpoint is to be added, and one removed.
    pub(crate) fn announce(&mut self) -> Result<()> {
        self.announce_next()?;
        self.changes.try_send(Ok(Change::Remove(endpoint(self.first)?.key().clone())))?;
        self.first += 1;
        Ok(())
    }

    /// Whatever was announced is done, for calls to see.
    pub(crate) fn poll(&mut self) {
        let _pending = self.driver.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Fails unless calls see what was announced, and nothing else.
    pub(crate) fn check(&self) -> Result<()> {
        let views = self.balance.endpoints();
        ensure!(views.len() == self.next - self.first, "there are {} endpoints", views.len());
        for index in [self.first, self.next - 1] {
            let expected = endpoint(index)?;
            ensure!(views.iter().any(|view| view.endpoint.key() == expected.key()), "{} is missing", expected.key());
        }
        Ok(())
    }
}
