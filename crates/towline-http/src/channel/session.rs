//! Whose a request is: by a header, a cookie, or a token that we have signed.

use std::sync::Arc;

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use http::{Response, request};
use towline_core::{Error, Kind, Phase, SessionKey};
use towline_sticky::CarryToken;

use super::call::HttpCall;

/// Says whose a request is.
pub(super) type Who = Arc<dyn Fn(&request::Parts) -> Option<SessionKey> + Send + Sync>;

/// Says whether a request may be repeated although it may have been executed.
pub(super) type MayRepeat = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;

/// Where the signed tokens of sessions are, on the way there and back; for [`session_tokens`](crate::ChannelBuilder::session_tokens).
///
/// ```
/// use towline_http::SessionToken;
///
/// let by_cookie = SessionToken::cookie("backend")?;      // for browsers behind a gateway
/// let by_metadata = SessionToken::header("x-backend")?;  // for gRPC, and programs
/// assert!(SessionToken::cookie("no spaces").is_err());
/// # drop((by_cookie, by_metadata));
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SessionToken(Place);

#[derive(Clone, Debug)]
enum Place {
    Cookie(Arc<str>),
    Header(HeaderName),
}

impl SessionToken {
    /// In a cookie of this name. Those that are set are for the whole site, kept from scripts and from other sites, sent over TLS only, and
    /// end with the browser's session (`Path=/; HttpOnly; Secure; SameSite=Lax`).
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] for a name that no cookie can have.
    pub fn cookie(name: impl Into<Arc<str>>) -> Result<Self, Error> {
        cookie_name(name.into()).map(|name| Self(Place::Cookie(name)))
    }

    /// In a header of this name, of requests and of responses: gRPC's metadata.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] for a name that no header can have.
    pub fn header(name: &str) -> Result<Self, Error> {
        let name = header_name(name)?;
        Ok(Self(Place::Header(name)))
    }
}

pub(super) fn header_name(name: &str) -> Result<HeaderName, Error> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|cause| {
        let why = format!("{name:?} is no name for a header: use letters, digits, - and _");
        Error::new(Kind::Config, Phase::Build).with_message(why).with_source(cause)
    })
}

/// In bytes: what another cookie has must not hide this one.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let mut pairs = cookies.flat_map(|value| value.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let value = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

pub(super) fn cookie_name(name: Arc<str>) -> Result<Arc<str>, Error> {
    // RFC 6265: a token of HTTP, as the names of headers are.
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        let why = format!("{name:?} is no name for a cookie: use letters, digits, - and _");
        return Err(Error::new(Kind::Config, Phase::Build).with_message(why));
    }
    Ok(name)
}

impl<B, R> CarryToken<HttpCall<B>, Response<R>> for SessionToken {
    fn read<'a>(&self, call: &'a HttpCall<B>) -> Option<&'a str> {
        match &self.0 {
            Place::Cookie(name) => cookie(call.headers()?, name).and_then(|token| std::str::from_utf8(token).ok()),
            Place::Header(name) => call.headers()?.get(name).and_then(|value| value.to_str().ok()),
        }
    }

    fn write(&self, response: &mut Response<R>, token: &str) {
        let headers = response.headers_mut();
        let (name, value) = match &self.0 {
            Place::Cookie(name) => (&SET_COOKIE, format!("{name}={token}; Path=/; HttpOnly; Secure; SameSite=Lax")),
            Place::Header(name) => (name, token.to_owned()),
        };
        // Names are checked, and tokens are base64.
        let value = HeaderValue::try_from(value).expect("a header can have it");
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_bytes(b"caf\xe9=\xe9; xsid=1; sid=2;other=3; sid=4").unwrap());
        headers.append(COOKIE, HeaderValue::from_static("last=\"quoted\"; empty="));
        for (name, value) in
            [("sid", Some("2")), ("other", Some("3")), ("last", Some("quoted")), ("empty", Some("")), ("id", None)]
        {
            assert_eq!(cookie(&headers, name), value.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in ["", "a b", "a;b", "a=b", "é"] {
            assert_eq!(SessionToken::cookie(name).unwrap_err().kind(), Kind::Config, "{name:?}");
            assert_eq!(SessionToken::header(name).unwrap_err().kind(), Kind::Config, "{name:?}");
        }
    }
}
