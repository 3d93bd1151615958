//! What a pool needs of a connection.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tower_service::Service;

use crate::{Error, LoadReport};

/// How many calls a connection carries at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One; the pool lends the connection itself.
    Exclusive,
    /// Up to `limit`; the pool lends what [`Poolable::share`] returns.
    Shared {
        /// The most calls in flight; 0 while it takes none.
        limit: usize,
    },
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing; it can take a call.
    Idle,
    /// A call is in flight, or its response is still being read.
    Busy,
    /// It finishes what is in flight and takes nothing new. An exclusive connection that says so when it comes back is
    /// closed.
    Draining,
    /// It is of no further use.
    Closed,
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed or reset it.
    Peer,
    /// It failed, or the peer broke the protocol.
    Failed,
    /// The peer said after the handshake that it does not accept us, as it may with TLS 1.3.
    Untrusted,
    /// Bytes came without being asked for.
    Stray,
    /// A call was dropped between its first byte and the end of its response.
    Dirty,
    /// The peer asked for no more calls.
    Drained,
    /// The peer stopped reading, answered no ping, or let one call after another time out.
    Unresponsive,
    /// It was idle for too long.
    IdleTimeout,
    /// It was old.
    Lifetime,
    /// It had carried as many calls as one connection may.
    MaxCalls,
    /// For a while there were more idle connections than anybody needed.
    Surplus,
    /// A health check failed, or took too long.
    Unhealthy,
    /// Whoever used it said that it is of no further use.
    Poisoned,
    /// It was evicted: its endpoint is not wanted any more, or another needed its place in the pool.
    Evicted,
    /// The pool was closed, or its last handle dropped.
    Shutdown,
}

impl CloseReason {
    /// All there are.
    pub const ALL: [Self; 15] = [
        Self::Peer,
        Self::Failed,
        Self::Untrusted,
        Self::Stray,
        Self::Dirty,
        Self::Drained,
        Self::Unresponsive,
        Self::IdleTimeout,
        Self::Lifetime,
        Self::MaxCalls,
        Self::Surplus,
        Self::Unhealthy,
        Self::Poisoned,
        Self::Evicted,
        Self::Shutdown,
    ];

    /// The reason as one word, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Failed => "failed",
            Self::Untrusted => "untrusted",
            Self::Stray => "stray",
            Self::Dirty => "dirty",
            Self::Drained => "drained",
            Self::Unresponsive => "unresponsive",
            Self::IdleTimeout => "idle_timeout",
            Self::Lifetime => "lifetime",
            Self::MaxCalls => "max_calls",
            Self::Surplus => "surplus",
            Self::Unhealthy => "unhealthy",
            Self::Poisoned => "poisoned",
            Self::Evicted => "evicted",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One connection of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// An id that no other connection of this process has or had.
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Never 0.
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    pub(crate) fn from_number(number: u64) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A connection that a pool can keep. It knows no request type: what it serves is its `Service` implementation's
/// business.
///
/// ```
/// use std::task::{Context, Poll};
/// use towline_core::{Poolable, Sharing, State};
///
/// /// A connection that nobody can see the state of.
/// struct Wire { broken: bool }
///
/// impl Poolable for Wire {
///     fn sharing(&self) -> Sharing {
///         Sharing::Exclusive
///     }
///     fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
///         match (self.broken, seen) {
///             (true, _) => Poll::Ready(State::Closed),
///             (false, State::Idle) => Poll::Pending,
///             (false, _) => Poll::Ready(State::Idle),
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the pool cannot keep a `{Self}`",
    note = "implement `Poolable`, or wrap a service in `Unwatched`: aged, but not watched"
)]
pub trait Poolable: Send + 'static {
    /// How many calls this connection carries at once. Asked when it is new, and again whenever a call on a shared one
    /// ends: its limit may change, not whether it is shared.
    fn sharing(&self) -> Sharing;

    /// Resolves with the state as soon as it differs from `seen`. A connection that is `Idle` goes on watching its
    /// peer: FIN, RST and bytes that nobody asked for make it `Closed` and wake the task.
    ///
    /// Of a [shared](Sharing::Shared) connection the pool asks one handle, and counts the calls itself: there,
    /// changes between `Idle` and `Busy` may come without a wake-up. A limit that has risen wakes the task too, though the
    /// state is the same: somebody may wait for it.
    ///
    /// Does not block. Like all methods of this trait it is called under the pool's lock; only
    /// [`abort`](Self::abort) is not.
    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State>;

    /// Another handle to the same connection, when it is [`Sharing::Shared`].
    fn share(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Gives memory back that only a busy connection needs. The pool asks an exclusive connection for it once it has been
    /// idle for two seconds.
    fn trim(&mut self) {}

    /// Ends the connection with what is under way on it, which fails: the pool is closed, and its time is over.
    ///
    /// Asked of a [`Sharing::Shared`] connection with its calls, and of an exclusive one that came back and whose response
    /// is still being read. (A call on an exclusive connection is ended by dropping it.)
    fn abort(&mut self) {}

    /// Why it is `Draining` or `Closed`, once it is.
    fn close_reason(&self) -> CloseReason {
        CloseReason::Failed
    }

    /// What the server last said about itself, if it says so on this connection. Asked after a call, without the pool's
    /// lock, and only if somebody wants to know.
    fn reported(&self) -> Option<LoadReport> {
        None
    }
}

/// Lets any service into a pool as an exclusive connection: aged like every other, but not watched, because a
/// plain service cannot tell that its peer is gone before it is used.
///
/// A call that fails, or is dropped before it ends, takes the connection with it.
#[derive(Debug)]
pub struct Unwatched<S> {
    inner: S,
    life: Arc<Life>,
}

/// What is known of the connection; shared with its calls' futures.
#[derive(Debug, Default)]
struct Life {
    /// Calls that are not finished.
    calls: AtomicUsize,
    /// One was dropped before it finished. That is never made good: its answer may still come.
    dirty: AtomicBool,
    failed: AtomicBool,
}

impl<S> Unwatched<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, life: Arc::default() }
    }
}

impl<S: Send + 'static> Poolable for Unwatched<S> {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        let Life { calls, dirty, failed } = &*self.life;
        // A call that is left unfinished would be found out too late.
        let unfinished = calls.load(Ordering::Acquire) > 0;
        match (unfinished || dirty.load(Ordering::Acquire) || failed.load(Ordering::Acquire), seen) {
            (true, _) => Poll::Ready(State::Closed),
            (false, State::Idle) => Poll::Pending,
            (false, _) => Poll::Ready(State::Idle),
        }
    }

    fn close_reason(&self) -> CloseReason {
        if self.life.failed.load(Ordering::Acquire) { CloseReason::Failed } else { CloseReason::Dirty }
    }
}

impl<S, Req> Service<Req> for Unwatched<S>
where
    S: Service<Req>,
    S::Error: Into<crate::BoxError>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = UnwatchedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let ready = self.inner.poll_ready(cx).map_err(|error| Error::wrap(error).with_sent(crate::Sent::Never));
        if let Poll::Ready(Err(_)) = &ready {
            self.life.failed.store(true, Ordering::Release);
        }
        ready
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.life.calls.fetch_add(1, Ordering::AcqRel);
        UnwatchedFuture { call: Unfinished(Some(self.life.clone())), inner: self.inner.call(request) }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`Unwatched`].
    #[derive(Debug)]
    pub struct UnwatchedFuture<F> {
        call: Unfinished,
        #[pin]
        inner: F,
    }
}

/// A call that makes its connection dirty when it is dropped.
#[derive(Debug)]
struct Unfinished(Option<Arc<Life>>);

impl Unfinished {
    fn finish(&mut self, failed: bool) {
        if let Some(life) = self.0.take() {
            life.failed.fetch_or(failed, Ordering::AcqRel);
            life.calls.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(life) = &self.0 {
            life.dirty.store(true, Ordering::Release);
        }
    }
}

impl<F, T, E> Future for UnwatchedFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<crate::BoxError>,
{
    type Output = Result<T, Error>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = std::task::ready!(this.inner.poll(cx)).map_err(Error::wrap);
        this.call.finish(result.is_err());
        Poll::Ready(result)
    }
}
