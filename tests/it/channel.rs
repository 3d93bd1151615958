//! The channel under clients that tonic generates: every kind of call, deadlines, retries, servers that leave, die and fail.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout};
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request};
use towline::Kind;
use towline::retry::RetryPolicy;
use towline_http::{Channel, ChannelBuilder};
use towline_proto::Request as Ping;
use towline_proto_grpc::Backend;
use towline_proto_grpc::echo_client::EchoClient;

pub(crate) type GrpcChannel = Channel<tonic::body::Body>;

pub(crate) fn backends(count: usize) -> Vec<Backend> {
    (0..count).map(|_| Backend::start("127.0.0.1:0").unwrap()).collect()
}

pub(crate) fn over(backends: &[Backend]) -> ChannelBuilder<tonic::body::Body> {
    Channel::grpc().endpoints(backends.iter().map(|backend| format!("http://{}", backend.address())))
}

pub(crate) async fn until(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), waiting).await.unwrap_or_else(|_| panic!("{what} never happens"));
}

pub(crate) fn ping(id: impl ToString) -> Ping {
    Ping { id: id.to_string(), payload: "payload".into() }
}

#[tokio::test]
async fn every_kind_of_call_of_a_generated_client_goes_over_the_channel() {
    let backends = backends(2);
    let channel = over(&backends).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    for id in 0..10 {
        let pong = client.unary(ping(id)).await.unwrap().into_inner();
        assert_eq!((pong.id, pong.payload), (id.to_string(), "payload".into()));
    }
    let many = client.many(ping("many")).await.unwrap().into_inner();
    let bytes: Vec<_> = many.map(|pong| pong.unwrap().payload[0]).collect().await;
    assert_eq!(bytes, b"payload");
    let pings: Vec<_> = (0..100).map(ping).collect();
    let gathered = client.gather(stream::iter(pings)).await.unwrap().into_inner();
    assert_eq!(gathered.payload.len(), 100 * "payload".len());
    assert!(backends.iter().all(|backend| backend.faults().calls() > 0), "both were used");
    let idle = || channel.endpoints().iter().all(|endpoint| endpoint.in_flight == 0);
    assert!(idle(), "{:?}", channel.endpoints());
}

#[tokio::test]
async fn a_stream_in_both_directions_answers_each_message_before_the_next_is_sent() {
    let backends = backends(1);
    let channel = over(&backends).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    let (pings, receiver) = tokio::sync::mpsc::channel(1);
    let requests = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let mut pongs = client.duplex(requests).await.unwrap().into_inner();
    for id in 0..200 {
        pings.send(Ping { id: id.to_string(), payload: vec![7; 1_000].into() }).await.unwrap();
        let pong = pongs.message().await.unwrap().unwrap();
        assert_eq!((pong.id, pong.payload.len()), (id.to_string(), 1_000));
        assert_eq!(channel.endpoints()[0].in_flight, 1, "the call is on until its trailers");
    }
    drop(pings);
    assert!(pongs.message().await.unwrap().is_none());
    assert_eq!(channel.endpoints()[0].in_flight, 0);
    // 200 kB went through, far more than is kept: that alone is no reason to fail.
    assert_eq!(channel.retries().not_replayable, 0);
}

#[tokio::test]
async fn compressed_messages_go_through() {
    let backends = backends(1);
    let client = EchoClient::new(over(&backends).build().unwrap());
    let mut client = client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
    let payload = vec![b'x'; 100_000];
    let pong = client.unary(Ping { id: "1".into(), payload: payload.clone().into() }).await.unwrap().into_inner();
    assert_eq!(pong.payload, payload);
}

#[tokio::test]
async fn a_deadline_of_the_caller_reaches_the_server_and_ends_the_call_on_time() {
    let backends = backends(1);
    backends[0].faults().delay(Duration::from_secs(5));
    let channel = over(&backends).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    let mut request = Request::new(ping(1));
    request.set_timeout(Duration::from_millis(100));
    let began = Instant::now();
    let status = client.unary(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(channel.endpoints()[0].in_flight, 0);
}

#[tokio::test]
async fn a_deadline_of_the_caller_ends_a_stream_that_has_begun_and_the_channel_s_own_does_not() {
    let backends = backends(1);
    let channel = over(&backends).deadline(Duration::from_millis(150)).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    for limit in [None, Some(Duration::from_millis(100))] {
        let mut request = Request::new(stream::once(async { ping(1) }).chain(stream::pending()));
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        let mut pongs = client.duplex(request).await.unwrap().into_inner();
        assert!(pongs.message().await.unwrap().is_some());
        let next = timeout(Duration::from_millis(400), pongs.message()).await;
        match limit {
            None => assert!(next.is_err(), "still open: {next:?}"),
            Some(_) => assert_eq!(next.unwrap().unwrap_err().code(), Code::DeadlineExceeded),
        }
    }
    assert_eq!(channel.endpoints()[0].in_flight, 0, "one was dropped, the other cut");
}

#[tokio::test]
async fn a_body_that_goes_quiet_is_ended_by_the_body_timeout() {
    let backends = backends(1);
    let mut client = EchoClient::new(over(&backends).body_timeout(Duration::from_millis(100)).build().unwrap());
    let requests = stream::once(async { ping(1) }).chain(stream::pending());
    let mut pongs = client.duplex(requests).await.unwrap().into_inner();
    assert!(pongs.message().await.unwrap().is_some());
    let status = pongs.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("body_timeout"), "{status}");
}

#[tokio::test]
async fn a_call_that_is_dropped_frees_its_stream_and_its_place() {
    let backends = backends(1);
    let channel = over(&backends).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    client.unary(ping(0)).await.unwrap();
    backends[0].faults().delay(Duration::from_secs(60));
    for _ in 0..300 {
        let _elapsed = timeout(Duration::from_millis(1), client.unary(ping(1))).await;
    }
    assert_eq!(channel.endpoints()[0].in_flight, 0);
    backends[0].faults().delay(Duration::ZERO);
    client.unary(ping(2)).await.unwrap();
    assert_eq!(channel.stats().opened, 1, "one connection all along");
}

#[tokio::test]
async fn a_call_that_may_be_repeated_goes_elsewhere_when_the_server_says_unavailable() {
    let backends = backends(3);
    for backend in &backends {
        backend.faults().fail(Code::Unavailable, 1);
    }
    // Three attempts can meet three failures.
    let retry = RetryPolicy::default().attempts(4).unwrap();
    let channel =
        over(&backends).retry(retry).idempotent_if(|head| head.uri.path().ends_with("/Unary")).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    for id in 0..10 {
        client.unary(ping(id)).await.unwrap();
    }
    assert_eq!(channel.retries().retries, 3);
    // What nobody marks does not.
    backends.iter().for_each(|backend| backend.faults().fail(Code::Unavailable, 1));
    let status = client.gather(stream::iter([ping(1)])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "switched to fail"));
}

/// Calls that must not be repeated once they may have been processed; what went wrong.
async fn call_in_parallel(channel: &GrpcChannel, callers: usize, calls: usize) -> Vec<String> {
    let callers = (0..callers).map(|_| {
        let mut client = EchoClient::new(channel.clone());
        tokio::spawn(async move {
            let mut failed = Vec::new();
            for id in 0..calls {
                if let Err(status) = client.unary(ping(id)).await {
                    failed.push(format!("{id}: {status}"));
                }
            }
            failed
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut failed = Vec::new();
    for caller in callers {
        failed.extend(caller.await.unwrap());
    }
    failed
}

#[tokio::test]
async fn f38_goodbyes_of_a_server_fail_no_call_and_are_no_failures() {
    for count in [1, 2] {
        let mut backends = backends(count);
        let channel = over(&backends).build().unwrap();
        let calls = {
            let channel = channel.clone();
            tokio::spawn(async move { call_in_parallel(&channel, 16, 300).await })
        };
        let mut goodbyes = 0;
        while !calls.is_finished() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            backends[0].say_goodbye().unwrap();
            goodbyes += 1;
        }
        assert_eq!(calls.await.unwrap(), Vec::<String>::new());
        let key = backends[0].address().to_string();
        let endpoint = channel.endpoints().into_iter().find(|one| one.key.as_str() == key).unwrap();
        assert!(endpoint.pool.opened > goodbyes / 2, "{goodbyes}: {:?}", endpoint.pool);
        assert!(endpoint.ejection.is_none() && endpoint.pool.dials_failed == 0, "{endpoint:?}");
    }
}

#[tokio::test]
async fn killed_and_unreachable_servers_are_unavailable_in_grpc_s_words_and_ours() {
    let mut backends = backends(1);
    let channel = over(&backends).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    client.unary(ping(0)).await.unwrap();
    backends[0].kill();
    let status = client.unary(ping(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let again = client.unary(ping(1)).await.unwrap_err();
    assert_eq!(again.code(), Code::Unavailable, "{again}");

    // As a service: the error is there as well.
    let request = http::Request::post("/towline.echo.v1.Echo/Unary").header("content-type", "application/grpc");
    let request = request.body(tonic::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(channel, request).await.unwrap();
    let error = response.extensions().get::<towline::Error>().unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(error.endpoint().unwrap().as_str(), backends[0].address().to_string());
}
