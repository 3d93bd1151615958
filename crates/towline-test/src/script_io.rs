//! A stream whose peer is a script.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use towline_core::sync::Lock;

/// One end of a stream; the test holds the other as a [`Script`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use towline_test::ScriptIo;
///
/// let (mut io, script) = ScriptIo::new();
/// io.write_all(b"ping").await.unwrap();
/// assert_eq!(script.written(), b"ping");
/// script.deliver(b"pong");
/// script.end();
/// let mut answer = String::new();
/// io.read_to_string(&mut answer).await.unwrap();
/// assert_eq!(answer, "pong");
/// # });
/// ```
#[derive(Debug)]
pub struct ScriptIo(Arc<Lock<State>>);

/// The peer of a [`ScriptIo`].
#[derive(Clone, Debug)]
pub struct Script(Arc<Lock<State>>);

#[derive(Debug)]
struct State {
    /// Bytes the stream still accepts; `usize::MAX` without a limit.
    accept: usize,
    accept_failure: Option<io::ErrorKind>,
    written: Vec<u8>,
    writes: usize,
    deliver: VecDeque<u8>,
    end: Option<Result<(), io::ErrorKind>>,
    one_by_one: bool,
    /// Bytes that were written and not flushed, when that makes a difference.
    unflushed: Option<Vec<u8>>,
    stall_flush: bool,
    /// What becomes readable with the next flush, and whether the stream ends after it.
    reply: Option<(Vec<u8>, bool)>,
    shut: bool,
    dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    script: Option<Waker>,
}

impl ScriptIo {
    /// A stream that accepts everything and delivers nothing, and its script.
    #[allow(clippy::new_ret_no_self, reason = "a pair, as from every channel")]
    pub fn new() -> (Self, Script) {
        let state = Arc::new(Lock::new(State {
            accept: usize::MAX,
            accept_failure: None,
            written: Vec::new(),
            writes: 0,
            deliver: VecDeque::new(),
            end: None,
            one_by_one: false,
            unflushed: None,
            stall_flush: false,
            reply: None,
            shut: false,
            dropped: false,
            reader: None,
            writer: None,
            script: None,
        }));
        (Self(state.clone()), Script(state))
    }
}

impl Script {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let (reader, writer) = {
            let mut state = self.0.lock();
            change(&mut state);
            (state.reader.take(), state.writer.take())
        };
        reader.into_iter().chain(writer).for_each(Waker::wake);
    }

    /// Accepts `n` more bytes, then stalls every write.
    pub fn accept(&self, n: usize) {
        self.change(|state| state.accept = n);
    }

    /// Accepts `n` more bytes, then fails every write.
    pub fn accept_then_fail(&self, n: usize, kind: io::ErrorKind) {
        self.change(|state| (state.accept, state.accept_failure) = (n, Some(kind)));
    }

    /// Accepts everything again.
    pub fn accept_all(&self) {
        self.change(|state| (state.accept, state.accept_failure) = (usize::MAX, None));
    }

    /// Stalls every flush, or no longer.
    pub fn stall_flush(&self, stall: bool) {
        self.change(|state| state.stall_flush = stall);
    }

    /// Shows what is written only once it is flushed, from now on.
    pub fn hold_until_flushed(&self) {
        self.change(|state| state.unflushed = Some(Vec::new()));
    }

    /// Moves one byte at a time in both directions from now on.
    pub fn one_byte_at_a_time(&self) {
        self.change(|state| state.one_by_one = true);
    }

    /// Makes these bytes readable.
    pub fn deliver(&self, bytes: impl AsRef<[u8]>) {
        self.change(|state| state.deliver.extend(bytes.as_ref()));
    }

    /// Makes these bytes readable once the next write is flushed: an answer, where [`deliver`](Self::deliver) is
    /// something that nobody asked for.
    pub fn reply(&self, bytes: impl AsRef<[u8]>) {
        self.change(|state| state.reply = Some((bytes.as_ref().to_vec(), false)));
    }

    /// As [`reply`](Self::reply), and ends the stream after it.
    pub fn reply_and_end(&self, bytes: impl AsRef<[u8]>) {
        self.change(|state| state.reply = Some((bytes.as_ref().to_vec(), true)));
    }

    /// Ends the stream after what was delivered, as a FIN does.
    pub fn end(&self) {
        self.change(|state| state.end = Some(Ok(())));
    }

    /// Fails reads after what was delivered, and all writes, as a RST does.
    pub fn reset(&self) {
        self.change(|state| {
            state.end = Some(Err(io::ErrorKind::ConnectionReset));
            (state.accept, state.accept_failure) = (0, Some(io::ErrorKind::ConnectionReset));
        });
    }

    /// Everything that was written so far.
    pub fn written(&self) -> Vec<u8> {
        self.0.lock().written.clone()
    }

    /// How many times bytes were written.
    pub fn writes(&self) -> usize {
        self.0.lock().writes
    }

    /// Waits until at least `n` bytes were written, and takes them all.
    pub async fn take_written(&self, n: usize) -> Vec<u8> {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.written.len() >= n {
                return Poll::Ready(std::mem::take(&mut state.written));
            }
            state.script = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Whether the stream was shut down in good order.
    pub fn said_goodbye(&self) -> bool {
        self.0.lock().shut
    }

    /// Whether the stream was shut down or dropped.
    pub fn is_closed(&self) -> bool {
        let state = self.0.lock();
        state.shut || state.dropped
    }
}

impl AsyncRead for ScriptIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.deliver.is_empty() {
            return match state.end {
                Some(end) => Poll::Ready(end.map_err(io::Error::from)),
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let most = if state.one_by_one { 1 } else { state.deliver.len() };
        let n = most.min(buf.remaining());
        let bytes: Vec<u8> = state.deliver.drain(..n).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ScriptIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if state.accept == 0 {
            return match state.accept_failure {
                Some(kind) => Poll::Ready(Err(kind.into())),
                None => {
                    state.writer = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let most = if state.one_by_one { 1 } else { buf.len() };
        let n = most.min(buf.len()).min(state.accept);
        if state.accept != usize::MAX {
            state.accept -= n;
        }
        state.writes += 1;
        match &mut state.unflushed {
            Some(unflushed) => unflushed.extend_from_slice(&buf[..n]),
            None => state.written.extend_from_slice(&buf[..n]),
        }
        let script = state.script.take();
        drop(state);
        script.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.stall_flush {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(unflushed) = &mut state.unflushed {
            let flushed = std::mem::take(unflushed);
            state.written.extend(flushed);
        }
        if let Some((bytes, end)) = state.reply.take() {
            state.deliver.extend(bytes);
            if end {
                state.end = Some(Ok(()));
            }
            let reader = state.reader.take();
            drop(state);
            reader.into_iter().for_each(Waker::wake);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().shut = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for ScriptIo {
    fn drop(&mut self) {
        self.0.lock().dropped = true;
    }
}
