//! The other side of the wire.

use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;
use towline_core::{BoxError, Error, ReadyCall};

use crate::wire::{Incoming, Wire};

/// Serves one connection until the peer closes it: up to `in_flight` requests at once, each answered as soon as its
/// answer is there, in any order. Clients that send one request at a time and wait are served like any other.
///
/// Dropping the future closes the connection.
///
/// # Errors
///
/// The first failure of the stream, the codec or the service; it ends the connection. A service that wants to go on
/// after a bad request answers it.
///
/// ```
/// use bytes::Bytes;
/// use tower::service_fn;
/// use towline_codec::FrameCodec;
/// use towline_transport::serve_connection;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (ours, theirs) = tokio::io::duplex(1024);
/// let echo = service_fn(|request: Bytes| async move { Ok::<_, std::io::Error>(request) });
/// drop(ours); // the peer hangs up
/// serve_connection(theirs, FrameCodec::default(), echo, 16).await?;
/// # Ok::<(), towline_core::Error>(())
/// # }).unwrap();
/// ```
pub async fn serve_connection<Io, C, S>(io: Io, codec: C, service: S, in_flight: usize) -> Result<(), Error>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Decoder + Encoder<S::Response>,
    <C as Decoder>::Error: Into<BoxError>,
    <C as Encoder<S::Response>>::Error: Into<BoxError>,
    S: Service<<C as Decoder>::Item> + Clone,
    S::Error: Into<BoxError>,
{
    let in_flight = in_flight.max(1);
    let mut wire = Wire::new(io, codec);
    let mut running = FuturesUnordered::new();
    let (mut ended, mut flushed) = (false, true);
    std::future::poll_fn(|cx| {
        loop {
            let mut progress = false;
            while !ended && running.len() < in_flight {
                match wire.poll_read(cx)? {
                    Poll::Ready(Incoming::Message(request)) => running.push(ReadyCall::new(service.clone(), request)),
                    Poll::Ready(Incoming::End) => ended = true,
                    Poll::Pending => break,
                }
            }
            while let Poll::Ready(Some(answer)) = running.poll_next_unpin(cx) {
                wire.encode(answer.map_err(Error::wrap)?)?;
                (flushed, progress) = (false, true);
            }
            while wire.unwritten() > 0 {
                match wire.poll_write(cx)? {
                    Poll::Ready(_) => progress = true,
                    Poll::Pending => return Poll::Pending,
                }
            }
            if !flushed {
                match wire.poll_flush(cx)? {
                    Poll::Ready(()) => flushed = true,
                    Poll::Pending => return Poll::Pending,
                }
            }
            if ended && running.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !progress {
                return Poll::Pending;
            }
        }
    })
    .await
}
