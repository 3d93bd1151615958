//! Connecting ahead of traffic.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::{FuturesUnordered, Stream};
use towline_core::{EndpointId, Lend, Room};

use crate::set::Node;

/// Has cold endpoints lend once and gives back at once what they lent, up to `limit` at a time: none by default.
pub(crate) struct Warm<L: Lend> {
    limit: usize,
    lends: FuturesUnordered<Abortable<Warming<L::Lend>>>,
    /// Asked already, each once in its life: what is cold later is so because it is not used. Those that are gone are
    /// asked no longer.
    asked: HashMap<EndpointId, AbortHandle>,
    /// Where to look on.
    next: usize,
}

pin_project_lite::pin_project! {
    struct Warming<F> {
        #[pin]
        lend: F,
    }
}

impl<F: Future> Future for Warming<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // What is lent goes back at once. Why it was not, the endpoint tells its own observer.
        self.project().lend.poll(cx).map(drop)
    }
}

impl<L: Lend> Warm<L> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, lends: FuturesUnordered::new(), asked: HashMap::new(), next: 0 }
    }

    /// The set has changed.
    pub(crate) fn changed(&mut self, nodes: &[Node<L>]) {
        self.next = 0;
        if self.limit > 0 {
            let alive: HashSet<_> = nodes.iter().map(Node::id).collect();
            self.asked.retain(|id, asked| {
                alive.contains(id) || {
                    asked.abort();
                    false
                }
            });
        }
    }

    pub(crate) fn poll(&mut self, nodes: &[Node<L>], cx: &mut Context<'_>) {
        if self.limit == 0 {
            return;
        }
        loop {
            while self.lends.len() < self.limit && self.next < nodes.len() {
                let node = &nodes[self.next];
                self.next += 1;
                if node.lend.room() == Room::Cold && !self.asked.contains_key(&node.id()) {
                    let (abort, registration) = AbortHandle::new_pair();
                    self.asked.insert(node.id(), abort);
                    self.lends.push(Abortable::new(Warming { lend: node.lend.lend(None) }, registration));
                }
            }
            match Pin::new(&mut self.lends).poll_next(cx) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }
}
