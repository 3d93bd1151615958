//! Finding an endpoint that lends: at once, usually.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::futures::OwnedNotified;
use towline_core::{Access, CallContext, Error, Kind, Lend, Outcome, Phase, Pick, Rng, Room, Sent, Tried, progress};

use crate::load::{Flight, Nanos};
use crate::set::{Choice, Nobody, Snapshot};
use crate::shared::{Shared, Users, Waiting, WhenUnavailable, closed};

/// How many endpoints in a row may fail to lend before the call fails with what they said.
pub const LENDERS: usize = 4;

/// The endpoint that a call counts on.
pub(crate) struct Lending<L> {
    pub(crate) flight: Flight,
    /// Kept only if it is to be asked for reports.
    pub(crate) lend: Option<Arc<L>>,
}

/// Picks, and takes what is at hand: all that most calls need.
#[inline]
pub(crate) fn first<L, P, Req>(
    shared: &Arc<Users<L, P>>,
    request: &Req,
    context: Option<&CallContext>,
    rng: &mut Rng,
) -> Result<Next<L, P>, Error>
where
    L: Lend,
    P: Pick<Req>,
{
    pick(shared, request, context, None, rng)
}

/// Nothing when it has to be asked, and an error when others have brought it to a limit meanwhile.
#[inline]
fn lent_at_once<L: Lend, P, Req>(
    shared: &Shared<L, P>,
    snapshot: &Snapshot<L, P>,
    choice: Choice,
    request: &Req,
    context: Option<&CallContext>,
    now: Nanos,
) -> Result<Option<Lent<L>>, AtLimit>
where
    P: Pick<Req>,
{
    if choice.other.is_some() {
        return Ok(None);
    }
    let node = &snapshot.nodes()[choice.index];
    let Some(checkout) = node.lend.try_lend(context) else { return Ok(None) };
    let flight = snapshot.begin(choice, now).ok_or(AtLimit)?;
    snapshot.taken(request, context, choice, now);
    let lend = shared.reports.then(|| node.lend.clone());
    Ok(Some((checkout, Lending { flight, lend })))
}

/// What was lent, and who lent it.
type Lent<L> = (<L as Lend>::Checkout, Lending<L>);

/// An endpoint was at a limit after all: the next pick sees it.
struct AtLimit;

pin_project_lite::pin_project! {
    /// Picks, waits, and picks again, until an endpoint lends.
    pub(crate) struct Find<L, P, A, Req>
    where
        L: Lend,
    {
        #[pin]
        state: State<L, P, L::Lend>,
        shared: Arc<Users<L, P>>,
        access: A,
        rng: Rng,
        // Present until an endpoint lends.
        request: Option<Req>,
        refused: Refused,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<L, P, F> {
        Pick,
        Wait { #[pin] news: OwnedNotified, waiting: Waiting<L, P> },
        Lend { #[pin] first: Asked<L, F>, #[pin] other: Option<Asked<L, F>> },
    }
}

impl<L: Lend, P> From<Waits<L, P>> for State<L, P, L::Lend> {
    fn from(waits: Waits<L, P>) -> Self {
        match waits {
            Waits::Asked(first, other) => Self::Lend { first, other },
            Waits::News(news, waiting) => Self::Wait { news, waiting },
            Waits::Again => Self::Pick,
        }
    }
}

pin_project_lite::pin_project! {
    /// An endpoint that is asked to lend.
    pub(crate) struct Asked<L, F> {
        #[pin]
        lend: F,
        // Taken when it has answered.
        lending: Option<Lending<L>>,
    }
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
        // Who cannot be reached has failed, although no request of ours got there. Our own limits say nothing about it, nor does what was
        // known before anybody was asked.
        if error.is_connect() || error.kind() == Kind::Unavailable && error.phase() != Phase::Pick {
            flight.unreachable();
        } else {
            flight.end(Outcome::Ignore);
        }
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

impl<L: Lend, P, A, Req> Find<L, P, A, Req> {
    /// Goes on from what the call has to wait for first.
    pub(crate) fn new(shared: Arc<Users<L, P>>, access: A, rng: Rng, request: Req, first: Waits<L, P>) -> Self {
        Self { state: State::from(first), shared, access, rng, request: Some(request), refused: Refused::default() }
    }
}

impl<L, P, A, Req> Future for Find<L, P, A, Req>
where
    L: Lend,
    P: Pick<Req>,
    A: Access<Req>,
{
    type Output = Result<(L::Checkout, Lending<L>, Req), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Pick => {
                    progress::enter(Phase::Pick);
                    let request = this.request.as_ref().expect("polled after completion");
                    let context = this.access.get(request);
                    match pick(this.shared, request, context, Some(this.refused), this.rng) {
                        Ok(Next::Lent(checkout, lending)) => {
                            let request = this.request.take().expect("seen above");
                            return Poll::Ready(Ok((checkout, lending, request)));
                        }
                        Ok(Next::Waits(waits)) => this.state.set(State::from(waits)),
                        Err(error) => {
                            *this.request = None;
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                StateProj::Wait { news, .. } => {
                    ready!(news.poll(cx));
                    // Whoever could not lend then, may now.
                    *this.refused = Refused::default();
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
                    let error = match lent {
                        Ok(checkout) => {
                            lending.flight.granted();
                            let request = this.request.take().expect("kept until now");
                            this.state.set(State::Pick); // The other's lend is over.
                            return Poll::Ready(Ok((checkout, lending, request)));
                        }
                        Err(error) => error,
                    };
                    // A wait that ran out has cost the caller time; a dial that did, costs the endpoint.
                    let waited = error.is_timeout() && error.phase() == Phase::Queue;
                    this.refused.add(lending.flight, error);
                    let enough = this.refused.errors.len() >= LENDERS;
                    // Of two that were asked the other goes on, beside another in place of this one.
                    let id =
                        |asked: &Asked<L, L::Lend>| asked.lending.as_ref().map(|lending| lending.flight.stats().id());
                    let (first_id, other_id) = (id(&first), other.as_ref().as_pin_ref().and_then(|other| id(&other)));
                    let remains = first_id.or(other_id);
                    if waited || enough && remains.is_none() && !waits(this.shared) {
                        this.state.set(State::Pick);
                        *this.request = None;
                        let refused = std::mem::take(this.refused);
                        return Poll::Ready(Err(refused.into_error().expect("just added to")));
                    }
                    let Some(remains) = remains else {
                        this.state.set(State::Pick);
                        continue;
                    };
                    if enough {
                        continue;
                    }
                    let request = this.request.as_ref().expect("kept until it is lent");
                    let mut not = this.refused.by;
                    not.add(remains);
                    let another = another(this.shared, request, this.access.get(request), &not, this.rng);
                    match (another, first_id) {
                        (Some(another), Some(_)) => other.set(Some(another)),
                        (Some(another), None) => first.set(another),
                        (None, _) => {}
                    }
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

/// What a call does next.
pub(crate) enum Next<L: Lend, P> {
    /// Goes to an endpoint that had a connection at hand.
    Lent(L::Checkout, Lending<L>),
    /// It has to wait.
    Waits(Waits<L, P>),
}

/// For what.
pub(crate) enum Waits<L: Lend, P> {
    /// For the first of these.
    Asked(Asked<L, L::Lend>, Option<Asked<L, L::Lend>>),
    /// For news, counted.
    News(OwnedNotified, Waiting<L, P>),
    /// For nothing: something has changed just now.
    Again,
}

#[inline]
fn pick<L, P, Req>(
    shared: &Arc<Users<L, P>>,
    request: &Req,
    context: Option<&CallContext>,
    refused: Option<&mut Refused>,
    rng: &mut Rng,
) -> Result<Next<L, P>, Error>
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
    let mut refused = refused;
    // Those that have refused, and who was at a limit after all.
    let mut not: Option<Tried> = None;
    for race in 1..=RACES {
        // When so many have refused it is time to wait, if the call may; otherwise it has failed already.
        let is_over = refused.as_ref().is_some_and(|refused| refused.errors.len() >= LENDERS);
        let by = refused.as_ref().map(|refused| &refused.by);
        let choice = if is_over {
            Err(Nobody::NoCandidate)
        } else {
            snapshot.pick(request, context, not.as_ref().or(by), rng, now)
        };
        // Of few endpoints a call may have lost the race at each: then there is nobody else to take it either.
        let (choice, is_last) = match choice {
            Err(Nobody::NoCandidate) if not.is_some() && !is_over => {
                (snapshot.pick(request, context, by, rng, now), true)
            }
            choice => (choice, race == RACES),
        };
        let choice = if is_last { choice.map(Choice::unbounded) } else { choice };
        let lent = match choice {
            Ok(choice) => lent_at_once(shared, snapshot, choice, request, context, now),
            Err(_) => Ok(None),
        };
        match lent {
            Ok(Some((checkout, lending))) => return Ok(Next::Lent(checkout, lending)),
            Ok(None) => {
                let next = ask_or_wait(shared, snapshot, choice, request, context, &mut refused, now);
                if let Ok(next) = next {
                    return next;
                }
            }
            Err(AtLimit) => {}
        }
        if let Ok(choice) = choice {
            snapshot.leave(choice, None, now);
            let by = || refused.as_ref().map(|refused| refused.by).unwrap_or_default();
            not.get_or_insert_with(by).add(snapshot.nodes()[choice.index].id());
        }
        if is_last {
            break;
        }
    }
    Err(nobody(shared, snapshot, Nobody::Full))
}

/// How many times a call picks again because others were faster to bring an endpoint to its limit.
const RACES: usize = 4;

/// When nobody has lent at once.
// Apart from what most calls need.
#[inline(never)]
fn ask_or_wait<L, P, Req>(
    shared: &Arc<Users<L, P>>,
    snapshot: &Snapshot<L, P>,
    choice: Result<Choice, Nobody>,
    request: &Req,
    context: Option<&CallContext>,
    refused: &mut Option<&mut Refused>,
    now: Nanos,
) -> Result<Result<Next<L, P>, Error>, AtLimit>
where
    L: Lend,
    P: Pick<Req>,
{
    progress::enter(Phase::Pick);
    if choice.is_err() {
        // No call begins that would ask for a look at the set, and without one nothing gets better.
        shared.levels.touch();
    }
    let waits = waits(shared);
    let mut refused = || refused.as_mut().map(|refused| std::mem::take(&mut **refused)).unwrap_or_default();
    match choice {
        Ok(choice) if !(waits && is_down(snapshot, choice.index)) => {
            let ask = |index: usize| ask(shared, snapshot, choice, index, context, now);
            let first = ask(choice.index).ok_or(AtLimit)?;
            snapshot.taken(request, context, choice, now);
            first.lending.iter().for_each(|lending| at(&lending.flight));
            let other = choice.other.and_then(ask);
            if other.is_none() {
                snapshot.leave(choice, Some(choice.index), now);
            }
            Ok(Ok(Next::Waits(Waits::Asked(first, other))))
        }
        Err(gone @ Nobody::Home(why, _)) => {
            snapshot.refused(request, context, why);
            Ok(Err(refused().into_error().unwrap_or_else(|| nobody(shared, snapshot, gone))))
        }
        // Whoever sheds load, or fails fast, does not wait.
        Err(why @ (Nobody::Full | Nobody::Panic)) => {
            let error = nobody(shared, snapshot, why);
            Ok(Err(match refused().into_error() {
                Some(cause) => error.with_source(cause),
                None => error,
            }))
        }
        _ if waits => {
            choice.iter().for_each(|choice| snapshot.leave(*choice, None, now));
            Ok(wait(shared, refused()))
        }
        _ => Ok(Err(refused().into_error().unwrap_or_else(|| nobody(shared, snapshot, Nobody::NoCandidate)))),
    }
}

fn nobody<L: Lend, P>(shared: &Shared<L, P>, snapshot: &Snapshot<L, P>, why: Nobody) -> Error {
    let nodes = snapshot.nodes();
    match why {
        Nobody::NoCandidate => shared.no_endpoints(if nodes.is_empty() {
            "discovery has none"
        } else {
            "the policy has none for this request"
        }),
        Nobody::Home(why, home) => {
            let error = Error::new(Kind::HomeUnavailable, Phase::Pick)
                .with_message(format!("the endpoint of the call's session is {why}, and the session keeps to it"));
            match home {
                Some(home) => error.or_endpoint(nodes[home].stats.key()),
                None => error,
            }
        }
        Nobody::Full => Error::new(Kind::Overloaded, Phase::Pick).with_message(
            "every endpoint that could take the call is at a limit of its circuit: send less, or raise the limits",
        ),
        Nobody::Panic => {
            let down = nodes.iter().filter(|node| node.lend.room() == Room::Down).count();
            let ejected = nodes.iter().filter(|node| node.stats.seen().is_ejected()).count();
            Error::new(Kind::Unavailable, Phase::Pick).with_message(format!(
                "of {} endpoints {ejected} are ejected and {down} down: fewer are left than the panic threshold asks for",
                nodes.len()
            ))
        }
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
    let choice = snapshot.pick(request, context, Some(not), rng, now).ok()?;
    let is_down = is_down(snapshot, choice.index);
    let asked = if is_down { None } else { ask(shared, snapshot, choice, choice.index, context, now) };
    // Nobody beside it, whether it is asked or not.
    snapshot.leave(choice, asked.is_some().then_some(choice.index), now);
    if asked.is_some() {
        snapshot.taken(request, context, choice, now);
    }
    asked
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
    snapshot: &Snapshot<L, P>,
    choice: Choice,
    index: usize,
    context: Option<&CallContext>,
    now: Nanos,
) -> Option<Asked<L, L::Lend>> {
    let (node, flight) = (&snapshot.nodes()[index], snapshot.ask(choice, index, now, false)?);
    let lend = shared.reports.then(|| node.lend.clone());
    Some(Asked { lend: node.lend.lend(context), lending: Some(Lending { flight, lend }) })
}

/// Waits for discovery to yield something, if it still can.
fn first_snapshot<L: Lend, P>(shared: &Arc<Users<L, P>>) -> Result<Next<L, P>, Error> {
    // Listening begins before the look, so that nothing published in between is missed.
    let news = shared.next_news();
    let driven = shared.is_driven();
    if shared.snapshot.load().is_some() || shared.is_closed() {
        return Ok(Next::Waits(Waits::Again));
    }
    if !driven {
        return Err(shared.no_endpoints("the balancer's driver is gone"));
    }
    match Waiting::begin(shared) {
        Some(waiting) => Ok(Next::Waits(Waits::News(news, waiting))),
        None => Err(too_many("the first answer of discovery")),
    }
}

/// Waits for an endpoint to come up.
fn wait<L: Lend, P>(shared: &Arc<Users<L, P>>, refused: Refused) -> Result<Next<L, P>, Error> {
    let news = shared.next_news();
    match Waiting::begin(shared) {
        // The driver may have gone, or the balancer been closed, before anybody listened.
        Some(_) if shared.is_closed() || !shared.is_driven() => Ok(Next::Waits(Waits::Again)),
        Some(waiting) => Ok(Next::Waits(Waits::News(news, waiting))),
        None => {
            let full = too_many("an endpoint to come up");
            Err(match refused.into_error() {
                Some(cause) => full.with_source(cause),
                None => full,
            })
        }
    }
}

fn too_many(what: &str) -> Error {
    Error::new(Kind::Overloaded, Phase::Pick).with_message(format!("too many calls wait for {what}"))
}

#[cfg(test)]
mod tests;
