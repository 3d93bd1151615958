//! Streams that buffer, and stall at the end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;
use towline_core::{Error, Kind, Phase, Sent};
use towline_transport::{Exclusive, Shared};

use super::multiplexed::ById;
use super::{codec, config};

/// Accepts bytes into a buffer of its own and fails the flush with an error of ours, as a stream that connects lazily
/// does; never says goodbye.
struct Lazy;

impl AsyncRead for Lazy {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Lazy {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::Error::other(Error::new(Kind::Unavailable, Phase::Dial))))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn a_failed_flush_may_have_been_sent_whatever_the_stream_says() {
    let error = Exclusive::new(Lazy, codec()).call(Bytes::from("x")).await.unwrap_err();
    assert_eq!(error.error.sent(), Sent::Maybe);
    let (mut connection, driver) = Shared::<Bytes, Bytes>::multiplexed(Lazy, codec(), ById, config(8));
    tokio::spawn(driver);
    let error = connection.call(Bytes::from("1|x")).await.unwrap_err();
    assert_eq!(error.error.sent(), Sent::Maybe);
}

#[tokio::test(start_paused = true)]
async fn the_task_of_an_abandoned_connection_ends_though_the_goodbye_stalls() {
    let (connection, driver) = Shared::<Bytes, Bytes>::multiplexed(Lazy, codec(), ById, config(8));
    let task = tokio::spawn(driver);
    drop(connection);
    tokio::time::timeout(Duration::from_secs(60), task).await.expect("the task lives on").unwrap();
}
