//! The one task of a balancer: follows discovery, makes endpoints and publishes snapshots.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::time::{Sleep, sleep};
use tower::discover::Change;
use tower_service::Service;
use towline_core::{Backoff, BoxError, Endpoint, EndpointKey, Error, Event, Kind, Lend, Phase, Policy, Rng, Target};

use crate::discover::{Update, guarded};
use crate::making::Making;
use crate::members::Set;
use crate::shared::{Shared, replace};
use crate::warm::Warm;
use crate::watch::Watch;

/// Changes that are taken at once before they are published: a flood of them must not keep calls from seeing any.
const BATCH: usize = 1_024;
/// Between two times that a policy does what is due.
const SHORTEST_UPKEEP: Duration = Duration::from_millis(10);
/// Before discovery that has failed is asked again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// Follows discovery, makes endpoints, publishes snapshots and looks over the set. Made with a
/// [`Balance`](crate::Balance) by [`BalanceBuilder::pair`](crate::BalanceBuilder::pair); to be spawned on a tokio runtime
/// with time. Where there is none, or a policy panics, it ends at the first need, and
/// [`Balance::discovery_error`](crate::Balance::discovery_error) says so.
///
/// It ends with the last clone of the balancer and the last call that has yet to find an endpoint, or with [`Balance::close`](crate::Balance::close). A
/// discovery stream that ends or panics is not polled again, and the last set stays. When the driver itself is dropped
/// early, calls go on with the last set; nobody is ejected any more, and what else is known of it as a whole stays as it was.
///
/// It wakes for discovery, for endpoints that are being made or warmed, ten times a second while there are calls and
/// anything is measured or watched, and forty times while calls wait for an endpoint to come up. Without calls it sleeps.
pub struct Driver<D, M, P>
where
    M: Service<Target>,
    M::Response: Lend,
    P: Policy,
{
    shared: Arc<Shared<M::Response, P::Picker>>,
    /// `None` once it has ended.
    discover: Option<Pin<Box<D>>>,
    policy: P,
    /// What calls see after the next publication.
    set: Set<M::Response>,
    making: Making<M>,
    /// Discovery has said something, be it that there are none.
    was_heard: bool,
    /// Discovery has failed so often in a row, and is asked again after this.
    failures: u32,
    pause: Option<Pin<Box<Sleep>>>,
    rng: Rng,
    warm: Warm<M::Response>,
    watch: Watch,
    upkeep: Upkeep,
}

/// When the policy is to do what is due by the clock.
enum Upkeep {
    Now,
    At(Pin<Box<Sleep>>),
    Never,
}

// Stream and futures are boxed; nothing else is pinned.
impl<D, M, P> Unpin for Driver<D, M, P>
where
    M: Service<Target>,
    M::Response: Lend,
    P: Policy,
{
}

impl<D, M, P> Driver<D, M, P>
where
    M: Service<Target> + Clone,
    M::Response: Lend,
    M::Error: Into<BoxError>,
    P: Policy,
{
    pub(crate) fn new(
        shared: Arc<Shared<M::Response, P::Picker>>,
        discover: D,
        making: Making<M>,
        policy: P,
        warm: usize,
        watch: Watch,
        rng: Rng,
    ) -> Self {
        Self {
            shared,
            discover: Some(Box::pin(discover)),
            policy,
            set: Set::default(),
            making,
            was_heard: false,
            failures: 0,
            pause: None,
            rng,
            warm: Warm::new(warm),
            watch,
            upkeep: Upkeep::Now,
        }
    }

    /// Takes what discovery has yielded; whether calls are to see a change at once.
    fn update(&mut self, update: Update) -> bool {
        if !matches!(&update, Update::Set(endpoints) if endpoints.is_empty()) {
            replace(&self.shared.discovery_failure, None);
            self.was_heard = true;
        }
        match update {
            // The change's key is what a later removal will name.
            Update::Change(Change::Insert(key, endpoint)) => self.insert(endpoint.with_key(key)),
            Update::Change(Change::Remove(key)) => self.remove(&key),
            Update::Renew(endpoint) => {
                self.making.forget(endpoint.key());
                self.making.want(endpoint);
                false
            }
            Update::Set(endpoints) if endpoints.is_empty() => {
                self.failed(
                    Error::new(Kind::NoEndpoints, Phase::Pick)
                        .with_message("discovery answered with nothing; yield `Update::Empty` to mean it"),
                );
                false
            }
            Update::Set(endpoints) => self.replace(endpoints),
            Update::Empty => self.replace(Vec::new()),
        }
    }

    /// Adds an endpoint, or changes its attributes in place.
    fn insert(&mut self, endpoint: Endpoint) -> bool {
        if let Some(index) = self.set.get(endpoint.key()) {
            let known = &self.set.members[index].endpoint;
            if known.target() == endpoint.target() {
                self.making.keep(&endpoint);
                let changed = **known != endpoint;
                if changed {
                    self.set.change(index, endpoint);
                }
                return changed;
            }
        }
        self.making.want(endpoint);
        false
    }

    fn remove(&mut self, key: &EndpointKey) -> bool {
        self.making.forget(key);
        let removed = self.set.remove(key);
        if removed {
            self.shared.observers.emit(Event::EndpointRemoved { endpoint: key });
        }
        removed
    }

    /// These are all there are.
    fn replace(&mut self, endpoints: Vec<Endpoint>) -> bool {
        let mut last = HashMap::with_capacity(endpoints.len());
        for (index, endpoint) in endpoints.iter().enumerate() {
            let key = endpoint.key();
            if last.insert(key.clone(), index).is_some() {
                let message =
                    format!("discovery has the key {key} twice in one set; the last counts: make keys unique");
                self.failed(Error::new(Kind::Config, Phase::Pick).with_message(message).with_endpoint(key.clone()));
            }
        }
        let known = self.set.keys().chain(self.making.keys());
        let gone: Vec<_> = known.filter(|key| !last.contains_key(*key)).cloned().collect();
        let mut changed = false;
        for key in gone {
            changed |= self.remove(&key);
        }
        for (index, endpoint) in endpoints.into_iter().enumerate() {
            if last[endpoint.key()] == index {
                changed |= self.insert(endpoint);
            }
        }
        changed
    }

    fn failed(&self, error: Error) {
        self.shared.observers.emit(Event::DiscoveryFailed { error: &error });
        replace(&self.shared.discovery_failure, Some(error));
    }

    /// Whether an endpoint was made: from now on, and under a new id, calls may go to it.
    fn poll_making(&mut self, cx: &mut Context<'_>) -> bool {
        let mut changed = false;
        for _ in 0..BATCH {
            match self.making.poll_made(cx) {
                Poll::Pending => return changed,
                Poll::Ready(Err(error)) => {
                    self.shared.observers.emit(Event::DiscoveryFailed { error: &error });
                    replace(&self.shared.make_failure, Some(error));
                }
                Poll::Ready(Ok((endpoint, lend))) => {
                    changed = true;
                    replace(&self.shared.make_failure, None);
                    let key = endpoint.key().clone();
                    let observers = &self.shared.observers;
                    if self.set.put(endpoint, lend, &self.shared.levels) {
                        observers.emit(Event::EndpointRemoved { endpoint: &key });
                    }
                    observers.emit(Event::EndpointAdded { endpoint: &key });
                }
            }
        }
        cx.waker().wake_by_ref();
        changed
    }

    /// There is no set, and none is to be expected soon: nobody should wait for it.
    fn has_nothing_to_come(&self) -> bool {
        let heard = self.discover.is_none() || self.was_heard;
        heard && self.making.all_failed() && self.shared.snapshot.load().is_none()
    }

    fn publish(&mut self) {
        let last = self.shared.snapshot.load_full();
        let last = last.as_ref().map(|last| last.picker());
        let snapshot = self.set.snapshot(&self.shared.levels, &mut self.policy, last);
        self.shared.snapshot.store(Some(Arc::new(snapshot)));
        self.warm.changed(&self.set.nodes);
        self.shared.news.notify_waiters();
    }
}

/// What a turn of discovery brought.
#[derive(Default)]
struct Turn {
    changed: bool,
    more: bool,
}

impl<D, U, E, M, P> Driver<D, M, P>
where
    D: Stream<Item = Result<U, E>>,
    U: Into<Update>,
    E: Into<BoxError>,
    M: Service<Target> + Clone,
    M::Response: Lend,
    M::Error: Into<BoxError>,
    P: Policy,
{
    fn poll_discover(&mut self, cx: &mut Context<'_>) -> Result<Turn, Error> {
        let (mut changed, mut taken) = (false, 0);
        while taken < BATCH {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Ok(Turn { changed, more: false });
                }
                self.pause = None;
            }
            let Some(discover) = &mut self.discover else { return Ok(Turn { changed, more: false }) };
            let polled = guarded("discovery", || discover.as_mut().poll_next(cx).map_ok(Into::into));
            let ended = match polled {
                Ok(Poll::Pending) => return Ok(Turn { changed, more: false }),
                Ok(Poll::Ready(Some(Ok(update)))) => {
                    // A whole set is as much work as its endpoints.
                    taken += if let Update::Set(endpoints) = &update { endpoints.len().max(1) } else { 1 };
                    changed |= self.update(update);
                    self.failures = 0;
                    continue;
                }
                Ok(Poll::Ready(Some(Err(error)))) => {
                    self.failed(Error::wrap(error));
                    // A stream that fails at every poll must not spin.
                    let pause = RETRY.delay(self.failures, &mut self.rng);
                    self.failures = self.failures.saturating_add(1);
                    self.pause = Some(guarded("the timer", || Box::pin(sleep(pause)))?);
                    continue;
                }
                Ok(Poll::Ready(None)) => Error::new(Kind::Closed, Phase::Pick).with_message("discovery ended"),
                Err(panicked) => panicked,
            };
            self.discover = None;
            let cause = self.shared.discovery_failure.lock().take();
            self.failed(match cause {
                Some(cause) if std::error::Error::source(&ended).is_none() => ended.with_source(cause),
                _ => ended,
            });
        }
        Ok(Turn { changed, more: true })
    }

    /// The policy does what is due, and says when it wants to be asked again.
    fn keep_up(&mut self) -> Result<(), Error> {
        self.upkeep = match self.policy.upkeep() {
            None => Upkeep::Never,
            // A policy that wants to be asked without a pause must not keep everything else from its turn.
            Some(pause) => {
                let pause = pause.max(SHORTEST_UPKEEP);
                Upkeep::At(guarded("the timer", || Box::pin(sleep(pause)))?)
            }
        };
        Ok(())
    }

    fn poll_upkeep(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while let Upkeep::At(timer) = &mut self.upkeep {
            if timer.as_mut().poll(cx).is_pending() {
                break;
            }
            self.keep_up()?;
        }
        Ok(())
    }

    /// All that there is to do now.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        // Discovery comes last: a channel that is always full takes all that a task may do at a time (tokio's `coop`), and
        // whatever asks tokio for anything after it, a timer for one, would wait for ever.
        self.poll_upkeep(cx)?;
        self.watch.poll(&self.shared, &self.set.nodes, cx)?;
        self.warm.poll(&self.set.nodes, cx);
        let was_made = self.poll_making(cx);
        let turn = self.poll_discover(cx)?;
        // New ones are mostly made as soon as they are asked for.
        let is_made = self.poll_making(cx);
        if was_made || is_made || turn.changed || self.has_nothing_to_come() {
            self.publish();
            self.warm.poll(&self.set.nodes, cx);
        }
        if turn.more {
            cx.waker().wake_by_ref();
        }
        // Where there is no timer, not before there is a set.
        if let Upkeep::Now = self.upkeep {
            self.keep_up()?;
            self.poll_upkeep(cx)?;
        }
        Ok(())
    }
}

impl<D, U, E, M, P> Future for Driver<D, M, P>
where
    D: Stream<Item = Result<U, E>>,
    U: Into<Update>,
    E: Into<BoxError>,
    M: Service<Target> + Clone,
    M::Response: Lend,
    M::Error: Into<BoxError>,
    P: Policy,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shared.levels.driver.register(cx.waker());
        if this.shared.abandoned.load(Ordering::Acquire) || this.shared.is_closed() {
            return Poll::Ready(());
        }
        match guarded("the balancer's driver", || this.turn(cx)) {
            Ok(Ok(())) => Poll::Pending,
            // Calls go on with the last set, and discovery's error says why there is nothing new.
            Ok(Err(error)) | Err(error) => {
                this.failed(error);
                Poll::Ready(())
            }
        }
    }
}

impl<D, M, P> Drop for Driver<D, M, P>
where
    M: Service<Target>,
    M::Response: Lend,
    P: Policy,
{
    fn drop(&mut self) {
        self.shared.driving.store(false, Ordering::Release);
        // Nobody is left to end what only the driver ends.
        self.shared.levels.panics.store(false, Ordering::Relaxed);
        self.set.nodes.iter().for_each(|node| node.stats().set_free());
        self.shared.news.notify_waiters();
    }
}

impl<D, M, P> fmt::Debug for Driver<D, M, P>
where
    M: Service<Target>,
    M::Response: Lend,
    P: Policy,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("endpoints", &self.set.members.len()).finish_non_exhaustive()
    }
}
