//! From an endpoint to a connection: dial, TLS, and the version of HTTP that follows from both.

use std::time::Duration;

use http_body::Body;
use hyper::client::conn::http1;
use tower_layer::Layer;
use towline_connect::{BoxConnector, BoxIo, ConnectDeadlineLayer, TcpConnector};
use towline_core::{BoxError, Error, Kind, Phase, ReadyCall, SharedExecutor, Target};

use super::builder::refused;
use super::call::Server;
use super::connection::Connection;
use super::endpoint::{self, Scheme};
use crate::{Http1, Http2, Http2Config};

/// What connections speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    /// HTTP/2 where TLS has agreed to it, else HTTP/1.
    ByAlpn,
    Http1,
    Http2,
}

impl Versions {
    /// What TLS offers to the server.
    #[cfg(feature = "tls")]
    fn offered(self) -> &'static [&'static str] {
        match self {
            Self::ByAlpn => &["h2", "http/1.1"],
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
        }
    }
}

/// Whether calls are encrypted, as far as the builder was told.
pub(super) enum Encryption {
    /// Nothing was said.
    Default,
    #[cfg(feature = "tls")]
    Tls(towline_tls::TlsConfig),
    /// The connector does it.
    Elsewhere,
    Plaintext,
}

/// How connections are made.
pub(super) struct Dialling {
    /// Of the endpoints that have one.
    pub(super) scheme: Option<Scheme>,
    pub(super) encryption: Encryption,
    pub(super) versions: Versions,
    pub(super) connect: Option<BoxConnector>,
    pub(super) deadline: Duration,
    pub(super) http1: http1::Builder,
    pub(super) http2: Http2Config,
    pub(super) executor: SharedExecutor,
}

impl Dialling {
    /// What makes connections, and what they are.
    pub(super) fn connector<B>(self) -> Result<(BoxConnector<Connection<B>>, Scheme), Error>
    where
        B: Body + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let tcp = self.connect.unwrap_or_else(|| BoxConnector::new(TcpConnector::new()));
        let is_foreign = matches!(self.encryption, Encryption::Elsewhere);
        let (streams, scheme) = self.encryption.over(tcp, self.scheme, self.versions)?;
        let (versions, executor) = (self.versions, self.executor);
        let is_agreed = scheme == Scheme::Https && !is_foreign;
        let (http1, http2) = (self.http1, self.http2);
        let make = BoxConnector::from_fn(move |target: Target| {
            let server = Server { scheme: scheme.of_http(), authority: endpoint::authority(&target, scheme) };
            let streaming = ReadyCall::new(streams.clone(), target);
            let (http1, executor) = (http1.clone(), executor.clone());
            async move {
                let io: BoxIo = streaming.await?;
                let is_http2 = match versions {
                    Versions::Http1 => false,
                    Versions::Http2 if is_agreed && io.alpn() != Some(b"h2") => {
                        return Err(no_http2(&io));
                    }
                    Versions::Http2 => true,
                    Versions::ByAlpn => io.alpn() == Some(b"h2"),
                };
                if is_http2 {
                    Http2::handshake(io, http2, &*executor).await.map(|made| Connection::http2(made, server))
                } else {
                    Http1::handshake(io, &http1, &*executor).await.map(|made| Connection::http1(made, server))
                }
            }
        });
        // A server that says goodbye to a connection that has just come is not one that cannot be reached: another is dialled at once,
        // and nobody hears of it. Not a third: then it means it.
        let make = BoxConnector::from_fn(move |target: Target| {
            let make = make.clone();
            async move {
                match ReadyCall::new(make.clone(), target.clone()).await {
                    Err(error) if error.kind() == Kind::Closed => ReadyCall::new(make, target).await,
                    made => made,
                }
            }
        });
        let limited = ConnectDeadlineLayer::new(self.deadline).layer(make);
        let make = BoxConnector::from_fn(move |target| ReadyCall::new(limited.clone(), target));
        Ok((make, scheme))
    }
}

fn no_http2(io: &BoxIo) -> Error {
    let agreed = io.alpn().map_or("on nothing".into(), |agreed| format!("on {}", agreed.escape_ascii()));
    Error::new(Kind::Unavailable, Phase::Handshake).with_message(format!(
        "the server did not agree to HTTP/2, which this channel needs, but {agreed}: have it offer h2 by ALPN"
    ))
}

impl Scheme {
    fn of_http(self) -> http::uri::Scheme {
        match self {
            Self::Http => http::uri::Scheme::HTTP,
            Self::Https => http::uri::Scheme::HTTPS,
        }
    }
}

impl Encryption {
    /// Streams as these settings and the endpoints' scheme want them.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "there is no ALPN without TLS"))]
    fn over(
        self,
        connect: BoxConnector,
        scheme: Option<Scheme>,
        versions: Versions,
    ) -> Result<(BoxConnector, Scheme), Error> {
        match (self, scheme) {
            (Self::Plaintext, Some(Scheme::Https)) => {
                Err(refused("endpoints are given with https, and plaintext() is set: use http, or leave it out"))
            }
            (Self::Plaintext, _) | (Self::Default, Some(Scheme::Http)) => Ok((connect, Scheme::Http)),
            (Self::Elsewhere, Some(Scheme::Http)) => {
                Err(refused("endpoints are given with http, and the connector encrypts: use https, or connector()"))
            }
            (Self::Elsewhere, _) => Ok((connect, Scheme::Https)),
            #[cfg(feature = "tls")]
            (Self::Tls(_), Some(Scheme::Http)) => {
                Err(refused("endpoints are given with http, and tls() is set: use https, or leave it out"))
            }
            #[cfg(feature = "tls")]
            (Self::Tls(config), _) => {
                let offered = versions.offered();
                if versions == Versions::Http1 && config.offers("h2") {
                    return Err(refused(
                        "the TLS configuration offers h2, which http1_only() does not speak: build it with .alpn([\"http/1.1\"])",
                    ));
                }
                if let Some(missing) = offered.iter().find(|protocol| !config.offers(protocol)) {
                    return Err(refused(format!(
                        "the TLS configuration does not offer {missing}: build it with .alpn({offered:?}), or say which version of \
                         HTTP is spoken by http1_only() or http2_only()"
                    )));
                }
                let connector = towline_tls::TlsLayer::new(config).layer(connect);
                let encrypted = BoxConnector::from_fn(move |target| {
                    let connecting = ReadyCall::new(connector.clone(), target);
                    async move {
                        let stream = connecting.await?;
                        let alpn = stream.negotiated_alpn();
                        Ok(BoxIo::negotiated(stream, alpn))
                    }
                });
                Ok((encrypted, Scheme::Https))
            }
            #[cfg(feature = "tls")]
            (Self::Default, _) => {
                let config = towline_tls::TlsConfig::builder().alpn(versions.offered().iter().copied()).build()?;
                Self::Tls(config).over(connect, scheme, versions)
            }
            #[cfg(not(feature = "tls"))]
            (Self::Default, _) => Err(refused(
                "built without TLS: turn on the feature native-tls or rustls, set an encrypted_connector(), or say plaintext()",
            )),
        }
    }
}
