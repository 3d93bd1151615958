//! What a call sees: an immutable set of endpoints and a picker built for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use towline_core::sync::Lock;
use towline_core::{Endpoint, EndpointId, EndpointKey, Error, Lend, Loads, Member, Observers, Room};

/// One life of an endpoint: what lends, and what is counted. Outlives its removal as long as calls are in flight.
pub(crate) struct Node<L> {
    pub(crate) id: EndpointId,
    pub(crate) key: EndpointKey,
    pub(crate) lend: L,
    in_flight: AtomicUsize,
    calls: AtomicU64,
}

impl<L> Node<L> {
    pub(crate) fn new(key: EndpointKey, lend: L) -> Arc<Self> {
        let (in_flight, calls) = (AtomicUsize::new(0), AtomicU64::new(0));
        Arc::new(Self { id: EndpointId::fresh(), key, lend, in_flight, calls })
    }
}

/// A call that counts on an endpoint until it ends or is dropped.
pub(crate) struct Flight<L>(Arc<Node<L>>);

impl<L> Flight<L> {
    pub(crate) fn begin(node: Arc<Node<L>>) -> Self {
        node.in_flight.fetch_add(1, Ordering::Relaxed);
        node.calls.fetch_add(1, Ordering::Relaxed);
        Self(node)
    }

    pub(crate) fn node(&self) -> &Node<L> {
        &self.0
    }
}

impl<L> Drop for Flight<L> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The endpoints at one time. `members` and `nodes` run in parallel.
pub(crate) struct Snapshot<L, P> {
    pub(crate) members: Vec<Member>,
    pub(crate) nodes: Vec<Arc<Node<L>>>,
    pub(crate) picker: P,
}

impl<L, P> Loads for Snapshot<L, P> {
    fn load(&self, index: usize) -> f64 {
        self.nodes[index].in_flight.load(Ordering::Relaxed) as f64
    }
}

/// What clones of the balancer and calls in flight hold: the driver works as long as one of them is there.
pub(crate) struct Users<L, P>(pub(crate) Arc<Shared<L, P>>);

impl<L, P> std::ops::Deref for Users<L, P> {
    type Target = Shared<L, P>;

    fn deref(&self) -> &Shared<L, P> {
        &self.0
    }
}

impl<L, P> Drop for Users<L, P> {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.0.driver.wake();
    }
}

/// What the balancer's clones, their calls and the driver share.
pub(crate) struct Shared<L, P> {
    /// `None` until discovery has yielded something.
    pub(crate) snapshot: ArcSwapOption<Snapshot<L, P>>,
    /// Told when the first snapshot is there, or the driver is gone.
    pub(crate) published: Arc<Notify>,
    /// Woken when the last of the [`Users`] is gone.
    pub(crate) driver: AtomicWaker,
    pub(crate) abandoned: AtomicBool,
    /// Whether the driver lives.
    pub(crate) driving: AtomicBool,
    /// Where clones get their randomness from.
    pub(crate) seeds: AtomicU64,
    /// Why discovery failed last.
    pub(crate) failure: Lock<Option<Error>>,
    pub(crate) observers: Observers,
}

impl<L, P> Shared<L, P> {
    /// Resolves when there may be a snapshot; `None` when there is one, or none will come.
    pub(crate) fn first_snapshot(&self) -> Option<OwnedNotified> {
        // Listening begins before the look, so that nothing published in between is missed.
        let published = self.published.clone().notified_owned();
        let waits = self.snapshot.load().is_none() && self.driving.load(Ordering::Acquire);
        waits.then_some(published)
    }
}

/// One endpoint as the balancer sees it at present.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointView<L> {
    /// Key, target and attributes.
    pub endpoint: Arc<Endpoint>,
    /// Whether it has room.
    pub room: Room,
    /// Calls that wait for it or are in flight on it.
    pub in_flight: usize,
    /// Calls that were sent its way since it was added, retries included.
    pub calls: u64,
    /// What lends: a pool's handle has statistics of its own.
    pub lend: L,
}

impl<L: Lend + Clone, P> Snapshot<L, P> {
    pub(crate) fn views(&self) -> Vec<EndpointView<L>> {
        let view = |(member, node): (&Member, &Arc<Node<L>>)| EndpointView {
            endpoint: member.endpoint.clone(),
            room: node.lend.room(),
            in_flight: node.in_flight.load(Ordering::Relaxed),
            calls: node.calls.load(Ordering::Relaxed),
            lend: node.lend.clone(),
        };
        self.members.iter().zip(&self.nodes).map(view).collect()
    }
}
