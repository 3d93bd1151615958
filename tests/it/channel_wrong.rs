//! What is wrong with requests, settings and servers is said, in our words and in gRPC's, and costs no connection.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::Builder as Http1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::Code;
use tower::ServiceExt;
use towline::connect::TcpConnector;
use towline::tls::TlsConfig;
use towline::{Error, Kind, Phase};
use towline_http::{Channel, ChannelBuilder, Http2Config};
use towline_proto_grpc::echo_client::EchoClient;
use towline_testbed::Authority;

use crate::channel::{ping, until};
use crate::channel_http::server;

fn refused(builder: ChannelBuilder<Full<Bytes>>) -> String {
    let error = builder.build().unwrap_err();
    assert_eq!((error.kind(), error.phase()), (Kind::Config, Phase::Build), "{error}");
    error.to_string()
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_with_what_to_change() {
    let plain = || Channel::http().endpoints(["http://a.example"]);
    let tls = |alpn: &[&str]| TlsConfig::builder().alpn(alpn.iter().copied()).build().unwrap();
    for (builder, why) in [
        (Channel::http(), "there are no endpoints"),
        (Channel::http().endpoints(["ftp://a.example"]), "neither http nor https"),
        (Channel::http().endpoints(["a.example"]), "no port"),
        (Channel::http().endpoints(["http://a.example/api"]), "requests have paths"),
        (plain().endpoints(["https://b.example"]), "one scheme"),
        (plain().tls(tls(&["h2", "http/1.1"])), "use https"),
        (Channel::http().endpoints(["https://a.example"]).plaintext(), "use http"),
        (plain().plaintext().tls(tls(&[])), "use one of them"),
        (Channel::http().endpoints(["https://a.example"]).tls(tls(&["h2"])), "does not offer http/1.1"),
        (Channel::grpc().endpoints(["https://a.example"]).tls(tls(&["http/1.1"])), "does not offer h2"),
        (Channel::http().endpoints(["http://127.0.0.1:80800"]), "no number"),
        (
            Channel::http().endpoints(["https://a.example"]).tls(tls(&["h2", "http/1.1"])).http1_only(Http1::new()),
            "does not speak",
        ),
        (plain().encrypted_connector(TcpConnector::new()), "the connector encrypts"),
        (plain().sticky_by_cookie("no cookie"), "no name for a cookie"),
        (plain().origin("a.example:99999"), "no origin"),
        (plain().deadline(Duration::ZERO), "a deadline of 0"),
        (plain().body_timeout(Duration::ZERO), "a deadline of 0"),
        (plain().origin("no host"), "no origin"),
        (plain().origin("me@a.example"), "no origin"),
        (plain().sticky_by_header("no header"), "no name for a header"),
        (plain().health(towline_http::Health::grpc("").every(Duration::ZERO)), "health probes"),
    ] {
        let said = refused(builder);
        assert!(said.contains(why), "{said:?} does not say {why:?}");
    }
}

#[tokio::test]
async fn requests_that_cannot_be_sent_are_refused_before_anything_is_dialled() {
    let server = server(|_, _| async { Response::new(String::new()) }).await;
    let channel = Channel::<Empty<Bytes>>::http().endpoints([server.uri()]).build().unwrap();
    for (method, uri, why) in [
        (Method::GET, "https://a.example/", "sends in the clear"),
        (Method::GET, "ftp://a.example/", "neither http nor https"),
        (Method::CONNECT, "a.example:80", "no tunnels"),
        (Method::GET, "https://me:secret@a.example/?key=secret", "GET a.example/:"),
    ] {
        let request = Request::builder().method(method).uri(uri).body(Empty::new()).unwrap();
        let error = channel.clone().oneshot(request).await.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (Kind::Config, towline::Sent::Never));
        assert!(error.to_string().contains(why), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let request = Request::get("/").header("host", "no host").body(Empty::new()).unwrap();
    let error = channel.clone().oneshot(request).await.unwrap_err();
    assert!(error.to_string().contains("header Host"), "{error}");
    assert_eq!((channel.stats().opened, server.asked()), (0, 0));
}

#[tokio::test]
async fn a_server_without_http2_is_named_as_such_and_unavailable_in_grpc() {
    // In the clear it answers the preface in HTTP/1.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let _read = io.read(&mut [0; 1_024]).await;
            let _written = io.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let channel = Channel::grpc().endpoints([format!("http://{address}")]).build().unwrap();
    let status = EchoClient::new(channel.clone()).unary(ping(1)).await.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::Internal), "{status}");
    assert!(status.message().contains("handshaking"), "{status}");
    assert_eq!(channel.stats().live, 0);

    // Over TLS it does not agree to h2.
    let authority = Authority::new("wrong");
    let acceptor = authority.certify(&["127.0.0.1"]).acceptor_with_alpn(&["http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut io) = acceptor.accept(io).await {
                    let _read = io.read(&mut [0; 1]).await;
                }
            });
        }
    });
    let tls = TlsConfig::builder().root_pem(authority.pem()).alpn(["h2"]).build().unwrap();
    let channel = Channel::grpc().endpoints([format!("https://{address}")]).tls(tls).build().unwrap();
    let status = EchoClient::new(channel.clone()).unary(ping(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("h2") || status.message().contains("ALPN"), "{status}");
    assert_eq!(channel.stats().live, 0);
}

#[tokio::test]
async fn heads_that_are_too_long_fail_the_call_and_leave_no_connection_in_use() {
    let server =
        server(|_, _| async { Response::builder().header("x-long", "x".repeat(60_000)).body(String::new()).unwrap() });
    let server = server.await;
    let config = Http2Config::default().max_header_list(16 * 1_024);
    let channel = Channel::<Empty<Bytes>>::http().endpoints([server.uri()]).http2_only().http2(config).build().unwrap();
    let error = channel.clone().oneshot(Request::post("/").body(Empty::new()).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.phase()), (Kind::Malformed, Phase::Read), "{error:?}");
    assert_eq!(channel.stats().in_use, 0);

    let mut settings = hyper::client::conn::http1::Builder::new();
    settings.max_buf_size(16 * 1_024);
    let channel = Channel::<Empty<Bytes>>::http().endpoints([server.uri()]).http1_only(settings).build().unwrap();
    let error = channel.clone().oneshot(Request::post("/").body(Empty::new()).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.phase()), (Kind::Malformed, Phase::Read), "{error:?}");
    assert_eq!((channel.stats().in_use, channel.stats().live), (0, 0));
}

/// A server of gRPC whose responses have this head and body, and no trailers.
async fn without_trailers(status: u16, body: &'static str) -> crate::channel_http::Server {
    server(move |_, _| async move {
        let head = Response::builder().status(status).header("content-type", "application/grpc");
        head.body(body.to_owned()).unwrap()
    })
    .await
}

#[tokio::test]
async fn a_response_without_trailers_is_internal_and_a_failure_of_its_server() {
    let server = without_trailers(200, "\0\0\0\0\0").await;
    let channel = Channel::grpc().endpoints([server.uri()]).build().unwrap();
    let status = EchoClient::new(channel.clone()).unary(ping(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(status.message().contains("without trailers"), "{status}");
    assert_eq!((channel.endpoints()[0].in_flight, channel.stats().in_use), (0, 0));
}

#[tokio::test]
async fn answers_of_proxies_that_know_no_grpc_have_the_code_of_their_status() {
    for (status, code) in [(401, Code::Unauthenticated), (404, Code::Unimplemented), (503, Code::Unavailable)] {
        let server =
            server(move |_, _| async move { Response::builder().status(status).body("<html>".to_owned()).unwrap() });
        let channel = Channel::grpc().endpoints([server.await.uri()]).build().unwrap();
        let said = EchoClient::new(channel.clone()).unary(ping(1)).await.unwrap_err();
        assert_eq!(said.code(), code, "{said}");
        assert!(said.message().contains(&status.to_string()), "{said}");
        assert_eq!(channel.endpoints()[0].in_flight, 0);
    }
}

#[tokio::test]
async fn a_status_of_grpc_is_heeded_in_whatever_company_and_one_of_http_where_there_is_none() {
    for (status, content, grpc, code) in [
        (503, "application/grpc", None, Code::Unavailable),
        (200, "text/plain", Some("5"), Code::NotFound),
        (502, "application/grpc", Some("8"), Code::ResourceExhausted),
    ] {
        let server = server(move |_, _| async move {
            let head = Response::builder().status(status).header("content-type", content);
            let head = grpc.iter().fold(head, |head, code| head.header("grpc-status", *code));
            head.body(String::new()).unwrap()
        });
        let channel = Channel::grpc().endpoints([server.await.uri()]).build().unwrap();
        let said = EchoClient::new(channel).unary(ping(1)).await.unwrap_err();
        assert_eq!(said.code(), code, "{status} {content} {grpc:?}: {said}");
    }
}

#[tokio::test]
async fn a_response_that_never_ends_is_ended_and_its_connection_freed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _read = io.read(&mut [0; 1_024]).await;
                let _written = io.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
                let _silent = io.read(&mut [0; 1]).await;
            });
        }
    });
    let channel = Channel::<Empty<Bytes>>::http().endpoints([format!("http://{address}")]);
    let channel = channel.body_timeout(Duration::from_millis(100)).build().unwrap();
    let response = channel.clone().oneshot(Request::get("/").body(Empty::new()).unwrap()).await.unwrap();
    let error: Error = response.into_body().collect().await.unwrap_err();
    assert_eq!((error.kind(), error.phase()), (Kind::Timeout, Phase::Read));
    assert!(error.to_string().contains("body_timeout"), "{error}");
    assert_eq!(channel.endpoints()[0].in_flight, 0);
    until("closed", || channel.stats().live == 0).await;
}
