//! What the channel says and hears in gRPC's headers and trailers, by a server that says just what the test wants.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::time::Instant;
use tonic::{Code, Request};
use towline::retry::RetryPolicy;
use towline::sticky::Tokens;
use towline_http::{Channel, ChannelBuilder, SessionToken};
use towline_proto_grpc::echo_client::EchoClient;

use crate::channel::{backends, over, ping};
use crate::channel_http::{Server, server};

/// An empty message.
const MESSAGE: &[u8] = &[0, 0, 0, 0, 0];

fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
    headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
}

/// A response of gRPC: more headers, a message or none, trailers or none.
fn answer(
    headers: &[(&'static str, &str)],
    message: bool,
    trailers: Option<&[(&'static str, &str)]>,
) -> Response<StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + use<>>> {
    let message = message.then(|| Ok(Frame::data(Bytes::from_static(MESSAGE))));
    let trailers = trailers.map(|trailers| Ok(Frame::trailers(map(trailers))));
    let mut response =
        Response::new(StreamBody::new(stream::iter(message.into_iter().chain(trailers).collect::<Vec<_>>())));
    *response.headers_mut() = map(headers);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

const WELL: Option<&[(&str, &str)]> = Some(&[("grpc-status", "0")]);

fn to(server: &Server) -> ChannelBuilder<tonic::body::Body> {
    let retry = RetryPolicy::default().attempts(5).unwrap();
    Channel::grpc().endpoints([server.uri()]).retry(retry).idempotent_if(|_| true)
}

#[tokio::test]
async fn every_attempt_says_which_it_is_and_how_much_time_is_left() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shared = seen.clone();
    let server = server(move |number, request| {
        let header = |name| request.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
        shared.lock().unwrap().push((header("grpc-previous-rpc-attempts"), header("grpc-timeout").unwrap()));
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let failed = answer(&[("grpc-status", "14")], false, None);
            if number < 2 { failed } else { answer(&[], true, WELL) }
        }
    });
    let mut client = EchoClient::new(to(&server.await).build().unwrap());
    let mut request = Request::new(ping(1));
    request.set_timeout(Duration::from_secs(20));
    client.unary(request).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    let attempts: Vec<_> = seen.iter().map(|(attempt, _)| attempt.as_deref()).collect();
    assert_eq!(attempts, [None, Some("1"), Some("2")]);
    let left: Vec<u64> = seen.iter().map(|(_, left)| left.strip_suffix('u').unwrap().parse().unwrap()).collect();
    assert!(left[0] <= 20_000_000 && left[0] > 19_000_000, "{left:?}");
    assert!(left[1] <= left[0] - 50_000 && left[2] <= left[1] - 50_000, "{left:?}");
}

#[tokio::test]
async fn a_channel_s_own_deadline_is_not_told_to_the_server() {
    let server = server(|_, request| async move {
        assert!(request.headers().get("grpc-timeout").is_none());
        answer(&[], true, WELL)
    });
    let channel = to(&server.await).deadline(Duration::from_secs(3)).build().unwrap();
    EchoClient::new(channel).unary(ping(1)).await.unwrap();
}

#[tokio::test]
async fn a_call_that_fails_in_its_trailers_before_any_message_goes_again() {
    let server = server(|number, _| async move {
        let failed: &[_] = &[("grpc-status", "14"), ("grpc-message", "not yet")];
        if number == 0 { answer(&[], false, Some(failed)) } else { answer(&[], true, WELL) }
    });
    let server = server.await;
    let channel = to(&server).build().unwrap();
    EchoClient::new(channel.clone()).unary(ping(1)).await.unwrap();
    assert_eq!((server.asked(), channel.retries().retries), (2, 1));
}

#[tokio::test]
async fn a_call_that_fails_after_a_message_does_not_go_again_and_counts_against_its_server() {
    let bad =
        server(|_, _| async { answer(&[], true, Some(&[("grpc-status", "13"), ("grpc-message", "broke%20off")])) });
    let bad = bad.await;
    let good = backends(1);
    let channel = over(&good).endpoints([bad.uri()]).idempotent_if(|_| true).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    let mut failed = 0;
    for id in 0..200 {
        if let Err(status) = client.unary(ping(id)).await {
            assert_eq!((status.code(), status.message()), (Code::Internal, "broke off"));
            failed += 1;
        }
    }
    assert_eq!((channel.retries().retries, failed), (0, bad.asked()));
    let endpoints = channel.endpoints();
    let bad_one = endpoints.iter().find(|one| one.key.as_str() == bad.address.to_string()).unwrap();
    assert!(failed < 20, "the balancer has noticed: {failed} {bad_one:?}");
}

#[tokio::test]
async fn pushback_says_when_to_come_again_and_whether() {
    for (pushback, calls, least) in [("300", 2, 300), ("-1", 1, 0), ("nonsense", 1, 0), ("3600000", 1, 0)] {
        let server = server(move |number, _| async move {
            let failed = answer(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", pushback)], false, None);
            if number == 0 { failed } else { answer(&[], true, WELL) }
        });
        let server = server.await;
        let began = Instant::now();
        let result = EchoClient::new(to(&server).build().unwrap()).unary(ping(1)).await;
        assert_eq!((result.is_ok(), server.asked()), (calls == 2, calls), "{pushback}");
        assert!(began.elapsed() >= Duration::from_millis(least));
    }
}

#[tokio::test]
async fn sessions_stay_by_metadata_and_by_a_token_in_it() {
    let backends = backends(3);
    let by_user = over(&backends).sticky_by_header("x-user").build().unwrap();
    for user in ["alice", "bob", "carol"] {
        let before: Vec<_> = backends.iter().map(|backend| backend.faults().calls()).collect();
        for id in 0..10 {
            let mut request = Request::new(ping(id));
            request.metadata_mut().insert("x-user", user.parse().unwrap());
            EchoClient::new(by_user.clone()).unary(request).await.unwrap();
        }
        let served = backends.iter().zip(before).filter(|(backend, before)| backend.faults().calls() > *before).count();
        assert_eq!(served, 1);
    }

    let tokens = Tokens::new(1, b"thirty-two bytes from /dev/urandom").unwrap();
    let by_token = over(&backends).session_tokens(tokens, SessionToken::header("x-backend").unwrap()).build().unwrap();
    let mut client = EchoClient::new(by_token);
    let first = client.unary(ping(0)).await.unwrap();
    let token = first.metadata().get("x-backend").unwrap().clone();
    let before: Vec<_> = backends.iter().map(|backend| backend.faults().calls()).collect();
    for id in 0..20 {
        let mut request = Request::new(ping(id));
        request.metadata_mut().insert("x-backend", token.clone());
        assert!(client.unary(request).await.unwrap().metadata().get("x-backend").is_none());
    }
    let served: Vec<_> =
        backends.iter().zip(before).map(|(backend, before)| backend.faults().calls() - before).collect();
    assert!(served.contains(&20), "{served:?}");
}
