//! What was wrong with a handshake.
//!
//! native-tls keeps the verification result to itself and hands out text, so the text is matched: in this file and
//! nowhere else, against the cases in the tests, and with [`TlsErrorKind::Other`] for what is not known.

use std::error::Error as StdError;
use std::fmt;

use towline_core::{Error, Kind, Phase};

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
    /// The peer does not speak TLS.
    NotTls,
    /// The peer closed or reset the connection during the handshake.
    Closed,
    /// The target has no name to verify the certificate against.
    NoName,
    /// Something else; the source has the library's words.
    Other,
}

/// A failed handshake: the source of an [`Error`] of [`Kind::Tls`].
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
    source: Option<native_tls::Error>,
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

    pub(crate) fn no_name() -> Error {
        Self { kind: TlsErrorKind::NoName, server_name: String::new(), source: None }.into_error()
    }

    pub(crate) fn handshake(server_name: String, source: native_tls::Error) -> Error {
        Self { kind: classify(&source), server_name, source: Some(source) }.into_error()
    }

    fn into_error(self) -> Error {
        Error::new(Kind::Tls, Phase::Handshake).with_message(self.message()).with_source(self)
    }
}

impl TlsError {
    /// What was wrong, with what, and what to change.
    fn message(&self) -> String {
        let name = &self.server_name;
        match self.kind {
            TlsErrorKind::Expired => format!("the certificate presented for {name:?} has expired"),
            TlsErrorKind::NotYetValid => format!("the certificate presented for {name:?} is not valid yet"),
            TlsErrorKind::WrongName => {
                format!("the certificate is not for {name:?} (is it the right server? see Endpoint::with_tls_name)")
            }
            TlsErrorKind::UnknownIssuer => {
                format!("nobody we trust has signed the certificate presented for {name:?} (add its root)")
            }
            TlsErrorKind::NotTls => format!("the peer at {name:?} does not speak TLS"),
            TlsErrorKind::Closed => {
                format!("the peer at {name:?} closed the connection in the handshake (does it speak TLS on this port?)")
            }
            TlsErrorKind::NoName => {
                String::from("the target has no name to verify; set one with Endpoint::with_tls_name")
            }
            TlsErrorKind::Other => format!("the TLS handshake with {name:?} failed"),
        }
    }
}

/// The kind in a few words: the error that has this as its source says the rest.
impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            TlsErrorKind::Expired => "expired",
            TlsErrorKind::NotYetValid => "not yet valid",
            TlsErrorKind::WrongName => "wrong name",
            TlsErrorKind::UnknownIssuer => "unknown issuer",
            TlsErrorKind::NotTls => "not TLS",
            TlsErrorKind::Closed => "closed by the peer",
            TlsErrorKind::NoName => "no name",
            TlsErrorKind::Other => "handshake failure",
        })
    }
}

impl StdError for TlsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source as &(dyn StdError + 'static))
    }
}

fn classify(error: &native_tls::Error) -> TlsErrorKind {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut text = String::new();
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|io| io.get_ref().is_none()) {
            return TlsErrorKind::Closed;
        }
        text.push_str(&error.to_string().to_lowercase());
        text.push('\n');
        cause = error.source();
    }
    /// In order: a certificate's own fault first, since OpenSSL reports it beside more general text.
    const KNOWN: &[(&str, TlsErrorKind)] = &[
        ("certificate has expired", TlsErrorKind::Expired),
        ("not yet valid", TlsErrorKind::NotYetValid),
        ("hostname mismatch", TlsErrorKind::WrongName),
        ("ip address mismatch", TlsErrorKind::WrongName),
        ("unable to get local issuer", TlsErrorKind::UnknownIssuer),
        ("self-signed certificate", TlsErrorKind::UnknownIssuer),
        ("self signed certificate", TlsErrorKind::UnknownIssuer),
        ("unable to verify the first certificate", TlsErrorKind::UnknownIssuer),
        ("certificate signature failure", TlsErrorKind::UnknownIssuer),
        ("wrong version number", TlsErrorKind::NotTls),
        ("packet length too long", TlsErrorKind::NotTls),
        ("http request", TlsErrorKind::NotTls),
        ("unexpected eof", TlsErrorKind::Closed),
    ];
    let known = KNOWN.iter().find(|(words, _)| text.contains(words));
    known.map_or(TlsErrorKind::Other, |(_, kind)| *kind)
}
