//! The service.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tower_service::Service;
use towline_core::{Access, BoxError, Carried, Error, Lend, Pick, Rng};

use crate::future::BalanceFuture;
use crate::set::{EndpointView, Users};

/// Sends each call to one of a changing set of endpoints. Made by [`BalanceBuilder`](crate::BalanceBuilder).
///
/// Clones share the endpoints and their statistics; the driver ends when the last clone and the last call are gone.
/// Always ready: whatever is waited for is waited for in the call's future, which can be dropped at any poll.
///
/// # Errors
///
/// That of the endpoint that was called, with its key; when none could be, that of the last that was asked
/// ([`Sent::Never`](towline_core::Sent::Never)); [`Kind::NoEndpoints`](towline_core::Kind::NoEndpoints) when the set
/// is empty, or the driver ended before it yielded one.
pub struct Balance<L, P, A = Carried> {
    shared: Arc<Users<L, P>>,
    access: A,
    rng: Rng,
}

impl<L, P, A> Balance<L, P, A> {
    pub(crate) fn new(shared: Arc<Users<L, P>>, access: A) -> Self {
        // Steps of the golden ratio: every seed is far from every other.
        let rng = Rng::with_seed(shared.seeds.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed));
        Self { shared, access, rng }
    }
}

impl<L, P, A> Balance<L, P, A> {
    /// Waits until discovery has yielded a first set, or the driver has ended without one.
    pub async fn discovered(&self) {
        while let Some(published) = self.shared.first_snapshot() {
            published.await;
        }
    }
}

impl<L: Lend + Clone, P, A> Balance<L, P, A> {
    /// The endpoints at present; empty before discovery has yielded any.
    pub fn endpoints(&self) -> Vec<EndpointView<L>> {
        self.shared.snapshot.load().as_ref().map_or_else(Vec::new, |snapshot| snapshot.views())
    }
}

// Each clone draws its own randomness.
impl<L, P, A: Clone> Clone for Balance<L, P, A> {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone(), self.access.clone())
    }
}

impl<L, P, A> fmt::Debug for Balance<L, P, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.shared.snapshot.load().as_ref().map_or(0, |snapshot| snapshot.nodes.len());
        f.debug_struct("Balance").field("endpoints", &endpoints).finish_non_exhaustive()
    }
}

impl<L, P, A, Req> Service<Req> for Balance<L, P, A>
where
    L: Lend,
    L::Checkout: Service<Req>,
    <L::Checkout as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    A: Access<Req>,
{
    type Response = <L::Checkout as Service<Req>>::Response;
    type Error = Error;
    type Future = BalanceFuture<L, P, A, Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        BalanceFuture::new(self.shared.clone(), self.access.clone(), self.rng.fork(), request)
    }
}
