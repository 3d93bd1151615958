//! Connecting ahead of traffic.

use std::collections::HashSet;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream};
use towline_core::{EndpointId, Lend, Room};

use crate::set::Node;

/// Has cold endpoints lend once and gives back at once what they lent, up to `limit` at a time: none by default.
pub(crate) struct Warm<L: Lend> {
    limit: usize,
    lends: FuturesUnordered<Warming<L::Lend>>,
    /// Asked already, each once in its life: what is cold later is so because it is not used.
    asked: HashSet<EndpointId>,
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
        Self { limit, lends: FuturesUnordered::new(), asked: HashSet::new(), next: 0 }
    }

    /// The set has changed.
    pub(crate) fn changed(&mut self, nodes: &[Node<L>]) {
        self.next = 0;
        if self.asked.len() > nodes.len() {
            let alive: HashSet<_> = nodes.iter().map(Node::id).collect();
            self.asked.retain(|id| alive.contains(id));
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
                if node.lend.room() == Room::Cold && self.asked.insert(node.id()) {
                    self.lends.push(Warming { lend: node.lend.lend(None) });
                }
            }
            match Pin::new(&mut self.lends).poll_next(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }
}
