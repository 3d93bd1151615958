//! Our balancer with policies that keep sessions together, over endpoints that answer at once.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::task::{Context, Poll};

use ::tower::{Service, ServiceExt, service_fn};
use anyhow::Result;
use tokio::task::yield_now;
use towline_balance::{Balance, BalanceBuilder, LoadMetric, fixed};
use towline_core::{Call, Endpoint, Error, Lent, Pick, Policy, Target, TokioExecutor};

use crate::cases::batched::Callee;

/// Sessions that calls are of, in turn.
pub(crate) const SESSIONS: u64 = 100_000;

/// As `balancers::Noop`, for requests that carry a context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noop;

impl Service<Call<u64>> for Noop {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<u64>) -> Self::Future {
        ready(Ok(black_box(call.into_message())))
    }
}

/// Each call is of the next session, or of none.
pub(crate) struct Sticky<P> {
    balance: Balance<Lent<Noop>, P>,
    has_session: bool,
    /// Of the next call. A prime step, so that sessions come back in no order of theirs.
    session: u64,
}

const STEP: u64 = 7_919;

impl<P> Clone for Sticky<P> {
    fn clone(&self) -> Self {
        Self { balance: self.balance.clone(), has_session: self.has_session, session: self.session + 1 }
    }
}

impl<P: Pick<Call<u64>> + Send + Sync + 'static> Callee for Sticky<P> {
    async fn call(&mut self, request: u64) -> Result<u64> {
        let mut call = Call::new(request);
        if self.has_session {
            self.session = (self.session + STEP) % SESSIONS;
            call = call.with_session(self.session.to_le_bytes());
        }
        Ok(self.balance.ready().await?.call(call).await?)
    }
}

/// A balancer with its driver on this runtime, when calls can see all endpoints and all sessions have had a call.
pub(crate) async fn open<P>(endpoints: usize, policy: P, has_session: bool) -> Result<Sticky<P::Picker>>
where
    P: Policy,
    P::Picker: Pick<Call<u64>>,
{
    let endpoint = |index: usize| -> Result<Endpoint> {
        let [.., a, b, c] = index.to_be_bytes();
        Ok(format!("10.{a}.{b}.{c}:7000").parse()?)
    };
    let set: Vec<_> = (0..endpoints).map(endpoint).collect::<Result<_>>()?;
    let make = service_fn(|_: Target| ready(Ok::<_, Error>(Lent::new(Noop))));
    let builder = BalanceBuilder::new(policy).load(LoadMetric::in_flight());
    let balance = builder.spawn(fixed(set), make, &TokioExecutor::current())?;
    balance.discovered().await;
    while balance.endpoints().len() < endpoints {
        yield_now().await;
    }
    let mut sticky = Sticky { balance, has_session, session: 0 };
    for request in 0..SESSIONS {
        sticky.call(request).await?;
    }
    Ok(sticky)
}
