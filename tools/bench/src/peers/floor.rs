//! The floor: the same work with no library, as little of it as we know how.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use anyhow::{Result, anyhow, ensure};
use bytes::{Buf, BufMut, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_util::io::poll_read_buf;
use towline_proto::{Request, Response};

use crate::dial::Io;
use crate::measure::{Caller, MAX_CALLERS, lock};

const PREFIX: usize = 4;

fn encode(request: &Request, buffer: &mut impl BufMut) {
    buffer.put_u32(request.encoded_len() as u32);
    request.encode_raw(buffer);
}

/// The end of the first frame, once its prefix is there.
fn frame_end(buffer: &[u8]) -> Option<usize> {
    buffer.first_chunk().map(|prefix| PREFIX + u32::from_be_bytes(*prefix) as usize)
}

/// One request at a time on a connection of its own.
pub(crate) struct Exclusive<I> {
    io: I,
    buffer: BytesMut,
}

impl<I> Exclusive<I> {
    pub(crate) fn new(io: I) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// The connection alone.
    pub(crate) fn into_io(self) -> I {
        self.io
    }
}

impl<I: Io> Caller for Exclusive<I> {
    async fn call(&mut self, request: Request) -> Result<Response> {
        let Self { io, buffer } = self;
        buffer.clear();
        encode(&request, buffer);
        io.write_all(buffer).await?;
        io.flush().await?;
        buffer.clear();
        loop {
            ensure!(io.read_buf(buffer).await? > 0, "the server closed the connection");
            if let Some(end) = frame_end(buffer).filter(|end| *end <= buffer.len()) {
                return Ok(Response::decode(buffer.split_to(end).freeze().slice(PREFIX..))?);
            }
        }
    }
}

/// One caller of a connection that all share: a buffer of requests, a slot per caller, and one task that writes the
/// whole buffer at once and hands the answers out. The ids of the requests name the slots.
pub(crate) struct Multiplexed {
    shared: Arc<Mutex<Shared>>,
    slot: usize,
    /// Ends with the last caller.
    _driver: Arc<JoinSet<()>>,
}

struct Shared {
    outgoing: BytesMut,
    driver: Option<Waker>,
    slots: Vec<Slot>,
    failure: Option<String>,
}

#[derive(Default)]
struct Slot {
    waker: Option<Waker>,
    answer: Option<Response>,
}

impl Multiplexed {
    /// So many callers of one connection.
    pub(crate) fn all(io: impl Io, callers: usize, read_room: usize) -> Vec<Self> {
        let slots = (0..callers).map(|_| Slot::default()).collect();
        let shared = Shared { outgoing: BytesMut::new(), driver: None, slots, failure: None };
        let shared = Arc::new(Mutex::new(shared));
        let (reading, writing) = (BytesMut::new(), BytesMut::new());
        let mut driver = Driver { io, read_room, reading, writing, shared: shared.clone() };
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            if let Err(error) = poll_fn(|cx| driver.poll(cx)).await {
                driver.fail(&error);
            }
        });
        let driving = Arc::new(driving);
        (0..callers).map(|slot| Self { shared: shared.clone(), slot, _driver: driving.clone() }).collect()
    }
}

impl Caller for Multiplexed {
    async fn call(&mut self, request: Request) -> Result<Response> {
        let mut request = Some(request);
        poll_fn(|cx| {
            let mut shared = lock(&self.shared);
            let shared = &mut *shared;
            let slot = &mut shared.slots[self.slot];
            if let Some(answer) = slot.answer.take() {
                return Poll::Ready(Ok(answer));
            }
            if let Some(failure) = &shared.failure {
                return Poll::Ready(Err(anyhow!("{failure}")));
            }
            match &mut slot.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => slot.waker = Some(cx.waker().clone()),
            }
            if let Some(request) = request.take() {
                encode(&request, &mut shared.outgoing);
                if let Some(driver) = shared.driver.take() {
                    driver.wake();
                }
            }
            Poll::Pending
        })
        .await
    }
}

struct Driver<I> {
    io: I,
    read_room: usize,
    reading: BytesMut,
    writing: BytesMut,
    shared: Arc<Mutex<Shared>>,
}

impl<I: Io> Driver<I> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if self.writing.is_empty() {
                let mut shared = lock(&self.shared);
                std::mem::swap(&mut self.writing, &mut shared.outgoing);
                if self.writing.is_empty() {
                    shared.driver = Some(cx.waker().clone());
                }
            }
            let mut progress = false;
            while !self.writing.is_empty() {
                let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(cx, &self.writing) else { break };
                self.writing.advance(written?);
                progress = true;
            }
            self.reading.reserve(self.read_room);
            if let Poll::Ready(read) = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.reading) {
                if read? == 0 {
                    return Poll::Ready(Err(anyhow!("the server closed the connection")));
                }
                self.deliver()?;
                progress = true;
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Hands out the answers that are complete.
    fn deliver(&mut self) -> Result<()> {
        let mut shared = lock(&self.shared);
        while let Some(end) = frame_end(&self.reading).filter(|end| *end <= self.reading.len()) {
            // Copying the payload out lets the buffer stay where it is, which is quicker than slicing it.
            let response = Response::decode(&self.reading[PREFIX..end])?;
            self.reading.advance(end);
            let slot = response.id.parse::<u64>()? % MAX_CALLERS;
            let slot = shared.slots.get_mut(slot as usize).ok_or_else(|| anyhow!("an answer for nobody"))?;
            slot.answer = Some(response);
            if let Some(waker) = &slot.waker {
                waker.wake_by_ref();
            }
        }
        Ok(())
    }

    fn fail(&self, error: &anyhow::Error) {
        let mut shared = lock(&self.shared);
        shared.failure = Some(format!("{error:#}"));
        shared.slots.iter_mut().filter_map(|slot| slot.waker.take()).for_each(Waker::wake);
    }
}
