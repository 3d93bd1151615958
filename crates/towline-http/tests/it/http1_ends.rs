//! HTTP/1 connections that end before their call does, because nobody can wait for it.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};
use tower::{Layer, Service};
use towline_core::{CloseReason, Kind, Phase, Sent};
use towline_http::Http1Layer;

use crate::net::{Body, echo_server, get, http1, net, next_request, ok, pool, read, request, rest, say, text};

#[tokio::test(start_paused = true)]
async fn a_closed_pool_cuts_a_response_that_is_being_read_once_its_time_is_over() {
    let (dials, mut peers) = net();
    let (mut handle, closings) = pool(http1(dials), 1).await;
    let call = tokio::spawn(handle.call(get("/")));
    let mut peer = peers.recv().await.unwrap();
    request(&mut peer).await;
    say(&mut peer, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
    let mut response = call.await.unwrap().unwrap();
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "half");

    handle.close().await;
    let error = timeout(Duration::from_secs(1), read(response)).await.expect("the body was cut").unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Closed, Phase::Read, Sent::Maybe), "{error:?}");
    assert_eq!(closings.seen(), [CloseReason::Shutdown]);
    assert_eq!(rest(&mut peer).await, b"");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_on_after_its_response_keeps_its_connection_for_a_second() {
    let (dials, mut peers) = net();
    let (mut handle, closings) = pool(Http1Layer::new().layer(dials), 1).await;
    let request = |path: &str, last: bool| {
        let part = futures_util::stream::iter([Ok::<_, io::Error>(http_body::Frame::data(bytes::Bytes::from("part")))]);
        let rest = futures_util::stream::iter((!last).then_some(())).then(|()| std::future::pending());
        let body = http_body_util::StreamBody::new(Box::pin(part.chain(rest)));
        http::Request::post(format!("http://peer{path}")).body(body).unwrap()
    };
    let call = tokio::spawn(handle.call(request("/endless", false)));
    let mut peer = peers.recv().await.unwrap();
    next_request(&mut peer).await.unwrap();
    say(&mut peer, &ok("enough")).await;
    assert_eq!(text(call.await.unwrap().unwrap()).await, "enough");

    let before = Instant::now();
    let next = tokio::spawn(handle.call(request("/next", true)));
    let mut peer = timeout(Duration::from_secs(60), peers.recv()).await.expect("its place is free again").unwrap();
    assert_eq!(next_request(&mut peer).await.unwrap(), "/next");
    say(&mut peer, &ok("answer")).await;
    assert_eq!(text(next.await.unwrap().unwrap()).await, "answer");
    assert!((1..2).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    assert_eq!(closings.seen(), [CloseReason::Dirty]);
}

#[tokio::test]
async fn calls_one_after_the_other_wait_for_nobody_and_share_one_connection() {
    let address = echo_server().await;
    let connect = tower::service_fn(move |_: &'static str| tokio::net::TcpStream::connect(address));
    let (handle, _) = pool(Http1Layer::<Body>::new().layer(connect), 4).await;
    for turn in 0..50 {
        let request = http::Request::post("/").header("host", "peer").body(turn.to_string().into()).unwrap();
        assert_eq!(text(handle.clone().call(request).await.unwrap()).await, turn.to_string());
    }
    // Only the first has waited, for the dial.
    assert_eq!((handle.stats().opened, handle.stats().waits), (1, 1), "{:?}", handle.stats());
}
