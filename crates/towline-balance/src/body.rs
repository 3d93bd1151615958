//! HTTP: calls that end with their body, and reports in headers and trailers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use towline_core::{ByError, Classify, Error, LoadReport, Outcome};

use crate::load::Flight;
use crate::track::Track;

/// Where a server says how it does, in headers or in trailers: the field's `endpoint-load-metrics` in its text form (Open
/// Request Cost Aggregation, as Envoy and gRPC read it).
pub const LOAD_HEADER: &str = "endpoint-load-metrics";

/// Calls end when the body of their HTTP response ends, is dropped, or fails, and not when its head arrives: until then
/// the server is busy with them. A response that `C` takes for a failure ends the call as one at once; trailers are put
/// before `C` as well, because gRPC tells there how the call went. (Feature `http`.)
///
/// What the server says about itself is read from the header or trailer [`LOAD_HEADER`], in either of the forms
///
/// ```text
/// endpoint-load-metrics: TEXT named_metrics.in_flight=12
/// endpoint-load-metrics: TEXT named_metrics.in_flight=12, named_metrics.latency_ms=3.5, cpu_utilization=0.4
/// ```
///
/// `in_flight` counts the requests that the server is working on from all its clients, without the one it answers;
/// `latency_ms` is how long it takes with about so many. Other metrics and forms are passed over.
///
/// ```
/// use towline_balance::{AtBodyEnd, BalanceBuilder, HotCold};
/// use towline_core::ByError;
///
/// let balance = BalanceBuilder::new(HotCold::new()).track(AtBodyEnd::new(ByError));
/// # let _ = balance;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AtBodyEnd<C = ByError>(C);

impl<C> AtBodyEnd<C> {
    /// Judges responses by `classify`: when their heads are there, and again by their trailers.
    pub const fn new(classify: C) -> Self {
        Self(classify)
    }
}

impl<C, B> Track<http::Response<B>> for AtBodyEnd<C>
where
    C: Classify<http::Response<B>> + Classify<HeaderMap> + Clone,
    B: Body,
{
    type Response = http::Response<TrackedBody<B, C>>;

    fn track(&self, flight: Flight, result: Result<http::Response<B>, Error>) -> Result<Self::Response, Error> {
        let outcome = self.0.classify(result.as_ref());
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                flight.end(outcome);
                return Err(error);
            }
        };
        if let Some(report) = report(response.headers()) {
            flight.report(report);
        }
        let has_more = outcome == Outcome::Success && !response.body().is_end_stream();
        let flight = if has_more {
            Some(flight)
        } else {
            flight.end(outcome);
            None
        };
        Ok(response.map(|inner| TrackedBody { inner, flight, classify: self.0.clone() }))
    }
}

pin_project_lite::pin_project! {
    /// A body with whose end the call to its endpoint ends. Dropped before, the call was given up.
    #[derive(Debug)]
    pub struct TrackedBody<B, C = ByError> {
        #[pin]
        inner: B,
        // `None` when the call has ended.
        flight: Option<Flight>,
        classify: C,
    }
}

impl<B: Body, C: Classify<HeaderMap>> Body for TrackedBody<B, C> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let trailers = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::trailers_ref);
        if let (Some(report), Some(flight)) = (trailers.and_then(report), &*this.flight) {
            flight.report(report);
        }
        let outcome = match (&frame, trailers) {
            (Some(Ok(_)), Some(trailers)) => Some(this.classify.classify(Ok(trailers))),
            (Some(Ok(_)), None) if !this.inner.is_end_stream() => None,
            (Some(Ok(_)) | None, None) => Some(Outcome::Success),
            _ => Some(Outcome::Failure),
        };
        if let Some(outcome) = outcome {
            if let Some(flight) = this.flight.take() {
                flight.end(outcome);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn report(headers: &HeaderMap) -> Option<LoadReport> {
    let metrics = headers.get(LOAD_HEADER)?.to_str().ok()?.strip_prefix("TEXT ")?;
    let metric = |name: &str| {
        let named = |pair: &str| pair.trim().strip_prefix(name)?.strip_prefix('=')?.parse::<f64>().ok();
        metrics.split(',').find_map(named).filter(|value| *value >= 0.0)
    };
    let in_flight = metric("named_metrics.in_flight")? as u32;
    let latency = metric("named_metrics.latency_ms").and_then(|millis| Duration::try_from_secs_f64(millis / 1e3).ok());
    Some(LoadReport { in_flight, latency: latency.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &'static str) -> Option<(u32, Duration)> {
        let headers = HeaderMap::from_iter([(LOAD_HEADER.parse().unwrap(), value.parse().unwrap())]);
        report(&headers).map(|report| (report.in_flight, report.latency))
    }

    #[test]
    fn reports_are_read_from_their_text_form_and_everything_else_is_passed_over() {
        assert_eq!(read("TEXT named_metrics.in_flight=12"), Some((12, Duration::ZERO)));
        let both = "TEXT cpu_utilization=0.4, named_metrics.latency_ms=3.5,named_metrics.in_flight=7";
        assert_eq!(read(both), Some((7, Duration::from_micros(3_500))));
        for other in [
            "",
            "JSON {}",
            "TEXT cpu_utilization=0.4",
            "TEXT named_metrics.in_flight=many",
            "named_metrics.in_flight=3",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
        assert_eq!(read("TEXT named_metrics.in_flight=-3"), None);
        assert_eq!(read("TEXT named_metrics.in_flight=NaN"), None);
        let endless = "TEXT named_metrics.in_flight=1e300,named_metrics.latency_ms=1e300";
        assert_eq!(read(endless), Some((u32::MAX, Duration::ZERO)));
    }
}
