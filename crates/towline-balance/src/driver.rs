//! Where endpoints come from: the one task of a balancer.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_core::Stream;
use tower::discover::Change;
use tower_service::Service;
use towline_core::{
    BoxError, Endpoint, EndpointKey, Error, Event, Kind, Lend, Member, Phase, Policy, ReadyCall, Target,
};

use crate::set::{Node, Shared, Snapshot};

/// Changes that are taken at once before they are published: a flood of them must not keep calls from seeing any.
const BATCH: usize = 1_024;

/// Follows discovery, makes endpoints and publishes snapshots. Made with a [`Balance`](crate::Balance) by
/// [`BalanceBuilder::pair`](crate::BalanceBuilder::pair).
///
/// A discovery stream that ends is not polled again; the last set stays, and the driver with it, until the last clone
/// of the balancer is dropped. When the driver itself is dropped early, calls go on with the last set.
pub struct Driver<D, M, P>
where
    M: Service<Target>,
    P: Policy,
{
    shared: Arc<Shared<M::Response, P::Picker>>,
    /// `None` once it has ended.
    discover: Option<Pin<Box<D>>>,
    make: M,
    policy: P,
    /// In parallel: attributes and nodes of the endpoints that calls see.
    members: Vec<Member>,
    nodes: Vec<Arc<Node<M::Response>>>,
    making: Vec<Making<M>>,
    make_failed: bool,
}

/// An endpoint that is still being made. With a pool that takes one poll.
struct Making<M: Service<Target>> {
    endpoint: Endpoint,
    future: Pin<Box<ReadyCall<M, Target>>>,
}

// Stream and futures are boxed; nothing else is pinned.
impl<D, M: Service<Target>, P: Policy> Unpin for Driver<D, M, P> {}

impl<D, M, P> Driver<D, M, P>
where
    M: Service<Target> + Clone,
    M::Response: Lend,
    M::Error: Into<BoxError>,
    P: Policy,
{
    pub(crate) fn new(shared: Arc<Shared<M::Response, P::Picker>>, discover: D, make: M, policy: P) -> Self {
        let (members, nodes, making) = (Vec::new(), Vec::new(), Vec::new());
        Self { shared, discover: Some(Box::pin(discover)), make, policy, members, nodes, making, make_failed: false }
    }

    fn position(&self, key: &EndpointKey) -> Option<usize> {
        self.nodes.iter().position(|node| node.key == *key)
    }

    /// Adds an endpoint, or changes its attributes in place; whether calls are to see a change at once.
    fn insert(&mut self, endpoint: Endpoint) -> bool {
        let same = |making: &&mut Making<M>| {
            making.endpoint.key() == endpoint.key() && making.endpoint.target() == endpoint.target()
        };
        if let Some(making) = self.making.iter_mut().find(same) {
            making.endpoint = endpoint;
            return false;
        }
        self.making.retain(|making| making.endpoint.key() != endpoint.key());
        if let Some(index) = self.position(endpoint.key()) {
            let known = &mut self.members[index];
            if known.endpoint.target() == endpoint.target() {
                let changed = *known.endpoint != endpoint;
                known.endpoint = Arc::new(endpoint);
                return changed;
            }
        }
        let future = Box::pin(ReadyCall::new(self.make.clone(), endpoint.target().clone()));
        self.making.push(Making { endpoint, future });
        false
    }

    /// An endpoint is there: from now on, and under a new id, calls may go to it.
    fn made(&mut self, endpoint: Endpoint, lend: M::Response) {
        let node = Node::new(endpoint.key().clone(), lend);
        let member = Member { id: node.id, endpoint: Arc::new(endpoint) };
        let recovered = self.shared.failure.lock().take();
        drop(recovered);
        let observers = &self.shared.observers;
        match self.position(&node.key) {
            Some(index) => {
                // The same key with another target: what was there drains.
                observers.emit(Event::EndpointRemoved { endpoint: &node.key });
                observers.emit(Event::EndpointAdded { endpoint: &node.key });
                (self.members[index], self.nodes[index]) = (member, node);
            }
            None => {
                observers.emit(Event::EndpointAdded { endpoint: &node.key });
                self.members.push(member);
                self.nodes.push(node);
            }
        }
    }

    fn remove(&mut self, key: &EndpointKey) -> bool {
        self.making.retain(|making| making.endpoint.key() != key);
        let Some(index) = self.position(key) else { return false };
        self.members.remove(index);
        self.nodes.remove(index);
        self.shared.observers.emit(Event::EndpointRemoved { endpoint: key });
        true
    }

    fn failed(&self, error: Error) {
        self.shared.observers.emit(Event::DiscoveryFailed { error: &error });
        let old = self.shared.failure.lock().replace(error);
        drop(old); // Not under the lock: it may be anybody's.
    }

    /// Whether an endpoint was made.
    fn poll_making(&mut self, cx: &mut Context<'_>) -> bool {
        let mut changed = false;
        let mut index = 0;
        while index < self.making.len() {
            match self.making[index].future.as_mut().poll(cx) {
                Poll::Pending => index += 1,
                Poll::Ready(result) => {
                    let Making { endpoint, .. } = self.making.remove(index);
                    match result {
                        Ok(lend) => {
                            self.made(endpoint, lend);
                            changed = true;
                        }
                        Err(error) => {
                            self.make_failed = true;
                            self.failed(Error::wrap(error).or_endpoint(endpoint.key()));
                        }
                    }
                }
            }
        }
        changed
    }

    /// There is no set, and none is under way: nobody should wait for it.
    fn has_nothing_to_come(&self) -> bool {
        let over = self.discover.is_none() || self.make_failed;
        over && self.making.is_empty() && self.shared.snapshot.load().is_none()
    }

    fn publish(&mut self) {
        let last = self.shared.snapshot.load_full();
        let picker = self.policy.build(&self.members, last.as_ref().map(|last| &last.picker));
        let snapshot = Snapshot { members: self.members.clone(), nodes: self.nodes.clone(), picker };
        self.shared.snapshot.store(Some(Arc::new(snapshot)));
        self.shared.published.notify_waiters();
    }
}

/// What a turn of discovery brought.
#[derive(Default)]
struct Turn {
    changed: bool,
    more: bool,
}

impl<D, M, P, E> Driver<D, M, P>
where
    D: Stream<Item = Result<Change<EndpointKey, Endpoint>, E>>,
    E: Into<BoxError>,
    M: Service<Target> + Clone,
    M::Response: Lend,
    M::Error: Into<BoxError>,
    P: Policy,
{
    fn poll_discover(&mut self, cx: &mut Context<'_>) -> Turn {
        let mut changed = false;
        for _ in 0..BATCH {
            let Some(discover) = &mut self.discover else { return Turn { changed, more: false } };
            match discover.as_mut().poll_next(cx) {
                Poll::Pending => return Turn { changed, more: false },
                // The change's key is what a later removal will name.
                Poll::Ready(Some(Ok(Change::Insert(key, endpoint)))) => changed |= self.insert(endpoint.with_key(key)),
                Poll::Ready(Some(Ok(Change::Remove(key)))) => changed |= self.remove(&key),
                Poll::Ready(Some(Err(error))) => self.failed(Error::wrap(error)),
                Poll::Ready(None) => {
                    self.discover = None;
                    let ended = Error::new(Kind::Closed, Phase::Pick).with_message("discovery ended");
                    let cause = self.shared.failure.lock().take();
                    self.failed(match cause {
                        Some(cause) => ended.with_source(cause),
                        None => ended,
                    });
                }
            }
        }
        Turn { changed, more: true }
    }
}

impl<D, M, P, E> Future for Driver<D, M, P>
where
    D: Stream<Item = Result<Change<EndpointKey, Endpoint>, E>>,
    E: Into<BoxError>,
    M: Service<Target> + Clone,
    M::Response: Lend,
    M::Error: Into<BoxError>,
    P: Policy,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shared.driver.register(cx.waker());
        if this.shared.abandoned.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let turn = this.poll_discover(cx);
        if this.poll_making(cx) | turn.changed || this.has_nothing_to_come() {
            this.publish();
        }
        if turn.more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<D, M, P> Drop for Driver<D, M, P>
where
    M: Service<Target>,
    P: Policy,
{
    fn drop(&mut self) {
        self.shared.driving.store(false, Ordering::Release);
        self.shared.published.notify_waiters();
    }
}

impl<D, M, P> fmt::Debug for Driver<D, M, P>
where
    M: Service<Target>,
    P: Policy,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("members", &self.members).finish_non_exhaustive()
    }
}
