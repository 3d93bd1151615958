//! Servers that others wrote, with this machine's OpenSSL. Skipped with a line where they are not installed.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use towline_core::{Error, Phase};
use towline_tls::{TlsConfig, TlsErrorKind, TlsVersion};

use crate::support::{Cert, Files, Spec, backends, connect};

const NAME: &str = "db.towline.test";

/// A process that ends with the test.
struct Server {
    _process: Child,
    address: SocketAddr,
}

async fn is_there(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = command.status().await.is_ok_and(|status| status.success());
    if !there {
        eprintln!("skipped: there is no {program} here");
    }
    there
}

/// `openssl s_server`, which answers each line with the same backwards.
async fn s_server(files: &Files, options: &[&str]) -> Server {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-cert"]).arg(files.path("server.pem"));
    command.arg("-key").arg(files.path("server.pem")).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let address = loop {
        let line = lines.next_line().await.unwrap().expect("it says where it listens");
        if let Some(address) = line.strip_prefix("ACCEPT ") {
            break address.parse().unwrap();
        }
    };
    // Whoever does not read what it says on would stop it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Server { _process: process, address }
}

/// nginx, which answers requests with who has asked.
async fn nginx(files: &Files, settings: &str) -> Server {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let here = files.path("");
    let here = here.display();
    files.put(
        "nginx.conf",
        format!(
            "daemon off; master_process off; pid {here}/nginx.pid; error_log stderr;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {here}; proxy_temp_path {here}; fastcgi_temp_path {here};
                uwsgi_temp_path {here}; scgi_temp_path {here};
                server {{
                    listen {address} ssl;
                    ssl_certificate {here}/server.pem; ssl_certificate_key {here}/server.pem;
                    {settings}
                    return 200 \"hello $ssl_client_verify $ssl_protocol $ssl_session_reused\";
                }}
            }}"
        ),
    );
    let mut command = Command::new("nginx");
    command.arg("-c").arg(files.path("nginx.conf")).arg("-p").arg(files.path(""));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let process = command.spawn().unwrap();
    let began = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "nginx does not come up");
        sleep(Duration::from_millis(5)).await;
    }
    Server { _process: process, address }
}

/// Sends this, and reads to the end or to so many bytes.
async fn ask(config: &TlsConfig, address: SocketAddr, question: &str, most: u64) -> Result<String, Error> {
    let mut stream = connect(config.clone(), address, NAME).await?;
    let failed = |error| Error::io(Phase::Read, error);
    stream.write_all(question.as_bytes()).await.map_err(failed)?;
    let mut answer = String::new();
    (&mut stream).take(most).read_to_string(&mut answer).await.map_err(failed)?;
    stream.shutdown().await.map_err(failed)?;
    Ok(answer)
}

struct Party {
    root: Cert,
    client: Cert,
    files: Files,
}

fn party(test: &str) -> Party {
    let (files, root) = (Files::new(test), Spec::ca("root").self_signed());
    let server = Spec::new(&[NAME]).signed_by(&root);
    let client = Spec::new(&["client"]).for_clients().signed_by(&root);
    files.put("server.pem", [server.pem(), server.key_pem()].concat());
    files.put("root.pem", root.pem());
    Party { root, client, files }
}

#[tokio::test]
async fn openssl_s_server_is_understood_with_either_version_and_with_client_certificates() {
    if !is_there("openssl", &["version"]).await {
        return;
    }
    let Party { root, client, files } = party("s_server");
    let ca = files.path("root.pem");
    let asks = ["-Verify", "2", "-verify_return_error", "-CAfile", ca.to_str().unwrap()];
    for version in ["-tls1_2", "-tls1_3"] {
        let plain = s_server(&files, &[version]).await;
        let strict = s_server(&files, &[&[version], &asks[..]].concat()).await;
        for backend in backends() {
            let config = || TlsConfig::builder().backend(backend).root_pem(root.pem());
            let ours = config().identity_pem(client.pem(), client.key_pem()).build().unwrap();
            let nobody = config().build().unwrap();
            assert_eq!(ask(&nobody, plain.address, "ping\n", 5).await.unwrap(), "gnip\n");
            assert_eq!(ask(&ours, strict.address, "ping\n", 5).await.unwrap(), "gnip\n");
            let refused = ask(&nobody, strict.address, "ping\n", 5).await.unwrap_err();
            let kind = TlsErrorKind::of(&refused);
            let expected =
                if version == "-tls1_3" { TlsErrorKind::ClientCertificateRefused } else { TlsErrorKind::Refused };
            // It closes with our request unread, so that its reason may be lost to the reset.
            assert!(kind == Some(expected) || kind.is_none() && !refused.is_connect(), "{refused:?}");
        }
        if version == "-tls1_2" {
            for backend in backends() {
                let later = TlsConfig::builder().backend(backend).root_pem(root.pem()).min_version(TlsVersion::V1_3);
                let refused = ask(&later.build().unwrap(), plain.address, "ping\n", 5).await.unwrap_err();
                assert_eq!(TlsErrorKind::of(&refused), Some(TlsErrorKind::ProtocolVersion), "{refused:?}");
            }
        }
    }
}

#[tokio::test]
async fn openssl_s_server_agrees_on_a_protocol_and_refuses_when_there_is_none() {
    if !is_there("openssl", &["version"]).await {
        return;
    }
    let Party { root, files, .. } = party("alpn");
    let server = s_server(&files, &["-alpn", "towline/1,other"]).await;
    for backend in backends() {
        let offering = |alpn: &[&str]| {
            let builder = TlsConfig::builder().backend(backend).root_pem(root.pem()).require_alpn(true);
            builder.alpn(alpn.iter().copied()).build().unwrap()
        };
        let stream = connect(offering(&["none", "towline/1"]), server.address, NAME).await.unwrap();
        assert_eq!(stream.negotiated_alpn().as_deref(), Some(&b"towline/1"[..]));
        drop(stream); // It serves one after the other.
        let refused = connect(offering(&["none"]), server.address, NAME).await.unwrap_err();
        assert_eq!(TlsErrorKind::of(&refused), Some(TlsErrorKind::NoProtocol), "{refused:?}");
    }
}

#[tokio::test]
async fn nginx_is_understood_knows_our_certificate_and_resumes_the_sessions_of_rustls() {
    if !is_there("nginx", &["-v"]).await {
        return;
    }
    let Party { root, client, files } = party("nginx");
    let ca = files.path("root.pem");
    let settings = format!(
        "ssl_protocols TLSv1.2 TLSv1.3; ssl_client_certificate {}; ssl_verify_client optional;
        ssl_session_cache shared:it:1m;",
        ca.display()
    );
    let server = nginx(&files, &settings).await;
    for backend in backends() {
        let config = || TlsConfig::builder().backend(backend).root_pem(root.pem());
        let get = "GET / HTTP/1.0\r\n\r\n";
        let nobody = ask(&config().build().unwrap(), server.address, get, 4_096).await.unwrap();
        assert!(nobody.ends_with("hello NONE TLSv1.3 ."), "{nobody}");
        let ours = config().identity_pem(client.pem(), client.key_pem()).build().unwrap();
        let known = ask(&ours, server.address, get, 4_096).await.unwrap();
        assert!(known.ends_with("hello SUCCESS TLSv1.3 ."), "{known}");
        // The tickets came with the answer.
        let again = ask(&ours, server.address, get, 4_096).await.unwrap();
        let resumed = format!("{backend:?}") == "Rustls";
        assert!(again.ends_with(if resumed { "TLSv1.3 r" } else { "TLSv1.3 ." }), "{again}");
    }
}
