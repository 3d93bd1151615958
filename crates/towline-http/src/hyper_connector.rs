//! Our connectors for others: hyper-util's client, tonic's channel, whatever dials a URI.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;
use towline_core::{BoxError, Error, Kind, Phase, Target, TlsPeer, peer};

/// A connector of ours as one of hyper's: for its legacy client, and for tonic's `connect_with_connector`.
///
/// The host and the port are dialled; a port that is not there follows from the scheme, and nothing else does: whether the
/// connection is encrypted is the connector's to say. For tonic with any of its TLS features that means an `http` URI and
/// `origin("https://…")`, since it refuses an `https` one after the handshake that ours has already made.
///
/// Where TLS has agreed on `h2`, hyper's client is told, and speaks HTTP/2.
///
/// ```
/// use http_body_util::Empty;
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tower::service_fn;
/// use towline_http::HyperConnector;
///
/// # let connect = service_fn(|target: towline_core::Target| async { Ok::<_, std::io::Error>(tokio::io::duplex(1).0) });
/// // `connect` is from towline-connect, or from towline-tls over that.
/// let client: Client<_, Empty<&[u8]>> = Client::builder(TokioExecutor::new()).build(HyperConnector::new(connect));
/// # drop(client);
/// ```
///
/// # Errors
///
/// [`Kind::Config`] for a URI without a host, or without a port and with a scheme that has none; errors of the connector as
/// they are, in [`Phase::Dial`].
#[derive(Clone, Debug)]
pub struct HyperConnector<C> {
    inner: C,
}

impl<C> HyperConnector<C> {
    /// Has `connector` dial what URIs name.
    pub fn new(connector: C) -> Self {
        Self { inner: connector }
    }
}

/// A connection in the making: dropping it stops the dial.
pub type HyperConnectFuture<S> = Pin<Box<dyn Future<Output = Result<HyperStream<S>, Error>> + Send>>;

fn target(uri: &Uri) -> Result<Target, Error> {
    let refused = |why: &str| Error::new(Kind::Config, Phase::Dial).with_message(format!("{uri}: {why}"));
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| refused("no host to dial; write scheme://host:port/path"))?;
    let port = match (uri.port_u16(), uri.scheme_str()) {
        (Some(port), _) => port,
        (None, Some("http")) => 80,
        (None, Some("https")) => 443,
        (None, _) => return Err(refused("no port, and the scheme is neither http nor https, which have one")),
    };
    format!("{host}:{port}").parse()
}

impl<C> Service<Uri> for HyperConnector<C>
where
    C: Service<Target>,
    C::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = HyperStream<C::Response>;
    type Error = Error;
    type Future = HyperConnectFuture<C::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::unreachable)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = target(&uri).map(|target| Box::pin(self.inner.call(target)));
        Box::pin(async move {
            let (mut connecting, mut met) = (connecting?, None);
            let dial = std::future::poll_fn(|cx| peer::hear(&mut met, || connecting.as_mut().poll(cx)));
            let io = TokioIo::new(dial.await.map_err(Error::unreachable)?);
            // A pool around hyper's client may want to know as well.
            met.iter().for_each(peer::introduce);
            Ok(HyperStream { io, peer: met })
        })
    }
}

/// A stream of ours as hyper takes it.
pub struct HyperStream<S> {
    io: TokioIo<S>,
    peer: Option<Arc<TlsPeer>>,
}

impl<S> HyperStream<S> {
    /// Who is at the other end, if it is encrypted.
    pub fn peer(&self) -> Option<&Arc<TlsPeer>> {
        self.peer.as_ref()
    }

    fn io(self: Pin<&mut Self>) -> Pin<&mut TokioIo<S>>
    where
        S: Unpin,
    {
        Pin::new(&mut self.get_mut().io)
    }
}

impl<S: AsyncRead + Unpin> Read for HyperStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> Write for HyperStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Write::poll_write(self.io(), cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_flush(self.io(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_shutdown(self.io(), cx)
    }

    fn is_write_vectored(&self) -> bool {
        Write::is_write_vectored(&self.io)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write_vectored(self.io(), cx, bufs)
    }
}

impl<S> Connection for HyperStream<S> {
    fn connected(&self) -> Connected {
        let speaks_h2 = self.peer.as_ref().is_some_and(|peer| peer.alpn() == Some(b"h2"));
        if speaks_h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl<S> fmt::Debug for HyperStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HyperStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_become_targets() {
        for (uri, expected) in [
            ("http://db.example/x", "db.example:80"),
            ("https://db.example", "db.example:443"),
            ("https://[::1]", "[::1]:443"),
            ("grpc://1.2.3.4:5/", "1.2.3.4:5"),
            ("db.example:7000", "db.example:7000"),
        ] {
            assert_eq!(target(&uri.parse().unwrap()).unwrap(), expected.parse().unwrap(), "{uri}");
        }
    }

    #[test]
    fn a_uri_that_names_nobody_is_refused_and_shown() {
        for (uri, why) in [("/x", "no host"), ("grpc://db.example/", "no port"), ("http://db.example:0/", "port 0")] {
            let error = target(&uri.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
