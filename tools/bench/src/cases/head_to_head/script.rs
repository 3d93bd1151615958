//! The peer of a scenario: the other end of a connection, moved by hand, and how a call looks that it answers.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::codec::Framed;
use towline_codec::ProstCodec;
use towline_proto::{Request, Response};

/// Whatever takes longer than this hangs.
pub(super) const BOUND: Duration = Duration::from_secs(2);
/// Time for what was set off to arrive.
pub(super) const SETTLE: Duration = Duration::from_millis(100);

/// The scripted end of a connection.
pub(super) struct Script(Framed<TcpStream, ProstCodec<Response, Request>>);

/// The client's end of a fresh connection, and ours.
pub(super) async fn connection() -> Result<(TcpStream, Script)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let (ours, _) = listener.accept().await?;
    Ok((client, Script(Framed::new(ours, ProstCodec::default()))))
}

impl Script {
    /// The next request, or `None` when none comes in time.
    pub(super) async fn next(&mut self, within: Duration) -> Result<Option<Request>> {
        match timeout(within, self.0.next()).await {
            Ok(request) => Ok(Some(request.context("the client closed the connection")??)),
            Err(_) => Ok(None),
        }
    }

    pub(super) async fn expect(&mut self) -> Result<Request> {
        self.next(BOUND).await?.context("no request came")
    }

    pub(super) async fn answer(&mut self, id: String) -> Result<()> {
        Ok(self.0.send(Response { id, payload: Bytes::new() }).await?)
    }

    /// Ends the connection with RST.
    pub(super) fn reset(self) -> io::Result<()> {
        self.0.into_inner().set_zero_linger()
    }
}

/// A request with so many bytes.
pub(super) fn request(bytes: usize) -> Request {
    Request { id: "1".to_owned(), payload: Bytes::from(vec![0; bytes]) }
}

/// An error and its causes, each once.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}
