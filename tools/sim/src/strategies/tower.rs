//! tower's own balancer: its crate, driven by hand.
//!
//! `Balance` has to be polled, and its metrics read tokio's clock, which is moved to the simulator's time before tower is
//! asked anything. Nothing is spawned: readiness is immediate, and a call's future is polled when the simulator has its
//! answer, which is when tower's handle on it is dropped.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use slab::Slab;
use tokio::sync::oneshot;
use tower::balance::p2c::Balance;
use tower::discover::{Change as Discovered, Discover};
use tower::load::{CompleteOnResponse, Load, PeakEwmaDiscover, PendingRequestsDiscover};
use tower::{BoxError, Service};

use super::clock::Clock;
use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, LoadReport, Outcome, Pick, ServerId, Strategy, Token};

/// What tower's documentation takes for an endpoint that has not answered yet.
const DEFAULT_RTT: Duration = Duration::from_secs(1);
/// Finagle's, which tower's metric is made after.
const DECAY: Duration = Duration::from_secs(10);

pub(super) fn pending(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Tower::new(rng, |changes| PendingRequestsDiscover::new(changes, CompleteOnResponse::default())))
}

pub(super) fn ewma(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Tower::new(rng, |changes| {
        PeakEwmaDiscover::new::<()>(changes, DEFAULT_RTT, DECAY, CompleteOnResponse::default())
    }))
}

/// What a future of tower's balancer ends with.
type Ended = Result<(), BoxError>;
type Response = Pin<Box<dyn Future<Output = Ended>>>;

struct Tower<D: Discover>
where
    D::Key: std::hash::Hash,
{
    balance: Balance<D, ()>,
    clock: Clock,
    news: News,
    called: Called,
    calls: Slab<(Response, oneshot::Sender<Ended>)>,
}

impl<D> Tower<D>
where
    D: Discover<Key = ServerId> + Unpin,
    D::Error: Into<BoxError>,
    D::Service: Service<(), Response = (), Error = BoxError> + Load,
    <D::Service as Load>::Metric: std::fmt::Debug,
{
    fn new(rng: Rng, discover: impl FnOnce(Changes) -> D) -> Self {
        let (news, called) = (News::default(), Called::default());
        let balance = Balance::from_rng(discover(Changes { news: news.clone(), called: called.clone() }), Chance(rng));
        Self { balance, clock: Clock::new(), news, called, calls: Slab::new() }
    }
}

impl<D> Strategy for Tower<D>
where
    D: Discover<Key = ServerId> + Unpin,
    D::Error: Into<BoxError>,
    D::Service: Service<(), Response = (), Error = BoxError> + Load,
    <D::Service as Load>::Metric: std::fmt::Debug,
    <D::Service as Service<()>>::Future: 'static,
{
    fn pick(&mut self, now: u64, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        let _runtime = self.clock.enter(now);
        match self.balance.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) | Poll::Pending => return None,
        }
        let future: Response = Box::pin(self.balance.call(()));
        let (server, answer) = self.called.borrow_mut().take()?;
        Some(Pick { server, token: self.calls.insert((future, answer)) as Token })
    }

    /// Who is cut drops the future, as a timeout does.
    fn end(&mut self, token: Token, now: u64, outcome: Outcome, _: Option<LoadReport>) {
        let _runtime = self.clock.enter(now);
        let (mut future, answer) = self.calls.remove(token as usize);
        let ended = match outcome {
            Outcome::Ok => Ok(()),
            Outcome::Failed | Outcome::Unreachable => Err("failed".into()),
            Outcome::Cut | Outcome::Superseded => return,
        };
        answer.send(ended).expect("the future waits for it");
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_ready(), "an answered call is over");
    }

    fn change(&mut self, _: u64, change: Change) {
        self.news.borrow_mut().push_back(change);
    }
}

/// Changes that tower has not asked for yet.
type News = Rc<RefCell<VecDeque<Change>>>;
/// Where tower's last call went, and how to answer it.
type Called = Rc<RefCell<Option<(ServerId, oneshot::Sender<Ended>)>>>;

/// A discovery that never ends.
struct Changes {
    news: News,
    called: Called,
}

impl Stream for Changes {
    type Item = Result<Discovered<ServerId, Endpoint>, BoxError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.news.borrow_mut().pop_front() {
            Some(Change::Added(id)) => {
                Poll::Ready(Some(Ok(Discovered::Insert(id, Endpoint { id, called: self.called.clone() }))))
            }
            Some(Change::Removed(id)) => Poll::Ready(Some(Ok(Discovered::Remove(id)))),
            None => Poll::Pending,
        }
    }
}

/// Always ready; says that it was called.
struct Endpoint {
    id: ServerId,
    called: Called,
}

impl Service<()> for Endpoint {
    type Response = ();
    type Error = BoxError;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Ended> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Answer {
        let (sender, answer) = oneshot::channel();
        *self.called.borrow_mut() = Some((self.id, sender));
        Answer(answer)
    }
}

/// Ends when the simulator says so.
struct Answer(oneshot::Receiver<Ended>);

impl Future for Answer {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer?)
    }
}

struct Chance(Rng);

impl tower::util::rng::Rng for Chance {
    fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }
}
