//! What a client knows of its peers, by either library.

use std::io::Read;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openssl::pkey::PKey;
use openssl::ssl::{HandshakeError, SslAcceptor, SslMethod, SslVerifyMode};
use openssl::x509::X509;
use tower::{Layer, Service};
use towline::connect::TcpConnector;
use towline::core::{BoxError, Poolable, Rejected, Target};
use towline::pool::{Pool, PoolBuilder};
use towline::tls::{TlsBackend, TlsConfig, TlsError, TlsErrorKind, TlsLayer};
use towline::{Call, Client, ClientBuilder, Kind};
use towline_http::{Http1Layer, Http2Layer};
use towline_proto::{Request, Response};

use crate::{Bed, echo, request};

const BACKENDS: [TlsBackend; 2] = [TlsBackend::NativeTls, TlsBackend::Rustls];

fn builder(bed: &Bed, tls: TlsConfig) -> ClientBuilder<Request, Response> {
    let endpoints = bed.backends.iter().map(|backend| backend.address().to_string());
    Client::builder().tls(tls).endpoints(endpoints).deadline(Duration::from_secs(10))
}

#[tokio::test]
async fn a_report_says_whose_certificate_it_was_and_which_protocol_also_of_a_reused_connection() {
    let bed = Bed::new(1).await;
    for library in BACKENDS {
        let tls = TlsConfig::builder().backend(library).root_pem(bed.authority.pem()).build().unwrap();
        let client = builder(&bed, tls).build().unwrap();
        let mut seen = Vec::new();
        for id in 0..3 {
            let call = Call::new(request(id)).with_report();
            let report = call.context().report().cloned().unwrap();
            assert!(report.peer().is_none(), "before the call");
            echo(&client, call).await.unwrap();
            assert_eq!((report.attempts(), report.reused()), (1, Some(id > 0)));
            seen.push(report.peer().expect("over TLS"));
        }
        assert_eq!(seen[0].certificates().len(), 1);
        assert_eq!(seen[0].certificate().unwrap()[0], 0x30, "DER");
        assert!(seen.iter().all(|peer| Arc::ptr_eq(peer, &seen[0])), "one connection");
    }
}

#[tokio::test]
async fn a_client_whose_peer_is_pinned_calls_nobody_else() {
    let bed = Bed::new(2).await;
    for library in BACKENDS {
        let tls = || TlsConfig::builder().backend(library).root_pem(bed.authority.pem());
        let call = Call::new(request("who")).with_report();
        let report = call.context().report().cloned().unwrap();
        let trusting = builder(&bed, tls().build().unwrap()).build().unwrap();
        echo(&trusting, call).await.unwrap();
        let pinned = report.peer().unwrap().certificate().unwrap().to_vec();
        let tls = tls().verify_peer(move |peer| match peer.certificate() {
            Some(certificate) if certificate == pinned => Ok(()),
            _ => Err("not the pinned certificate".into()),
        });
        let client = builder(&bed, tls.build().unwrap()).build().unwrap();
        let before: Vec<_> = bed.backends.iter().map(|backend| backend.served()).collect();
        for id in 0..20 {
            echo(&client, Call::new(request(id))).await.unwrap();
        }
        let after: Vec<_> = bed.backends.iter().map(|backend| backend.served()).collect();
        let mut served: Vec<_> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        served.sort_unstable();
        assert_eq!(served, [0, 20]);
    }
}

// F13
#[tokio::test]
async fn a_call_that_no_certificate_is_good_for_fails_with_its_kind_and_without_a_second_handshake() {
    let bed = Bed::new(1).await;
    for library in BACKENDS {
        let tls = TlsConfig::builder().backend(library).root_pem(bed.authority.pem());
        let tls = tls.verify_peer(|_| Err("nobody is good enough".into()));
        let client = builder(&bed, tls.build().unwrap()).build().unwrap();
        let before = bed.backends[0].connected();
        for id in 0..20 {
            let error = client.send(Call::new(request(id)).idempotent()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Tls, "{error:?}");
            assert_eq!(TlsErrorKind::of(&error), Some(TlsErrorKind::Unwanted));
            let tls = error.find::<TlsError>().unwrap();
            assert_eq!(tls.server_name(), "127.0.0.1");
        }
        let dialled = bed.backends[0].connected() - before;
        assert!(dialled <= 2, "{dialled} handshakes, the second after half a second at the earliest");
    }
}

// F14
#[tokio::test]
async fn an_answer_that_is_cut_off_is_an_early_end_by_either_library() {
    let bed = Bed::new(1).await;
    for library in BACKENDS {
        let tls = TlsConfig::builder().backend(library).root_pem(bed.authority.pem()).build().unwrap();
        let client = builder(&bed, tls).build().unwrap();
        echo(&client, Call::new(request("whole"))).await.unwrap();
        bed.backends[0].faults().cut(true);
        let error = client.send(Call::new(request("half"))).await.unwrap_err();
        assert_eq!(error.kind(), Kind::UnexpectedEof, "{error:?}");
        bed.backends[0].faults().cut(false);
        echo(&client, Call::new(request("whole again"))).await.unwrap();
    }
}

/// A server that wants a certificate, by TLS 1.3, and says so after the client's handshake; how many have tried.
fn strict(bed: &Bed) -> (SocketAddr, Arc<AtomicUsize>) {
    let certified = bed.authority.certify(&["127.0.0.1"]);
    let mut server = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).unwrap();
    server.set_certificate(&X509::from_pem(certified.cert_pem.as_bytes()).unwrap()).unwrap();
    server.set_private_key(&PKey::private_key_from_pem(certified.key_pem.as_bytes()).unwrap()).unwrap();
    server.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let (server, tried) = (server.build(), Arc::new(AtomicUsize::new(0)));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, counts) = (listener.local_addr().unwrap(), tried.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counts.fetch_add(1, Ordering::Relaxed);
            if let Err(HandshakeError::Failure(mut refused)) = server.accept(stream.unwrap()) {
                // What is unread when the connection is closed would reset it.
                let _ = refused.get_mut().shutdown(Shutdown::Write);
                while refused.get_mut().read(&mut [0; 1_024]).is_ok_and(|n| n > 0) {}
            }
        }
    });
    (address, tried)
}

// F13
#[tokio::test]
async fn a_certificate_that_is_missed_after_the_handshake_is_no_more_a_reason_to_dial_in_a_loop_than_one_in_it() {
    let bed = Bed::new(0).await;
    for library in BACKENDS {
        let (address, tried) = strict(&bed);
        let tls = TlsConfig::builder().backend(library).root_pem(bed.authority.pem()).build().unwrap();
        let client: Client<Request, Response> =
            Client::builder().tls(tls).endpoints([address.to_string()]).build().unwrap();
        for id in 0..20 {
            let error = client.send(Call::new(request(id)).idempotent()).await.unwrap_err();
            assert_eq!((id, error.kind()), (id, Kind::Tls), "{error:?}");
        }
        let tried = tried.load(Ordering::Relaxed);
        assert!(tried <= 2, "{library:?}: {tried} handshakes, the second after half a second at the earliest");
    }
}

// F13
#[tokio::test]
async fn over_http_2_and_http_1_too_a_certificate_that_is_missed_is_of_its_kind_and_no_reason_to_dial_in_a_loop() {
    let bed = Bed::new(0).await;
    for library in BACKENDS {
        let tls = || {
            let tls = TlsConfig::builder().backend(library).root_pem(bed.authority.pem()).build().unwrap();
            TlsLayer::new(tls).layer(TcpConnector::new())
        };
        let (address, tried) = strict(&bed);
        let http2 = PoolBuilder::new().build(Http2Layer::<String>::new().layer(tls())).unwrap();
        missed(http2, address, &tried).await;
        let (address, tried) = strict(&bed);
        let http1 = PoolBuilder::new().build(Http1Layer::<String>::new().layer(tls())).unwrap();
        missed(http1, address, &tried).await;
    }
}

async fn missed<M, C>(mut pool: Pool<M, Target>, address: SocketAddr, tried: &AtomicUsize)
where
    M: Service<Target, Response = C, Error: Into<BoxError>, Future: Send + 'static> + Clone + Send + 'static,
    C: Poolable + Service<http::Request<String>, Error = Rejected<http::Request<String>>> + Send + 'static,
{
    let mut handle = pool.call(Target::from(address)).await.unwrap();
    for id in 0..10 {
        let request = http::Request::get("/").header("host", "db").body(String::new()).unwrap();
        // Not when it is ready, which it is once there is a connection.
        let Err(error) = handle.call(request).await else { panic!("answered") };
        assert_eq!((id, error.kind()), (id, Kind::Tls), "{error:?}");
        assert_eq!(TlsErrorKind::of(&error), Some(TlsErrorKind::ClientCertificateRefused), "{error:?}");
    }
    let tried = tried.load(Ordering::Relaxed);
    assert!(tried <= 2, "{tried} handshakes");
}
