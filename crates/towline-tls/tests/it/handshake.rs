//! Handshakes over an in-memory pipe: what is accepted, and how each refusal is named.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::{Layer, ServiceExt, service_fn};
use towline_core::{Error, Kind, Phase, Sent, Target};
use towline_tls::{TlsConfig, TlsError, TlsErrorKind, TlsLayer, TlsStream};

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "towline test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { pem, issuer: Issuer::new(params, key) }
}

impl Ca {
    fn acceptor(&self, names: &[&str], valid_days: std::ops::Range<i64>) -> native_tls::TlsAcceptor {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::days(valid_days.start);
        params.not_after = now + Duration::days(valid_days.end);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let identity = native_tls::Identity::from_pkcs8(cert.pem().as_bytes(), key.serialize_pem().as_bytes());
        native_tls::TlsAcceptor::new(identity.unwrap()).unwrap()
    }

    fn trusted(&self) -> TlsConfig {
        TlsConfig::builder().root_pem(&self.pem).build().unwrap()
    }
}

/// Connects to `target` through a pipe whose other end is served by `server`.
async fn connect<F>(
    config: TlsConfig,
    target: &str,
    server: impl Fn(DuplexStream) -> F + Clone,
) -> Result<TlsStream<DuplexStream>, Error>
where
    F: Future<Output = ()> + Send + 'static,
{
    let dial = service_fn(|_: Target| {
        let (ours, theirs) = tokio::io::duplex(16 * 1024);
        tokio::spawn(server(theirs));
        async move { Ok::<_, std::io::Error>(ours) }
    });
    TlsLayer::new(config).layer(dial).oneshot(target.parse().unwrap()).await
}

/// Answers everything with itself.
fn echo(acceptor: native_tls::TlsAcceptor) -> impl Fn(DuplexStream) -> tokio::task::JoinHandle<()> + Clone {
    move |io| {
        let acceptor = tokio_native_tls::TlsAcceptor::from(acceptor.clone());
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(io).await else { return };
            let mut buffer = [0; 64];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..n]).await.unwrap();
            }
        })
    }
}

async fn refused(config: TlsConfig, target: &str, acceptor: native_tls::TlsAcceptor) -> (TlsErrorKind, String) {
    let serve = echo(acceptor);
    let error = connect(config, target, |io| {
        let served = serve(io);
        async move { drop(served.await) }
    })
    .await
    .unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Tls, Phase::Handshake, Sent::Never));
    (error.find::<TlsError>().unwrap().kind(), error.to_string())
}

#[tokio::test]
async fn a_certificate_of_a_trusted_root_for_the_right_name_is_accepted() {
    let ca = ca();
    for target in ["db.test:1", "db.test.:1", "127.0.0.1:1", "[::1]:1"] {
        let serve = echo(ca.acceptor(&["db.test", "127.0.0.1", "::1"], -1..1));
        let mut stream = connect(ca.trusted(), target, |io| {
            let served = serve(io);
            async move { drop(served.await) }
        })
        .await
        .unwrap_or_else(|error| panic!("{target}: {error}"));
        stream.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
    }
}

// F13
#[tokio::test]
async fn a_certificate_for_another_name_is_refused_and_named() {
    let ca = ca();
    for target in ["other.test:1", "127.0.0.2:1"] {
        let (kind, said) = refused(ca.trusted(), target, ca.acceptor(&["db.test", "127.0.0.1"], -1..1)).await;
        assert_eq!(kind, TlsErrorKind::WrongName);
        assert!(said.contains(target.split(':').next().unwrap()), "{said}");
    }
}

// F13
#[tokio::test]
async fn an_expired_certificate_and_one_not_yet_valid_are_refused() {
    let ca = ca();
    let (kind, said) = refused(ca.trusted(), "db.test:1", ca.acceptor(&["db.test"], -2..-1)).await;
    assert_eq!(kind, TlsErrorKind::Expired, "{said}");
    let (kind, said) = refused(ca.trusted(), "db.test:1", ca.acceptor(&["db.test"], 1..2)).await;
    assert_eq!(kind, TlsErrorKind::NotYetValid, "{said}");
}

// F13
#[tokio::test]
async fn a_certificate_of_an_unknown_root_is_refused() {
    let (ours, theirs) = (ca(), ca());
    let (kind, said) = refused(ours.trusted(), "db.test:1", theirs.acceptor(&["db.test"], -1..1)).await;
    // Two authorities of one name: OpenSSL finds the issuer but not its signature.
    assert_eq!(kind, TlsErrorKind::UnknownIssuer, "{said}");
    let (kind, said) =
        refused(TlsConfig::builder().build().unwrap(), "db.test:1", theirs.acceptor(&["db.test"], -1..1)).await;
    assert_eq!(kind, TlsErrorKind::UnknownIssuer, "{said}");
}

#[tokio::test]
async fn a_backend_that_speaks_no_tls_is_named_so() {
    let error = connect(ca().trusted(), "db.test:1", |mut io| async move {
        let mut hello = [0; 16];
        io.read_exact(&mut hello).await.unwrap();
        io.write_all(b"\0\0\0\x04pong and more of it").await.unwrap();
        let _ = io.read(&mut hello).await;
    })
    .await
    .unwrap_err();
    assert_eq!(error.find::<TlsError>().unwrap().kind(), TlsErrorKind::NotTls, "{error:?}");
}

#[tokio::test]
async fn a_backend_that_hangs_up_in_the_handshake_is_named_so() {
    let error = connect(ca().trusted(), "db.test:1", |io| async move { drop(io) }).await.unwrap_err();
    assert_eq!(error.find::<TlsError>().unwrap().kind(), TlsErrorKind::Closed, "{error:?}");
}

#[tokio::test]
async fn a_unix_target_without_a_name_is_refused_before_anything_is_sent() {
    let error = connect(ca().trusted(), "unix:/x", |io| async move { drop(io) }).await.unwrap_err();
    assert_eq!(error.find::<TlsError>().unwrap().kind(), TlsErrorKind::NoName);
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_before_anything_is_sent() {
    for name in ["", ".", "[]", "a\0b"] {
        let dial = service_fn(|_: Target| async { panic!("dialled") as Result<DuplexStream, std::io::Error> });
        let target: Target = "127.0.0.1:1".parse::<Target>().unwrap().with_tls_name(name);
        let error = TlsLayer::new(ca().trusted()).layer(dial).oneshot(target).await.unwrap_err();
        assert_eq!(error.find::<TlsError>().unwrap().kind(), TlsErrorKind::NoName, "{name:?}");
    }
}
