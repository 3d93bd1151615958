//! What discovery may yield, and ways to get there from what one has.

use std::collections::HashMap;
use std::fmt;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready as ready_or_return};

use futures_core::Stream;
use tower::discover::{Change, Discover};
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{BoxError, Endpoint, EndpointKey, EndpointSet, Error, Kind, Lent, Phase, Target};

/// One item of discovery. Streams of [`Change`], of [`EndpointSet`] and of `Vec<Endpoint>` convert by themselves.
#[derive(Debug)]
#[non_exhaustive]
pub enum Update {
    /// One endpoint is added or changed, or removed by its key.
    Change(Change<EndpointKey, Endpoint>),
    /// One endpoint begins anew, though its target may be the same: it is made again, and takes the place of the one under its
    /// key when it is made. Until then that serves, if there is one.
    Renew(Endpoint),
    /// These are all endpoints, instead of any before. What is unchanged keeps its connections and statistics. Of two
    /// with one key the last counts, and that is reported as a failure of discovery. An empty list is reported as one,
    /// too, and **changes nothing**: resolvers answer with nothing when they are in trouble. To mean it, say
    /// [`Empty`](Self::Empty).
    Set(Vec<Endpoint>),
    /// There are no endpoints, on purpose: calls fail until there are.
    Empty,
}

impl From<Change<EndpointKey, Endpoint>> for Update {
    fn from(change: Change<EndpointKey, Endpoint>) -> Self {
        Self::Change(change)
    }
}

impl From<Vec<Endpoint>> for Update {
    fn from(set: Vec<Endpoint>) -> Self {
        Self::Set(set)
    }
}

impl From<EndpointSet> for Update {
    fn from(set: EndpointSet) -> Self {
        if set.is_none_on_purpose() { Self::Empty } else { Self::Set(set.into_vec()) }
    }
}

/// Discovery of any kind as a stream of [`Update`]s, boxed, with errors that are ours.
pub type Updates = Pin<Box<dyn Stream<Item = Result<Update, Error>> + Send>>;

/// This stream as [`Updates`]: for builders that are to have one type, whatever endpoints come from.
pub fn updates<U: Into<Update>, E: Into<BoxError>>(
    changes: impl Stream<Item = Result<U, E>> + Send + 'static,
) -> Updates {
    Box::pin(Converted { changes })
}

pin_project_lite::pin_project! {
    /// A stream of changes of any kind as one of updates.
    struct Converted<S> {
        #[pin]
        changes: S,
    }
}

impl<S, U, E> Stream for Converted<S>
where
    S: Stream<Item = Result<U, E>>,
    U: Into<Update>,
    E: Into<BoxError>,
{
    type Item = Result<Update, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.project().changes.poll_next(cx).map_ok(Into::into).map_err(Error::wrap)
    }
}

/// A set of endpoints that does not change: a stream of them that then stays silent.
pub fn fixed(endpoints: impl IntoIterator<Item = Endpoint>) -> Fixed {
    Fixed(Some(endpoints.into_iter().collect()))
}

/// The stream of [`fixed`].
#[derive(Debug)]
pub struct Fixed(Option<Vec<Endpoint>>);

impl Stream for Fixed {
    type Item = Result<Update, Error>;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.take() {
            Some(endpoints) if endpoints.is_empty() => Poll::Ready(Some(Ok(Update::Empty))),
            Some(endpoints) => Poll::Ready(Some(Ok(Update::Set(endpoints)))),
            None => Poll::Pending,
        }
    }
}

/// A tower [`Discover`] of `Clone` services as what [`BalanceBuilder::pair`](crate::BalanceBuilder::pair) takes: the changes,
/// and what makes endpoints of them. `endpoint` says what a key is called; no two keys may have one
/// [`Target`].
///
/// ```
/// use towline_balance::{BalanceBuilder, Change, P2c, services};
/// use towline_core::{Blind, Endpoint, Error};
/// use tower::{Service, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let echo = service_fn(|request: &'static str| async move { Ok::<_, Error>(request) });
/// let discover = futures_util::stream::iter([Ok::<_, Error>(Change::Insert("a:1", echo))]);
/// let (changes, make) = services(discover, |key: &&str| key.parse::<Endpoint>().expect("a host and a port"));
/// let (balance, driver) = BalanceBuilder::new(P2c::new()).with_access(Blind).pair(changes, make);
/// tokio::spawn(driver);
/// assert_eq!(balance.oneshot("ping").await?, "ping");
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
pub fn services<D, F>(discover: D, endpoint: F) -> (Services<D, F>, MakeService<D::Service>)
where
    D: Discover,
    D::Service: Clone,
    F: Fn(&D::Key) -> Endpoint,
{
    let known = Arc::new(Lock::new(HashMap::new()));
    (Services { discover, endpoint, known: known.clone() }, MakeService(known))
}

type Known<S> = Arc<Lock<HashMap<Target, S>>>;

pin_project_lite::pin_project! {
    /// The changes of [`services`].
    pub struct Services<D, F>
    where
        D: Discover,
    {
        #[pin]
        discover: D,
        endpoint: F,
        known: Known<D::Service>,
    }
}

impl<D, F> Stream for Services<D, F>
where
    D: Discover,
    F: Fn(&D::Key) -> Endpoint,
{
    type Item = Result<Update, D::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        let Some(change) = ready_or_return!(this.discover.poll_discover(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(change.map(|change| match change {
            Change::Insert(key, service) => {
                let endpoint = (this.endpoint)(&key);
                let replaced = this.known.lock().insert(endpoint.target().clone(), service);
                drop(replaced); // Not under the lock: it is anybody's.
                Update::Renew(endpoint)
            }
            Change::Remove(key) => {
                let endpoint = (this.endpoint)(&key);
                let removed = this.known.lock().remove(endpoint.target());
                drop(removed);
                Change::Remove(endpoint.key().clone()).into()
            }
        })))
    }
}

impl<D: Discover, F> fmt::Debug for Services<D, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// What makes endpoints of the changes of [`services`].
pub struct MakeService<S>(Known<S>);

// By hand: the services are shared.
impl<S> Clone for MakeService<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> fmt::Debug for MakeService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MakeService").finish_non_exhaustive()
    }
}

impl<S: Clone> Service<Target> for MakeService<S> {
    type Response = Lent<S>;
    type Error = Error;
    type Future = Ready<Result<Lent<S>, Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Target) -> Self::Future {
        let service = self.0.lock().get(&target).cloned();
        let gone = || {
            Error::new(Kind::Config, Phase::Build)
                .with_message(format!("two keys of discovery have the one target {target}: give each its own"))
        };
        ready(service.map(Lent::new).ok_or_else(gone))
    }
}

/// Polls what belongs to others; a panic in it is an error that says `what` panicked.
pub(crate) fn guarded<R>(what: &'static str, poll: impl FnOnce() -> R) -> Result<R, Error> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        let cause: BoxError = text.into();
        Error::new(Kind::Other, Phase::Pick).with_message(format!("{what} panicked")).with_source(cause)
    })
}
