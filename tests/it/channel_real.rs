//! Servers that others wrote: nginx, nghttpd and Envoy. See `tests/README.md`.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tonic::Code;
use tower::ServiceExt;
use towline::Kind;
use towline::retry::RetryPolicy;
use towline_http::{Channel, ChannelBuilder};
use towline_proto_grpc::echo_client::EchoClient;

use crate::channel::{backends, ping};
use crate::servers::{EnvoyOptions, Server, envoy, nghttpd, nginx};

type Body = Full<Bytes>;

fn over(servers: &[&Server]) -> ChannelBuilder<Body> {
    Channel::http().endpoints(servers.iter().map(|server| format!("http://{}", server.address)))
}

async fn get(channel: &Channel<Body>, path: &str) -> (u16, Bytes) {
    let response = channel.clone().oneshot(Request::get(path).body(Body::default()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

const SAY: &str = "location / { return 200 \"$server_protocol $host $request_uri\"; }";

#[tokio::test]
async fn nginx_is_spoken_to_in_both_versions_and_its_goodbyes_fail_no_call() {
    for (options, version) in [("", "HTTP/1.1"), ("http2", "HTTP/2.0")] {
        let settings = format!("keepalive_requests 20; {SAY}");
        let Some(server) = nginx(&settings, options).await else { return };
        let builder = over(&[&server]).origin("api.example");
        let channel = if options.is_empty() { builder } else { builder.http2_only() }.build().unwrap();
        let callers = (0..8).map(|caller| {
            let channel = channel.clone();
            tokio::spawn(async move {
                for call in 0..100 {
                    // Not idempotent: nothing goes again that may have been served.
                    let request = Request::post(format!("/{caller}/{call}")).body(Body::from("body")).unwrap();
                    let response = channel.clone().oneshot(request).await.unwrap();
                    assert_eq!(response.status(), 200);
                    let said = response.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(said, format!("{version} api.example /{caller}/{call}"));
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
        let stats = channel.stats();
        assert!(stats.opened >= 800 / 20, "{stats:?}");
        assert_eq!(stats.in_use, 0);
    }
}

#[tokio::test]
async fn an_nginx_that_is_limited_is_gone_around() {
    let busy = "location / { add_header Retry-After 1 always; return 503; }";
    let (Some(limited), Some(serves)) = (nginx(busy, "").await, nginx(SAY, "").await) else { return };
    let channel = over(&[&limited, &serves]).build().unwrap();
    for call in 0..10 {
        assert_eq!(get(&channel, &format!("/{call}")).await.0, 200);
    }
}

#[tokio::test]
async fn an_nginx_that_is_killed_is_gone_around() {
    let (Some(mut dies), Some(serves)) = (nginx(SAY, "http2").await, nginx(SAY, "http2").await) else { return };
    let channel = over(&[&dies, &serves]).http2_only().build().unwrap();
    for call in 0..200 {
        if call == 50 {
            dies.stop().await;
        }
        assert_eq!(get(&channel, &format!("/{call}")).await.0, 200);
    }
}

#[tokio::test]
async fn nginx_in_front_of_a_grpc_server_passes_everything_on() {
    let backends = backends(1);
    let pass = format!("location / {{ grpc_pass grpc://{}; }}", backends[0].address());
    let Some(server) = nginx(&pass, "http2").await else { return };
    let channel = Channel::grpc().endpoints([format!("http://{}", server.address)]).build().unwrap();
    let mut client = EchoClient::new(channel);
    for id in 0..50 {
        assert_eq!(client.unary(ping(id)).await.unwrap().into_inner().id, id.to_string());
    }
    backends[0].faults().fail(Code::NotFound, 1);
    assert_eq!(client.unary(ping(1)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn nghttpd_serves_files_and_sends_bodies_back() {
    let Some(server) = nghttpd(&[("a.txt", "a"), ("long.txt", &"x".repeat(300_000))]).await else { return };
    let channel = over(&[&server]).http2_only().build().unwrap();
    assert_eq!(get(&channel, "/a.txt").await, (200, "a".into()));
    assert_eq!(get(&channel, "/none").await.0, 404);
    assert_eq!(get(&channel, "/long.txt").await.1.len(), 300_000);
    let calls = (0..200).map(|call| {
        let channel = channel.clone();
        tokio::spawn(async move {
            let sent = Bytes::from(format!("{call}:").repeat(1_000));
            let response =
                channel.oneshot(Request::post("/echo").body(Body::from(sent.clone())).unwrap()).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), sent);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    // It allows 100 streams: two connections or more, or calls that waited.
    assert_eq!(channel.endpoints()[0].in_flight, 0);
}

/// Envoy in front of a gRPC server, as it is told to fail.
async fn behind_envoy(options: impl Into<EnvoyOptions>) -> Option<(Vec<towline_proto_grpc::Backend>, Server)> {
    let backends = backends(1);
    let server = envoy(backends[0].address(), options).await?;
    Some((backends, server))
}

fn grpc_over(server: &Server) -> ChannelBuilder<tonic::body::Body> {
    Channel::grpc().endpoints([format!("http://{}", server.address)])
}

#[tokio::test]
async fn what_envoy_aborts_goes_again_where_it_may() {
    let Some((_backends, server)) = behind_envoy("abort: { percentage: { numerator: 50 }, grpc_status: 14 }").await
    else {
        return;
    };
    let retry = || RetryPolicy::default().attempts(40).unwrap().budget(towline::Budget::new(1.0, 10_000).unwrap());
    let channel = grpc_over(&server).retry(retry()).idempotent_if(|_| true).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    for id in 0..100 {
        client.unary(ping(id)).await.unwrap();
    }
    assert!(channel.retries().retries > 30, "{:?}", channel.retries());

    let channel = grpc_over(&server).retry(retry()).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    let mut failed = 0;
    for id in 0..100 {
        failed += usize::from(client.unary(ping(id)).await.is_err());
    }
    assert!(failed > 20 && channel.retries().retries == 0, "{failed}");
}

#[tokio::test]
async fn what_envoy_delays_ends_with_the_deadline() {
    let Some((_backends, server)) = behind_envoy("delay: { percentage: { numerator: 100 }, fixed_delay: 5s }").await
    else {
        return;
    };
    let mut client = EchoClient::new(grpc_over(&server).build().unwrap());
    let mut request = tonic::Request::new(ping(1));
    request.set_timeout(Duration::from_millis(200));
    let began = Instant::now();
    assert_eq!(client.unary(request).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn envoy_s_limits_and_goodbyes_fail_no_call() {
    let options = EnvoyOptions {
        max_concurrent_streams: Some(4),
        max_requests_per_connection: Some(20),
        drain: Some(Duration::from_millis(50)),
        ..EnvoyOptions::default()
    };
    let Some((_backends, server)) = behind_envoy(options).await else { return };
    let channel = grpc_over(&server).build().unwrap();
    let callers = (0..16).map(|_| {
        let mut client = EchoClient::new(channel.clone());
        tokio::spawn(async move {
            for id in 0..100 {
                client.unary(ping(id)).await.unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert!(channel.stats().opened > 20, "{:?}", channel.stats());
    assert!(channel.endpoints()[0].ejection.is_none());
}

#[tokio::test]
async fn a_server_that_dies_behind_envoy_is_unavailable_and_the_connection_stays() {
    let Some((mut backends, server)) = behind_envoy("").await else { return };
    let channel = grpc_over(&server).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    client.unary(ping(1)).await.unwrap();
    backends[0].kill();
    assert_eq!(client.unary(ping(2)).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(channel.stats().live, 1);
}

#[tokio::test]
async fn grpc_to_a_server_that_knows_none_has_the_code_of_its_status() {
    let Some(server) = nginx("location / { return 502; }", "http2").await else { return };
    let status = EchoClient::new(grpc_over(&server).build().unwrap()).unary(ping(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let Some(server) = nginx(SAY, "").await else { return };
    // HTTP/1 where HTTP/2 is needed.
    let channel = over(&[&server]).http2_only().build().unwrap();
    let error = channel.oneshot(Request::get("/").body(Body::default()).unwrap()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Malformed | Kind::UnexpectedEof | Kind::Closed), "{error:?}");
}
