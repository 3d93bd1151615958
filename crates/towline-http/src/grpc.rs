//! Where gRPC has its status. ("gRPC over HTTP2".)

use http::{HeaderMap, HeaderName};

/// A status code.
pub(crate) type Code = u8;

pub(crate) const OK: Code = 0;
pub(crate) const UNKNOWN: Code = 2;
pub(crate) const DEADLINE_EXCEEDED: Code = 4;
pub(crate) const RESOURCE_EXHAUSTED: Code = 8;
pub(crate) const INTERNAL: Code = 13;
pub(crate) const UNAVAILABLE: Code = 14;
pub(crate) const DATA_LOSS: Code = 15;

pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The status in a head or in trailers; what cannot be read is [`UNKNOWN`].
pub(crate) fn status(headers: &HeaderMap) -> Option<Code> {
    let text = headers.get(STATUS)?.to_str().ok();
    Some(text.and_then(|text| text.parse().ok()).filter(|code| *code <= 16).unwrap_or(UNKNOWN))
}
