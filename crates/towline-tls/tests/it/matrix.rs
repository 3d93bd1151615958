//! Every way in which a peer can be wrong, by both libraries: each is refused with a kind of its own. `cargo xtask
//! tls-matrix` prints the table.

use std::fmt::Write;
use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslContextBuilder, SslVerifyMode, SslVersion};
use openssl::stack::Stack;
use towline_tls::{TlsBackend, TlsConfig, TlsConfigBuilder, TlsErrorKind, TlsVersion};

use crate::support::{Cert, DAY, PATIENCE, Spec, backends, call_within, ec, ed25519, now, rsa, serve, tls};

/// What a call comes to.
type Outcome = Result<(), TlsErrorKind>;

struct Row {
    name: &'static str,
    serve: Arc<dyn Fn(TcpStream) + Send + Sync>,
    configure: Box<dyn Fn(TlsConfigBuilder) -> TlsConfigBuilder>,
    /// By native-tls, and by rustls.
    expected: [Outcome; 2],
    /// To connect within.
    limit: Duration,
}

/// Everything is called by this name.
const NAME: &str = "db.towline.test";
const OK: Outcome = Ok(());
/// For a peer that says nothing.
const SILENCE: Duration = Duration::from_millis(300);

#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn raw(&mut self, name: &'static str, expected: TlsErrorKind, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        self.add(name, [Err(expected); 2], serve, |builder| builder);
    }

    fn add(
        &mut self,
        name: &'static str,
        expected: [Outcome; 2],
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
        configure: impl Fn(TlsConfigBuilder) -> TlsConfigBuilder + 'static,
    ) {
        self.0.push(Row { name, serve: Arc::new(serve), configure: Box::new(configure), expected, limit: PATIENCE });
    }

    /// A server with this chain, its own certificate first.
    fn chain(&mut self, name: &'static str, chain: &[&Cert], expected: [Outcome; 2]) {
        self.add(name, expected, tls(chain, |_| {}), |builder| builder);
    }
}

fn certificates(rows: &mut Rows, root: &Cert, key: &PKey<Private>) {
    let leaf = |spec: Spec<'_>| spec.key(key).signed_by(root);
    let good = || Spec::new(&[NAME]);
    for (name, key, rustls) in [
        ("RSA 2048", rsa(2048), OK),
        ("RSA 3072", rsa(3072), OK),
        ("RSA 4096", rsa(4096), OK),
        ("ECDSA P-256", ec(Nid::X9_62_PRIME256V1), OK),
        ("ECDSA P-384", ec(Nid::SECP384R1), OK),
        // ring does not know the curve, so that there is no signature scheme in common.
        ("ECDSA P-521", ec(Nid::SECP521R1), Err(TlsErrorKind::Refused)),
        ("Ed25519", ed25519(), OK),
    ] {
        rows.chain(name, &[&good().key(&key).signed_by(root)], [OK, rustls]);
    }
    let all = |kind| [Err(kind); 2];
    rows.chain("expired", &[&leaf(good().days(-2, -1))], all(TlsErrorKind::Expired));
    rows.chain("not yet valid", &[&leaf(good().days(1, 2))], all(TlsErrorKind::NotYetValid));
    rows.chain("wrong name", &[&leaf(Spec::new(&["other.towline.test"]))], all(TlsErrorKind::WrongName));
    rows.chain("wrong IP address", &[&leaf(Spec::new(&["127.0.0.1"]))], all(TlsErrorKind::WrongName));
    rows.chain("wildcard", &[&leaf(Spec::new(&["*.towline.test"]))], [OK; 2]);
    rows.chain("wildcard of two labels", &[&leaf(Spec::new(&["*.test"]))], all(TlsErrorKind::WrongName));
    rows.chain("wildcard in a label", &[&leaf(Spec::new(&["d*.towline.test"]))], all(TlsErrorKind::WrongName));
    rows.chain("name only as common name", &[&leaf(Spec::new(&[]).common_name(NAME))], all(TlsErrorKind::WrongName));
    for (row, other) in [
        ("common name beside a URI", "URI:spiffe://db"),
        ("common name beside an IP address", "IP:10.0.0.1"),
        ("common name beside a mail address", "email:db@towline.test"),
    ] {
        let cert = leaf(Spec::new(&[]).common_name(NAME).other_name(other));
        rows.chain(row, &[&cert], all(TlsErrorKind::WrongName));
    }
    let stranger = Spec::ca("stranger").key(key).self_signed();
    rows.chain("unknown CA", &[&good().key(key).signed_by(&stranger)], all(TlsErrorKind::UnknownIssuer));
    rows.chain("self-signed", &[&good().key(key).self_signed()], all(TlsErrorKind::UnknownIssuer));
    let impostor = Spec::ca("root").key(key).self_signed();
    rows.chain(
        "CA of the root's name",
        &[&good().key(key).signed_by(&impostor)],
        [Err(TlsErrorKind::UnknownIssuer), Err(TlsErrorKind::Unfit)],
    );
    let middle = leaf(Spec::ca("middle"));
    rows.chain("intermediate CA", &[&good().key(key).signed_by(&middle), &middle], [OK; 2]);
    rows.chain("intermediate not sent", &[&good().key(key).signed_by(&middle)], all(TlsErrorKind::UnknownIssuer));
    let limited = leaf(Spec::ca("limited").permits("DNS:allowed.test"));
    rows.chain("name constraint violated", &[&good().key(key).signed_by(&limited), &limited], all(TlsErrorKind::Unfit));
    let no_ca = leaf(Spec::new(&["a.towline.test"]).common_name("no CA"));
    rows.chain("leaf used as CA", &[&good().key(key).signed_by(&no_ca), &no_ca], all(TlsErrorKind::Unfit));
    let last = leaf(Spec::ca("last").path_length(0));
    let beyond = Spec::ca("beyond").key(key).signed_by(&last);
    rows.chain("path too long", &[&good().key(key).signed_by(&beyond), &beyond, &last], all(TlsErrorKind::Unfit));
    rows.chain("for clients only", &[&leaf(good().for_clients())], all(TlsErrorKind::Unfit));
    rows.chain("key not for signatures", &[&leaf(good().key_usage("keyCertSign"))], all(TlsErrorKind::Unfit));
    let no_signer = leaf(Spec::ca("no signer").key_usage("digitalSignature"));
    rows.chain(
        "CA not for certificates",
        &[&good().key(key).signed_by(&no_signer), &no_signer],
        all(TlsErrorKind::Unfit),
    );
    rows.chain("signed with SHA-1", &[&leaf(good().digest(MessageDigest::sha1()))], all(TlsErrorKind::Unfit));
    rows.chain("RSA 1024", &[&good().key(&rsa(1024)).signed_by(root)], all(TlsErrorKind::Unfit));
}

fn peers(rows: &mut Rows, good: &Cert) {
    let versions = |version| move |server: &mut SslContextBuilder| server.set_max_proto_version(Some(version)).unwrap();
    let old = [Err(TlsErrorKind::ProtocolVersion); 2];
    rows.add("TLS 1.0 only", old, tls(&[good], versions(SslVersion::TLS1)), |builder| builder);
    rows.add("TLS 1.1 only", old, tls(&[good], versions(SslVersion::TLS1_1)), |builder| builder);
    rows.add("TLS 1.2 only", [OK; 2], tls(&[good], versions(SslVersion::TLS1_2)), |builder| builder);
    rows.add("TLS 1.2 where 1.3 is asked for", old, tls(&[good], versions(SslVersion::TLS1_2)), |builder| {
        builder.min_version(TlsVersion::V1_3)
    });
    let none = [Err(TlsErrorKind::NoProtocol); 2];
    rows.add("no ALPN where it is required", none, tls(&[good], |_| {}), |builder| {
        builder.alpn(["towline"]).require_alpn(true)
    });
    let other = |server: &mut SslContextBuilder| {
        server.set_alpn_select_callback(|_, offered| {
            openssl::ssl::select_next_proto(b"\x05other", offered).ok_or(openssl::ssl::AlpnError::ALERT_FATAL)
        });
    };
    rows.add("another ALPN", none, tls(&[good], other), |builder| builder.alpn(["towline"]));
    let theirs = |wanted: bool| {
        move |builder: TlsConfigBuilder| {
            builder.verify_peer(move |_| if wanted { Ok(()) } else { Err("not one of ours".into()) })
        }
    };
    rows.add("a peer that verify_peer wants", [OK; 2], tls(&[good], |_| {}), theirs(true));
    let unwanted = [Err(TlsErrorKind::Unwanted); 2];
    rows.add("a peer that verify_peer does not want", unwanted, tls(&[good], |_| {}), theirs(false));
    rows.raw("plaintext", TlsErrorKind::NotTls, |mut stream| {
        let _ = stream.read(&mut [0; 16]);
        let _ = stream.write_all(b"220 ready when you are\r\n");
    });
    rows.raw("end of the stream in the handshake", TlsErrorKind::Closed, |mut stream| {
        while stream.read(&mut [0; 1024]).is_ok_and(|n| n == 1024) {}
        let _ = stream.shutdown(Shutdown::Both);
    });
    rows.raw("reset in the handshake", TlsErrorKind::Closed, |stream| {
        // What is unread when it is dropped resets the connection.
        let _ = stream.peek(&mut [0; 1]);
    });
    rows.raw("silent", TlsErrorKind::Timeout, |mut stream| {
        // Until the other side has had enough.
        while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
    });
    rows.0.last_mut().unwrap().limit = SILENCE;
}

fn clients(rows: &mut Rows, root: &Cert, good: &Cert) {
    let asks = |root: &Cert| {
        let root = root.x509.clone();
        move |server: &mut SslContextBuilder| {
            server.cert_store_mut().add_cert(root.clone()).unwrap();
            server.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
    };
    for (name, key) in [
        ("client key RSA 3072", rsa(3072)),
        ("client key ECDSA P-384", ec(Nid::SECP384R1)),
        ("client key Ed25519", ed25519()),
    ] {
        let cert = Spec::new(&["client"]).for_clients().key(&key).signed_by(root);
        let (chain, key) = (cert.pem(), cert.key_pem());
        rows.add(name, [OK; 2], tls(&[good], asks(root)), move |builder| builder.identity_pem(&chain, &key));
    }
    let middle = Spec::ca("middle").signed_by(root);
    let last = Spec::ca("last").signed_by(&middle);
    let below = Spec::new(&["client"]).for_clients().signed_by(&last);
    let (chain, key) = ([below.pem(), last.pem(), middle.pem()].concat(), below.key_pem());
    rows.add("client chain, PEM", [OK; 2], tls(&[good], asks(root)), move |builder| builder.identity_pem(&chain, &key));
    let mut others = Stack::new().unwrap();
    [&middle, root, &last].into_iter().for_each(|cert| others.push(cert.x509.clone()).unwrap());
    let archive = Pkcs12::builder().cert(&below.x509).pkey(&below.key).ca(others).build2("secret").unwrap();
    let archive = archive.to_der().unwrap();
    rows.add("client chain, PKCS#12", [OK; 2], tls(&[good], asks(root)), move |builder| {
        builder.identity_pkcs12(&archive, "secret")
    });
    let ours = Spec::new(&["client"]).for_clients().key(&rsa(2048)).signed_by(root);
    let stranger = Spec::ca("stranger").self_signed();
    let unknown = Spec::new(&["client"]).for_clients().signed_by(&stranger);
    for (version, names) in [
        (SslVersion::TLS1_2, ["client certificate, 1.2", "missing, 1.2", "of an unknown CA, 1.2", "expired, 1.2"]),
        (SslVersion::TLS1_3, ["client certificate, 1.3", "missing, 1.3", "of an unknown CA, 1.3", "expired, 1.3"]),
    ] {
        let asks = |root: &Cert, later: bool| {
            let root = root.x509.clone();
            move |server: &mut SslContextBuilder| {
                server.set_min_proto_version(Some(version)).unwrap();
                server.set_max_proto_version(Some(version)).unwrap();
                server.cert_store_mut().add_cert(root.clone()).unwrap();
                server.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
                if later {
                    // A certificate that is good here, and over there.
                    server.verify_param_mut().set_time(now() + 20 * DAY);
                }
            }
        };
        let shows = |cert: &Cert| {
            let (chain, key) = (cert.pem(), cert.key_pem());
            move |builder: TlsConfigBuilder| builder.identity_pem(&chain, &key)
        };
        let refused = Err(TlsErrorKind::ClientCertificateRefused);
        // Before TLS 1.3 there is no alert that says that a certificate is missing.
        let missing = if version == SslVersion::TLS1_3 { refused } else { Err(TlsErrorKind::Refused) };
        rows.add(names[0], [OK; 2], tls(&[good], asks(root, false)), shows(&ours));
        rows.add(names[1], [missing; 2], tls(&[good], asks(root, false)), |builder| builder);
        rows.add(names[2], [refused; 2], tls(&[good], asks(root, false)), shows(&unknown));
        rows.add(names[3], [refused; 2], tls(&[good], asks(root, true)), shows(&ours));
    }
}

// F12, F13
#[tokio::test]
async fn each_way_of_being_wrong_is_refused_with_its_own_kind() {
    let (mut rows, key) = (Rows::default(), rsa(2048));
    let root = Spec::ca("root").self_signed();
    let good = Spec::new(&[NAME]).key(&key).signed_by(&root);
    certificates(&mut rows, &root, &key);
    peers(&mut rows, &good);
    clients(&mut rows, &root, &good);
    let backends = backends();
    let names = backends.iter().map(|backend| format!(" {:<26} |", format!("{backend:?}"))).collect::<String>();
    let mut table = format!("| {:<40} |{names}\n|---|{}", "", "---|".repeat(backends.len()));
    let mut wrong = Vec::new();
    for row in rows.0 {
        write!(table, "\n| {:<40} |", row.name).unwrap();
        for backend in &backends {
            let builder = (row.configure)(TlsConfig::builder().backend(*backend).root_pem(root.pem()));
            let address = serve(row.serve.clone());
            let result = call_within(row.limit, builder.build().unwrap(), address, NAME).await;
            let outcome = result.as_ref().map(drop).map_err(|error| {
                TlsErrorKind::of(error).unwrap_or_else(|| panic!("{}, {backend:?}: {error:?}", row.name))
            });
            let said = outcome.map_or_else(|kind| kind.to_string(), |()| "accepted".to_owned());
            write!(table, " {said:<26} |").unwrap();
            if outcome != row.expected[index(*backend)] {
                let found = result.map_or_else(|error| format!("{error:?}"), |()| "accepted".to_owned());
                wrong.push(format!("{}, {backend:?}: {found}", row.name));
            }
        }
    }
    println!("{table}");
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
    if backends.len() == 2 {
        is_in_the_docs(&table);
    }
}

/// The page shows what was found, and is written anew when asked for.
fn is_in_the_docs(table: &str) {
    const BEGIN: &str = "<!-- tls-matrix -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tls.md");
    // Not where the crate is alone.
    let Ok(page) = std::fs::read_to_string(path) else { return };
    let (before, rest) = page.split_once(BEGIN).expect("a place for the table");
    let (found, after) = rest.split_once("<!-- /tls-matrix -->").expect("its end");
    if std::env::var_os("TOWLINE_WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{table}\n<!-- /tls-matrix -->{after}")).unwrap();
    } else {
        assert_eq!(found.trim_end(), table, "docs/tls.md is of another time: cargo xtask tls-matrix --docs");
    }
}

fn index(backend: TlsBackend) -> usize {
    usize::from(format!("{backend:?}") == "Rustls")
}
