//! The time that is left, on the wire: gRPC's header.

use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use towline_core::{Access, CallContext};

use crate::InExtensions;

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Tells the server how much time is left, in the header `grpc-timeout`. See [`GrpcTimeout`].
///
/// It belongs below the retry layer, so that every attempt says what is left for it.
///
/// ```
/// use std::time::Duration;
/// use http::Request;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use towline_core::{Access, CallContext, Error};
/// use towline_http::{GrpcTimeoutLayer, InExtensions};
/// use towline_timeout::DeadlineLayer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
/// let service = ServiceBuilder::new()
///     .layer(DeadlineLayer::new(Duration::from_millis(1_500)).with_access(InExtensions))
///     .layer(GrpcTimeoutLayer::new())
///     .service(service_fn(|request: Request<()>| async move { Ok::<_, Error>(request.headers()["grpc-timeout"].clone()) }));
/// assert_eq!(service.oneshot(Request::new(())).await?, "1500000u");
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcTimeoutLayer<A = InExtensions> {
    access: A,
}

impl GrpcTimeoutLayer {
    /// For requests that carry their context in their extensions.
    pub const fn new() -> Self {
        Self { access: InExtensions }
    }
}

impl<A> GrpcTimeoutLayer<A> {
    /// Reaches the context through `access`.
    pub fn with_access<B>(self, access: B) -> GrpcTimeoutLayer<B> {
        GrpcTimeoutLayer { access }
    }
}

impl<S, A: Clone> Layer<S> for GrpcTimeoutLayer<A> {
    type Service = GrpcTimeout<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        GrpcTimeout { inner, access: self.access.clone() }
    }
}

/// A service that writes what is left until the deadline of the call's context into `grpc-timeout`, and leaves calls without a
/// deadline alone. A header that is there already stays if it says less. What cannot be read is replaced.
///
/// Readiness, errors and cancellation are those of the inner service.
// Holds no readiness of its own, so a derived Clone is right: the clone is as ready as the inner one's.
#[derive(Clone, Copy, Debug)]
pub struct GrpcTimeout<S, A = InExtensions> {
    inner: S,
    access: A,
}

impl<S, A, B> Service<Request<B>> for GrpcTimeout<S, A>
where
    S: Service<Request<B>>,
    A: Access<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(deadline) = self.access.get(&request).and_then(CallContext::deadline) {
            let left = deadline.saturating_duration_since(Instant::now());
            let theirs = request.headers().get(GRPC_TIMEOUT).and_then(decode);
            if theirs.is_none_or(|theirs| left < theirs) {
                request.headers_mut().insert(GRPC_TIMEOUT, encode(left));
            }
        }
        self.inner.call(request)
    }
}

/// At most so many digits, says the protocol.
const MOST: u128 = 99_999_999;
/// Units by their names, and their nanoseconds, the finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60 * 1_000_000_000),
    (b'H', 3_600 * 1_000_000_000),
];

/// In the finest unit that has room for it, rounded up: a deadline that is near is none the less one.
pub(crate) fn encode(left: Duration) -> HeaderValue {
    let nanos = left.as_nanos();
    let fits = UNITS.into_iter().map(|(name, unit)| (name, nanos.div_ceil(unit))).find(|(_, amount)| *amount <= MOST);
    let (name, amount) = fits.unwrap_or((b'H', MOST));
    let text = format!("{amount}{}", char::from(name));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

pub(crate) fn decode(value: &HeaderValue) -> Option<Duration> {
    let (name, digits) = value.as_bytes().split_last()?;
    let is_number = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let amount: u128 = std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()?;
    let (_, unit) = UNITS.into_iter().find(|(unit, _)| unit == name)?;
    let nanos = amount * unit;
    Some(Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;

    #[test]
    fn what_is_left_is_written_in_eight_digits_at_most_and_never_as_less() {
        for (left, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(1), "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_001), "100001u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666667M"),
            (Duration::from_secs(60 * 100_000_000), "1666667H"),
            (Duration::MAX, "99999999H"),
        ] {
            let encoded = encode(left);
            assert_eq!(encoded, text);
            assert!(decode(&encoded).unwrap() >= left.min(Duration::from_secs(99_999_999 * 3_600)), "{text}");
        }
    }

    #[test]
    fn what_is_no_timeout_is_not_taken_for_one() {
        for text in ["", "n", "1", "1x", "123456789n", "-1n", "+1n", "1 n", " 1n", "1.5S"] {
            assert_eq!(decode(&HeaderValue::from_str(text).unwrap()), None, "{text:?}");
        }
        assert_eq!(decode(&HeaderValue::from_static("2H")), Some(Duration::from_secs(7_200)));
    }

    #[tokio::test(start_paused = true)]
    async fn every_attempt_says_what_is_left_for_it_and_a_shorter_header_stays() {
        let seen = service_fn(|request: Request<()>| async move {
            Ok::<_, Infallible>(request.headers().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned()))
        });
        let service = ServiceBuilder::new().layer(GrpcTimeoutLayer::new()).service(seen);
        let mut request = Request::new(());
        assert_eq!(service.oneshot(request.clone()).await.unwrap(), None);

        let deadline = Instant::now() + Duration::from_secs(3);
        InExtensions.edit(&mut request, |context| context.limit_deadline(deadline));
        for left in ["3000000u", "2000000u", "1000000u", "0n", "0n"] {
            assert_eq!(service.oneshot(request.clone()).await.unwrap().unwrap(), left);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }

        InExtensions.edit(&mut request, |context| *context = CallContext::default());
        InExtensions.edit(&mut request, |context| context.limit_deadline(Instant::now() + Duration::from_secs(3)));
        for (theirs, sent) in [("1S", "1S"), ("4S", "3000000u"), ("soon", "3000000u")] {
            request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(theirs));
            assert_eq!(service.oneshot(request.clone()).await.unwrap().unwrap(), sent);
        }
    }
}
