//! Calls that end with the body of their HTTP response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use tokio::time::sleep;
use tower::{Service, ServiceExt, service_fn};
use towline_balance::{AtBodyEnd, Balance, BalanceBuilder, LOAD_HEADER, P2c, P2cPicker, TrackedBody, fixed};
use towline_core::{Carried, Error, Kind, Lent, Phase, Target, TokioExecutor};

use crate::support::{Message, SECOND, endpoints};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Error>;

/// A response whose body has these frames, a second apart.
fn slow(frames: Vec<Result<Frame<Bytes>, Error>>) -> Response<Body> {
    let frames = stream::unfold(frames.into_iter(), |mut frames| async {
        sleep(SECOND).await;
        frames.next().map(|frame| (frame, frames))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn data() -> Result<Frame<Bytes>, Error> {
    Ok(Frame::data(Bytes::from_static(b"part")))
}

type Over<S> = Balance<Lent<S>, P2cPicker, Carried, AtBodyEnd>;

async fn over<S>(service: S) -> Over<S>
where
    S: Service<Message, Response = Response<Body>, Error = Error> + Clone + Send + Sync + 'static,
{
    let make = service_fn(move |_: Target| std::future::ready(Ok::<_, Error>(Lent::new(service.clone()))));
    let builder = BalanceBuilder::new(P2c::new()).track(AtBodyEnd::default());
    let balance = builder.spawn(fixed(endpoints(1)), make, &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    balance
}

/// The body of a call that has just got its head.
async fn body<S>(balance: &Over<S>) -> TrackedBody<Body>
where
    S: Service<Message, Response = Response<Body>, Error = Error> + Clone + Send + Sync + 'static,
{
    balance.clone().oneshot(Message::new(0)).await.unwrap().into_body()
}

macro_rules! over {
    ($response:expr) => {
        over(service_fn(|_: Message| async { Ok::<_, Error>($response) })).await
    };
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_until_its_body_has_been_read() {
    let balance = over!(slow(vec![data(), data()]));
    let body = body(&balance).await;
    assert_eq!(balance.endpoints()[0].in_flight, 1);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "partpart");
    let view = &balance.endpoints()[0];
    assert_eq!(view.in_flight, 0);
    assert!(view.latency.unwrap() >= 2 * SECOND, "until the end, not the head");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_was_given_up() {
    let balance = over!(slow(vec![data(), data()]));
    let mut body = body(&balance).await;
    body.frame().await.unwrap().unwrap();
    drop(body);
    let view = &balance.endpoints()[0];
    assert_eq!((view.in_flight, view.latency), (0, None), "not an answer that took a second");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_a_failure() {
    let calls = Arc::new(AtomicUsize::new(0));
    let service = service_fn(move |_: Message| {
        let fails = calls.fetch_add(1, Ordering::Relaxed) >= 1;
        let end = if fails { Err(Error::new(Kind::UnexpectedEof, Phase::Read)) } else { data() };
        std::future::ready(Ok::<_, Error>(slow(vec![data(), end])))
    });
    let balance = over(service).await;
    body(&balance).await.collect().await.unwrap();
    assert!(!balance.endpoints()[0].on_probation);
    for _ in 0..2 {
        body(&balance).await.collect().await.unwrap_err();
    }
    assert!(balance.endpoints()[0].on_probation, "two failures in a row");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_body_ends_with_its_head() {
    let balance = over!(Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync()));
    let _body = body(&balance).await;
    assert_eq!(balance.endpoints()[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn reports_ride_on_headers_and_on_trailers() {
    let balance = over!({
        let text = "TEXT named_metrics.in_flight=9,named_metrics.latency_ms=20".parse().unwrap();
        let trailers = HeaderMap::from_iter([(LOAD_HEADER.parse().unwrap(), text)]);
        let mut response = slow(vec![data(), Ok(Frame::trailers(trailers))]);
        response.headers_mut().insert(LOAD_HEADER, "TEXT named_metrics.in_flight=7".parse().unwrap());
        response
    });
    let body = body(&balance).await;
    let reported = || balance.endpoints()[0].reported.unwrap();
    assert_eq!((reported().in_flight, reported().latency), (8, Duration::ZERO), "and the call that is not over");
    body.collect().await.unwrap();
    assert_eq!(reported().in_flight, 9);
}
