//! Endpoints that are still being made. With a pool that takes one poll; with a maker that fails, as long as it takes.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::{FuturesUnordered, Stream};
use tokio::time::{Sleep, sleep};
use tower_service::Service;
use towline_core::{Backoff, BoxError, Endpoint, EndpointKey, Error, ReadyCall, Rng, Target};

use crate::discover::guarded;

/// What makes endpoints, and those under way by their keys. A maker that fails is asked again, after a pause.
pub(crate) struct Making<M: Service<Target>> {
    make: M,
    backoff: Backoff,
    rng: Rng,
    calls: FuturesUnordered<Abortable<MakeCall<M>>>,
    wanted: HashMap<EndpointKey, Wanted>,
    /// How many have not been tried to the end yet.
    untried: usize,
}

struct Wanted {
    endpoint: Endpoint,
    failures: u32,
    abort: AbortHandle,
}

pin_project_lite::pin_project! {
    struct MakeCall<M>
    where
        M: Service<Target>,
    {
        key: EndpointKey,
        #[pin]
        pause: Option<Sleep>,
        #[pin]
        call: ReadyCall<M, Target>,
    }
}

impl<M> Future for MakeCall<M>
where
    M: Service<Target>,
    M::Error: Into<BoxError>,
{
    type Output = (EndpointKey, Result<M::Response, Error>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(pause) = this.pause.as_mut().as_pin_mut() {
            ready!(pause.poll(cx));
            this.pause.set(None);
        }
        let made = match guarded("what makes endpoints", || this.call.poll(cx)) {
            Ok(made) => ready!(made).map_err(Error::wrap),
            Err(panicked) => Err(panicked),
        };
        Poll::Ready((this.key.clone(), made.map_err(|error| error.or_endpoint(this.key))))
    }
}

impl<M> Making<M>
where
    M: Service<Target>,
{
    pub(crate) fn new(make: M, rng: Rng) -> Self {
        let (calls, wanted) = (FuturesUnordered::new(), HashMap::new());
        Self {
            make,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
            rng,
            calls,
            wanted,
            untried: 0,
        }
    }

    /// Whether every one that is wanted has failed at least once.
    pub(crate) fn all_failed(&self) -> bool {
        self.untried == 0
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &EndpointKey> {
        self.wanted.keys()
    }

    /// The endpoint under this key keeps its target: one under way for another is not wanted, and one that is to take its
    /// place goes on with these attributes.
    pub(crate) fn keep(&mut self, endpoint: &Endpoint) {
        match self.wanted.get_mut(endpoint.key()) {
            Some(wanted) if wanted.endpoint.target() == endpoint.target() => wanted.endpoint = endpoint.clone(),
            _ => self.forget(endpoint.key()),
        }
    }

    /// No more.
    pub(crate) fn forget(&mut self, key: &EndpointKey) {
        if let Some(wanted) = self.wanted.remove(key) {
            self.untried -= usize::from(wanted.failures == 0);
            wanted.abort.abort();
        }
    }
}

impl<M> Making<M>
where
    M: Service<Target> + Clone,
    M::Error: Into<BoxError>,
{
    /// Wanted from now on; one under way for the same target goes on, with these attributes.
    pub(crate) fn want(&mut self, endpoint: Endpoint) {
        if let Some(wanted) = self.wanted.get_mut(endpoint.key()) {
            if wanted.endpoint.target() == endpoint.target() {
                wanted.endpoint = endpoint;
                return;
            }
            self.forget(endpoint.key());
        }
        self.untried += 1;
        self.call(endpoint, 0, None);
    }

    fn call(&mut self, endpoint: Endpoint, failures: u32, pause: Option<Duration>) {
        let call = ReadyCall::new(self.make.clone(), endpoint.target().clone());
        let key = endpoint.key().clone();
        let (abort, registration) = AbortHandle::new_pair();
        self.wanted.insert(key.clone(), Wanted { endpoint, failures, abort });
        self.calls.push(Abortable::new(MakeCall { key, pause: pause.map(sleep), call }, registration));
    }

    /// The next that is made, or why it could not be; that is tried again by itself. Pending when nothing is under way.
    pub(crate) fn poll_made(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Endpoint, M::Response), Error>> {
        loop {
            let Some(made) = ready!(Pin::new(&mut self.calls).poll_next(cx)) else { return Poll::Pending };
            // Those that are not wanted any more end as aborted.
            let Ok((key, made)) = made else { continue };
            let wanted = self.wanted.remove(&key).expect("whatever is not wanted is aborted");
            self.untried -= usize::from(wanted.failures == 0);
            return Poll::Ready(match made {
                Ok(lend) => Ok((wanted.endpoint, lend)),
                Err(error) => {
                    let pause = self.backoff.delay(wanted.failures, &mut self.rng);
                    self.call(wanted.endpoint, wanted.failures.saturating_add(1), Some(pause));
                    Err(error)
                }
            });
        }
    }
}
