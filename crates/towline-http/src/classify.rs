//! What HTTP's and gRPC's status codes mean.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use towline_core::{ByError, Classify, Error, Outcome};

use crate::grpc;

/// Judges responses by their status: HTTP's, and where there is one gRPC's, which is in the head of a response that is nothing but an error,
/// and else in its trailers. One classifier for retry, balancer and outlier detection.
///
/// | | means |
/// |---|---|
/// | 1xx, 2xx, 3xx; gRPC `OK` | success |
/// | 408, 500, 502, 503, 504; gRPC `UNKNOWN`, `DEADLINE_EXCEEDED`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS` | failure |
/// | 429, and 503 with `Retry-After`; gRPC `RESOURCE_EXHAUSTED`, and every failure with `grpc-retry-pushback-ms` | pushback |
/// | other 4xx and 5xx; gRPC codes that are about the request | nothing about the endpoint |
/// | errors | as [`ByError`] says |
///
/// `Retry-After` is read as seconds and as a date. A `grpc-retry-pushback-ms` that is negative, or no number, asks for no further attempt
/// ("gRPC Retry Design", A6), and a date or number that is no such thing for no time in particular.
///
/// ```
/// use std::time::Duration;
/// use http::Response;
/// use towline_core::{Classify, Outcome};
/// use towline_http::ByStatus;
///
/// let busy = Response::builder().status(503).header("retry-after", "2").body(()).unwrap();
/// assert_eq!(ByStatus.classify(Ok(&busy)), Outcome::Pushback(Some(Duration::from_secs(2))));
///
/// let unavailable = Response::builder().header("grpc-status", "14").body(()).unwrap();
/// assert_eq!(ByStatus.classify(Ok(&unavailable)), Outcome::Failure);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ByStatus;

impl<B> Classify<Response<B>> for ByStatus {
    fn classify(&self, result: Result<&Response<B>, &Error>) -> Outcome {
        match result {
            Err(error) => ByError.classify(Err::<&(), _>(error)),
            Ok(response) => match grpc::status(response.headers()) {
                Some(code) => of_grpc(code, response.headers()),
                None => of_http(response.status(), response.headers()),
            },
        }
    }
}

/// Of trailers.
impl Classify<HeaderMap> for ByStatus {
    fn classify(&self, result: Result<&HeaderMap, &Error>) -> Outcome {
        match result {
            Err(error) => ByError.classify(Err::<&(), _>(error)),
            Ok(trailers) => grpc::status(trailers).map_or(Outcome::Success, |code| of_grpc(code, trailers)),
        }
    }
}

fn of_http(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let retry_after = || headers.get(RETRY_AFTER).map(|value| value.to_str().ok().and_then(retry_after));
    match status.as_u16() {
        429 => Outcome::Pushback(retry_after().flatten()),
        503 => retry_after().map_or(Outcome::Failure, Outcome::Pushback),
        408 | 500 | 502 | 504 => Outcome::Failure,
        400.. => Outcome::Ignore,
        _ => Outcome::Success,
    }
}

fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

fn of_grpc(code: grpc::Code, headers: &HeaderMap) -> Outcome {
    let outcome = match code {
        grpc::OK => return Outcome::Success,
        grpc::UNKNOWN | grpc::DEADLINE_EXCEEDED | grpc::INTERNAL | grpc::UNAVAILABLE | grpc::DATA_LOSS => {
            Outcome::Failure
        }
        grpc::RESOURCE_EXHAUSTED => Outcome::Pushback(None),
        _ => return Outcome::Ignore,
    };
    match headers.get(grpc::PUSHBACK) {
        None => outcome,
        // Never: longer than any call waits.
        Some(asked) => Outcome::Pushback(Some(
            asked.to_str().ok().and_then(|text| text.parse().ok()).map_or(Duration::MAX, Duration::from_millis),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(status: u16, retry_after: Option<&str>) -> Outcome {
        let mut response = Response::builder().status(status);
        if let Some(text) = retry_after {
            response = response.header("retry-after", text);
        }
        ByStatus.classify(Ok(&response.body(()).unwrap()))
    }

    fn grpc(code: &str, pushback: Option<&str>) -> [Outcome; 2] {
        let mut response = Response::builder().header("grpc-status", code);
        if let Some(text) = pushback {
            response = response.header("grpc-retry-pushback-ms", text);
        }
        let response = response.body(()).unwrap();
        [ByStatus.classify(Ok(&response)), ByStatus.classify(Ok(response.headers()))]
    }

    #[test]
    fn http_says_who_is_to_blame_and_how_long_to_wait() {
        for status in [200, 204, 304] {
            assert_eq!(http(status, None), Outcome::Success);
        }
        for status in [400, 404, 409, 501, 505] {
            assert_eq!(http(status, Some("3")), Outcome::Ignore);
        }
        for status in [408, 500, 502, 503, 504] {
            assert_eq!(http(status, None), Outcome::Failure);
        }
        let seconds = |seconds| Outcome::Pushback(Some(Duration::from_secs(seconds)));
        assert_eq!(http(503, Some("3")), seconds(3));
        assert_eq!(http(429, Some(" 3 ")), seconds(3));
        assert_eq!(http(503, Some("Fri, 31 Dec 1999 23:59:59 GMT")), seconds(0));
        let far = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let Outcome::Pushback(Some(wait)) = http(503, Some(&far)) else { panic!() };
        assert!((95..=100).contains(&wait.as_secs()), "{wait:?}");
        for nonsense in ["soon", "-1", ""] {
            assert_eq!(http(503, Some(nonsense)), Outcome::Pushback(None));
        }
        assert_eq!(http(429, None), Outcome::Pushback(None));
    }

    #[test]
    fn grpc_says_it_in_heads_and_in_trailers() {
        for (code, outcome) in [
            ("0", Outcome::Success),
            ("1", Outcome::Ignore),
            ("2", Outcome::Failure),
            ("3", Outcome::Ignore),
            ("4", Outcome::Failure),
            ("5", Outcome::Ignore),
            ("8", Outcome::Pushback(None)),
            ("13", Outcome::Failure),
            ("14", Outcome::Failure),
            ("15", Outcome::Failure),
            ("16", Outcome::Ignore),
            // No code at all: what the servers that say so have done is unknown.
            ("99", Outcome::Failure),
            ("fine", Outcome::Failure),
        ] {
            assert_eq!(grpc(code, None), [outcome; 2], "{code}");
        }
        assert_eq!(ByStatus.classify(Ok(&HeaderMap::new())), Outcome::Success, "trailers of no gRPC");
    }

    #[test]
    fn grpc_pushback_is_heeded_where_an_attempt_has_failed() {
        let millis = |millis| [Outcome::Pushback(Some(Duration::from_millis(millis))); 2];
        assert_eq!(grpc("14", Some("20")), millis(20));
        assert_eq!(grpc("8", Some("0")), millis(0));
        for never in ["-1", "never", ""] {
            assert_eq!(grpc("14", Some(never)), [Outcome::Pushback(Some(Duration::MAX)); 2]);
        }
        assert_eq!(grpc("0", Some("20")), [Outcome::Success; 2]);
        assert_eq!(grpc("5", Some("20")), [Outcome::Ignore; 2]);
    }
}
