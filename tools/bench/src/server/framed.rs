//! Echo of length-prefixed messages, written by hand, so that it is the bottleneck of no row.
//!
//! A response differs from its request in nothing but the name of its type, so whole frames go back as they came: one
//! read of whatever there is, one write of all frames that are complete.

use anyhow::Result;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_native_tls::TlsAcceptor;

const READ_ROOM: usize = 64 * 1024;

pub(super) async fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    echo(stream).await
}

pub(super) async fn serve_tls(acceptor: TlsAcceptor, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    echo(acceptor.accept(stream).await?).await
}

async fn echo<Io: AsyncRead + AsyncWrite + Unpin>(mut io: Io) -> Result<()> {
    let mut buffer = BytesMut::new();
    let mut complete = 0;
    loop {
        buffer.reserve(READ_ROOM);
        if io.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        while let Some(prefix) = buffer[complete..].first_chunk() {
            let end = complete + 4 + u32::from_be_bytes(*prefix) as usize;
            if end > buffer.len() {
                break;
            }
            complete = end;
        }
        io.write_all(&buffer[..complete]).await?;
        io.flush().await?;
        buffer.advance(complete);
        complete = 0;
    }
}
