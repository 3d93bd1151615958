//! Many calls at once over one connection.
//!
//! Callers put their requests into a [table](table) and wait there. An [engine](engine) moves all queued requests into
//! one write, reads answers, and wakes each caller with its own; a [dialect](dialect) knows how answers find their
//! requests. The engine is run by one task per connection, the [driver](driver), or by a caller who is alone, see
//! [link](link). A caller who leaves takes its request along if that is still queued; if it was sent, the entry is
//! freed at once and the late answer finds nobody and is counted.

mod config;
mod dialect;
mod driver;
mod engine;
mod future;
mod id;
mod layer;
mod link;
mod pings;
mod table;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;
use towline_core::{BoxError, CloseReason, LoadReport, Poolable, Rejected, Sharing, State};

pub use self::config::SharedConfig;
use self::dialect::{ById, InOrder};
pub(crate) use self::dialect::{Dialect, Heard, unencodable};
use self::driver::Driver;
use self::engine::{Engine, SharedLink};
pub use self::future::SharedFuture;
pub(crate) use self::id::Id;
pub use self::layer::{Correlated, MakeShared, MultiplexedLayer, Ordered, PipelinedLayer, SharedLayer, WithHeader};
use self::link::Link;
use self::table::Table;
use crate::{Correlate, ServerLoad, wire};

/// A connection that carries many calls at once. Made by [`MultiplexedLayer`](crate::MultiplexedLayer),
/// [`PipelinedLayer`](crate::PipelinedLayer) and [`HeaderLayer`](crate::HeaderLayer).
///
/// Clones share the connection; it closes, after what is in flight, when the last is dropped. Dropping a call's
/// future leaves the connection as it is: the request leaves the queue, or its answer is discarded when it comes.
///
/// # Errors
///
/// [`Rejected`] with the request when it was not sent, unless the codec had taken it already: over the limit of calls in flight, on a connection that is closed
/// or [draining](State::Draining), or while it was still queued when the connection ended. Else without it, and with
/// the connection's own error: every caller sees what really happened. [`Sent::Never`](towline_core::Sent::Never) means
/// that no byte of the request was offered to the stream.
pub struct Shared<Req, Res> {
    users: Arc<Users<Req, Res>>,
}

/// What handles and calls hold: the connection is open as long as one of them is there.
struct Users<Req, Res>(Arc<Owned<Req, Res>>);

impl<Req, Res> std::ops::Deref for Users<Req, Res> {
    type Target = SharedLink<Req, Res>;

    fn deref(&self) -> &Self::Target {
        &self.0.link
    }
}

impl<Req, Res> Drop for Users<Req, Res> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// What users and the driver hold.
struct Owned<Req, Res, E: ?Sized = dyn engine::Run<Req, Res>> {
    /// Nobody wants it any more: the last of the [`Users`] is gone, or it was aborted.
    abandoned: AtomicBool,
    /// The table takes no more calls.
    shut: Arc<AtomicBool>,
    limit: usize,
    _calls: std::marker::PhantomData<fn(Req) -> Res>,
    link: Link<Table<Req, Res>, E>,
}

impl<Req, Res> Owned<Req, Res> {
    /// The driver ends the connection.
    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.link.wake();
    }
}

impl<Req, Res> Shared<Req, Res>
where
    Req: Send + 'static,
    Res: Send + 'static,
{
    /// A connection over `io` whose answers come in the order of requests, and its driver, which must be polled for
    /// anything to happen and ends after the last handle is dropped. It relies on the server, see
    /// [`PipelinedLayer`].
    ///
    /// ```
    /// use bytes::Bytes;
    /// use tower::{Service, service_fn};
    /// use towline_codec::FrameCodec;
    /// use towline_transport::{Shared, SharedConfig, serve_connection};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let (ours, theirs) = tokio::io::duplex(1024);
    /// let echo = service_fn(|request: Bytes| async move { Ok::<_, std::io::Error>(request) });
    /// tokio::spawn(serve_connection(theirs, FrameCodec::default(), echo, 1)); // one at a time: in order
    ///
    /// let (mut connection, driver) = Shared::pipelined(ours, FrameCodec::default(), SharedConfig::default());
    /// tokio::spawn(driver);
    /// let (a, b) = tokio::join!(connection.call(Bytes::from("a")), connection.clone().call(Bytes::from("b")));
    /// assert_eq!((a.unwrap(), b.unwrap()), (Bytes::from("a"), Bytes::from("b")));
    /// # });
    /// ```
    pub fn pipelined<Io, C>(io: Io, codec: C, config: SharedConfig) -> (Self, impl Future<Output = ()> + Send)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        C: Encoder<Req> + Decoder<Item = Res> + Send + 'static,
        <C as Encoder<Req>>::Error: Into<BoxError>,
        <C as Decoder>::Error: Into<BoxError>,
    {
        Self::pair(io, codec, InOrder::new(config.in_flight), config)
    }

    /// A connection over `io` whose answers carry an id that `correlate` finds, and its driver, which must be polled for
    /// anything to happen and ends after the last handle is dropped.
    pub fn multiplexed<Io, C, K>(
        io: Io,
        codec: C,
        correlate: K,
        config: SharedConfig,
    ) -> (Self, impl Future<Output = ()> + Send)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        C: Encoder<Req> + Decoder<Item = Res> + Send + 'static,
        <C as Encoder<Req>>::Error: Into<BoxError>,
        <C as Decoder>::Error: Into<BoxError>,
        K: Correlate<Req, Res>,
    {
        Self::pair(io, codec, ById::new(correlate, config.in_flight), config)
    }

    pub(crate) fn pair<Io, C, D>(
        io: Io,
        codec: C,
        dialect: D,
        config: SharedConfig,
    ) -> (Self, impl Future<Output = ()> + Send + use<Io, C, D, Req, Res>)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        C: Send + 'static,
        D: Dialect<C, Req, Response = Res>,
    {
        let table = Table::new(config.in_flight, config.retire, D::TELLS_OF_CANCELS);
        let engine = Engine::new(io, codec, dialect, &config, table.shut());
        let owned: Arc<Owned<Req, Res>> = Arc::new(Owned {
            abandoned: AtomicBool::new(false),
            shut: table.shut(),
            limit: config.in_flight,
            _calls: std::marker::PhantomData,
            link: Link::new(table, engine),
        });
        let users = Arc::new(Users(owned.clone()));
        (Self { users }, Driver::new(owned, config.shutdown_timeout))
    }
}

impl<Req, Res> Shared<Req, Res> {
    /// How many answers came that nobody waited for: late ones, duplicates, unknown ids.
    pub fn discarded(&self) -> u64 {
        self.users.table().discarded()
    }

    /// How many calls are in flight.
    pub fn in_flight(&self) -> usize {
        self.users.table().in_flight()
    }

    /// What the server last said of its load; `None` without a [frame header](crate::HeaderLayer).
    pub fn load(&self) -> Option<ServerLoad> {
        self.users.table().load()
    }
}

// By hand, so that messages need not be Clone.
impl<Req, Res> Clone for Shared<Req, Res> {
    fn clone(&self) -> Self {
        Self { users: self.users.clone() }
    }
}

impl<Req, Res> fmt::Debug for Shared<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("in_flight", &self.in_flight())
            .field("limit", &self.users.0.limit)
            .finish_non_exhaustive()
    }
}

impl<Req: Send + 'static, Res: Send + 'static> Poolable for Shared<Req, Res> {
    fn sharing(&self) -> Sharing {
        Sharing::Shared { limit: self.users.0.limit }
    }

    /// Only the task that asked last is woken, when the connection drains or closes: the pool asks one handle of each
    /// connection, and knows its calls.
    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        let (change, _old) = self.users.table().poll_change(seen, cx);
        change
    }

    fn share(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn abort(&mut self) {
        self.users.0.abandon();
    }

    fn reported(&self) -> Option<LoadReport> {
        let in_flight = self.load()?.in_flight?;
        Some(LoadReport { in_flight, latency: Duration::ZERO })
    }

    fn close_reason(&self) -> CloseReason {
        self.users.table().close_reason().unwrap_or(CloseReason::Failed)
    }
}

impl<Req, Res> Service<Req> for Shared<Req, Res> {
    type Response = Res;
    type Error = Rejected<Req>;
    type Future = SharedFuture<Req, Res>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if !self.users.0.shut.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let reason = self.users.table().close_reason().unwrap_or(CloseReason::Failed);
        Poll::Ready(Err(wire::already_closed(reason).into()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        SharedFuture::new(self.users.clone(), request)
    }
}
