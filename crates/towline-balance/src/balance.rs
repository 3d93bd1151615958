//! The service.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tower_service::Service;
use towline_core::{Access, BoxError, Carried, Error, Lend, Pick, Rng};

use crate::future::BalanceFuture;
use crate::set::EndpointView;
use crate::shared::Clients;
use crate::track::{AtResponse, Track};

/// Sends each call to one of a changing set of endpoints. Made by [`BalanceBuilder`](crate::BalanceBuilder).
///
/// Clones share the endpoints and their statistics; the driver ends when the last clone is gone, and the last call that has
/// yet to find an endpoint, or with [`close`](Self::close). Always ready: whatever is waited for is waited for in the call's future, which can be
/// dropped at any poll.
///
/// # Errors
///
/// That of the endpoint that was called, with its key; when none could be, what each said that was asked
/// ([`Sent::Never`](towline_core::Sent::Never)); [`Kind::NoEndpoints`](towline_core::Kind::NoEndpoints) when the set
/// is empty, or the driver ended before it yielded one; [`Kind::Closed`](towline_core::Kind::Closed) after
/// [`close`](Self::close).
pub struct Balance<L, P, A = Carried, T = AtResponse> {
    pub(crate) shared: Arc<Clients<L, P>>,
    access: A,
    track: T,
    rng: Rng,
}

impl<L, P, A, T> Balance<L, P, A, T> {
    pub(crate) fn new(shared: Arc<Clients<L, P>>, access: A, track: T) -> Self {
        // Steps of the golden ratio, so that every seed is far from every other; and one draw on, because the first draws
        // of such seeds are alike, and a clone that is made for one call makes no others.
        let seed = shared.seeds.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let rng = Rng::with_seed(seed).fork();
        Self { shared, access, track, rng }
    }

    /// Waits until discovery has yielded a first set, or the driver has ended without one.
    pub async fn discovered(&self) {
        loop {
            // Listening begins before the look, so that nothing published in between is missed.
            let news = self.shared.next_news();
            let over = self.shared.is_closed() || !self.shared.is_driven();
            if over || self.shared.snapshot.load().is_some() {
                return;
            }
            news.await;
        }
    }

    /// Why discovery failed last, while it has not brought anything since; also that it has ended.
    pub fn discovery_error(&self) -> Option<Error> {
        self.shared.discovery_failure.lock().clone()
    }

    /// Ends it, for all clones: the driver and with it discovery. Calls from now on fail with
    /// [`Kind::Closed`](towline_core::Kind::Closed), and so do those that wait for discovery or for an endpoint to come up.
    /// Those at an endpoint, and those that wait for its connections, are the endpoint's: closing its pool ends them.
    /// Endpoints are let go with the last clone.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl<L: Lend + Clone, P, A, T> Balance<L, P, A, T> {
    /// The endpoints at present; empty before discovery has yielded any.
    pub fn endpoints(&self) -> Vec<EndpointView<L>> {
        let now = self.shared.levels.now();
        self.shared.snapshot.load().as_ref().map_or_else(Vec::new, |snapshot| snapshot.views(now))
    }
}

// Each clone draws its own randomness.
impl<L, P, A: Clone, T: Clone> Clone for Balance<L, P, A, T> {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone(), self.access.clone(), self.track.clone())
    }
}

impl<L, P, A, T> fmt::Debug for Balance<L, P, A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.shared.snapshot.load().as_ref().map_or(0, |snapshot| snapshot.members().len());
        f.debug_struct("Balance").field("endpoints", &endpoints).finish_non_exhaustive()
    }
}

impl<L, P, A, T, Req> Service<Req> for Balance<L, P, A, T>
where
    L: Lend,
    L::Checkout: Service<Req>,
    <L::Checkout as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    A: Access<Req>,
    T: Track<<L::Checkout as Service<Req>>::Response>,
{
    type Response = T::Response;
    type Error = Error;
    type Future = BalanceFuture<L, P, A, T, Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        BalanceFuture::new(
            self.shared.users().clone(),
            self.access.clone(),
            self.track.clone(),
            self.rng.fork(),
            request,
        )
    }
}
