//! The same set of servers under tonic's balanced channel and under ours; and our connector under tonic's.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tonic::transport::Endpoint;
use tower::{Layer, Service};
use towline::connect::TcpConnector;
use towline::tls::{TlsConfig, TlsLayer};
use towline_http::HyperConnector;
use towline_proto::{Request as Ping, Response as Pong};
use towline_proto_grpc::Backend;
use towline_proto_grpc::echo_client::EchoClient;
use towline_testbed::Authority;

use crate::channel::{backends, over, ping};

const SLOW: Duration = Duration::from_millis(200);

/// What calls over a channel came to.
#[derive(Debug, Default)]
struct Came {
    failed: usize,
    took: Vec<Duration>,
}

impl Came {
    fn p99(&self) -> Duration {
        self.took[self.took.len() * 99 / 100 - 1]
    }

    fn slow(&self) -> usize {
        self.took.iter().filter(|took| **took >= SLOW).count()
    }
}

/// 300 calls by 6 callers, each of which may be repeated.
async fn call<C>(client: EchoClient<C>) -> Came
where
    C: tonic::client::GrpcService<tonic::body::Body, Future: Send> + Clone + Send + 'static,
    C::ResponseBody: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    <C::ResponseBody as hyper::body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let callers = (0..6).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let mut came = Came::default();
            for id in 0..50 {
                let began = Instant::now();
                match timeout(Duration::from_secs(2), client.unary(ping(id))).await {
                    Ok(Ok(_)) => came.took.push(began.elapsed()),
                    Ok(Err(_)) | Err(_) => came.failed += 1,
                }
            }
            came
        })
    });
    let mut all = Came::default();
    for caller in callers.collect::<Vec<_>>() {
        let came = caller.await.unwrap();
        all.failed += came.failed;
        all.took.extend(came.took);
    }
    all.took.sort_unstable();
    all
}

// grpc-rust #2839
#[tokio::test]
async fn of_three_servers_one_dead_and_one_slow_tonic_fails_calls_and_is_slow_and_ours_is_not() {
    let mut backends = backends(3);
    backends[1].faults().delay(SLOW);
    backends[2].kill();
    let endpoints =
        backends.iter().map(|backend| Endpoint::from_shared(format!("http://{}", backend.address())).unwrap());
    let theirs = call(EchoClient::new(tonic::transport::Channel::balance_list(endpoints))).await;
    let channel = over(&backends).idempotent_if(|_| true).build().unwrap();
    let ours = call(EchoClient::new(channel)).await;
    println!("tonic's balance_list: {} of 300 failed, {} slow, p99 {:?}", theirs.failed, theirs.slow(), theirs.p99());
    println!("ours:                 {} of 300 failed, {} slow, p99 {:?}", ours.failed, ours.slow(), ours.p99());
    assert!(theirs.failed > 0, "tonic's has learned: say so in docs/tonic-and-hyper.md");
    assert_eq!(ours.failed, 0);
    // Of ours a call at a time looks whether the slow one still is; that is no share of calls but of time.
    assert!(ours.slow() * 2 < theirs.slow());
}

// grpc-rust #2839, on a channel to one server
#[tokio::test]
async fn a_server_that_is_down_is_said_to_be_ready_by_tonic_and_by_ours_is_down() {
    let mut backends = backends(1);
    backends[0].kill();
    let uri = format!("http://{}", backends[0].address());
    let mut theirs = Endpoint::from_shared(uri).unwrap().connect_lazy();
    // A call makes it dial; the failure is kept, and readiness goes on to promise what the next call does not get.
    for _ in 0..3 {
        tower::ServiceExt::<http::Request<tonic::body::Body>>::ready(&mut theirs)
            .await
            .expect("it says that it is ready");
        let request = http::Request::new(tonic::body::Body::empty());
        assert!(theirs.call(request).await.is_err());
    }
    let channel = over(&backends).build().unwrap();
    EchoClient::new(channel.clone()).unary(ping(1)).await.unwrap_err();
    assert_eq!(channel.endpoints()[0].room, towline::core::Room::Down);
    assert!(channel.stats().dials_failed >= 1);
    // It comes back where it was, and is found without a call that fails.
    let _back = Backend::start(&backends[0].address().to_string()).unwrap();
    let found = timeout(Duration::from_secs(10), async {
        while channel.warm(1).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.unwrap();
    EchoClient::new(channel).unary(ping(2)).await.unwrap();
}

#[tokio::test]
async fn tonic_s_channel_goes_over_our_tls_connector() {
    let authority = Authority::new("tonic");
    let acceptor = authority.certify(&["127.0.0.1"]).acceptor_with_alpn(&["h2"]).unwrap();
    let backends = backends(1);
    // TLS in front of the server, which speaks none.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (front, behind) = (listener.local_addr().unwrap(), backends[0].address());
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut io = acceptor.accept(io).await.unwrap();
                let mut to = tokio::net::TcpStream::connect(behind).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut io, &mut to).await;
            });
        }
    });
    let tls = TlsConfig::builder().root_pem(authority.pem()).alpn(["h2"]).build().unwrap();
    let connect = HyperConnector::new(TlsLayer::new(tls).layer(TcpConnector::new()));
    // `http`: with any TLS feature of its own, tonic refuses `https` after our handshake. What servers see is the origin.
    let endpoint = Endpoint::from_shared(format!("http://{front}")).unwrap();
    let endpoint = endpoint.origin(format!("https://{front}").parse().unwrap());
    let channel = endpoint.connect_with_connector(connect).await.unwrap();
    let Pong { id, payload } = EchoClient::new(channel).unary(ping(7)).await.unwrap().into_inner();
    assert_eq!(Ping { id, payload }, ping(7));
}
