//! What servers say about themselves, from their frame headers to the choice of an endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, service_fn};
use towline::balance::{BalanceBuilder, HotCold, fixed};
use towline::codec::ProstCodec;
use towline::connect::TcpConnector;
use towline::core::{Endpoint, TokioExecutor};
use towline::pool::PoolBuilder;
use towline::transport::{HeaderLayer, Server, ServerLoad};
use towline::{Call, Error};
use towline_proto::{Request, Response};

/// A server that says that so many requests are in flight on it, and counts those that come.
async fn says(in_flight: u32) -> (Endpoint, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::from(listener.local_addr().unwrap());
    let served = Arc::new(AtomicUsize::new(0));
    let counts = served.clone();
    let server = Server::new(ProstCodec::<Response, Request>::default()).with_header();
    let server = server.load(move || ServerLoad { utilization: None, in_flight: Some(in_flight) });
    let answer = service_fn(move |call: Call<Request>| {
        counts.fetch_add(1, Ordering::Relaxed);
        let Request { id, payload } = call.into_message();
        async move { Ok::<_, Error>(Response { id, payload }) }
    });
    tokio::spawn(server.serve(listener, answer));
    (endpoint, served)
}

#[tokio::test]
async fn a_server_that_says_it_is_busy_is_left_alone_without_a_single_probe() {
    let ((busy, busy_served), (idle, idle_served)) = (says(40).await, says(0).await);
    let make = HeaderLayer::carried(ProstCodec::<Request, Response>::default()).layer(TcpConnector::new());
    let pool = PoolBuilder::new().build(make).unwrap();
    let builder = BalanceBuilder::new(HotCold::new()).reports(true);
    let balance = builder.spawn(fixed([busy, idle]), pool, &TokioExecutor::current()).unwrap();
    for id in 0..400 {
        let request = Request { id: id.to_string(), ..Request::default() };
        let answer = balance.clone().oneshot(Call::new(request)).await.unwrap();
        assert_eq!(answer.id, id.to_string());
    }
    let (busy, idle) = (busy_served.load(Ordering::Relaxed), idle_served.load(Ordering::Relaxed));
    assert_eq!(busy + idle, 400);
    assert!(busy < 60, "{busy} of 400 calls to the busy one");
    let reported: Vec<_> =
        balance.endpoints().iter().map(|view| view.reported.map(|report| report.in_flight)).collect();
    assert_eq!(reported, [Some(40), Some(0)]);
}
