//! Sets as changes, as tower's `Discover` has them, and changes as sets.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use tokio::time::{Sleep, sleep};
use tower::discover::Change;
use towline_core::{
    Backoff, BoxError, Endpoint, EndpointKey, EndpointSet, Error, Event, Kind, Observers, Phase, Rng, Sent,
};

use crate::Source;
use crate::adapt::BATCH;

/// Before a source that has failed is asked again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// What changes from one set to the next.
#[derive(Debug, Default)]
struct Diff {
    known: HashMap<EndpointKey, Endpoint>,
}

impl Diff {
    /// Removals before insertions. An endpoint is inserted again when anything of it has changed.
    fn to(&mut self, set: EndpointSet) -> VecDeque<Change<EndpointKey, Endpoint>> {
        let mut next: HashMap<_, _> = set.iter().map(|endpoint| (endpoint.key().clone(), endpoint.clone())).collect();
        let gone = self.known.keys().filter(|key| !next.contains_key(*key)).cloned().map(Change::Remove);
        let mut changes: VecDeque<_> = gone.collect();
        let mut told = HashSet::new();
        for endpoint in set.into_vec() {
            let key = endpoint.key();
            // Of two with one key the last counts, once.
            let counts = next.get(key) == Some(&endpoint) && self.known.get(key) != Some(&endpoint);
            if counts && told.insert(key.clone()) {
                changes.push_back(Change::Insert(key.clone(), endpoint));
            }
        }
        std::mem::swap(&mut self.known, &mut next);
        changes
    }
}

impl Source {
    /// As tower's [`Discover`](tower::discover::Discover), with a service made for each endpoint by `make`: for tower's own balancer, and
    /// whatever else takes one.
    ///
    /// An endpoint whose attributes have changed is inserted again. Failures go to `observers` as [`Event::DiscoveryFailed`] and not into
    /// the stream, since tower's balancer is done for at the first; for the same reason it never ends. An empty answer changes nothing, unless it is
    /// [meant](EndpointSet::none).
    ///
    /// ```
    /// use towline_core::{Endpoint, Observers};
    /// use towline_discover::Source;
    /// use tower::{ServiceExt, balance::p2c::Balance, service_fn};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let source = Source::fixed(["10.0.0.1:7000".parse::<Endpoint>()?]);
    /// let discover = source.into_discover(Observers::default(), |endpoint| {
    ///     let key = endpoint.key().clone();
    ///     let service = service_fn(move |_: ()| std::future::ready(Ok::<_, towline_core::Error>(key.clone())));
    ///     tower::load::Constant::new(service, 1)
    /// });
    /// let balance = Balance::new(discover);
    /// assert_eq!(balance.oneshot(()).await?.as_str(), "10.0.0.1:7000");
    /// # Ok::<(), towline_core::BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn into_discover<S>(
        self,
        observers: Observers,
        make: impl FnMut(&Endpoint) -> S + Send + 'static,
    ) -> Discovered<S> {
        Discovered {
            source: Some(self),
            diff: Diff::default(),
            changes: VecDeque::new(),
            make: Box::new(make),
            observers,
            failures: 0,
            pause: None,
            rng: Rng::new(),
        }
    }

    /// What these changes add up to, said after each that is followed by no other at once.
    ///
    /// Nothing is known before the first change; when the last endpoint was removed, there are [none](EndpointSet::none) on purpose.
    ///
    /// ```
    /// use futures_util::StreamExt;
    /// use towline_core::{Endpoint, Error};
    /// use towline_discover::Source;
    /// use tower::discover::Change;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let insert = |text: &str| text.parse::<Endpoint>().map(|endpoint| Change::Insert(endpoint.key().clone(), endpoint));
    /// let changes = futures_util::stream::iter([insert("a:1"), insert("b:1"), Ok(Change::Remove("a:1".into()))]);
    /// let mut source = Source::accumulate(changes);
    /// assert_eq!(source.next().await.unwrap()?[0].key().as_str(), "b:1");
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn accumulate<E: Into<BoxError>>(
        changes: impl Stream<Item = Result<Change<EndpointKey, Endpoint>, E>> + Send + 'static,
    ) -> Self {
        let changes = changes.map(|change| change.map_err(Error::wrap));
        Self::new(Accumulate {
            changes: Some(Box::pin(changes)),
            known: BTreeMap::new(),
            places: HashMap::new(),
            next: 0,
            is_new: false,
            error: None,
        })
    }
}

/// A [`Source`] as tower's `Discover`; see [`Source::into_discover`].
pub struct Discovered<S> {
    /// Until it has ended.
    source: Option<Source>,
    diff: Diff,
    changes: VecDeque<Change<EndpointKey, Endpoint>>,
    make: Box<dyn FnMut(&Endpoint) -> S + Send>,
    observers: Observers,
    /// The source has failed so often in a row, and is asked again after this.
    failures: u32,
    pause: Option<Pin<Box<Sleep>>>,
    rng: Rng,
}

impl<S> Stream for Discovered<S> {
    type Item = Result<Change<EndpointKey, S>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(change) = this.changes.pop_front() {
                return Poll::Ready(Some(Ok(match change {
                    Change::Insert(key, endpoint) => Change::Insert(key, (this.make)(&endpoint)),
                    Change::Remove(key) => Change::Remove(key),
                })));
            }
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            let Some(source) = &mut this.source else { return Poll::Pending };
            let error = match ready!(source.poll_next_unpin(cx)) {
                Some(Ok(set)) => {
                    this.failures = 0;
                    this.changes = this.diff.to(set);
                    continue;
                }
                Some(Err(error)) => {
                    // One that fails at every poll must not spin.
                    this.pause = Some(Box::pin(sleep(RETRY.delay(this.failures, &mut this.rng))));
                    this.failures = this.failures.saturating_add(1);
                    error
                }
                None => {
                    this.source = None;
                    Error::new(Kind::Closed, Phase::Resolve).with_sent(Sent::Never).with_message("discovery ended")
                }
            };
            this.observers.emit(Event::DiscoveryFailed { error: &error });
        }
    }
}

// Nothing is pinned but what is in boxes.
impl<S> Unpin for Discovered<S> {}

impl<S> fmt::Debug for Discovered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovered").field("endpoints", &self.diff.known.len()).finish_non_exhaustive()
    }
}

struct Accumulate<S> {
    /// Until they have ended.
    changes: Option<Pin<Box<S>>>,
    /// In the order in which they came, and by key.
    known: BTreeMap<u64, Endpoint>,
    places: HashMap<EndpointKey, u64>,
    next: u64,
    is_new: bool,
    /// To be said after what came before it.
    error: Option<Error>,
}

impl<S> Accumulate<S> {
    fn take(&mut self, change: Change<EndpointKey, Endpoint>) {
        match change {
            Change::Insert(key, endpoint) => {
                let place = *self.places.entry(key.clone()).or_insert_with(|| {
                    self.next += 1;
                    self.next
                });
                self.known.insert(place, endpoint.with_key(key));
            }
            Change::Remove(key) => {
                let Some(place) = self.places.remove(&key) else { return };
                self.known.remove(&place);
            }
        }
        self.is_new = true;
    }

    fn set(&self) -> EndpointSet {
        if self.known.is_empty() { EndpointSet::none() } else { self.known.values().cloned().collect() }
    }
}

impl<S> Stream for Accumulate<S>
where
    S: Stream<Item = Result<Change<EndpointKey, Endpoint>, Error>>,
{
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        for taken in 0.. {
            let (Some(changes), None) = (&mut this.changes, &this.error) else { break };
            if taken == BATCH {
                cx.waker().wake_by_ref();
                break;
            }
            match changes.as_mut().poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(change))) => this.take(change),
                Poll::Ready(Some(Err(error))) => this.error = Some(error),
                Poll::Ready(None) => this.changes = None,
            }
        }
        if std::mem::take(&mut this.is_new) {
            return Poll::Ready(Some(Ok(this.set())));
        }
        match this.error.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None if this.changes.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use towline_core::{Observer, Weight};

    use super::*;
    use crate::testing::{Script, all, set};

    #[derive(Clone, Default)]
    struct Failures(Arc<Mutex<Vec<String>>>);

    impl Observer for Failures {
        fn on(&self, event: &Event<'_>) {
            if let Event::DiscoveryFailed { error } = event {
                self.0.lock().unwrap().push(error.to_string());
            }
        }
    }

    // F20, for those who balance with tower: what stays is not touched.
    #[tokio::test(start_paused = true)]
    async fn only_what_changed_is_told_and_failures_are_no_end() {
        let heavy = set("b:1").remove(0).with_weight(Weight::new(2.0).unwrap());
        let script = Script::new().set("a:1 b:1").err("down").set("b:1 a:1").set("").ok(vec![heavy]).none();
        let failures = Failures::default();
        let mut discover =
            script.source().0.into_discover(Observers::new(failures.clone()), |endpoint| endpoint.weight().get());
        let mut told = Vec::new();
        let patience = Duration::from_secs(10);
        while let Ok(Some(Ok(change))) = tokio::time::timeout(patience, discover.next()).await {
            told.push(match change {
                Change::Insert(key, weight) => format!("+{key}×{weight}"),
                Change::Remove(key) => format!("-{key}"),
            });
        }
        assert_eq!(told, ["+a:1×1", "+b:1×1", "-a:1", "+b:1×2", "-b:1"]);
        assert_eq!(failures.0.lock().unwrap().len(), 3, "down, an empty answer, and the end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_fails_at_every_poll_does_not_spin() {
        let failures = Failures::default();
        let source = Source::new(futures_util::stream::repeat_with(|| Err::<Vec<_>, _>("down")));
        let mut discover = source.into_discover(Observers::new(failures.clone()), |_| ());
        tokio::time::timeout(Duration::from_secs(10), discover.next()).await.unwrap_err();
        assert!(failures.0.lock().unwrap().len() < 60);
    }

    #[tokio::test]
    async fn equal_endpoints_are_told_once() {
        let mut discover = Source::fixed(set("a:1 a:1 b:1")).into_discover(Observers::default(), |_| ());
        let mut told = 0;
        while futures_util::poll!(discover.next()).is_ready() {
            told += 1;
        }
        assert_eq!(told, 2);
    }

    #[tokio::test]
    async fn changes_add_up_to_sets() {
        let insert = |text: &str| Ok(Change::Insert(text.into(), text.parse::<Endpoint>().unwrap()));
        let remove = |text: &str| Ok(Change::Remove(text.into()));
        let changes = [insert("a:1"), insert("b:1"), Err("x"), remove("c:1"), remove("a:1"), Err("y"), remove("b:1")];
        let said = all(Source::accumulate(futures_util::stream::iter(changes))).await;
        assert_eq!(said, ["0 a:1 b:1", "0 error: x", "0 b:1", "0 error: y", "0 none"]);
    }
}
