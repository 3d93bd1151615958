//! One call: pick, wait for what was picked to lend, call.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::futures::OwnedNotified;
use tower_service::Service;
use towline_core::{
    Access, BoxError, CallContext, Error, Kind, Lend, Phase, Pick, ReadyCall, Rng, Room, Sent, Tried, View, progress,
};

use crate::set::{Flight, Node, Shared, Snapshot, Users};

/// How many endpoints in a row may fail to lend before the call fails with the last cause.
const LENDERS: usize = 4;

pin_project_lite::pin_project! {
    /// The response of [`Balance`](crate::Balance). Dropped at any poll, it counts on no endpoint any more.
    pub struct BalanceFuture<L, P, A, Req>
    where
        L: Lend,
        L::Checkout: Service<Req>,
    {
        #[pin]
        state: State<L, L::Lend, ReadyCall<L::Checkout, Req>>,
        shared: Arc<Users<L, P>>,
        access: A,
        rng: Rng,
        // Present until an endpoint lends.
        request: Option<Req>,
        // Endpoints that could not lend, how many, and why the last could not.
        refused: Tried,
        refusals: usize,
        refusal: Option<Error>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<L, F, C> {
        Pick,
        Wait { #[pin] published: OwnedNotified },
        Lend { #[pin] lend: F, flight: Option<Flight<L>> },
        // In this order: the call is dropped before it stops counting.
        Call { #[pin] call: C, flight: Flight<L> },
    }
}

impl<L, P, A, Req> BalanceFuture<L, P, A, Req>
where
    L: Lend,
    L::Checkout: Service<Req>,
{
    pub(crate) fn new(shared: Arc<Users<L, P>>, access: A, rng: Rng, request: Req) -> Self {
        let request = Some(request);
        Self { state: State::Pick, shared, access, rng, request, refused: Tried::default(), refusals: 0, refusal: None }
    }
}

impl<L, P, A, Req> Future for BalanceFuture<L, P, A, Req>
where
    L: Lend,
    L::Checkout: Service<Req>,
    <L::Checkout as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    A: Access<Req>,
{
    type Output = Result<<L::Checkout as Service<Req>>::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Pick => {
                    progress::enter(Phase::Pick);
                    let request = this.request.as_ref().expect("polled after completion");
                    let snapshot = this.shared.snapshot.load();
                    let Some(snapshot) = &*snapshot else {
                        match this.shared.first_snapshot() {
                            Some(published) => this.state.set(State::Wait { published }),
                            None if this.shared.snapshot.load().is_some() => {}
                            None => {
                                return Poll::Ready(Err(no_endpoints(this.shared, "the balancer's driver is gone")));
                            }
                        }
                        continue;
                    };
                    if snapshot.nodes.is_empty() {
                        return Poll::Ready(Err(no_endpoints(this.shared, "discovery has none")));
                    }
                    let context = this.access.get(request);
                    let Some(node) = pick(snapshot, request, context, this.refused, this.rng) else {
                        let none = || no_endpoints(this.shared, "the policy has none for this request");
                        return Poll::Ready(Err(this.refusal.take().unwrap_or_else(none)));
                    };
                    progress::at(node.id, &node.key);
                    if let Some(report) = context.and_then(CallContext::report) {
                        report.picked(&node.key);
                    }
                    let lend = node.lend.lend(context);
                    this.state.set(State::Lend { lend, flight: Some(Flight::begin(node)) });
                }
                StateProj::Wait { published } => {
                    ready!(published.poll(cx));
                    this.state.set(State::Pick);
                }
                StateProj::Lend { lend, flight } => {
                    let lent = ready!(lend.poll(cx));
                    let flight = flight.take().expect("taken once, here");
                    match lent {
                        Ok(checkout) => {
                            let request = this.request.take().expect("kept until now");
                            // From here on the request is in hands that we do not know.
                            progress::enter(Phase::Call);
                            let call = ReadyCall::new(checkout, request);
                            this.state.set(State::Call { call, flight });
                        }
                        Err(error) => {
                            let node = flight.node();
                            let error = error.or_endpoint(&node.key);
                            this.refused.add(node.id);
                            *this.refusals += 1;
                            // A wait that ran out has cost the caller time; a dial that did, costs the endpoint.
                            let waited = error.is_timeout() && error.phase() == Phase::Queue;
                            this.state.set(State::Pick);
                            if waited || *this.refusals >= LENDERS {
                                *this.request = None;
                                return Poll::Ready(Err(error));
                            }
                            *this.refusal = Some(error);
                        }
                    }
                }
                StateProj::Call { call, flight } => {
                    let result = ready!(call.poll(cx));
                    let result = result.map_err(|error| Error::wrap(error).or_endpoint(&flight.node().key));
                    match &result {
                        Err(error) if error.sent() == Sent::Never => progress::back(),
                        _ => progress::written(),
                    }
                    this.state.set(State::Pick); // Ends the flight; there is no request any more.
                    return Poll::Ready(result);
                }
            }
        }
    }
}

/// Who is eligible.
#[derive(Clone, Copy)]
enum Rule {
    /// Not down, and not tried by an earlier attempt.
    UpAndNew,
    /// Not down.
    Up,
    /// Anybody: its own error says why nobody can be reached.
    Any,
}

/// The endpoint that the call goes to: the first candidate that has not refused, by the first rule that finds one.
fn pick<L, P, Req>(
    snapshot: &Snapshot<L, P>,
    request: &Req,
    context: Option<&CallContext>,
    refused: &Tried,
    rng: &mut Rng,
) -> Option<Arc<Node<L>>>
where
    L: Lend,
    P: Pick<Req>,
{
    let view = View::new(&snapshot.members, snapshot);
    let tried = context.map(CallContext::tried).filter(|tried| !tried.is_empty());
    let is_up = |node: &Node<L>| node.lend.room() != Room::Down;
    let is_new = |node: &Node<L>| tried.is_none_or(|tried| !tried.contains(node.id));
    for rule in [Rule::UpAndNew, Rule::Up, Rule::Any] {
        let order = snapshot.picker.order(request, context, view, rng);
        for (skipped, index) in order.enumerate() {
            let Some(node) = snapshot.nodes.get(index) else { continue };
            let eligible = match rule {
                Rule::UpAndNew => is_up(node) && is_new(node),
                Rule::Up => is_up(node),
                Rule::Any => true,
            };
            if eligible && !refused.contains(node.id) {
                snapshot.picker.taken(request, context, view, index, skipped);
                return Some(node.clone());
            }
        }
    }
    None
}

fn no_endpoints<L, P>(shared: &Shared<L, P>, why: &str) -> Error {
    let error = Error::new(Kind::NoEndpoints, Phase::Pick).with_message(format!("no endpoint to call: {why}"));
    let failure = shared.failure.lock().clone();
    match failure {
        // What makes endpoints is closed: so is the client.
        Some(closed) if closed.kind() == Kind::Closed && closed.phase() == Phase::Queue => closed,
        Some(cause) => error.with_source(cause),
        None => error,
    }
}

impl<L, P, A, Req> fmt::Debug for BalanceFuture<L, P, A, Req>
where
    L: Lend,
    L::Checkout: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceFuture").field("refusals", &self.refusals).finish_non_exhaustive()
    }
}
