//! Endpoints and discovery in the hands of a test.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt, service_fn};
use towline_balance::{Balance, Change, Update};
use towline_core::sync::Lock;
use towline_core::{
    Call, CallContext, Endpoint, EndpointKey, Error, Event, Kind, Lend, LoadReport, Observer, Observers, Phase, Pick,
    Room, Target,
};

pub(crate) type Message = Call<u32>;

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn endpoint(target: &str) -> Endpoint {
    target.parse().unwrap()
}

/// `a:1`, `b:1`, and so on.
pub(crate) fn endpoints(n: u8) -> Vec<Endpoint> {
    (0..n).map(|i| endpoint(&format!("{}:1", char::from(b'a' + i)))).collect()
}

/// Discovery by hand.
pub(crate) fn discovery<U>() -> (mpsc::Sender<Result<U, Error>>, impl Stream<Item = Result<U, Error>>) {
    let (sender, mut receiver) = mpsc::channel(64);
    (sender, stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

pub(crate) fn insert(key: &str) -> Update {
    let endpoint = endpoint(key);
    Change::Insert(endpoint.key().clone(), endpoint).into()
}

pub(crate) fn remove(key: &str) -> Update {
    Change::Remove(EndpointKey::new(key)).into()
}

pub(crate) fn refused() -> Error {
    Error::new(Kind::Unavailable, Phase::Dial).with_message("refused")
}

/// So many calls per second for as long, each alone; how many of them failed.
pub(crate) async fn run<P>(balance: &Balance<Desk, P>, per_second: u32, length: Duration) -> usize
where
    P: Pick<Message> + Send + Sync + 'static,
{
    let gap = SECOND / per_second;
    let end = Instant::now() + length;
    let calls = stream::unfold((), |()| async {
        sleep(gap).await;
        (Instant::now() < end).then(|| (balance.clone().oneshot(Call::new(0)), ()))
    });
    let failed = calls.buffer_unordered(10_000).filter(|result| std::future::ready(result.is_err())).count();
    failed.await
}

/// An endpoint in the hands of a test; clones share it.
#[derive(Clone)]
pub(crate) struct Desk {
    target: Target,
    state: Arc<Lock<State>>,
}

struct State {
    room: Room,
    /// Lends wait to be granted.
    holds: bool,
    asked: Vec<oneshot::Sender<Result<(), Error>>>,
    takes: Duration,
    fails: bool,
    calls: usize,
    /// So many at a time, if that matters.
    slots: Option<Arc<Semaphore>>,
    now: usize,
    most: usize,
    report: Option<LoadReport>,
}

impl Desk {
    fn new(target: Target) -> Self {
        let state = State {
            room: Room::Ready,
            holds: false,
            asked: Vec::new(),
            takes: MS,
            fails: false,
            calls: 0,
            slots: None,
            now: 0,
            most: 0,
            report: None,
        };
        Self { target, state: Arc::new(Lock::new(state)) }
    }

    pub(crate) fn room(&self, room: Room) {
        self.state.lock().room = room;
    }

    /// Whether lends wait for [`grant`](Self::grant).
    pub(crate) fn hold(&self, holds: bool) {
        self.state.lock().holds = holds;
    }

    /// Answers the oldest lend that waits.
    pub(crate) fn grant(&self, granted: Result<(), Error>) {
        let mut state = self.state.lock();
        state.asked.retain(|asked| !asked.is_closed());
        let asked = state.asked.remove(0);
        drop(state);
        asked.send(granted).expect("somebody waits");
    }

    /// Lends that still wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().asked.iter().filter(|asked| !asked.is_closed()).count()
    }

    /// How long calls take from now on, and whether they fail.
    pub(crate) fn answers(&self, takes: Duration, fails: bool) {
        let mut state = self.state.lock();
        (state.takes, state.fails) = (takes, fails);
    }

    /// So many calls at a time from now on, and how long each takes.
    pub(crate) fn serves(&self, at_a_time: usize, takes: Duration) {
        let mut state = self.state.lock();
        (state.slots, state.takes) = (Some(Arc::new(Semaphore::new(at_a_time))), takes);
    }

    /// The most calls that there ever were at a time.
    pub(crate) fn most(&self) -> usize {
        self.state.lock().most
    }

    pub(crate) fn reports(&self, in_flight: u32, latency: Duration) {
        self.state.lock().report = Some(LoadReport { in_flight, latency });
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.lock().calls
    }
}

impl Lend for Desk {
    type Checkout = Counter;
    type Lend = Pin<Box<dyn Future<Output = Result<Counter, Error>> + Send>>;

    fn room(&self) -> Room {
        self.state.lock().room
    }

    fn lend(&self, _context: Option<&CallContext>) -> Self::Lend {
        let counter = Counter(self.clone());
        let mut state = self.state.lock();
        if !state.holds {
            let granted = if state.room == Room::Down { Err(refused()) } else { Ok(counter) };
            return Box::pin(std::future::ready(granted));
        }
        let (sender, granted) = oneshot::channel();
        state.asked.push(sender);
        Box::pin(async move { granted.await.expect("the test answers").map(|()| counter) })
    }

    fn reported(&self) -> Option<LoadReport> {
        self.state.lock().report
    }
}

/// What a [`Desk`] lends.
pub(crate) struct Counter(Desk);

impl Service<Message> for Counter {
    type Response = String;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<String, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _call: Message) -> Self::Future {
        let mut state = self.0.state.lock();
        state.calls += 1;
        state.now += 1;
        state.most = state.most.max(state.now);
        let (takes, fails, name) = (state.takes, state.fails, self.0.target.to_string());
        let (slots, here) = (state.slots.clone(), Here(self.0.clone()));
        Box::pin(async move {
            let _here = here;
            let _slot = match &slots {
                Some(slots) => Some(slots.acquire().await.unwrap()),
                None => None,
            };
            sleep(takes).await;
            if fails { Err(Error::new(Kind::Unavailable, Phase::Read)) } else { Ok(name) }
        })
    }
}

/// A call that is there.
struct Here(Desk);

impl Drop for Here {
    fn drop(&mut self) {
        self.0.state.lock().now -= 1;
    }
}

/// Makes [`Desk`]s and gives them by name.
#[derive(Clone, Default)]
pub(crate) struct Desks(Arc<Lock<std::collections::BTreeMap<String, Desk>>>);

impl Desks {
    pub(crate) fn of(&self, target: &str) -> Desk {
        let mut desks = self.0.lock();
        desks.entry(target.to_owned()).or_insert_with(|| Desk::new(target.parse().unwrap())).clone()
    }

    pub(crate) fn make(
        &self,
    ) -> impl Service<Target, Response = Desk, Error = Error, Future: Send> + Clone + Send + use<> {
        let desks = self.clone();
        service_fn(move |target: Target| std::future::ready(Ok(desks.of(&target.to_string()))))
    }
}

/// What was observed, one line per event.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Lock<Vec<String>>>);

impl Seen {
    pub(crate) fn observers(&self) -> Observers {
        Observers::new(self.clone())
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Observer for Seen {
    fn on(&self, event: &Event<'_>) {
        let line = match event {
            Event::EndpointAdded { endpoint } => format!("added {endpoint}"),
            Event::EndpointRemoved { endpoint } => format!("removed {endpoint}"),
            Event::DiscoveryFailed { error } => format!("failed {error}"),
            Event::ProbationBegan { endpoint, .. } => format!("probation {endpoint}"),
            Event::ProbationEnded { endpoint } => format!("passed {endpoint}"),
            Event::EndpointEjected { endpoint, rule, ejections, .. } => {
                format!("ejected {endpoint} {rule} {ejections}")
            }
            Event::EndpointReturned { endpoint } => format!("returned {endpoint}"),
            other => format!("{other:?}"),
        };
        self.0.lock().push(line);
    }
}
