//! Certificates of any kind, and servers that show them: OpenSSL's own, which knows no mercy and no scruples.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{HandshakeError, Ssl, SslContextBuilder, SslMethod, SslRef, SslVersion};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, ServiceExt, service_fn};
use towline_connect::ConnectDeadlineLayer;
use towline_core::{Error, Phase, Target};
use towline_tls::{TlsBackend, TlsConfig, TlsLayer, TlsStream};

pub(crate) const DAY: i64 = 86_400;

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// All that are built in.
pub(crate) fn backends() -> Vec<TlsBackend> {
    vec![
        #[cfg(feature = "native-tls")]
        TlsBackend::NativeTls,
        #[cfg(feature = "rustls")]
        TlsBackend::Rustls,
    ]
}

/// A directory that goes with the test.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("towline-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn put(&self, name: &str, contents: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), contents).unwrap();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(crate) fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

pub(crate) fn ec(curve: Nid) -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap()
}

pub(crate) fn ed25519() -> PKey<Private> {
    PKey::generate_ed25519().unwrap()
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Cert {
    pub(crate) x509: X509,
    pub(crate) key: PKey<Private>,
}

impl Cert {
    pub(crate) fn pem(&self) -> Vec<u8> {
        self.x509.to_pem().unwrap()
    }

    pub(crate) fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }
}

/// What is to be in a certificate.
#[derive(Clone)]
pub(crate) struct Spec<'a> {
    common_name: &'a str,
    names: &'a [&'a str],
    seconds: (i64, i64),
    ca: bool,
    path_length: Option<u32>,
    permits: Option<&'a str>,
    for_clients: bool,
    key_usage: Option<&'a str>,
    other_name: Option<&'a str>,
    digest: MessageDigest,
    key: Option<PKey<Private>>,
}

impl<'a> Spec<'a> {
    pub(crate) fn new(names: &'a [&'a str]) -> Self {
        Self {
            common_name: "leaf",
            names,
            seconds: (-DAY, 10 * DAY),
            ca: false,
            path_length: None,
            permits: None,
            for_clients: false,
            key_usage: None,
            other_name: None,
            digest: MessageDigest::sha256(),
            key: None,
        }
    }

    pub(crate) fn ca(common_name: &'a str) -> Self {
        Self { common_name, ca: true, ..Self::new(&[]) }
    }

    pub(crate) fn common_name(self, common_name: &'a str) -> Self {
        Self { common_name, ..self }
    }

    pub(crate) fn days(self, from: i64, to: i64) -> Self {
        self.seconds(from * DAY, to * DAY)
    }

    /// Valid for these seconds from now.
    pub(crate) fn seconds(self, from: i64, to: i64) -> Self {
        Self { seconds: (from, to), ..self }
    }

    pub(crate) fn path_length(self, length: u32) -> Self {
        Self { path_length: Some(length), ..self }
    }

    pub(crate) fn permits(self, what: &'a str) -> Self {
        Self { permits: Some(what), ..self }
    }

    pub(crate) fn for_clients(self) -> Self {
        Self { for_clients: true, ..self }
    }

    pub(crate) fn key_usage(self, usage: &'a str) -> Self {
        Self { key_usage: Some(usage), ..self }
    }

    /// An alternative name that is none of the DNS.
    pub(crate) fn other_name(self, name: &'a str) -> Self {
        Self { other_name: Some(name), ..self }
    }

    pub(crate) fn digest(self, digest: MessageDigest) -> Self {
        Self { digest, ..self }
    }

    pub(crate) fn key(self, key: &PKey<Private>) -> Self {
        Self { key: Some(key.clone()), ..self }
    }

    pub(crate) fn self_signed(self) -> Cert {
        self.sign(None)
    }

    pub(crate) fn signed_by(self, issuer: &Cert) -> Cert {
        self.sign(Some(issuer))
    }

    fn name(&self) -> X509Name {
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", self.common_name).unwrap();
        name.build()
    }

    #[allow(deprecated, reason = "name constraints have no builder of their own")]
    fn sign(self, issuer: Option<&Cert>) -> Cert {
        let key = self.key.clone().unwrap_or_else(|| ec(Nid::X9_62_PRIME256V1));
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        let mut serial = BigNum::new().unwrap();
        serial.rand(64, openssl::bn::MsbOption::ONE, false).unwrap();
        builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
        builder.set_subject_name(&self.name()).unwrap();
        match issuer {
            Some(issuer) => builder.set_issuer_name(issuer.x509.subject_name()).unwrap(),
            None => builder.set_issuer_name(&self.name()).unwrap(),
        }
        let at = |seconds: i64| Asn1Time::from_unix(now() + seconds).unwrap();
        builder.set_not_before(&at(self.seconds.0)).unwrap();
        builder.set_not_after(&at(self.seconds.1)).unwrap();
        builder.set_pubkey(&key).unwrap();
        if self.ca {
            let mut constraints = BasicConstraints::new();
            constraints.critical().ca();
            if let Some(length) = self.path_length {
                constraints.pathlen(length);
            }
            builder.append_extension(constraints.build().unwrap()).unwrap();
        }
        if let Some(permits) = self.permits {
            let value = format!("critical,permitted;{permits}");
            let extension = X509Extension::new_nid(None, None, Nid::NAME_CONSTRAINTS, &value).unwrap();
            builder.append_extension(extension).unwrap();
        }
        if self.for_clients {
            builder.append_extension(ExtendedKeyUsage::new().client_auth().build().unwrap()).unwrap();
        }
        for (nid, value) in [(Nid::KEY_USAGE, self.key_usage), (Nid::SUBJECT_ALT_NAME, self.other_name)] {
            if let Some(value) = value {
                builder.append_extension(X509Extension::new_nid(None, None, nid, value).unwrap()).unwrap();
            }
        }
        if !self.names.is_empty() {
            let mut names = SubjectAlternativeName::new();
            for name in self.names {
                match name.parse::<std::net::IpAddr>() {
                    Ok(_) => names.ip(name),
                    Err(_) => names.dns(name),
                };
            }
            let context = builder.x509v3_context(issuer.map(|issuer| &*issuer.x509), None);
            let names = names.build(&context).unwrap();
            builder.append_extension(names).unwrap();
        }
        let signer = issuer.map_or(&key, |issuer| &issuer.key);
        let digest = if signer.id() == Id::ED25519 { MessageDigest::null() } else { self.digest };
        builder.sign(signer, digest).unwrap();
        Cert { x509: builder.build(), key }
    }
}

/// One connection with these certificates: echoes what comes.
pub(crate) fn tls(
    chain: &[&Cert],
    configure: impl Fn(&mut SslContextBuilder),
) -> impl Fn(TcpStream) + Send + Sync + 'static {
    tls_seen(chain, configure, |_| {})
}

/// As [`tls`], and shows what was agreed on.
pub(crate) fn tls_seen(
    chain: &[&Cert],
    configure: impl Fn(&mut SslContextBuilder),
    seen: impl Fn(&SslRef) + Send + Sync + 'static,
) -> impl Fn(TcpStream) + Send + Sync + 'static {
    let mut server = SslContextBuilder::new(SslMethod::tls_server()).unwrap();
    server.set_security_level(0);
    server.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
    server.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
    server.set_certificate(&chain[0].x509).unwrap();
    server.set_private_key(&chain[0].key).unwrap();
    for above in &chain[1..] {
        server.add_extra_chain_cert(above.x509.clone()).unwrap();
    }
    // Without one OpenSSL resumes no session in which it has asked for a certificate, but fails.
    server.set_session_id_context(b"towline").unwrap();
    configure(&mut server);
    let server = server.build();
    move |stream| {
        let mut stream = match Ssl::new(&server).unwrap().accept(stream) {
            Ok(stream) => stream,
            Err(HandshakeError::Failure(mut refused)) => {
                // What is unread when the connection is closed resets it, and the other side may not see why.
                let stream = refused.get_mut();
                let _ = stream.shutdown(Shutdown::Write);
                while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
                return;
            }
            Err(_) => return,
        };
        seen(stream.ssl());
        let mut bytes = [0; 16];
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..n]).is_err() {
                return;
            }
        }
        let _ = stream.shutdown();
    }
}

/// A server whose every connection goes to `serve`, on a thread of its own.
pub(crate) fn serve(serve: Arc<dyn Fn(TcpStream) + Send + Sync>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Connects, and has something echoed.
pub(crate) async fn call(config: TlsConfig, address: SocketAddr, name: &str) -> Result<(), Error> {
    call_within(PATIENCE, config, address, name).await
}

/// More than any handshake takes, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// As [`call`], with this much time to connect.
pub(crate) async fn call_within(
    limit: Duration,
    config: TlsConfig,
    address: SocketAddr,
    name: &str,
) -> Result<(), Error> {
    echo(&mut connect_within(limit, config, address, name).await?).await
}

pub(crate) async fn connect(
    config: TlsConfig,
    address: SocketAddr,
    name: &str,
) -> Result<TlsStream<tokio::net::TcpStream>, Error> {
    connect_within(PATIENCE, config, address, name).await
}

async fn connect_within(
    limit: Duration,
    config: TlsConfig,
    address: SocketAddr,
    name: &str,
) -> Result<TlsStream<tokio::net::TcpStream>, Error> {
    let dial = service_fn(move |_: Target| tokio::net::TcpStream::connect(address));
    let connector = TlsLayer::new(config).layer(dial);
    let connector = ConnectDeadlineLayer::new(limit).layer(connector);
    connector.oneshot(Target::from(address).with_tls_name(name)).await
}

pub(crate) async fn echo(stream: &mut TlsStream<tokio::net::TcpStream>) -> Result<(), Error> {
    let failed = |error| Error::io(Phase::Read, error);
    stream.write_all(b"ping").await.map_err(failed)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}
