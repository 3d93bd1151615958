//! Endpoints in the hands of a test, and what was observed.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use tower::{Service, ServiceExt, service_fn};
use towline_balance::{Balance, BalanceBuilder, Outliers, Update};
use towline_core::sync::Lock;
use towline_core::{
    Call, CallContext, Endpoint, EndpointKey, Error, Event, Kind, Lend, Observer, Observers, Phase, Pick, Policy, Room,
    Target, TokioExecutor,
};

pub(crate) type Message = Call<u32>;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// `a:1`, `b:1`, and so on.
pub(crate) fn endpoints(n: u8) -> Vec<Endpoint> {
    (0..n).map(|i| format!("{}:1", char::from(b'a' + i)).parse().unwrap()).collect()
}

/// A call of this session.
pub(crate) fn by(session: impl AsRef<[u8]>) -> Message {
    Call::new(0).with_session(session)
}

/// Lets whoever is ready run.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// An endpoint that answers with its name; clones share it.
#[derive(Clone)]
pub(crate) struct Desk(Arc<(String, Lock<State>, Notify)>);

#[derive(Default)]
struct State {
    is_down: bool,
    refuses: bool,
    fails: bool,
    holds: bool,
    now: usize,
    calls: usize,
    lends: usize,
}

impl Desk {
    /// Whether it says that it cannot be reached.
    pub(crate) fn down(&self, is_down: bool) {
        self.0.1.lock().is_down = is_down;
    }

    /// Whether it says that it can be reached, and then cannot.
    pub(crate) fn refuses(&self, refuses: bool) {
        self.0.1.lock().refuses = refuses;
    }

    /// Whether calls fail.
    pub(crate) fn fails(&self, fails: bool) {
        self.0.1.lock().fails = fails;
    }

    /// Whether calls stay until this is taken back.
    pub(crate) fn holds(&self, holds: bool) {
        self.0.1.lock().holds = holds;
        self.0.2.notify_waiters();
    }

    /// Calls that are there.
    pub(crate) fn now(&self) -> usize {
        self.0.1.lock().now
    }

    /// Calls that there ever were.
    pub(crate) fn calls(&self) -> usize {
        self.0.1.lock().calls
    }

    /// How often it was asked to lend.
    pub(crate) fn lends(&self) -> usize {
        self.0.1.lock().lends
    }
}

impl Lend for Desk {
    type Checkout = Self;
    type Lend = std::future::Ready<Result<Self, Error>>;

    fn room(&self) -> Room {
        if self.0.1.lock().is_down { Room::Down } else { Room::Ready }
    }

    fn lend(&self, _context: Option<&CallContext>) -> Self::Lend {
        let mut state = self.0.1.lock();
        state.lends += 1;
        let refused = || Error::new(Kind::Unavailable, Phase::Dial).with_message("refused");
        std::future::ready(if state.is_down || state.refuses { Err(refused()) } else { Ok(self.clone()) })
    }
}

/// A call that is there.
struct Here(Desk);

impl Drop for Here {
    fn drop(&mut self) {
        self.0.0.1.lock().now -= 1;
    }
}

impl Service<Message> for Desk {
    type Response = String;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<String, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _call: Message) -> Self::Future {
        let mut state = self.0.1.lock();
        state.calls += 1;
        state.now += 1;
        let here = Here(self.clone());
        drop(state);
        Box::pin(async move {
            let (name, state, news) = &*here.0.0;
            sleep(Duration::from_millis(1)).await;
            loop {
                let released = news.notified();
                if !state.lock().holds {
                    break;
                }
                released.await;
            }
            if state.lock().fails { Err(Error::new(Kind::Unavailable, Phase::Read)) } else { Ok(name.clone()) }
        })
    }
}

/// Makes [`Desk`]s and gives them by name.
#[derive(Clone, Default)]
pub(crate) struct Desks(Arc<Lock<BTreeMap<String, Desk>>>);

impl Desks {
    pub(crate) fn of(&self, target: &str) -> Desk {
        let desk = || Desk(Arc::new((target.to_owned(), Lock::default(), Notify::new())));
        self.0.lock().entry(target.to_owned()).or_insert_with(desk).clone()
    }

    pub(crate) fn all(&self) -> Vec<Desk> {
        self.0.lock().values().cloned().collect()
    }
}

/// Discovery by hand.
pub(crate) type Discovery = mpsc::Sender<Result<Update, Error>>;

/// A balancer over such endpoints that ejects nobody, once it knows them.
pub(crate) async fn over<P>(policy: P, desks: &Desks, endpoints: Vec<Endpoint>) -> (Balance<Desk, P::Picker>, Discovery)
where
    P: Policy<Picker: Pick<Message>>,
{
    let (discovery, mut receiver) = mpsc::channel(64);
    let make = {
        let desks = desks.clone();
        service_fn(move |target: Target| std::future::ready(Ok::<_, Error>(desks.of(&target.to_string()))))
    };
    let builder = BalanceBuilder::new(policy).outliers(Outliers::off());
    let updates = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let balance = builder.spawn(updates, make, &TokioExecutor::current()).unwrap();
    discovery.send(Ok(Update::Set(endpoints))).await.unwrap();
    settle().await;
    (balance, discovery)
}

/// One call, alone.
pub(crate) async fn ask<P>(balance: &Balance<Desk, P>, call: Message) -> Result<String, Error>
where
    P: Pick<Message> + Send + Sync + 'static,
{
    tokio::time::timeout(60 * SECOND, balance.clone().oneshot(call)).await.expect("a call that nobody holds ends")
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
        let name = |key: &Option<&EndpointKey>| key.map_or("none", EndpointKey::as_str).to_owned();
        let line = match event {
            Event::SessionMoved { session, from, to, why } => format!("{session} moved {} {to} {why}", name(from)),
            Event::SessionSpilled { session, home, to, why } => format!("{session} spilled {} {to} {why}", name(home)),
            Event::SessionRefused { session, why } => format!("{session} refused {why}"),
            Event::TokenIgnored { is_stale } => format!("ignored stale={is_stale}"),
            _ => return,
        };
        self.0.lock().push(line);
    }
}
