//! HTTP/1 connections: one call at a time.

mod driver;
mod future;
mod layer;
mod status;
mod tap;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use hyper::body::Body;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{BoxError, CloseReason, Error, Executor, Kind, Phase, Poolable, Rejected, Sharing, State, progress};

use self::driver::Driver;
pub use self::future::Http1Future;
pub use self::layer::{Http1Layer, MakeHttp1};
pub(crate) use self::status::Status;
use self::tap::Tap;
use crate::ResponseBody;
use crate::error::already_closed;

/// An HTTP/1 connection, which carries one call at a time. Made by [`Http1Layer`].
///
/// A call ends when its response's body was read to the end: only then can the next one begin, and
/// [`poll_change`](Poolable::poll_change) says so. A call that is dropped after its first poll, and a
/// [body](ResponseBody) that is dropped before its end, close the connection; nothing leaves after that.
///
/// Requests go out as they are: hyper adds framing headers, and neither a `Host` nor a path. The connection cannot be
/// upgraded. A request that is still being sent a second after its response was read has the connection closed.
///
/// hyper's connection runs as one task, which ends with the connection: when the handle is dropped, after the call in
/// flight and its body. The goodbye takes one second at most.
///
/// # Errors
///
/// [`Rejected`] with the request when the connection was closed or busy before the call, or ended before hyper began
/// to write it. Else without it: [`Kind::UnexpectedEof`] when the peer hung up before the response, [`Kind::Malformed`]
/// when what came is not HTTP/1, [`Kind::Io`] when the stream failed, [`Kind::RequestBody`] when the request's body did.
/// [`Sent::Never`](towline_core::Sent::Never) means that no byte was offered to the stream: the stream is watched for that,
/// because hyper does not tell.
///
/// # Why it closed
///
/// [`CloseReason::Peer`] after FIN or RST, [`Stray`](CloseReason::Stray) when bytes came before the next request was
/// written, [`Dirty`](CloseReason::Dirty) after a dropped call or body, or a request without an end, [`Drained`](CloseReason::Drained) after
/// `Connection: close` or HTTP/1.0 without `keep-alive`, else [`Failed`](CloseReason::Failed). hyper cannot tell bytes that
/// came together with the end of a response from a broken one; they are called stray.
pub struct Http1<B> {
    users: Arc<Users<B>>,
}

/// What the handle and calls that have not begun hold: the connection is open as long as one of them is there.
struct Users<B> {
    sender: Lock<SendRequest<B>>,
    status: Arc<Status>,
}

impl<B> Drop for Users<B> {
    fn drop(&mut self) {
        self.status.leave();
    }
}

impl<B> Http1<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// A connection over `io`, with its task on `executor`.
    ///
    /// # Errors
    ///
    /// [`Kind::Runtime`] when the executor does not take the task.
    pub async fn handshake<Io>(io: Io, settings: &Builder, executor: &dyn Executor) -> Result<Self, Error>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        progress::enter(Phase::Handshake);
        let status = Arc::new(Status::new());
        let io = TokioIo::new(Tap::new(io, status.clone()));
        // HTTP/1 has no handshake: nothing is written or awaited here.
        let made = settings.handshake(io).await;
        let (sender, connection) =
            made.map_err(|error| Error::new(Kind::Unavailable, Phase::Handshake).with_source(error))?;
        executor.spawn(Box::pin(Driver::new(connection, status.clone())))?;
        Ok(Self { users: Arc::new(Users { sender: Lock::new(sender), status }) })
    }
}

impl<B> fmt::Debug for Http1<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("state", &self.users.status.state()).finish_non_exhaustive()
    }
}

impl<B: Send + 'static> Poolable for Http1<B> {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    /// Only the task that asked last is woken.
    fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        let Users { sender, status } = &*self.users;
        if status.watch(cx.waker()) {
            match sender.lock().poll_ready(cx) {
                Poll::Ready(ready) => status.settled(ready.is_ok()),
                Poll::Pending => status.lingers(),
            }
        }
        match status.state() {
            state if state != seen => Poll::Ready(state),
            _ => Poll::Pending,
        }
    }

    fn abort(&mut self) {
        self.users.status.abort();
    }

    fn close_reason(&self) -> CloseReason {
        self.users.status.over().unwrap_or(CloseReason::Failed)
    }
}

impl<B> Service<Request<B>> for Http1<B>
where
    B: Body + Send + 'static,
{
    type Response = Response<ResponseBody>;
    type Error = Rejected<Request<B>>;
    type Future = Http1Future<B>;

    /// Waits until the response before was read.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let state = match self.users.status.state() {
            State::Busy => ready!(self.poll_change(State::Busy, cx)),
            state => state,
        };
        Poll::Ready(match state {
            State::Idle => Ok(()),
            _ => Err(already_closed(self.users.status.over()).into()),
        })
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Http1Future::new(self.users.clone(), request)
    }
}
