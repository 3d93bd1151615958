//! An encrypted stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use towline_core::{Sent, TlsPeer};

use crate::error::{TlsError, TlsErrorKind};

pin_project! {
    /// A stream after its handshake. Flushing and shutting down go through to the peer (shutdown sends close_notify).
    ///
    /// An end of the stream without close_notify reads as a clean end or as an
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof), depending on the library: the framing above has to notice what was
    /// cut off.
    ///
    /// With TLS 1.3 a peer that does not accept our certificate says so after the handshake: the read that finds it fails with
    /// an [`Error`](towline_core::Error) of [`TlsErrorKind::ClientCertificateRefused`], in an I/O error of the kind
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied), for protocols that pass on no more than that.
    #[derive(Debug)]
    pub struct TlsStream<S> {
        #[pin]
        stream: Stream<S>,
        peer: Arc<TlsPeer>,
        server_name: String,
        // Until the first byte, an alert about certificates is about the handshake.
        has_read: bool,
    }
}

// Once for each choice of features, since the macro takes no `cfg` on a variant.
#[cfg(all(feature = "native-tls", feature = "rustls"))]
pin_project! {
    #[project = StreamProj]
    #[derive(Debug)]
    pub(crate) enum Stream<S> {
        NativeTls { #[pin] stream: crate::native::Stream<S> },
        Rustls { #[pin] stream: Box<crate::rustls::Stream<S>> },
    }
}

#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
pin_project! {
    #[project = StreamProj]
    #[derive(Debug)]
    pub(crate) enum Stream<S> {
        NativeTls { #[pin] stream: crate::native::Stream<S> },
    }
}

#[cfg(all(feature = "rustls", not(feature = "native-tls")))]
pin_project! {
    #[project = StreamProj]
    #[derive(Debug)]
    pub(crate) enum Stream<S> {
        Rustls { #[pin] stream: Box<crate::rustls::Stream<S>> },
    }
}

/// The same with either stream.
macro_rules! either {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self.project().stream.project() {
            #[cfg(feature = "native-tls")]
            StreamProj::NativeTls { stream: $stream } => $do,
            #[cfg(feature = "rustls")]
            StreamProj::Rustls { stream: $stream } => $do,
        }
    };
}

impl<S> TlsStream<S> {
    pub(crate) fn new(stream: Stream<S>, peer: Arc<TlsPeer>, server_name: String) -> Self {
        Self { stream, peer, server_name, has_read: false }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Arc<TlsPeer> {
        &self.peer
    }

    /// The protocol that both sides agreed on by ALPN, if any was offered and accepted.
    pub fn negotiated_alpn(&self) -> Option<Vec<u8>> {
        self.peer.alpn().map(<[u8]>::to_vec)
    }

    /// `error` as it is, unless it tells how the handshake went.
    fn late(self: Pin<&mut Self>, error: io::Error) -> io::Error {
        if self.has_read {
            return error;
        }
        let kind = match &self.stream {
            #[cfg(feature = "native-tls")]
            Stream::NativeTls { .. } => crate::native::of_late(&error),
            #[cfg(feature = "rustls")]
            Stream::Rustls { .. } => crate::rustls::of_late(&error),
        };
        match kind {
            Some(kind) => self.refused(kind, error),
            None => error,
        }
    }

    #[cold]
    fn refused(&self, kind: TlsErrorKind, cause: io::Error) -> io::Error {
        // Before anything was read, no request was looked at; but that is for whoever has sent it to say.
        let error = TlsError::new(kind, &*self.server_name).with_source(cause).into_error().with_sent(Sent::Maybe);
        io::Error::new(io::ErrorKind::PermissionDenied, error)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = either!(self.as_mut(), stream => stream.poll_read(cx, buf));
        match read {
            Poll::Ready(Ok(())) => {
                *self.project().has_read = true;
                Poll::Ready(Ok(()))
            }
            read => read.map_err(|error| self.late(error)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = either!(self.as_mut(), stream => stream.poll_write(cx, buf));
        written.map_err(|error| self.late(error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = either!(self.as_mut(), stream => stream.poll_flush(cx));
        flushed.map_err(|error| self.late(error))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = either!(self.as_mut(), stream => stream.poll_write_vectored(cx, bufs));
        written.map_err(|error| self.late(error))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            #[cfg(feature = "native-tls")]
            Stream::NativeTls { stream } => stream.is_write_vectored(),
            #[cfg(feature = "rustls")]
            Stream::Rustls { stream } => stream.is_write_vectored(),
        }
    }
}
