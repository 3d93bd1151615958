//! The other side of all rows, in a process of its own, which listens once for each protocol and says where in one
//! line of JSON.

mod framed;
mod http;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use towline_testbed::Authority;

use crate::child;

/// The name in the certificate of the TLS server.
pub(crate) const TLS_NAME: &str = "localhost";

/// Servers that stacks spread their calls over.
pub(crate) const BACKENDS: usize = 3;

/// Where each protocol is served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// Length-prefixed protobuf, in the clear.
    pub(crate) framed: SocketAddr,
    /// The same over TLS.
    pub(crate) framed_tls: SocketAddr,
    pub(crate) http1: SocketAddr,
    pub(crate) http2: SocketAddr,
    /// gRPC, on as many ports as there are backends.
    pub(crate) grpc: Vec<SocketAddr>,
    /// As `framed`, on ports of their own.
    pub(crate) backends: Vec<SocketAddr>,
    /// The authority that signed the TLS server's certificate.
    pub(crate) root_pem: String,
}

/// Serves until it is killed.
pub(crate) fn serve() -> Result<()> {
    child::settle()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let authority = Authority::new("towline bench");
        let acceptor = authority.certify(&[TLS_NAME]).acceptor()?;
        let (mut backends, mut grpc) = (Vec::new(), Vec::new());
        for _ in 0..BACKENDS {
            backends.push(listen(framed::serve).await?);
            let listener = bind().await?;
            grpc.push(listener.local_addr()?);
            tokio::spawn(http::serve_grpc(listener));
        }
        let addresses = Addresses {
            framed: listen(framed::serve).await?,
            framed_tls: listen(move |stream| framed::serve_tls(acceptor.clone(), stream)).await?,
            http1: listen(http::serve_http1).await?,
            http2: listen(http::serve_http2).await?,
            grpc,
            backends,
            root_pem: authority.pem().to_owned(),
        };
        let mut stdout = std::io::stdout();
        serde_json::to_writer(&mut stdout, &addresses)?;
        writeln!(stdout)?;
        stdout.flush()?;
        std::future::pending().await
    })
}

async fn bind() -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("binding a loopback port")
}

/// Gives each connection a task. How a connection ends is its client's business.
async fn listen<F>(mut serve: impl FnMut(TcpStream) -> F + Send + 'static) -> Result<SocketAddr>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = bind().await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
                // Out of file descriptors, or a connection that was reset in the queue.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    Ok(address)
}
