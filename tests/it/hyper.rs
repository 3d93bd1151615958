//! Our connectors under hyper's own client, and hyper's under ours.

use std::convert::Infallible;
use std::net::SocketAddr;

use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tower::{Layer, Service};
use towline::connect::TcpConnector;
use towline::core::Target;
use towline::pool::PoolBuilder;
use towline::tls::{TlsBackend, TlsConfig, TlsErrorKind, TlsLayer};
use towline_http::{Http1Layer, HyperConnector, UriConnector};
use towline_testbed::Authority;

type Body = Empty<&'static [u8]>;

/// Answers with the version that was spoken; over TLS, with these protocols, if there is an authority.
async fn serve(authority: Option<&Authority>, alpn: &[&str]) -> SocketAddr {
    let acceptor = authority.map(|authority| authority.certify(&["127.0.0.1"]).acceptor_with_alpn(alpn).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let version = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
                    Ok::<_, Infallible>(Response::new(format!("{:?}", request.version())))
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ended = match acceptor {
                    Some(acceptor) => match acceptor.accept(io).await {
                        Ok(io) => server.serve_connection(TokioIo::new(io), version).await,
                        Err(_) => Ok(()),
                    },
                    None => server.serve_connection(TokioIo::new(io), version).await,
                };
            });
        }
    });
    address
}

#[tokio::test]
async fn hyper_s_client_goes_over_our_tls_and_speaks_what_was_agreed_on() {
    let authority = Authority::new("hyper");
    for library in [TlsBackend::NativeTls, TlsBackend::Rustls] {
        for (alpn, expected) in
            [(&["h2"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11), (&[], Version::HTTP_11)]
        {
            let address = serve(Some(&authority), alpn).await;
            let tls = TlsConfig::builder().backend(library).root_pem(authority.pem()).alpn(["h2", "http/1.1"]);
            let connect = TlsLayer::new(tls.build().unwrap()).layer(TcpConnector::new());
            let client = Client::builder(TokioExecutor::new()).build::<_, Body>(HyperConnector::new(connect));
            for _ in 0..2 {
                let response = client.get(format!("https://{address}/").parse().unwrap()).await.unwrap();
                assert_eq!(response.version(), expected);
                let said = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(said, format!("{expected:?}"));
            }
        }
    }
}

#[tokio::test]
async fn hyper_s_client_is_told_what_was_wrong_with_a_certificate() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let address = serve(Some(&theirs), &[]).await;
    let tls = TlsConfig::builder().root_pem(ours.pem()).build().unwrap();
    let connect = TlsLayer::new(tls).layer(TcpConnector::new());
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(HyperConnector::new(connect));
    let error = client.get(format!("https://{address}/").parse().unwrap()).await.unwrap_err();
    assert!(error.is_connect());
    let cause = std::error::Error::source(&error).unwrap().downcast_ref::<towline::Error>().expect("ours");
    assert_eq!(TlsErrorKind::of(cause), Some(TlsErrorKind::UnknownIssuer));
}

#[tokio::test]
async fn a_connector_of_hyper_s_serves_our_pool() {
    let address = serve(None, &[]).await;
    let make = Http1Layer::<Body>::new().layer(UriConnector::http(HttpConnector::new()));
    let mut pool = PoolBuilder::new().build(make).unwrap();
    let mut handle = pool.call(Target::from(address)).await.unwrap();
    for _ in 0..2 {
        let request = Request::get("/").header("host", address.to_string()).body(Body::new()).unwrap();
        let response = handle.call(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "HTTP/1.1");
    }
    assert_eq!((handle.stats().opened, handle.stats().reused), (1, 1));
}
