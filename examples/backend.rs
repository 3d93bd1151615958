//! A backend for the echo protocol, on which clients in any language can be tried.
//!
//! Each frame is a big-endian `u32` length and that many bytes of one protobuf message, see `proto/echo.proto`. Each
//! request is answered with its id and its payload. Clients may send one request at a time and wait, or many.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use towline_testbed::{Backend, Certified};

/// A backend for the echo protocol.
#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:7000")]
    listen: String,
    /// A certificate chain in PEM; with it, the backend speaks TLS.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key in PEM, PKCS#8.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), String> {
    let read = |path: PathBuf| {
        std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let certified = match (options.tls_cert, options.tls_key) {
        (Some(cert), Some(key)) => Some(Certified { cert_pem: read(cert)?, key_pem: read(key)? }),
        _ => None,
    };
    let mut backend = Backend::start(&options.listen, certified.as_ref())
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", options.listen))?;
    let scheme = if certified.is_some() { "TLS" } else { "plaintext" };
    println!("listening on {} ({scheme}); stop with Ctrl-C", backend.address());
    tokio::signal::ctrl_c().await.map_err(|error| error.to_string())?;
    backend.stop().await;
    println!("served {} calls over {} connections", backend.served(), backend.connected());
    Ok(())
}
