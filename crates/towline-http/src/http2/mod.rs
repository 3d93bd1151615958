//! HTTP/2 connections: as many calls at once as the peer allows.

mod config;
mod driver;
mod future;
mod layer;
mod link;
mod tied;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Body;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tower_service::Service;
use towline_core::{BoxError, CloseReason, Error, Executor, Kind, Phase, Poolable, Rejected, Sharing, State, progress};

pub use self::config::Http2Config;
use self::driver::{Driver, Spawner};
pub use self::future::Http2Future;
pub use self::layer::{Http2Layer, MakeHttp2};
use self::link::Link;
pub(crate) use self::tied::Place;
use self::tied::Tied;
use crate::ResponseBody;
use crate::error::{already_closed, handshake_failed};

/// An HTTP/2 connection, which carries many calls at once. Made by [`Http2Layer`].
///
/// Clones share the connection; it closes, after what is in flight and its bodies, when the last is dropped. Dropping a
/// call or a [body](ResponseBody) resets its stream, and the connection goes on.
///
/// The peer says how many calls it allows, now and later, and [`sharing`](Poolable::sharing) follows, up to
/// [`Http2Config::max_streams`]. A stream is taken until its body was read, so responses that are being read lower what
/// `sharing` says. A call that finds every stream taken waits for one, first come, first served, and is still unsent.
///
/// After a GOAWAY the connection is [`Draining`](State::Draining): calls that the peer takes finish, those that wait for
/// a stream come back, and it is closed after the last.
///
/// Requests go out as they are: their URI tells scheme and authority. Tunnels (CONNECT) do not count as calls, and end with
/// the connection.
///
/// Everything of hyper's runs in one task, which ends with the connection. The goodbye takes one second at most.
///
/// # Errors
///
/// [`Rejected`] with the request while it waits for a stream, or when hyper had not taken it, and the connection ends;
/// [`Kind::Overloaded`] when as many calls wait as the connection may carry. Else without it:
/// [`Sent::Never`](towline_core::Sent::Never) when the peer says that it has not processed it (REFUSED_STREAM, or GOAWAY
/// for calls that came too late), though then hyper has used the request up. [`Kind::Server`] when the peer reset the stream,
/// [`Kind::Timeout`] when a ping was not answered, [`Kind::UnexpectedEof`] and [`Kind::Io`] when the stream below ended,
/// [`Kind::Malformed`] when what came is not HTTP/2, [`Kind::RequestBody`] when the request's body failed.
///
/// hyper does not say whether it has written what it was given. A call that is dropped from then on may have been sent, and
/// so may one that fails in any other way.
///
/// # Why it closed
///
/// [`CloseReason::Drained`] after a GOAWAY without an error, [`Peer`](CloseReason::Peer) after FIN or RST,
/// [`Unresponsive`](CloseReason::Unresponsive) after an unanswered ping, else [`Failed`](CloseReason::Failed).
pub struct Http2<B> {
    sender: SendRequest<Tied<B>>,
    link: Arc<Link>,
}

impl<B> Http2<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// A connection over `io`, with its task on `executor`, once the peer has sent its SETTINGS.
    ///
    /// # Errors
    ///
    /// In [`Phase::Handshake`]: [`Kind::Timeout`] when no SETTINGS came in time, [`Kind::Malformed`] when something else
    /// did, [`Kind::UnexpectedEof`] and [`Kind::Io`] when the stream ended. [`Kind::Runtime`] when the executor does not take
    /// the task.
    pub async fn handshake<Io>(io: Io, config: Http2Config, executor: &dyn Executor) -> Result<Self, Error>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        progress::enter(Phase::Handshake);
        let link = Arc::new(Link::new(config.max_streams));
        let spawner = Spawner::default();
        let mut settings = Builder::new(spawner.clone());
        settings.timer(TokioTimer::new());
        config.apply(&mut settings);
        let handshake = async {
            let (sender, dispatch) = settings.handshake(TokioIo::new(io)).await.map_err(handshake_failed)?;
            let mut driver = Driver::new(dispatch, spawner, link.clone(), config.max_streams);
            poll_fn(|cx| driver.poll_settings(cx)).await.map_err(|cause| match cause {
                Some(error) => handshake_failed(error),
                None => Error::new(Kind::Closed, Phase::Handshake).with_message("the peer went away at once"),
            })?;
            Ok::<_, Error>((sender, driver))
        };
        let (sender, driver) = timeout(config.handshake_timeout, handshake).await.map_err(|_elapsed| {
            let limit = config.handshake_timeout.as_millis();
            Error::new(Kind::Timeout, Phase::Handshake)
                .with_message(format!("the peer sent no SETTINGS within {limit} ms (does it speak HTTP/2?)"))
        })??;
        executor.spawn(Box::pin(driver))?;
        Ok(Self { sender, link })
    }
}

// By hand, so that bodies need not be Clone.
impl<B> Clone for Http2<B> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), link: self.link.clone() }
    }
}

impl<B> fmt::Debug for Http2<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2")
            .field("state", &self.link.state())
            .field("limit", &self.link.limit())
            .finish_non_exhaustive()
    }
}

impl<B: Send + 'static> Poolable for Http2<B> {
    fn sharing(&self) -> Sharing {
        Sharing::Shared { limit: self.link.limit() }
    }

    /// Wakes when the connection drains or closes, and when there is room where there was none: who counts its calls knows whether it
    /// is idle. Only the task that asked last is woken: the pool asks one handle of each connection.
    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        self.link.poll_change(seen, cx)
    }

    fn share(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn abort(&mut self) {
        self.link.abort();
    }

    fn close_reason(&self) -> CloseReason {
        self.link.over().unwrap_or(CloseReason::Failed)
    }
}

impl<B> Service<Request<B>> for Http2<B>
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Rejected<Request<B>>;
    type Future = Http2Future<B>;

    /// Ready until the connection takes no more calls; streams are waited for in the call.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(match self.link.over() {
            Some(reason) => Err(already_closed(Some(reason)).into()),
            None => Ok(()),
        })
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Http2Future::new(self.clone(), request)
    }
}
