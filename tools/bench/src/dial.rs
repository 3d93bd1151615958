//! Connections to the framed server, over TCP or TLS: by hand for the floors, through our connectors for us.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower::{Layer, Service, ServiceExt};
use towline_connect::{Socket, TcpConnector};
use towline_core::Target;
use towline_tls::{TlsBackend, TlsConfig, TlsConnector, TlsLayer};

use crate::server::{Addresses, TLS_NAME};

/// A byte stream that a task can own.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// Two ways to the same server.
pub(crate) trait Dial {
    type ByHand: Io;
    type Ours: Io;

    /// How much the hand-written driver reads at once: what suits it best.
    const READ_ROOM: usize;

    fn by_hand(&self) -> impl Future<Output = Result<Self::ByHand>> + Send;
    fn ours(&self) -> impl Future<Output = Result<Self::Ours>> + Send;
}

/// In the clear.
pub(crate) struct Tcp<'a>(pub(crate) &'a Addresses);

impl Dial for Tcp<'_> {
    type ByHand = TcpStream;
    type Ours = Socket;

    const READ_ROOM: usize = 64 * 1024;

    async fn by_hand(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.0.framed).await.context("dialling the server")?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn ours(&self) -> Result<Socket> {
        Ok(TcpConnector::new().oneshot(self.0.framed).await?)
    }
}

/// Over TLS by native-tls, on both ways. Its configurations are built once, as they should be.
pub(crate) struct Tls {
    address: SocketAddr,
    by_hand: tokio_native_tls::TlsConnector,
    ours: TlsConnector<TcpConnector>,
}

impl Tls {
    pub(crate) fn new(addresses: &Addresses) -> Result<Self> {
        let root = native_tls::Certificate::from_pem(addresses.root_pem.as_bytes())?;
        let mut by_hand = native_tls::TlsConnector::builder();
        by_hand.min_protocol_version(Some(native_tls::Protocol::Tlsv12));
        let by_hand = by_hand.disable_built_in_roots(true).add_root_certificate(root).build()?.into();
        let config = TlsConfig::builder().root_pem(&addresses.root_pem).build()?;
        Ok(Self { address: addresses.framed_tls, by_hand, ours: TlsLayer::new(config).layer(TcpConnector::new()) })
    }
}

impl Dial for Tls {
    type ByHand = tokio_native_tls::TlsStream<TcpStream>;
    type Ours = towline_tls::TlsStream<Socket>;

    /// tokio-native-tls fills the room with zeros before each read.
    const READ_ROOM: usize = 4 * 1024;

    async fn by_hand(&self) -> Result<Self::ByHand> {
        let stream = TcpStream::connect(self.address).await.context("dialling the TLS server")?;
        stream.set_nodelay(true)?;
        self.by_hand.connect(TLS_NAME, stream).await.context("the handshake")
    }

    async fn ours(&self) -> Result<Self::Ours> {
        let target = Target::from(self.address).with_tls_name(TLS_NAME);
        let mut connector = self.ours.clone();
        Ok(connector.ready().await?.call(target).await?)
    }
}

/// Over TLS by rustls, on both ways.
pub(crate) struct Rustls {
    address: SocketAddr,
    by_hand: tokio_rustls::TlsConnector,
    ours: TlsConnector<TcpConnector>,
}

impl Rustls {
    pub(crate) fn new(addresses: &Addresses) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(addresses.root_pem.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let by_hand = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let by_hand = Arc::new(by_hand.with_root_certificates(roots).with_no_client_auth()).into();
        let config = TlsConfig::builder().backend(TlsBackend::Rustls).root_pem(&addresses.root_pem).build()?;
        Ok(Self { address: addresses.framed_tls, by_hand, ours: TlsLayer::new(config).layer(TcpConnector::new()) })
    }
}

impl Dial for Rustls {
    type ByHand = tokio_rustls::client::TlsStream<TcpStream>;
    type Ours = towline_tls::TlsStream<Socket>;

    const READ_ROOM: usize = 64 * 1024;

    async fn by_hand(&self) -> Result<Self::ByHand> {
        let stream = TcpStream::connect(self.address).await.context("dialling the TLS server")?;
        stream.set_nodelay(true)?;
        self.by_hand.connect(TLS_NAME.try_into()?, stream).await.context("the handshake")
    }

    async fn ours(&self) -> Result<Self::Ours> {
        let target = Target::from(self.address).with_tls_name(TLS_NAME);
        let mut connector = self.ours.clone();
        Ok(connector.ready().await?.call(target).await?)
    }
}
