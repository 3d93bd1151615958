//! Where connections come from.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

/// Accepts connections. Implemented for tokio's TCP and Unix listeners, and for anything else that
/// implements this one method; [`Listener::with_handshake`] adds a handshake, TLS for one.
pub trait Listener: Send {
    /// An accepted connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What becomes of an accepted connection once it has shaken hands. Runs on the connection's own task, so that a slow
    /// client holds nobody up.
    type Handshake: Future<Output = io::Result<Self::Io>> + Send + 'static;

    /// The next connection. An error concerns one connection or one moment: the server goes on after a pause.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Handshake>>;

    /// What tells, of a connection that has shaken hands, whether it uses a frame header. `None`, the default, when the
    /// [server](crate::Server) is set to use one or not.
    fn header_choice(&self) -> Option<HeaderChoice<Self::Io>> {
        None
    }

    /// Lets each connection have a frame header or not, as `choose` says after its handshake: by ALPN, see
    /// [`HEADER_ALPN`](crate::HEADER_ALPN). The server is to be set [`with_header`](crate::Server::with_header); the
    /// contexts of requests that come without one are empty.
    fn with_header_if(self, choose: impl Fn(&Self::Io) -> bool + Send + Sync + 'static) -> Choosing<Self>
    where
        Self: Sized,
    {
        Choosing { choose: Arc::new(choose), listener: self }
    }

    /// Shakes hands with each accepted connection, within the server's handshake timeout.
    fn with_handshake<F, Fut, Io>(self, handshake: F) -> Handshaking<Self, F>
    where
        Self: Sized,
        F: Fn(Self::Io) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = io::Result<Io>> + Send + 'static,
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Handshaking { listener: self, handshake }
    }
}

/// See [`Listener::header_choice`].
pub type HeaderChoice<Io> = Arc<dyn Fn(&Io) -> bool + Send + Sync>;

/// See [`Listener::with_header_if`].
pub struct Choosing<L: Listener> {
    listener: L,
    choose: HeaderChoice<L::Io>,
}

impl<L: Listener + fmt::Debug> fmt::Debug for Choosing<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choosing").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl<L: Listener> Listener for Choosing<L> {
    type Io = L::Io;
    type Handshake = L::Handshake;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Handshake>> {
        self.listener.poll_accept(cx)
    }

    fn header_choice(&self) -> Option<HeaderChoice<Self::Io>> {
        Some(self.choose.clone())
    }
}

/// See [`Listener::with_handshake`].
#[derive(Debug)]
pub struct Handshaking<L, F> {
    listener: L,
    handshake: F,
}

impl<L, F, Fut, Io> Listener for Handshaking<L, F>
where
    L: Listener,
    F: Fn(L::Io) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = io::Result<Io>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = Io;
    type Handshake = std::pin::Pin<Box<dyn Future<Output = io::Result<Io>> + Send>>;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Handshake>> {
        let accepted = ready!(self.listener.poll_accept(cx))?;
        let handshake = self.handshake.clone();
        Poll::Ready(Ok(Box::pin(async move {
            let io = accepted.await?;
            handshake(io).await
        })))
    }
}

impl Listener for tokio::net::TcpListener {
    type Io = tokio::net::TcpStream;
    type Handshake = std::future::Ready<io::Result<Self::Io>>;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Handshake>> {
        let (stream, _) = ready!(tokio::net::TcpListener::poll_accept(self, cx))?;
        // Answers are written whole: waiting for more to send only delays them.
        Poll::Ready(stream.set_nodelay(true).map(|()| std::future::ready(Ok(stream))))
    }
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;
    type Handshake = std::future::Ready<io::Result<Self::Io>>;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Handshake>> {
        let (stream, _) = ready!(tokio::net::UnixListener::poll_accept(self, cx))?;
        Poll::Ready(Ok(std::future::ready(Ok(stream))))
    }
}
