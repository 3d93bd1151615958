//! Retries of calls that belong to somebody.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Layer, Service, ServiceExt};
use towline_core::sync::Lock;
use towline_core::{Call, EndpointId, EndpointKey, Error, Kind, Phase, progress};
use towline_retry::{RetryLayer, RetryPolicy};

/// Two nodes as a balancer with a sticky policy sees them. The first is everybody's home, and fails.
#[derive(Clone)]
struct Nodes {
    ids: [EndpointId; 2],
    is_strict: bool,
    /// Fails while it is there; after so many calls it is not.
    home_is_down_after: usize,
    called: Arc<Lock<Vec<usize>>>,
}

impl Nodes {
    fn new(is_strict: bool, home_is_down_after: usize) -> Self {
        let ids = [EndpointId::fresh(), EndpointId::fresh()];
        Self { ids, is_strict, home_is_down_after, called: Arc::default() }
    }
}

impl Service<Call<()>> for Nodes {
    type Response = ();
    type Error = Error;
    type Future = std::future::Ready<Result<(), Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<()>) -> Self::Future {
        assert!(call.context().session().is_some());
        let mut called = self.called.lock();
        let index = match self.is_strict {
            true if called.len() == self.home_is_down_after => {
                return std::future::ready(Err(Error::new(Kind::HomeUnavailable, Phase::Pick)));
            }
            true => 0,
            false => usize::from(call.context().tried().contains(self.ids[0])),
        };
        called.push(index);
        progress::at(self.ids[index], &EndpointKey::new("node"));
        progress::written();
        std::future::ready(if index == 0 { Err(Error::new(Kind::Server, Phase::Read)) } else { Ok(()) })
    }
}

async fn run(nodes: &Nodes) -> Result<(), Error> {
    let layer = RetryLayer::with_policy(RetryPolicy::default());
    layer.layer(nodes.clone()).oneshot(Call::new(()).with_session("alice").idempotent()).await
}

// F33
#[tokio::test(start_paused = true)]
async fn a_session_that_prefers_its_home_is_retried_elsewhere() {
    let nodes = Nodes::new(false, usize::MAX);
    run(&nodes).await.unwrap();
    assert_eq!(*nodes.called.lock(), [0, 1]);
}

// F33
#[tokio::test(start_paused = true)]
async fn a_session_that_is_kept_to_its_home_stays_there_or_fails_when_that_is_gone() {
    let nodes = Nodes::new(true, usize::MAX);
    assert_eq!(run(&nodes).await.unwrap_err().kind(), Kind::Server);
    assert_eq!(*nodes.called.lock(), [0, 0, 0]);
    let nodes = Nodes::new(true, 1);
    assert_eq!(run(&nodes).await.unwrap_err().kind(), Kind::HomeUnavailable);
    assert_eq!(*nodes.called.lock(), [0], "no third attempt: there is no other home");
}
