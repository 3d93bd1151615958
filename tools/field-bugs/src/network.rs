//! Connections that carry nothing and are counted.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;
use tower::Service;
use towline_core::{Error, Poolable, Sharing, State};

/// Where connections are made, each in the same time.
#[derive(Clone, Default)]
pub(crate) struct Network {
    takes: Duration,
    /// So many can be made, and further dials never end.
    most: Option<usize>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    made: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
}

impl Network {
    pub(crate) fn taking(takes: Duration) -> Self {
        Self { takes, ..Self::default() }
    }

    pub(crate) fn of(most: usize) -> Self {
        Self { most: Some(most), ..Self::default() }
    }

    pub(crate) async fn dial(&self) -> Connection {
        let Self { takes, most, counts } = self;
        let earlier = counts.begun.fetch_add(1, Relaxed);
        if most.is_some_and(|most| earlier >= most) {
            pending::<()>().await;
        }
        if !takes.is_zero() {
            sleep(*takes).await;
        }
        counts.made.fetch_add(1, Relaxed);
        counts.most.fetch_max(counts.open.fetch_add(1, Relaxed) + 1, Relaxed);
        Connection { counts: counts.clone() }
    }

    /// Dials that were begun.
    pub(crate) fn begun(&self) -> usize {
        self.counts.begun.load(Relaxed)
    }

    /// Dials that came to a connection.
    pub(crate) fn made(&self) -> usize {
        self.counts.made.load(Relaxed)
    }

    /// The most connections that were open at once.
    pub(crate) fn most(&self) -> usize {
        self.counts.most.load(Relaxed)
    }
}

pub(crate) struct Connection {
    counts: Arc<Counts>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Relaxed);
    }
}

impl Poolable for Connection {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        if seen == State::Idle { Poll::Pending } else { Poll::Ready(State::Idle) }
    }
}

/// A request takes as long as it says.
impl Service<Duration> for Connection {
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, takes: Duration) -> Self::Future {
        Box::pin(async move {
            sleep(takes).await;
            Ok(())
        })
    }
}
