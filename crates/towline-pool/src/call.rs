//! One call: wait for a connection, call it, give it back. A request that comes back unsent goes to another.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;
use towline_core::{Error, GiveBack, Kind, Phase, Poolable, Sent, Sharing, progress};

use crate::bell::Ring;
use crate::checkout::{Checkout, spent};
use crate::lend::{LendFuture, Wish};
use crate::shared::Shared;

/// How many connections in a row may hand a request back before the call fails: enough for a backend that closed all
/// its connections at once, few enough to end.
const HAND_BACKS: u32 = 8;

pin_project_lite::pin_project! {
    /// The response of a [`Handle`](crate::Handle) or a [`Checkout`]. Dropped at any poll, it gives the connection
    /// back; one on which the call was under way comes back closed.
    pub struct PooledCall<C, Req>
    where
        C: Poolable,
        C: Service<Req>,
    {
        #[pin]
        state: State<C, Req, C::Future>,
        handed_back: u32,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<C, Req, F>
    where
        C: Poolable,
    {
        Lending { #[pin] lend: LendFuture<C>, request: Option<Req> },
        Readying { checkout: Option<Checkout<'static, C>>, request: Option<Req>, end: End },
        // In this order: the call is dropped before its connection is given back.
        Calling { #[pin] future: F, checkout: Checkout<'static, C>, end: End },
        Done,
    }
}

impl<C, Req> PooledCall<C, Req>
where
    C: Poolable + Service<Req>,
{
    pub(crate) fn with_lend(lend: LendFuture<C>, request: Req) -> Self {
        Self { state: State::Lending { lend, request: Some(request) }, handed_back: 0 }
    }

    pub(crate) fn with_checkout(checkout: Option<Checkout<'static, C>>, request: Req) -> Self {
        Self { state: State::Readying { checkout, request: Some(request), end: End::Unknown }, handed_back: 0 }
    }
}

impl<C, Req> Future for PooledCall<C, Req>
where
    C: Poolable + Service<Req>,
    C::Error: GiveBack<Req>,
{
    type Output = Result<C::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut state = this.state;
        loop {
            match state.as_mut().project() {
                StateProj::Lending { lend, request } => {
                    let lent = std::task::ready!(lend.poll(cx));
                    let request = request.take();
                    match lent {
                        Ok(checkout) => {
                            state.set(State::Readying { checkout: Some(checkout), request, end: End::Unknown })
                        }
                        Err(error) => {
                            state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                StateProj::Readying { checkout, request, end } => {
                    let Some(connection) = checkout else {
                        state.set(State::Done);
                        return Poll::Ready(Err(spent()));
                    };
                    let Poll::Ready(ready) = Service::<Req>::poll_ready(connection.for_readying(), cx) else {
                        std::task::ready!(end.poll(connection, cx));
                        let error = cut_off().with_sent(Sent::Never).or_endpoint(&connection.shared().name);
                        state.set(State::Done);
                        return Poll::Ready(Err(error));
                    };
                    let (Some(mut checkout), Some(request)) = (checkout.take(), request.take()) else {
                        panic!("polled after completion");
                    };
                    match ready {
                        Ok(()) => {
                            // What the connection does with it is its own business: from here on it may be sent.
                            progress::enter(Phase::Call);
                            let future = Service::call(&mut *checkout, request);
                            state.set(State::Calling { future, checkout, end: End::Unknown });
                        }
                        Err(error) => {
                            let again = Again::after(&checkout);
                            drop(checkout);
                            state.set(State::Done);
                            state.set(again.lend(GiveBack::<Req>::split(error).0, request, this.handed_back)?);
                        }
                    }
                }
                StateProj::Calling { future, checkout, end } => match future.poll(cx) {
                    Poll::Pending => {
                        std::task::ready!(end.poll(checkout, cx));
                        let error = cut_off().or_endpoint(&checkout.shared().name);
                        state.set(State::Done);
                        return Poll::Ready(Err(error));
                    }
                    Poll::Ready(Ok(response)) => {
                        progress::written();
                        checkout.succeeded();
                        state.set(State::Done);
                        return Poll::Ready(Ok(response));
                    }
                    Poll::Ready(Err(error)) => {
                        let again = Again::after(checkout);
                        state.set(State::Done);
                        match error.split() {
                            (error, None) => {
                                if error.sent() == Sent::Maybe {
                                    progress::written();
                                }
                                return Poll::Ready(Err(error.or_endpoint(&again.shared.name)));
                            }
                            (error, Some(request)) => state.set(again.lend(error, request, this.handed_back)?),
                        }
                    }
                },
                StateProj::Done => panic!("polled after completion"),
            }
        }
    }
}

/// Whether the pool, closed, is done waiting for this call. Looked for once the call has to wait: one that is answered
/// at once costs nothing.
enum End {
    Unknown,
    /// Only the task of the call can end it.
    On(Arc<Ring>),
    /// The pool ends the connection, and the call with it.
    WithConnection,
}

impl End {
    fn poll<C: Poolable>(&mut self, checkout: &Checkout<'_, C>, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Unknown = self {
            *self = match (checkout.sharing(), checkout.shared().ring(checkout.slot())) {
                (Sharing::Shared { .. }, _) => Self::WithConnection,
                (Sharing::Exclusive, Some(ring)) => Self::On(ring),
                // Nothing else takes a connection that is lent out of its slot.
                (Sharing::Exclusive, None) => return Poll::Ready(()),
            };
        }
        match self {
            Self::On(ring) => ring.poll_cut(cx),
            Self::Unknown | Self::WithConnection => Poll::Pending,
        }
    }
}

fn cut_off() -> Error {
    let why = "the pool was closed, and this call took longer than it waits for calls in flight (close_deadline)";
    Error::new(Kind::Closed, Phase::Call).with_message(why)
}

/// What is needed to ask for another connection, when a request comes back unsent.
struct Again<C: Poolable> {
    shared: Arc<Shared<C>>,
    wish: Wish,
}

impl<C: Poolable> Again<C> {
    fn after(checkout: &Checkout<'_, C>) -> Self {
        Self { shared: checkout.shared().clone(), wish: checkout.wish().clone() }
    }

    /// Asks, up to a bound.
    fn lend<Req>(self, error: Error, request: Req, handed_back: &mut u32) -> Result<State<C, Req, C::Future>, Error>
    where
        C: Service<Req>,
    {
        *handed_back += 1;
        progress::back();
        if *handed_back > HAND_BACKS {
            return Err(error.with_sent(Sent::Never).or_endpoint(&self.shared.name));
        }
        Ok(State::Lending { lend: LendFuture::wishing(self.shared, self.wish), request: Some(request) })
    }
}

impl<C, Req> fmt::Debug for PooledCall<C, Req>
where
    C: Poolable + Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledCall").field("handed_back", &self.handed_back).finish_non_exhaustive()
    }
}
