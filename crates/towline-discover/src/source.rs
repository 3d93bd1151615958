//! The one shape of discovery: a stream of whole sets.

use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::{self, StreamExt};
use tokio::sync::{mpsc, watch};
use towline_core::{BoxError, Endpoint, EndpointSet, Error, Kind, Phase, Sent};

use crate::Refresh;
use crate::adapt::{Dedup, Defaults, FallbackTo, KeepLastGood, Merge, MinInterval};

pub(crate) type BoxSets = Pin<Box<dyn Stream<Item = Result<EndpointSet, Error>> + Send>>;

/// Where endpoints come from: a stream of whole [sets](EndpointSet), to be followed by a balancer.
///
/// An item is all that there is from now on. An error is an item as well, and no end: it says that nothing new is known, and the set before it
/// stays. An empty set that is not [meant](EndpointSet::none) is an error. After an error a source yields its set again as soon as it knows that it holds, also when that has not changed. A source that
/// ends will not change any more.
///
/// Sources are made of what there is ([`fixed`](Self::fixed), [`watch`](Self::watch), [`mpsc`](Self::mpsc), any stream), by
/// [`File`](crate::File), by [`Resolving`](crate::Resolving), or from a URL by [`Schemes`](crate::Schemes). Adapters take one and
/// give one, so that they go together in any order.
///
/// For a part of the endpoints, where there are many of them and many clients, `towline_balance::Subset` goes over a source as over any
/// stream.
///
/// Nothing happens until it is polled. [`next`](futures_util::StreamExt::next) may be dropped at any time, and loses nothing. Dropping a source ends it, but for
/// a look at a file or a question to the system's resolver that has begun on a thread, and is waited for by nobody.
///
/// ```
/// use std::time::Duration;
/// use futures_util::StreamExt;
/// use towline_core::Endpoint;
/// use towline_discover::{File, Source};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let spare = Source::fixed(["10.0.0.1:7000".parse::<Endpoint>()?]);
/// let mut source = File::new("/etc/towline/endpoints")
///     .source()?
///     .keep_last_good(Duration::from_secs(600))
///     .fallback_to(spare);
///
/// assert!(source.next().await.unwrap().is_err(), "there is no such file");
/// assert_eq!(source.next().await.unwrap()?[0].key().as_str(), "10.0.0.1:7000");
/// # Ok::<(), towline_core::Error>(())
/// # }).unwrap();
/// ```
#[must_use = "sources do nothing unless they are polled"]
pub struct Source {
    sets: BoxSets,
    refresh: Refresh,
}

impl Source {
    /// This stream of sets as a source; `Vec<Endpoint>` is a set, too.
    pub fn new<S, T, E>(sets: S) -> Self
    where
        S: Stream<Item = Result<T, E>> + Send + 'static,
        T: Into<EndpointSet>,
        E: Into<BoxError>,
    {
        Self::refreshed(sets.map(|item| item.map(Into::into).map_err(Error::wrap)), Refresh::default())
    }

    /// One that looks again when it is asked to.
    pub(crate) fn refreshed(
        sets: impl Stream<Item = Result<EndpointSet, Error>> + Send + 'static,
        refresh: Refresh,
    ) -> Self {
        Self { sets: Box::pin(sets.map(believable).fuse()), refresh }
    }

    /// These endpoints, for ever. None at all means none on purpose.
    pub fn fixed(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let set: EndpointSet = endpoints.into_iter().collect();
        let set = if set.is_empty() { EndpointSet::none() } else { set };
        Self::new(stream::once(ready(Ok::<_, Error>(set))).chain(stream::pending()))
    }

    /// What this channel holds, now and whenever that changes. Ends when all senders are gone.
    pub fn watch<T>(receiver: watch::Receiver<T>) -> Self
    where
        T: Clone + Into<EndpointSet> + Send + Sync + 'static,
    {
        let sets = stream::unfold((receiver, true), async |(mut receiver, is_first)| {
            if !is_first {
                receiver.changed().await.ok()?;
            }
            let set = receiver.borrow_and_update().clone();
            Some((Ok::<_, Error>(set), (receiver, false)))
        });
        Self::new(sets)
    }

    /// What comes through this channel. Ends when all senders are gone.
    pub fn mpsc<T, E>(mut receiver: mpsc::Receiver<Result<T, E>>) -> Self
    where
        T: Into<EndpointSet> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        Self::new(stream::poll_fn(move |cx| receiver.poll_recv(cx)))
    }

    /// What asks it to look again, see [`Refresh::ask`]. Take it before the source goes into adapters that are not ours: a stream made of a source is none
    /// that can be asked, but builders take both, see [`IntoOrigin`](crate::IntoOrigin).
    #[must_use = "this does not ask by itself"]
    pub fn refresh(&self) -> Refresh {
        self.refresh.clone()
    }

    fn adapt<S>(self, adapt: impl FnOnce(BoxSets) -> S) -> Self
    where
        S: Stream<Item = Result<EndpointSet, Error>> + Send + 'static,
    {
        Self::refreshed(adapt(self.sets), self.refresh)
    }

    /// Keeps the last set while the source fails, answers with nothing or has ended, for so long; then there are
    /// [none](EndpointSet::none), until the source has a set again. A balancer keeps the last set by itself, for ever; this says when
    /// no answer is better than an old one. The time runs from the first failure after a set.
    pub fn keep_last_good(self, max_staleness: Duration) -> Self {
        self.adapt(|sets| KeepLastGood::new(sets, max_staleness))
    }

    /// At most one set in so long: of those that come sooner, the last, in its time. The first comes at once, and so do errors, each after the
    /// set that came before it.
    pub fn min_interval(self, interval: Duration) -> Self {
        self.adapt(|sets| MinInterval::new(sets, interval))
    }

    /// No set that says what the last one said, in whatever order; after an error, all.
    pub fn dedup(self) -> Self {
        self.adapt(Dedup::new)
    }

    /// What both have. Waits until each has said something. While one fails it has what it had: its error
    /// is said, and the set after it, as long as another does well. So [`keep_last_good`](Self::keep_last_good) over it judges all of them together, and under it each
    /// by itself. Where both have a key, this one's counts. Ends when both have ended.
    pub fn merge(self, other: Self) -> Self {
        Self::merge_all([self, other])
    }

    /// What all of them have, as [`merge`](Self::merge) does; where several have a key, the first counts.
    pub fn merge_all(sources: impl IntoIterator<Item = Self>) -> Self {
        let (sets, refreshes): (Vec<_>, Vec<_>) =
            sources.into_iter().map(|source| (source.sets, source.refresh)).unzip();
        let refresh = refreshes.into_iter().fold(Refresh::default(), Refresh::and);
        Self::refreshed(Merge::new(sets), refresh)
    }

    /// What `other` has while this one has none: it failed or ended before it had any, or says that there are
    /// [none](EndpointSet::none), as it does after [`keep_last_good`](Self::keep_last_good). The other is not looked at before that.
    pub fn fallback_to(self, other: Self) -> Self {
        Self::refreshed(FallbackTo::new(self.sets, other.sets), self.refresh.and(other.refresh))
    }

    /// Attributes for endpoints that have none of their own.
    pub fn with_defaults(self, defaults: Defaults) -> Self {
        self.adapt(|sets| sets.map(move |set| set.map(|set| defaults.apply(set))))
    }
}

/// An empty answer is a failure, here and for all that is put over it.
fn believable(item: Result<EndpointSet, Error>) -> Result<EndpointSet, Error> {
    match item {
        Ok(set) if set.is_empty() && !set.is_none_on_purpose() => {
            let why = "discovery answered with nothing; say EndpointSet::none() to mean it";
            Err(Error::new(Kind::NoEndpoints, Phase::Resolve).with_sent(Sent::Never).with_message(why))
        }
        item => item,
    }
}

impl Stream for Source {
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.sets.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("refresh", &self.refresh.is_heard()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{keys, set};

    #[tokio::test]
    async fn a_fixed_list_is_said_once_and_never_ends() {
        let mut source = Source::fixed(set("a:1 b:2"));
        assert_eq!(keys(source.next().await), "a:1 b:2");
        assert!(futures_util::poll!(source.next()).is_pending());
        let mut nobody = Source::fixed([]);
        assert!(nobody.next().await.unwrap().unwrap().is_none_on_purpose());
    }

    #[tokio::test]
    async fn a_watch_channel_yields_what_it_holds_and_what_it_comes_to_hold() {
        let (sender, receiver) = watch::channel(set("a:1"));
        let mut source = Source::watch(receiver);
        assert_eq!(keys(source.next().await), "a:1");
        assert!(futures_util::poll!(source.next()).is_pending());
        sender.send_replace(set("b:1"));
        sender.send_replace(set("c:1"));
        assert_eq!(keys(source.next().await), "c:1");
        drop(sender);
        assert!(source.next().await.is_none());
        assert!(source.next().await.is_none(), "and may be asked again");
    }

    #[tokio::test]
    async fn an_mpsc_channel_passes_sets_and_errors_in_order() {
        let (sender, receiver) = mpsc::channel::<Result<Vec<Endpoint>, BoxError>>(4);
        let mut source = Source::mpsc(receiver);
        sender.send(Ok(set("a:1"))).await.unwrap();
        sender.send(Err("registry is down".into())).await.unwrap();
        sender.send(Ok(set("b:1"))).await.unwrap();
        drop(sender);
        assert_eq!(keys(source.next().await), "a:1");
        assert_eq!(keys(source.next().await), "error: registry is down");
        assert_eq!(keys(source.next().await), "b:1");
        assert!(source.next().await.is_none());
    }
}
