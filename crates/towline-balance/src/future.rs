//! One call: to an endpoint that has a connection at hand, or to one that has yet to be found.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tower_service::Service;
use towline_core::{Access, BoxError, CallContext, Error, Lend, Phase, Pick, ReadyCall, Rng, Sent, progress};

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
        // In a box, because few calls need it, and all would have to carry its size.
        Find { find: Pin<Box<Find<L, P, A, Req>>>, access: A },
        Failed { error: Option<Error> },
        // In this order: the call is dropped before it stops counting.
        Call { #[pin] call: C, lent: Option<Lending<L>> },
    }
}

impl<L, P, A, T, Req> BalanceFuture<L, P, A, T, Req>
where
    L: Lend,
    L::Checkout: Service<Req>,
    P: Pick<Req>,
    A: Access<Req>,
{
    #[inline]
    pub(crate) fn new(users: &Arc<Users<L, P>>, access: &A, track: T, rng: &mut Rng, request: Req) -> Self {
        let state = match first(users, &request, access.get(&request), rng) {
            Ok(Next::Lent(checkout, lending)) => call(access, checkout, lending, request),
            Ok(Next::Waits(waits)) => {
                let find = Find::new(users.clone(), access.clone(), rng.fork(), request, waits);
                State::Find { find: Box::pin(find), access: access.clone() }
            }
            Err(error) => State::Failed { error: Some(error) },
        };
        Self { state, track }
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
                StateProj::Find { find, access } => {
                    let (checkout, lending, request) = ready!(find.as_mut().poll(cx))?;
                    let called = call(access, checkout, lending, request);
                    this.state.set(called);
                }
                StateProj::Failed { error } => {
                    progress::enter(Phase::Pick);
                    return Poll::Ready(Err(error.take().expect("polled after completion")));
                }
                StateProj::Call { call, lent } => {
                    let result = ready!(call.poll(cx));
                    let Lending { flight, lend } = lent.take().expect("polled after completion");
                    let result = result.map_err(|error| Error::wrap(error).or_endpoint(flight.stats().key()));
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
