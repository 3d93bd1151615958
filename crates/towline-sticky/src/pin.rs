//! Sessions that keep to one connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;
use towline_core::{Access, BoxError, CallContext, Carried, ConnectionPin, Error, Kind, Phase, SessionKey};

use crate::StickyStats;
use crate::clock::Clock;
use crate::kept::Kept;
use crate::sessions::{config, session};

/// Which connection each session is pinned to. Clones share it: give one to [`PinLayer`], and keep one to
/// [`end`](Self::end) sessions.
///
/// - A session **keeps its pin** until it is ended, or has had no call for the idle time, up to a sixteenth longer. When the
///   connection is gone meanwhile its calls fail with [`Kind::PinLost`]: what the server kept is lost, and only the caller
///   knows what that means. It ends the session and begins again.
/// - **When there is no room**, a new session is refused with [`Kind::Overloaded`]. Nobody is evicted: a session that lost its pin
///   would silently go on with another connection.
/// - An entry takes 50 to 100 bytes, however long the key is, and holds no connection open.
/// - Calls drop what has been idle for too long, two for each new session; [`sweep`](Self::sweep) drops it without calls.
///
/// ```
/// use std::time::Duration;
/// use towline_core::SessionKey;
/// use towline_sticky::{Pins, StickyStats};
///
/// let pins = Pins::new(1_000, Duration::from_secs(600), StickyStats::new())?;
/// assert!(!pins.end(&SessionKey::new("alice")), "there is no such session");
/// assert!(Pins::new(0, Duration::from_secs(600), StickyStats::new()).is_err());
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Pins(Arc<Kept<ConnectionPin>>);

const CAPACITY: usize = 10_000;
const IDLE: Duration = Duration::from_secs(30 * 60);

impl Pins {
    /// Room for `capacity` sessions that may be idle for so long; their number, and those that expire, are counted into `stats`.
    /// By default 10,000, for 30 minutes.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] for a capacity or a time of zero.
    pub fn new(capacity: usize, idle: Duration, stats: StickyStats) -> Result<Self, Error> {
        if capacity == 0 {
            return Err(config(
                "pins have room for one session at least: give them a capacity, or leave the layer out",
            ));
        }
        if idle.is_zero() {
            return Err(config("a session that may not be idle has no second call: give pins a longer idle time"));
        }
        Ok(Self(Arc::new(Kept::new(capacity, Clock::new(idle), stats))))
    }

    /// Forgets the pin of a session; whether it had one. The session's next call goes by any connection, and is pinned to that.
    pub fn end(&self, session: &SessionKey) -> bool {
        self.0.remove(self.0.id(session, 0))
    }

    /// Drops some sessions that have been idle for too long, 4,096 at most; whether there may be more.
    pub fn sweep(&self) -> bool {
        self.0.sweep()
    }

    /// What sessions are counted into.
    pub fn stats(&self) -> &StickyStats {
        self.0.stats()
    }

    fn of(&self, session: &SessionKey) -> Result<ConnectionPin, Error> {
        self.0.get_or_add(self.0.id(session, 0), ConnectionPin::new).ok_or_else(|| {
            Error::new(Kind::Overloaded, Phase::Pick)
                .with_message("as many sessions are pinned as may be: end those that are over, or raise the capacity")
        })
    }
}

impl Default for Pins {
    fn default() -> Self {
        Self(Arc::new(Kept::new(CAPACITY, Clock::new(IDLE), StickyStats::new())))
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").field("entries", &self.stats().counts().entries).finish_non_exhaustive()
    }
}

/// Pins all calls of a session to one connection, for servers that keep state per connection. See [`Pinned`].
///
/// Where there are several endpoints the policy has to keep sessions too, best [strictly](crate::WhenHomeFails::Strict): the
/// connection is at one of them.
///
/// ```
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use towline_core::{Call, Error, SessionKey};
/// use towline_sticky::{PinLayer, Pins};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let pins = Pins::default();
/// let service = ServiceBuilder::new()
///     .layer(PinLayer::by(pins.clone(), |call: &Call<&'static str>| Some(SessionKey::new(call.message()))))
///     .service(service_fn(|call: Call<&'static str>| async move { Ok::<_, Error>(call.context().pin().is_some()) }));
/// assert!(service.clone().oneshot(Call::new("alice")).await?);
/// assert!(pins.end(&SessionKey::new("alice")));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct PinLayer<F, A = Carried> {
    pins: Pins,
    who: F,
    access: A,
}

impl<F> PinLayer<F> {
    /// Asks `who` for the session of a request; `None` means that any connection will do, and so does an empty key, which is
    /// counted.
    pub fn by<Req>(pins: Pins, who: F) -> Self
    where
        F: Fn(&Req) -> Option<SessionKey>,
    {
        Self { pins, who, access: Carried }
    }
}

impl<F, A> PinLayer<F, A> {
    /// Reaches the context through `access`.
    pub fn with_access<B>(self, access: B) -> PinLayer<F, B> {
        PinLayer { pins: self.pins, who: self.who, access }
    }
}

impl<F, A> fmt::Debug for PinLayer<F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinLayer").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl<S, F: Clone, A: Clone> Layer<S> for PinLayer<F, A> {
    type Service = Pinned<S, F, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Pinned { inner, layer: self.clone() }
    }
}

/// A service whose calls carry the pin of their session, and the session's key unless the caller has set one. A pin that the
/// caller has set stays.
///
/// # Errors
///
/// [`Kind::Overloaded`] when there is no room for a new session, before anything is sent; else the inner error, wrapped unless it
/// is an [`Error`]. Readiness and cancellation are those of the inner service. Clones share the pins.
// Holds no readiness of its own, so a derived Clone is right: the clone is as ready as the inner one's.
#[derive(Clone)]
pub struct Pinned<S, F, A = Carried> {
    inner: S,
    layer: PinLayer<F, A>,
}

impl<S: fmt::Debug, F, A> fmt::Debug for Pinned<S, F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

impl<S, F, A, Req> Service<Req> for Pinned<S, F, A>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    F: Fn(&Req) -> Option<SessionKey>,
    A: Access<Req>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = PinnedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::wrap)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let PinLayer { pins, who, access } = &self.layer;
        let context = access.get(&request);
        if context.and_then(CallContext::pin).is_none() {
            match who(&request) {
                Some(key) if key.as_bytes().is_empty() => pins.stats().empty_key(),
                None => {}
                Some(key) => {
                    let pin = match pins.of(&key) {
                        Ok(pin) => pin,
                        Err(error) => return PinnedFuture { state: State::Refused { error: Some(error) } },
                    };
                    let has_session = session(context).is_some();
                    access.edit(&mut request, |context| {
                        context.set_pin(Some(pin));
                        if !has_session {
                            context.set_session(Some(key));
                        }
                    });
                }
            }
        }
        PinnedFuture { state: State::Calling { future: self.inner.call(request) } }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`Pinned`].
    pub struct PinnedFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<F> {
        Calling { #[pin] future: F },
        Refused { error: Option<Error> },
    }
}

impl<F, Res, E> Future for PinnedFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Calling { future } => future.poll(cx).map_err(Error::wrap),
            StateProj::Refused { error } => Poll::Ready(Err(error.take().expect("polled after completion"))),
        }
    }
}

impl<F> fmt::Debug for PinnedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedFuture").finish_non_exhaustive()
    }
}
