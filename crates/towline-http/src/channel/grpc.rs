//! gRPC's words for what goes wrong here. ("gRPC over HTTP2".)

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use towline_core::{Error, Kind, Phase, Sent};

pub(crate) use crate::grpc::*;

pub(super) const CANCELLED: Code = 1;
pub(super) const NOT_FOUND: Code = 5;
const PERMISSION_DENIED: Code = 7;
pub(super) const FAILED_PRECONDITION: Code = 9;
pub(super) const UNIMPLEMENTED: Code = 12;
const UNAUTHENTICATED: Code = 16;

const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(super) const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
pub(super) const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether the head of a request or response is one of gRPC: `application/grpc`, with whatever after a plus or a semicolon.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(CONTENT.as_bytes()));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// What gRPC calls an error of ours.
///
/// | error | code |
/// |---|---|
/// | time ran out | `DEADLINE_EXCEEDED`; `UNAVAILABLE` when it was a dial's |
/// | no endpoint, none to be reached, a connection lost, the peer away or refusing the stream, a queue full | `UNAVAILABLE` |
/// | the peer asks for calm, a message too large | `RESOURCE_EXHAUSTED` |
/// | the peer breaks the protocol, resets the stream, sends no trailers; a request that cannot be encoded | `INTERNAL` |
/// | the peer cancels the stream, the request's own body fails | `CANCELLED` |
/// | a setting that cannot work | `FAILED_PRECONDITION` |
/// | anything else | `UNKNOWN` |
fn code(error: &Error) -> Code {
    match error.kind() {
        Kind::Timeout if error.is_connect() => UNAVAILABLE,
        Kind::Timeout => DEADLINE_EXCEEDED,
        Kind::Overloaded if error.sent() == Sent::Maybe && error.phase() == Phase::Read => RESOURCE_EXHAUSTED,
        Kind::TooLarge => RESOURCE_EXHAUSTED,
        Kind::Config => FAILED_PRECONDITION,
        Kind::Server if error.find::<h2::Error>().and_then(h2::Error::reason) == Some(h2::Reason::CANCEL) => CANCELLED,
        Kind::Server | Kind::Malformed | Kind::Unasked | Kind::Unencodable | Kind::Runtime => INTERNAL,
        Kind::RequestBody => CANCELLED,
        Kind::Other => UNKNOWN,
        _ => UNAVAILABLE,
    }
}

/// Whether the answer to a call of gRPC is one. A status that it says is heeded in whatever company.
pub(super) fn is_answer(head: &http::response::Parts) -> bool {
    status(&head.headers).is_some() || is_grpc(&head.headers) && head.status == http::StatusCode::OK
}

/// What the answer of somebody who speaks no gRPC means, such as a proxy's: as trailers, and as an error. ("HTTP to gRPC Status Code
/// Mapping".)
pub(super) fn error_of_http(head: &http::response::Parts) -> (HeaderMap, Error) {
    let code = match head.status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    };
    let content = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("no content type");
    let why = format!("the answer is {} and {content}, and no gRPC: is there a proxy in between?", head.status);
    (said(code, &why), Error::new(Kind::Server, Phase::Read).with_message(why))
}

/// An error as trailers: of a response that fails half-way, or, in the head, of one that is nothing else.
pub(super) fn trailers(error: &Error) -> HeaderMap {
    said(code(error), &with_causes(error))
}

fn said(code: Code, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from(u16::from(code)));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message)) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// The whole chain, since nothing else of it comes through.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_code_of_its_own_kind() {
        let code = |kind, phase| super::code(&Error::new(kind, phase));
        for (kind, phase, expected) in [
            (Kind::Timeout, Phase::Read, DEADLINE_EXCEEDED),
            (Kind::Timeout, Phase::Queue, DEADLINE_EXCEEDED),
            (Kind::Timeout, Phase::Dial, UNAVAILABLE),
            (Kind::NoEndpoints, Phase::Pick, UNAVAILABLE),
            (Kind::Overloaded, Phase::Queue, UNAVAILABLE),
            (Kind::Overloaded, Phase::Read, RESOURCE_EXHAUSTED),
            (Kind::Closed, Phase::Read, UNAVAILABLE),
            (Kind::UnexpectedEof, Phase::Read, UNAVAILABLE),
            (Kind::Tls, Phase::Handshake, UNAVAILABLE),
            (Kind::Malformed, Phase::Read, INTERNAL),
            (Kind::Server, Phase::Read, INTERNAL),
            (Kind::TooLarge, Phase::Read, RESOURCE_EXHAUSTED),
            (Kind::Config, Phase::Call, FAILED_PRECONDITION),
            (Kind::Other, Phase::Call, UNKNOWN),
        ] {
            assert_eq!(code(kind, phase), expected, "{kind:?} {phase:?}");
        }
        let cancelled = Error::new(Kind::Server, Phase::Read).with_source(h2::Error::from(h2::Reason::CANCEL));
        assert_eq!(super::code(&cancelled), CANCELLED);
    }

    #[test]
    fn messages_are_percent_encoded_and_name_every_cause() {
        let error = Error::new(Kind::Io, Phase::Read).with_message("50 % of café").with_source("broken\npipe");
        let trailers = trailers(&error);
        assert_eq!(trailers["grpc-status"], "14");
        let message = trailers["grpc-message"].to_str().unwrap();
        assert!(message.starts_with("50 %25 of caf%C3%A9 while"), "{message}");
        assert!(message.ends_with(": broken%0Apipe"), "{message}");
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]);
            assert_eq!(is_grpc(&headers), expected, "{text}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
