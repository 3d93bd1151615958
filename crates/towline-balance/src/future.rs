//! One call: pick, wait for what was picked to lend, call.

use std::fmt::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::futures::OwnedNotified;
use tower_service::Service;
use towline_core::{
    Access, BoxError, CallContext, Error, Kind, Lend, Outcome, Phase, Pick, ReadyCall, Rng, Room, Sent, Tried, progress,
};

use crate::load::{Flight, Nanos};
use crate::set::{Choice, Node, Snapshot};
use crate::shared::{Shared, Users, Waiting, WhenUnavailable, closed};
use crate::track::Track;

/// How many endpoints in a row may fail to lend before the call fails with what they said.
const LENDERS: usize = 4;

pin_project_lite::pin_project! {
    /// The response of [`Balance`](crate::Balance). Dropped at any poll, it counts on no endpoint any more.
    pub struct BalanceFuture<L, P, A, T, Req>
    where
        L: Lend,
        L::Checkout: Service<Req>,
    {
        // First, so that a call is dropped before whoever it needs.
        #[pin]
        state: State<L, P, L::Lend, ReadyCall<L::Checkout, Req>>,
        shared: Arc<Users<L, P>>,
        access: A,
        track: T,
        rng: Rng,
        // Present until an endpoint lends.
        request: Option<Req>,
        // Made when somebody refuses: calls that all goes well for carry a pointer.
        refused: Option<Box<Refused>>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<L, P, F, C> {
        Pick,
        Wait { #[pin] news: OwnedNotified, waiting: Option<Waiting<L, P>> },
        Lend { #[pin] first: Asked<L, F>, #[pin] other: Option<Asked<L, F>> },
        // In this order: the call is dropped before it stops counting.
        Call { #[pin] call: C, lent: Option<Lending<L>> },
    }
}

pin_project_lite::pin_project! {
    /// An endpoint that is asked to lend.
    struct Asked<L, F> {
        #[pin]
        lend: F,
        // Taken when it has answered.
        lending: Option<Lending<L>>,
    }
}

/// The endpoint that a call counts on.
struct Lending<L> {
    flight: Flight,
    /// Kept only if it is to be asked for reports.
    lend: Option<Arc<L>>,
}

/// What endpoints said that could not lend.
#[derive(Default)]
struct Refused {
    /// Not to be asked again.
    by: Tried,
    errors: Vec<Error>,
}

impl Refused {
    fn add(&mut self, flight: Flight, error: Error) {
        self.by.add(flight.stats().id());
        let error = error.or_endpoint(flight.stats().key());
        // Who cannot be reached has failed, although no request of ours got there. Our own limits say nothing about it.
        let is_its_own = error.is_connect() || error.kind() == Kind::Unavailable;
        flight.end(if is_its_own { Outcome::Failure } else { Outcome::Ignore });
        self.errors.push(error);
    }

    /// The last error, with what the others said; `None` when nobody was asked.
    fn into_error(mut self) -> Option<Error> {
        let last = self.errors.pop()?;
        let others = self.errors;
        if others.is_empty() {
            return Some(last);
        }
        let (kind, phase) = (last.kind(), last.phase());
        let mut text = format!("{} endpoints could not take the call", others.len() + 1);
        for error in &others {
            // Writing to a string cannot fail.
            let _infallible = write!(text, "; {error}");
        }
        let all = Error::new(kind, phase).with_sent(Sent::Never).with_message(text);
        let all = match last.endpoint() {
            Some(endpoint) => all.with_endpoint(endpoint.clone()),
            None => all,
        };
        Some(all.with_source(last))
    }
}

impl<L, P, A, T, Req> BalanceFuture<L, P, A, T, Req>
where
    L: Lend,
    L::Checkout: Service<Req>,
{
    pub(crate) fn new(shared: Arc<Users<L, P>>, access: A, track: T, rng: Rng, request: Req) -> Self {
        Self { state: State::Pick, shared, access, track, rng, request: Some(request), refused: None }
    }
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
                StateProj::Pick => {
                    let request = this.request.as_ref().expect("polled after completion");
                    let context = this.access.get(request);
                    match pick(this.shared, request, context, this.refused, this.rng) {
                        Ok(Picked::Lent(checkout, lending)) => {
                            let request = this.request.take().expect("seen above");
                            let call = ReadyCall::new(checkout, handed_over(this.access, request, &lending));
                            this.state.set(State::Call { call, lent: Some(lending) });
                        }
                        Ok(Picked::Asked(first, other)) => this.state.set(State::Lend { first, other }),
                        Ok(Picked::Wait(news, waiting)) => this.state.set(State::Wait { news, waiting }),
                        Ok(Picked::Again) => {}
                        Err(error) => {
                            *this.request = None;
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                StateProj::Wait { news, waiting } => {
                    ready!(news.poll(cx));
                    if waiting.is_some() {
                        // Whoever could not lend then, may now.
                        *this.refused = None;
                    }
                    this.state.set(State::Pick);
                }
                StateProj::Lend { mut first, mut other } => {
                    // The first choice is asked first, every time.
                    let answer = match poll_asked(first.as_mut(), cx) {
                        Poll::Pending => match other.as_mut().as_pin_mut() {
                            Some(other) => poll_asked(other, cx),
                            None => Poll::Pending,
                        },
                        answer => answer,
                    };
                    let (lent, mut lending) = ready!(answer);
                    match lent {
                        Ok(checkout) => {
                            let request = this.request.take().expect("kept until now");
                            lending.flight.granted();
                            let call = ReadyCall::new(checkout, handed_over(this.access, request, &lending));
                            this.state.set(State::Call { call, lent: Some(lending) });
                        }
                        Err(error) => {
                            // A wait that ran out has cost the caller time; a dial that did, costs the endpoint.
                            let waited = error.is_timeout() && error.phase() == Phase::Queue;
                            let refused = this.refused.get_or_insert_default();
                            refused.add(lending.flight, error);
                            if waited || refused.errors.len() >= LENDERS && !waits(this.shared) {
                                this.state.set(State::Pick);
                                *this.request = None;
                                let refused = this.refused.take().expect("just added to");
                                return Poll::Ready(Err(refused.into_error().expect("just added to")));
                            }
                            // Of two that were asked the other goes on, beside another in place of this one.
                            let remains = first
                                .lending
                                .as_ref()
                                .or(other.as_ref().as_pin_ref().and_then(|other| other.get_ref().lending.as_ref()));
                            let Some(remains) = remains.map(|lending| lending.flight.stats().id()) else {
                                this.state.set(State::Pick);
                                continue;
                            };
                            let request = this.request.as_ref().expect("kept until it is lent");
                            let mut not = refused.by;
                            not.add(remains);
                            let another = another(this.shared, request, this.access.get(request), &not, this.rng);
                            match (another, first.lending.is_some()) {
                                (Some(another), true) => other.set(Some(another)),
                                (Some(another), false) => first.set(another),
                                (None, _) => {}
                            }
                        }
                    }
                }
                StateProj::Call { call, lent } => {
                    let result = ready!(call.poll(cx));
                    let Lending { flight, lend } = lent.take().expect("taken once, here");
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

/// Polls an endpoint that has not answered yet.
fn poll_asked<L, F: Future>(asked: Pin<&mut Asked<L, F>>, cx: &mut Context<'_>) -> Poll<(F::Output, Lending<L>)> {
    let asked = asked.project();
    if asked.lending.is_none() {
        return Poll::Pending;
    }
    let lent = ready!(asked.lend.poll(cx));
    Poll::Ready((lent, asked.lending.take().expect("seen above")))
}

fn at(flight: &Flight) {
    progress::at(flight.stats().id(), flight.stats().key());
}

/// From here on the request is in hands that we do not know.
#[inline]
fn handed_over<A: Access<Req>, Req, L>(access: &A, request: Req, lending: &Lending<L>) -> Req {
    let stats = lending.flight.stats();
    progress::handed_over(stats.id(), stats.key());
    if let Some(report) = access.get(&request).and_then(CallContext::report) {
        report.picked(stats.key());
    }
    request
}

/// What a call does next.
enum Picked<L: Lend, P> {
    /// Goes to an endpoint that had a connection at hand.
    Lent(L::Checkout, Lending<L>),
    /// Waits for the first of these.
    Asked(Asked<L, L::Lend>, Option<Asked<L, L::Lend>>),
    /// Waits for news; the second also counts among those that wait for an endpoint to come up.
    Wait(OwnedNotified, Option<Waiting<L, P>>),
    /// Something has changed just now.
    Again,
}

#[inline]
fn pick<L, P, Req>(
    shared: &Arc<Users<L, P>>,
    request: &Req,
    context: Option<&CallContext>,
    refused: &mut Option<Box<Refused>>,
    rng: &mut Rng,
) -> Result<Picked<L, P>, Error>
where
    L: Lend,
    P: Pick<Req>,
{
    if shared.is_closed() {
        return Err(closed());
    }
    let snapshot = shared.snapshot.load();
    let Some(snapshot) = &*snapshot else {
        return first_snapshot(shared);
    };
    let now = shared.levels.now();
    let nobody = Tried::default();
    let by = refused.as_ref().map_or(&nobody, |refused| &refused.by);
    let choice = snapshot.pick(request, context, by, rng, now);
    if let Some(Choice { index, other: None }) = choice {
        let node = &snapshot.nodes()[index];
        if let Some(checkout) = node.lend.try_lend(context) {
            let lend = shared.reports.then(|| node.lend.clone());
            return Ok(Picked::Lent(checkout, Lending { flight: Flight::begin(node.stats.clone(), now), lend }));
        }
    }
    ask_or_wait(shared, snapshot, choice, context, refused, now)
}

/// When nobody has lent at once.
fn ask_or_wait<L, P>(
    shared: &Arc<Users<L, P>>,
    snapshot: &Snapshot<L, P>,
    choice: Option<Choice>,
    context: Option<&CallContext>,
    refused: &mut Option<Box<Refused>>,
    now: Nanos,
) -> Result<Picked<L, P>, Error>
where
    L: Lend,
{
    progress::enter(Phase::Pick);
    let waits = waits(shared);
    // By now so many have refused that it is time to wait; otherwise the call would have failed.
    let has_asked_enough = refused.as_ref().is_some_and(|refused| refused.errors.len() >= LENDERS);
    match choice {
        Some(Choice { index, other }) if !(waits && (has_asked_enough || is_down(snapshot, index))) => {
            let ask = |index: usize| ask(shared, &snapshot.nodes()[index], context, now);
            let first = ask(index);
            first.lending.iter().for_each(|lending| at(&lending.flight));
            Ok(Picked::Asked(first, other.map(ask)))
        }
        _ if waits => wait(shared, refused.take()),
        _ => Err(refused.take().and_then(|refused| refused.into_error()).unwrap_or_else(|| {
            let nobody = snapshot.nodes().is_empty();
            shared.no_endpoints(if nobody { "discovery has none" } else { "the policy has none for this request" })
        })),
    }
}

/// One more endpoint to ask, in place of one that has refused.
fn another<L, P, Req>(
    shared: &Arc<Users<L, P>>,
    request: &Req,
    context: Option<&CallContext>,
    not: &Tried,
    rng: &mut Rng,
) -> Option<Asked<L, L::Lend>>
where
    L: Lend,
    P: Pick<Req>,
{
    let snapshot = shared.snapshot.load();
    let snapshot = snapshot.as_ref()?;
    let now = shared.levels.now();
    let Choice { index, .. } = snapshot.pick(request, context, not, rng, now)?;
    (!is_down(snapshot, index)).then(|| ask(shared, &snapshot.nodes()[index], context, now))
}

/// Whether calls wait for endpoints to come up. Without a driver nobody would tell them.
fn waits<L, P>(shared: &Shared<L, P>) -> bool {
    shared.when_unavailable == WhenUnavailable::Wait && shared.is_driven()
}

fn is_down<L: Lend, P>(snapshot: &Snapshot<L, P>, index: usize) -> bool {
    snapshot.nodes()[index].lend.room() == Room::Down
}

fn ask<L: Lend, P>(
    shared: &Shared<L, P>,
    node: &Node<L>,
    context: Option<&CallContext>,
    now: Nanos,
) -> Asked<L, L::Lend> {
    let flight = Flight::ask(node.stats.clone(), now);
    let lend = shared.reports.then(|| node.lend.clone());
    Asked { lend: node.lend.lend(context), lending: Some(Lending { flight, lend }) }
}

/// Waits for discovery to yield something, if it still can.
fn first_snapshot<L: Lend, P>(shared: &Arc<Users<L, P>>) -> Result<Picked<L, P>, Error> {
    progress::enter(Phase::Pick);
    // Listening begins before the look, so that nothing published in between is missed.
    let news = shared.next_news();
    let driven = shared.is_driven();
    if shared.snapshot.load().is_some() || shared.is_closed() {
        Ok(Picked::Again)
    } else if driven {
        Ok(Picked::Wait(news, None))
    } else {
        Err(shared.no_endpoints("the balancer's driver is gone"))
    }
}

/// Waits for an endpoint to come up.
fn wait<L: Lend, P>(shared: &Arc<Users<L, P>>, refused: Option<Box<Refused>>) -> Result<Picked<L, P>, Error> {
    let news = shared.next_news();
    match Waiting::begin(shared) {
        // The driver may have gone, or the balancer been closed, before anybody listened.
        Some(_) if shared.is_closed() || !shared.is_driven() => Ok(Picked::Again),
        Some(waiting) => Ok(Picked::Wait(news, Some(waiting))),
        None => {
            let full = Error::new(Kind::Overloaded, Phase::Pick)
                .with_message("too many calls wait for an endpoint to come up");
            Err(match refused.and_then(|refused| refused.into_error()) {
                Some(cause) => full.with_source(cause),
                None => full,
            })
        }
    }
}

impl<L, P, A, T, Req> fmt::Debug for BalanceFuture<L, P, A, T, Req>
where
    L: Lend,
    L::Checkout: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusals = self.refused.as_ref().map_or(0, |refused| refused.errors.len());
        f.debug_struct("BalanceFuture").field("refusals", &refusals).finish_non_exhaustive()
    }
}
