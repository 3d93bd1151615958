//! One call: to an endpoint that has a connection at hand, or to one that has yet to be found. Nothing is picked, counted
//! or taken before the first poll: a future that waits its turn somewhere must not keep a connection from others.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tower_service::Service;
use towline_core::{Access, BoxError, CallContext, Error, Lend, Pick, ReadyCall, Rng, Sent, progress};

use crate::find::{Find, Lending, Next, first};
use crate::shared::Users;
use crate::track::Track;

pin_project_lite::pin_project! {
    /// The response of [`Balance`](crate::Balance). Dropped at any poll, it counts on no endpoint any more.
    pub struct BalanceFuture<L, P, A, T, Req>
    where
        L: Lend,
        L::Checkout: Service<Req>,
    {
        #[pin]
        state: State<L, P, A, Req, ReadyCall<L::Checkout, Req>>,
        track: T,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<L, P, A, Req, C>
    where
        L: Lend,
    {
        Start { start: Option<Start<L, P, A, Req>> },
        // In a box, because few calls need it, and all would have to carry its size.
        Find { find: Pin<Box<Find<L, P, A, Req>>>, access: A },
        // In this order: the call is dropped before it stops counting.
        Call { #[pin] call: C, lent: Option<Lending<L>> },
    }
}

struct Start<L, P, A, Req> {
    users: Arc<Users<L, P>>,
    access: A,
    rng: Rng,
    request: Req,
}

impl<L, P, A, T, Req> BalanceFuture<L, P, A, T, Req>
where
    L: Lend,
    L::Checkout: Service<Req>,
{
    #[inline]
    pub(crate) fn new(users: Arc<Users<L, P>>, access: A, track: T, rng: Rng, request: Req) -> Self {
        Self { state: State::Start { start: Some(Start { users, access, rng, request }) }, track }
    }
}

/// From here on the request is in hands that we do not know.
#[inline]
fn call<L, P, A, Req>(
    access: &A,
    checkout: L::Checkout,
    lending: Lending<L>,
    request: Req,
) -> State<L, P, A, Req, ReadyCall<L::Checkout, Req>>
where
    L: Lend,
    L::Checkout: Service<Req>,
    A: Access<Req>,
{
    let stats = lending.flight.stats();
    progress::handed_over(stats.id(), stats.key());
    if let Some(report) = access.get(&request).and_then(CallContext::report) {
        report.picked(stats.key());
    }
    State::Call { call: ReadyCall::new(checkout, request), lent: Some(lending) }
}

impl<L, P, A, T, Req> Future for BalanceFuture<L, P, A, T, Req>
where
    L: Lend,
    L::Checkout: Service<Req>,
    <L::Checkout as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    A: Access<Req>,
    T: Track<<L::Checkout as Service<Req>>::Response>,
{
    type Output = Result<T::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Start { start } => {
                    let Start { users, access, mut rng, request } = start.take().expect("polled after completion");
                    match first(&users, &request, access.get(&request), &mut rng)? {
                        Next::Lent(checkout, lending) => {
                            let called = call(&access, checkout, lending, request);
                            this.state.set(called);
                        }
                        Next::Waits(waits) => {
                            let find = Box::pin(Find::new(users, access.clone(), rng, request, waits));
                            this.state.set(State::Find { find, access });
                        }
                    }
                }
                StateProj::Find { find, access } => {
                    let (checkout, lending, request) = ready!(find.as_mut().poll(cx))?;
                    let called = call(access, checkout, lending, request);
                    this.state.set(called);
                }
                StateProj::Call { call, lent } => {
                    let result = ready!(call.poll(cx));
                    let Lending { flight, lend } = lent.take().expect("polled after completion");
                    let stats = flight.stats();
                    let result = result.map_err(|error| Error::wrap(error).or_picked(stats.id(), stats.key()));
                    match &result {
                        Err(error) if error.sent() == Sent::Never => progress::back(),
                        _ => progress::written(),
                    }
                    if let Some(report) = lend.and_then(|lend| lend.reported()) {
                        flight.report(report);
                    }
                    return Poll::Ready(this.track.track(flight, result));
                }
            }
        }
    }
}

impl<L, P, A, T, Req> fmt::Debug for BalanceFuture<L, P, A, T, Req>
where
    L: Lend,
    L::Checkout: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = matches!(self.state, State::Call { .. });
        f.debug_struct("BalanceFuture").field("found", &found).finish_non_exhaustive()
    }
}
