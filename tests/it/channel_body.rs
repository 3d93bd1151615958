//! Bodies of requests that are sent more than once, not to their end, or not at all; and who is to blame.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame};
use tokio::time::sleep;
use tower::ServiceExt;
use towline::Kind;
use towline::core::{Backoff, Jitter};
use towline::retry::RetryPolicy;
use towline_http::{Channel, ChannelBuilder};

use crate::channel::until;
use crate::channel_http::{Server, server};

fn over<B: Body + Send + 'static>(server: &Server, http2: bool) -> ChannelBuilder<B> {
    let builder = Channel::http().endpoints([server.uri()]);
    if http2 { builder.http2_only() } else { builder }
}

fn chunk(length: usize) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(vec![b'x'; length])))
}

/// Fails the first request before it has read it, and reads on; says of the others how long they were.
async fn early_503() -> Server {
    server(|number, request| async move {
        if number == 0 {
            tokio::spawn(request.into_body().collect());
            return Response::builder().status(503).body(String::new()).unwrap();
        }
        Response::new(format!("{:?}", request.into_body().collect().await.map(|body| body.to_bytes().len()).ok()))
    })
    .await
}

#[tokio::test]
async fn a_body_of_which_little_was_sent_when_its_call_failed_arrives_whole_with_the_next_attempt() {
    for http2 in [false, true] {
        for pause in [5, 30, 60] {
            let server = early_503().await;
            let body = stream::iter(0..10).then(|at| async move {
                sleep(Duration::from_millis(if at > 0 { 10 } else { 0 })).await;
                chunk(300)
            });
            let backoff = Duration::from_millis(pause);
            let backoff = Backoff::new(backoff, backoff).with_jitter(Jitter::Equal);
            let retry = RetryPolicy::default().backoff(backoff);
            let channel = over(&server, http2).replay_limit(1_000).retry(retry).build().unwrap();
            let request = Request::put("/").body(StreamBody::new(Box::pin(body))).unwrap();
            let response = channel.oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let said = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(said, "Some(3000)", "{http2} {pause}");
        }
    }
}

#[tokio::test]
async fn an_attempt_that_was_given_up_sends_nothing_more_and_its_stream_ends() {
    let ended = Arc::new(AtomicUsize::new(0));
    let shared = ended.clone();
    let server = server(move |number, request| {
        let ended = shared.clone();
        async move {
            if number == 0 {
                tokio::spawn(async move {
                    let _cut = request.into_body().collect().await;
                    ended.fetch_add(1, Ordering::Relaxed);
                });
                return Response::builder().status(503).body(String::new()).unwrap();
            }
            Response::new(String::new())
        }
    });
    let server = server.await;
    // It never ends, and nothing more comes.
    let body = StreamBody::new(stream::iter([chunk(10)]).chain(stream::pending()));
    let channel = over(&server, true).build().unwrap();
    let response = channel.clone().oneshot(Request::put("/").body(Box::pin(body)).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    until("the first attempt's end", || ended.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn a_response_that_is_dropped_or_late_ends_the_request_that_is_still_being_sent() {
    let open = Arc::new(AtomicUsize::new(0));
    let shared = open.clone();
    let server = server(move |_, request| {
        let open = shared.clone();
        open.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::spawn(async move {
                let _cut = request.into_body().collect().await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
            // A head, and then nothing.
            Response::new(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()))
        }
    });
    let server = server.await;
    let channel = over(&server, true).body_timeout(Duration::from_millis(20)).build().unwrap();
    // Far more than the 200 streams that the server allows at a time.
    for number in 0..450 {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let response = channel.clone().oneshot(Request::post("/").body(Box::pin(body)).unwrap()).await.unwrap();
        match number % 150 {
            0 => assert_eq!(response.into_body().collect().await.unwrap_err().kind(), Kind::Timeout),
            _ => drop(response),
        }
    }
    until("all streams closed", || open.load(Ordering::Relaxed) == 0).await;
    assert_eq!(channel.stats().opened, 1);
}

#[tokio::test]
async fn a_request_whose_body_fails_is_the_caller_s_own_failure_and_none_of_the_server_s() {
    for http2 in [false, true] {
        let mut servers = Vec::new();
        for _ in 0..3 {
            let whole = server(|_, request| async move {
                let _whole = request.into_body().collect().await;
                Response::new(String::new())
            });
            servers.push(whole.await);
        }
        let builder = Channel::http().endpoints(servers.iter().map(Server::uri)).sticky_by_header("x-user");
        let channel = if http2 { builder.http2_only() } else { builder }.build().unwrap();
        let send = async |user: usize, last: Result<Frame<Bytes>, io::Error>| {
            let body = StreamBody::new(stream::iter([Ok(Frame::data(Bytes::from_static(b"x"))), last]));
            channel.clone().oneshot(Request::post("/").header("x-user", user).body(body).unwrap()).await
        };
        // One user's uploads fail, always at the same server; all others' are well.
        for user in 0..60 {
            send(user, Ok(Frame::data(Bytes::new()))).await.unwrap();
            let error = send(1_000, Err(io::Error::other("the client went away"))).await.unwrap_err();
            assert_eq!(error.kind(), Kind::RequestBody, "{error:?}");
            // Of HTTP/2 hyper says only that it has reset the stream.
            assert_eq!(error.find::<io::Error>().is_some(), !http2);
        }
        sleep(Duration::from_millis(300)).await;
        for endpoint in channel.endpoints() {
            assert!(endpoint.ejection.is_none(), "{endpoint:?}");
        }
    }
}

#[tokio::test]
async fn trailers_of_a_request_are_sent_at_every_attempt() {
    for http2 in [false, true] {
        let server = server(|number, request| async move {
            let collected = request.into_body().collect().await.unwrap();
            let said = collected.trailers().and_then(|trailers| trailers.get("x-sum")).map(|sum| sum.len());
            let status = if number == 0 { 503 } else { 200 };
            Response::builder().status(status).body(format!("{said:?} {}", collected.to_bytes().len())).unwrap()
        });
        let server = server.await;
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "abc".parse().unwrap())]);
        let body = StreamBody::new(stream::iter([chunk(10), Ok(Frame::trailers(trailers))]));
        let channel = over(&server, http2).build().unwrap();
        let request = Request::put("/").header("trailer", "x-sum").body(body).unwrap();
        let response = channel.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "Some(3) 10", "{http2}");
    }
}
