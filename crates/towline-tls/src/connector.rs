//! The handshake over a connector.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;
use towline_core::{BoxError, Error, Phase, Target, progress};

use crate::{TlsConfig, TlsError, TlsErrorKind, TlsStream};

/// Puts TLS over a connector. See [`TlsConnector`].
#[derive(Clone, Debug)]
pub struct TlsLayer {
    config: TlsConfig,
}

impl TlsLayer {
    /// A layer with this configuration, which all connectors made from it share.
    pub fn new(config: TlsConfig) -> Self {
        Self { config }
    }
}

impl<C> Layer<C> for TlsLayer {
    type Service = TlsConnector<C>;

    fn layer(&self, inner: C) -> Self::Service {
        TlsConnector { inner, config: self.config.clone() }
    }
}

/// Connects with the connector inside, then handshakes. Ready when that connector is.
///
/// # Errors
///
/// [`Kind::Tls`](towline_core::Kind::Tls) in [`Phase::Handshake`] with a [`TlsError`] as source, or
/// [`Kind::UnexpectedEof`](towline_core::Kind::UnexpectedEof) when the peer just leaves; errors of the inner connector as they
/// are.
#[derive(Clone, Debug)]
pub struct TlsConnector<C> {
    inner: C,
    config: TlsConfig,
}

/// A connect and handshake in progress; boxed, since a handshake costs ten thousand times more than a box.
/// Dropping it closes the connection.
pub type TlsConnectFuture<S> = Pin<Box<dyn Future<Output = Result<TlsStream<S>, Error>> + Send>>;

impl<C> Service<Target> for TlsConnector<C>
where
    C: Service<Target>,
    C::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = TlsStream<C::Response>;
    type Error = Error;
    type Future = TlsConnectFuture<C::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::unreachable)
    }

    fn call(&mut self, target: Target) -> Self::Future {
        // Libraries skip verification, or panic, for a name that is none.
        let name = target.server_name().filter(|name| !name.is_empty() && !name.contains('\0'));
        let Some(name) = name else {
            let error = TlsError::new(TlsErrorKind::NoName, String::new()).into_error();
            return Box::pin(std::future::ready(Err(error)));
        };
        let connecting = self.inner.call(target);
        let config = self.config.clone();
        Box::pin(async move {
            let io = connecting.await.map_err(Error::unreachable)?;
            progress::enter(Phase::Handshake);
            config.connect(name, io).await.map_err(TlsError::into_error)
        })
    }
}
