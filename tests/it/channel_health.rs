//! Endpoints that say that they are not well get no calls until they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tonic::transport::server::TcpIncoming;
use tower::ServiceExt;
use towline::core::Room;
use towline::pool::PoolBuilder;
use towline_http::{Channel, Health};
use towline_proto_grpc::Faults;
use towline_proto_grpc::echo_client::EchoClient;
use towline_proto_grpc::echo_server::EchoServer;

use crate::channel::{backends, over, ping, until};
use crate::channel_http::{Server, server};

/// Serves, and answers `/healthz` with a status that can be changed.
async fn with_health() -> (Server, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let shared = status.clone();
    let server = server(move |_, request| {
        let status = shared.load(Ordering::Relaxed);
        async move {
            let is_probe = request.uri().path() == "/healthz";
            Response::builder().status(if is_probe { status } else { 200 }).body(String::new()).unwrap()
        }
    });
    (server.await, status)
}

#[tokio::test]
async fn an_endpoint_whose_health_path_says_503_gets_no_calls_until_it_says_200() {
    for http2 in [false, true] {
        let (well, _) = with_health().await;
        let (ill, status) = with_health().await;
        let health = Health::http("/healthz").unwrap().every(Duration::from_millis(20));
        let builder = Channel::<Empty<Bytes>>::http().endpoints([well.uri(), ill.uri()]).health(health);
        let channel = if http2 { builder.http2_only() } else { builder }.build().unwrap();
        let room = |channel: &Channel<_>| {
            let endpoints = channel.endpoints();
            endpoints.iter().find(|one| one.key.as_str() == ill.address.to_string()).map(|one| (one.room, one.calls))
        };
        let call = async || channel.clone().oneshot(Request::get("/").body(Empty::new()).unwrap()).await.unwrap();
        call().await;
        status.store(503, Ordering::Relaxed);
        until("down", || matches!(room(&channel), Some((Room::Down, _)))).await;
        let (_, before) = room(&channel).unwrap();
        for _ in 0..50 {
            assert_eq!(call().await.status(), 200);
        }
        assert_eq!(room(&channel).unwrap().1, before, "nothing went there");
        status.store(200, Ordering::Relaxed);
        until("up", || !matches!(room(&channel), Some((Room::Down, _)))).await;
        for _ in 0..50 {
            call().await;
        }
        assert!(room(&channel).unwrap().1 > before);
    }
}

#[tokio::test]
async fn when_nobody_is_well_calls_fail_with_what_was_said() {
    let (ill, status) = with_health().await;
    status.store(503, Ordering::Relaxed);
    let health = Health::http("/healthz").unwrap().every(Duration::from_millis(20));
    let channel = Channel::<Empty<Bytes>>::http().endpoints([ill.uri()]).health(health).build().unwrap();
    until("down", || channel.endpoints().first().is_some_and(|one| one.room == Room::Down)).await;
    let error = channel.clone().oneshot(Request::get("/").body(Empty::new()).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), towline::Kind::Unavailable);
    assert!(error.to_string().contains("health probe failed: 503"), "{error}");
    assert_eq!((error.phase(), error.sent()), (towline::Phase::Pick, towline::Sent::Never));
    assert!(channel.endpoints()[0].ejection.is_none(), "what an endpoint says is no statistics");
}

#[tokio::test]
async fn one_probe_that_is_not_answered_is_forgiven_and_two_in_a_row_are_not() {
    let hangs = Arc::new(AtomicBool::new(false));
    let shared = hangs.clone();
    let server = server(move |_, _| {
        let hangs = shared.load(Ordering::Relaxed);
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Response::new(String::new())
        }
    });
    let server = server.await;
    let health = Health::http("/healthz").unwrap().every(Duration::from_millis(50)).timeout(Duration::from_millis(100));
    let channel = Channel::<Empty<Bytes>>::http().endpoints([server.uri()]).health(health).build().unwrap();
    until("up", || server.asked() >= 2).await;
    let is_down = || channel.endpoints()[0].room == Room::Down;
    hangs.store(true, Ordering::Relaxed);
    let before = server.asked();
    until("a probe, which fails, and another", || server.asked() >= before + 2).await;
    assert!(!is_down());
    until("down", is_down).await;
    hangs.store(false, Ordering::Relaxed);
    until("up again", || !is_down()).await;
}

#[tokio::test]
async fn a_grpc_server_without_a_health_service_is_taken_for_well() {
    let backends = backends(1);
    let channel = over(&backends).health(Health::grpc("").every(Duration::from_millis(10))).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    for id in 0..10 {
        client.unary(ping(id)).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(channel.endpoints()[0].room, Room::Ready);
}

#[tokio::test]
async fn a_grpc_server_whose_health_service_says_not_serving_gets_no_calls() {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<EchoServer<Faults>>().await;
    let ill = Faults::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(health).add_service(EchoServer::new(ill.clone()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let well = backends(1);
    let asked = Health::grpc("towline.echo.v1.Echo").every(Duration::from_millis(20));
    let channel = over(&well).endpoints([format!("http://{address}")]).health(asked).build().unwrap();
    let mut client = EchoClient::new(channel.clone());
    let is_down = || channel.endpoints().iter().any(|one| one.room == Room::Down);
    for id in 0..50 {
        client.unary(ping(id)).await.unwrap();
    }
    assert!(ill.calls() > 0 && !is_down());
    reporter.set_not_serving::<EchoServer<Faults>>().await;
    until("down", is_down).await;
    let before = ill.calls();
    for id in 0..50 {
        client.unary(ping(id)).await.unwrap();
    }
    assert_eq!(ill.calls(), before);
    reporter.set_serving::<EchoServer<Faults>>().await;
    until("up", || !is_down()).await;

    // A service that it does not know is not served.
    let asked = Health::grpc("towline.echo.v1.Other").every(Duration::from_millis(20));
    let channel = Channel::grpc().endpoints([format!("http://{address}")]).health(asked).build().unwrap();
    until("down", || channel.endpoints().iter().any(|one| one.room == Room::Down)).await;
    let status = EchoClient::new(channel).unary(ping(1)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("does not know the service"), "{status}");
}

#[tokio::test]
async fn an_endpoint_that_is_busy_is_not_ill() {
    let server = server(|_, request| async move {
        if request.uri().path() == "/slow" {
            sleep(Duration::from_millis(800)).await;
        }
        Response::new(String::new())
    });
    let server = server.await;
    let health = Health::http("/healthz").unwrap().every(Duration::from_millis(20)).timeout(Duration::from_millis(50));
    let one = PoolBuilder::new().max_connections(1);
    let channel = Channel::<Empty<Bytes>>::http().endpoints([server.uri()]).pool(one).health(health).build().unwrap();
    let slow = tokio::spawn(channel.clone().oneshot(Request::get("/slow").body(Empty::new()).unwrap()));
    while !slow.is_finished() {
        assert!(channel.endpoints().iter().all(|endpoint| endpoint.room != Room::Down));
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn probes_are_for_the_origin_and_an_interval_of_for_ever_is_one() {
    let server = server(|_, request| async move {
        let is_known = request.headers()["host"] == "api.example";
        Response::builder().status(if is_known { 200 } else { 404 }).body(String::new()).unwrap()
    });
    let server = server.await;
    for every in [Duration::from_millis(10), Duration::MAX] {
        let health = Health::http("/healthz").unwrap().every(every);
        let channel = Channel::<Empty<Bytes>>::http().endpoints([server.uri()]).origin("api.example").health(health);
        let channel = channel.build().unwrap();
        let before = server.asked();
        until("probes", || server.asked() > before + if every == Duration::MAX { 0 } else { 3 }).await;
        assert_ne!(channel.endpoints()[0].room, Room::Down);
    }
}

#[tokio::test]
async fn probes_end_with_close() {
    let (well, _) = with_health().await;
    let health = Health::http("/healthz").unwrap().every(Duration::from_millis(10));
    let channel = Channel::<Empty<Bytes>>::http().endpoints([well.uri()]).health(health).build().unwrap();
    until("probes", || well.asked() > 3).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    channel.close().await;
    until("the probes' end", || tasks() < before).await;
    let asked = well.asked();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(well.asked(), asked);
}

#[tokio::test]
async fn probes_end_with_the_channel() {
    let (well, _) = with_health().await;
    let health = Health::http("/healthz").unwrap().every(Duration::from_millis(10));
    let channel = Channel::<Empty<Bytes>>::http().endpoints([well.uri()]).health(health).build().unwrap();
    until("probes", || well.asked() > 3).await;
    drop(channel);
    sleep(Duration::from_millis(50)).await;
    let asked = well.asked();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(well.asked(), asked);
}
