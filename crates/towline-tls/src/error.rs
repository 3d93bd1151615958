//! What was wrong with a handshake.

use std::error::Error as StdError;
use std::fmt;

use towline_core::{BoxError, Error, Kind, Phase};

/// What was wrong with a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsErrorKind {
    /// The certificate is no longer valid.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// The certificate is for another name.
    WrongName,
    /// Nobody we trust has signed the certificate.
    UnknownIssuer,
    /// The certificate, or one above it, is not good for this: its key is too weak, it may not sign others, it is for another
    /// use.
    Unfit,
    /// [`verify_peer`](crate::TlsConfigBuilder::verify_peer) does not want the peer.
    Unwanted,
    /// The peer does not accept our certificate, or wants one and got none. With TLS 1.3 the first read says so, and not the
    /// handshake.
    ClientCertificateRefused,
    /// There is no version of TLS that both sides speak.
    ProtocolVersion,
    /// The peer accepts none of the protocols that were offered by ALPN.
    NoProtocol,
    /// The peer ended the handshake without a reason that can be told: no cipher that both sides know or, before TLS 1.3, a
    /// client certificate that it wants.
    Refused,
    /// The peer does not speak TLS.
    NotTls,
    /// The peer closed or reset the connection during the handshake.
    Closed,
    /// The handshake took longer than connecting may.
    Timeout,
    /// The target has no name to verify the certificate against.
    NoName,
    /// Something else; the source has the library's words.
    Other,
}

impl TlsErrorKind {
    /// What was wrong with the handshake that `error` tells of; `None` when it was not in one.
    ///
    /// Like [`TlsError::kind`], and [`Timeout`](Self::Timeout) for a peer that stayed silent in a handshake, which is the finding
    /// of whoever keeps the time. That of HTTP/2, above TLS or without it, counts as well.
    pub fn of(error: &Error) -> Option<Self> {
        let known = error.find::<TlsError>().map(TlsError::kind);
        known.or_else(|| match (error.kind(), error.phase()) {
            // Of a refusal after the handshake protocols and pools pass on no more than this.
            (Kind::Tls, _) => Some(Self::ClientCertificateRefused),
            (Kind::Timeout, Phase::Handshake) => Some(Self::Timeout),
            _ => None,
        })
    }
}

/// In a few words.
impl fmt::Display for TlsErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not yet valid",
            Self::WrongName => "wrong name",
            Self::UnknownIssuer => "unknown issuer",
            Self::Unfit => "unfit certificate",
            Self::Unwanted => "unwanted peer",
            Self::ClientCertificateRefused => "client certificate refused",
            Self::ProtocolVersion => "protocol version",
            Self::NoProtocol => "no common protocol",
            Self::Refused => "refused by the peer",
            Self::NotTls => "not TLS",
            Self::Closed => "closed by the peer",
            Self::Timeout => "timed out",
            Self::NoName => "no name",
            Self::Other => "handshake failure",
        })
    }
}

/// A failed handshake: the source of an [`Error`] of [`Kind::Tls`], or of [`Kind::UnexpectedEof`] when the peer just left.
///
/// ```
/// use towline_core::Error;
/// use towline_tls::{TlsError, TlsErrorKind};
///
/// fn is_expired(error: &Error) -> bool {
///     error.find::<TlsError>().is_some_and(|tls| tls.kind() == TlsErrorKind::Expired)
/// }
/// # let _ = is_expired;
/// ```
#[derive(Debug)]
pub struct TlsError {
    kind: TlsErrorKind,
    server_name: String,
    source: Option<BoxError>,
}

impl TlsError {
    /// What was wrong.
    pub fn kind(&self) -> TlsErrorKind {
        self.kind
    }

    /// The name that the certificate was verified against.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    pub(crate) fn new(kind: TlsErrorKind, server_name: impl Into<String>) -> Self {
        Self { kind, server_name: server_name.into(), source: None }
    }

    pub(crate) fn with_source(self, source: impl Into<BoxError>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    pub(crate) fn into_error(self) -> Error {
        // Who hangs up may only be about to start again: nothing is wrong with what was configured.
        let kind = if self.kind == TlsErrorKind::Closed { Kind::UnexpectedEof } else { Kind::Tls };
        Error::new(kind, Phase::Handshake).with_message(self.message()).with_source(self)
    }

    /// What was wrong, with what, and what to change.
    fn message(&self) -> String {
        let name = &self.server_name;
        match self.kind {
            TlsErrorKind::Expired => {
                format!("the certificate presented for {name:?} has expired (is our clock right? has it been renewed?)")
            }
            TlsErrorKind::NotYetValid => {
                format!("the certificate presented for {name:?} is not valid yet (is our clock right?)")
            }
            TlsErrorKind::WrongName => {
                format!("the certificate is not for {name:?} (is it the right server? see Endpoint::with_tls_name)")
            }
            TlsErrorKind::UnknownIssuer => {
                format!("nobody we trust has signed the certificate presented for {name:?} (add its root)")
            }
            TlsErrorKind::Unfit => {
                format!(
                    "the certificate presented for {name:?}, or one above it, is not good for a server (see the cause)"
                )
            }
            TlsErrorKind::Unwanted => format!("verify_peer does not want the peer at {name:?} (see the cause)"),
            TlsErrorKind::ClientCertificateRefused => format!(
                "the peer at {name:?} does not accept our certificate, or wants one (see TlsConfigBuilder::identity_pem)"
            ),
            TlsErrorKind::ProtocolVersion => {
                format!("the peer at {name:?} speaks no version of TLS that we do (see TlsConfigBuilder::min_version)")
            }
            TlsErrorKind::NoProtocol => {
                format!("the peer at {name:?} accepts none of the offered protocols (see TlsConfigBuilder::alpn)")
            }
            TlsErrorKind::Refused => format!(
                "the peer at {name:?} ended the handshake without a reason (does it want a client certificate? is there a \
                 common cipher?)"
            ),
            TlsErrorKind::NotTls => format!("the peer at {name:?} does not speak TLS"),
            TlsErrorKind::Closed => {
                format!("the peer at {name:?} closed the connection in the handshake (does it speak TLS on this port?)")
            }
            TlsErrorKind::NoName => {
                String::from("the target has no name to verify; set one with Endpoint::with_tls_name")
            }
            TlsErrorKind::Timeout | TlsErrorKind::Other => format!("the TLS handshake with {name:?} failed"),
        }
    }
}

/// The kind in a few words: the error that has this as its source says the rest.
impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl StdError for TlsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

pub(crate) fn refused(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Config, Phase::Build).with_message(message)
}
