//! One connection of a server: reads requests, runs their handlers, writes answers, all on one task.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::future::AbortHandle;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use towline_core::sync::after;
use towline_core::{BoxError, Call, CallContext, Error, Kind, Phase, ReadyCall};

use super::handling::{Handling, Outcome};
use super::{OnError, tell};
use crate::ServerLoad;
use crate::alarm::Alarm;
use crate::header::{Flags, Header, Headers};
use crate::shared::unencodable;
use crate::wire::{IdleBuffers, Incoming, Wire, WriteDeadline, decode};

/// Answers wait in the write buffer up to this many bytes; beyond, handlers wait until the client reads.
const WRITE_AHEAD: usize = 64 * 1024;
/// Turns around the loop before the task lets its siblings run.
const TURNS: usize = 16;
/// Requests taken, and answers given, in one turn.
const BATCH: usize = 256;
/// Requests that wait for room, and how many bytes may come while some do: as many as our clients send at most, without
/// letting others fill the memory.
const PARKED: usize = 1_024;
const PARKED_BYTES: u64 = 4 << 20;
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct SessionConfig {
    pub(super) in_flight: usize,
    pub(super) in_order: bool,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) write_timeout: Duration,
}

/// What is on the wire beside the codec's frames, and what handlers get of it.
pub(super) struct Format<M, Req> {
    header: bool,
    request: fn(M, CallContext) -> Req,
    pub(super) load: Option<Arc<dyn Fn() -> ServerLoad + Send + Sync>>,
    /// Requests in flight on all connections.
    working: Arc<AtomicU32>,
}

impl<M> Format<M, M> {
    /// Frames and nothing else.
    pub(super) fn plain() -> Self {
        Self { header: false, request: |message, _| message, load: None, working: Arc::default() }
    }
}

impl<M> Format<M, Call<M>> {
    /// A header before each frame.
    pub(super) fn headed() -> Self {
        Self { header: true, request: Call::from_parts, load: None, working: Arc::default() }
    }
}

impl<M, Req> Format<M, Req> {
    /// What one connection has, when that was chosen for it.
    pub(super) fn for_connection(self, header: Option<bool>) -> Self {
        Self { header: header.unwrap_or(self.header), ..self }
    }

    fn load(&self) -> ServerLoad {
        match &self.load {
            Some(load) => load(),
            None => ServerLoad { utilization: None, in_flight: Some(self.working.load(Ordering::Relaxed)) },
        }
    }
}

// By hand, so that messages need not be Clone.
impl<M, Req> Clone for Format<M, Req> {
    fn clone(&self) -> Self {
        Self { header: self.header, request: self.request, load: self.load.clone(), working: self.working.clone() }
    }
}

/// Handlers at work.
enum Running<F: Future> {
    AnyOrder(FuturesUnordered<F>),
    InOrder(FuturesOrdered<F>),
}

impl<F: Future> Running<F> {
    fn len(&self) -> usize {
        match self {
            Self::AnyOrder(running) => running.len(),
            Self::InOrder(running) => running.len(),
        }
    }

    fn push(&mut self, handling: F) {
        match self {
            Self::AnyOrder(running) => running.push(handling),
            Self::InOrder(running) => running.push_back(handling),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        match self {
            Self::AnyOrder(running) => running.poll_next_unpin(cx),
            Self::InOrder(running) => running.poll_next_unpin(cx),
        }
    }
}

pub(super) struct Session<Io, C: Decoder, S: Service<Req>, Req> {
    wire: Wire<Io>,
    codec: C,
    headers: Headers,
    format: Format<C::Item, Req>,
    service: S,
    config: SessionConfig,
    running: Running<Handling<ReadyCall<S, Req>>>,
    /// What cancels each request of a client that can say so.
    cancels: HashMap<u64, AbortHandle>,
    /// Nothing more is read: how the connection will have ended when the rest is done.
    ending: Option<Result<(), Error>>,
    told_to_stop: bool,
    on_error: OnError,
    /// Requests beyond the limit: with a header the client is heard none the less, because it may cancel and ping.
    parked: VecDeque<(Header, C::Item)>,
    /// Bytes that had come when the first of them was.
    parked_since: u64,
    /// Bytes that had come when last looked.
    received: u64,
    write_deadline: WriteDeadline,
    buffers: IdleBuffers,
    active: Instant,
    idle: Alarm,
}

impl<Io, C, S, Req> Session<Io, C, S, Req>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Decoder + Encoder<S::Response>,
    <C as Decoder>::Error: Into<BoxError>,
    <C as Encoder<S::Response>>::Error: Into<BoxError>,
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
{
    pub(super) fn new(
        io: Io,
        codec: C,
        service: S,
        format: Format<C::Item, Req>,
        config: SessionConfig,
        on_error: OnError,
    ) -> Self {
        let running = match config.in_order {
            true => Running::InOrder(FuturesOrdered::new()),
            false => Running::AnyOrder(FuturesUnordered::new()),
        };
        Self {
            wire: Wire::new(io),
            codec,
            headers: Headers::default(),
            format,
            service,
            write_deadline: WriteDeadline::new(config.write_timeout),
            config,
            running,
            cancels: HashMap::new(),
            ending: None,
            told_to_stop: false,
            on_error,
            parked: VecDeque::new(),
            parked_since: 0,
            received: 0,
            buffers: IdleBuffers::default(),
            active: Instant::now(),
            idle: Alarm::default(),
        }
    }

    /// Serves until the client is gone, or `stopping` and everything in flight is answered.
    pub(super) async fn run(mut self, stopping: &CancellationToken) -> Result<(), Error> {
        let mut stop = std::pin::pin!(stopping.cancelled());
        let exchanged = std::future::poll_fn(|cx| {
            if !self.told_to_stop && stop.as_mut().poll(cx).is_ready() {
                self.stop();
            }
            self.poll_exchange(cx)
        })
        .await;
        if exchanged.is_ok() {
            // A client that does not take a goodbye in time does not need it.
            let _ = tokio::time::timeout(GOODBYE, std::future::poll_fn(|cx| self.poll_goodbye(cx))).await;
        }
        if let Err(error) = &exchanged {
            tell(&self.on_error, error);
        }
        exchanged.and(self.ending.unwrap_or(Ok(())))
    }

    /// Says goodbye, and waits for the client's: closing a socket with unread bytes resets it, which would take answers
    /// from the client that it has not read yet.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let discard = |src: &mut BytesMut, _| {
            src.clear();
            Ok(None::<()>)
        };
        if ready!(self.wire.poll_shutdown(cx)).is_ok() {
            let _end = ready!(self.wire.poll_next(cx, discard));
        }
        Poll::Ready(())
    }

    /// Lets the client go: by asking it to where that can be said, else by reading no more of what it sends.
    fn stop(&mut self) {
        self.told_to_stop = true;
        if self.format.header {
            self.wire.append(|dst| Header::control(Flags::DRAIN, 0).put(dst));
        } else {
            self.ending.get_or_insert(Ok(()));
        }
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        for _ in 0..TURNS {
            let read = self.read(cx)?;
            let answered = self.answer(cx);
            // Then nothing was read nor answered, and nobody but the stream wakes this task.
            let full = self.wire.unwritten() >= WRITE_AHEAD;
            match self.wire.poll_send(cx)? {
                Poll::Ready(()) => self.write_deadline.moved(),
                Poll::Pending => {
                    if let Poll::Ready(error) = self.write_deadline.poll_stalled(self.wire.written(), cx) {
                        return Poll::Ready(Err(error));
                    }
                }
            }
            if self.ending.is_some() && self.running.len() == 0 && self.parked.is_empty() && self.wire.is_flushed() {
                return Poll::Ready(Ok(()));
            }
            if read || answered || full && self.wire.unwritten() < WRITE_AHEAD {
                self.buffers.used();
                self.active = Instant::now();
            } else {
                self.poll_idle(cx);
                if self.ending.is_none() || self.running.len() > 0 || !self.parked.is_empty() || !self.wire.is_flushed()
                {
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether there is room for another request.
    fn has_room(&self) -> bool {
        self.ending.is_none()
            && self.wire.unwritten() < WRITE_AHEAD
            && match self.format.header {
                true => self.parked.len() < PARKED && self.wire.received() - self.parked_since < PARKED_BYTES,
                false => self.running.len() < self.config.in_flight,
            }
    }

    /// Takes requests as long as there is room; whether something came.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let mut came = false;
        while self.running.len() < self.config.in_flight {
            let Some((header, message)) = self.parked.pop_front() else { break };
            self.start(header, message);
            came = true;
        }
        if self.parked.is_empty() {
            self.parked_since = self.wire.received();
        }
        for _ in 0..BATCH {
            if !self.has_room() {
                break;
            }
            let Self { wire, codec, headers, format, .. } = self;
            let next = wire.poll_next(cx, |src, eof| match format.header {
                true => headers.next(src, eof, |src| decode(codec, src, eof)),
                false => Ok(decode(codec, src, eof)?.map(|message| (Header::request(0, None), Some(message)))),
            });
            match next {
                Poll::Pending => {
                    if std::mem::replace(&mut self.received, self.wire.received()) != self.wire.received() {
                        self.active = Instant::now();
                    }
                    break;
                }
                Poll::Ready(Ok(Incoming::Message((header, message)))) => self.hear(header, message),
                Poll::Ready(Ok(Incoming::End)) => self.ending = Some(Ok(())),
                Poll::Ready(Err(error)) if error.kind() == Kind::Io => return Err(error),
                // What was understood before is still answered.
                Poll::Ready(Err(error)) => {
                    tell(&self.on_error, &error);
                    self.ending = Some(Err(error));
                }
            }
            came = true;
        }
        Ok(came)
    }

    fn start(&mut self, header: Header, message: C::Item) {
        let deadline = header.deadline().map(|left| after(Instant::now(), left));
        let mut context = CallContext::default();
        if let Some(at) = deadline {
            context.limit_deadline(at);
        }
        let call = ReadyCall::new(self.service.clone(), (self.format.request)(message, context));
        let (handling, cancel) = Handling::new(header.id, call, deadline, &self.format.working);
        self.running.push(handling);
        if self.format.header {
            self.cancels.insert(header.id, cancel);
        }
    }

    fn hear(&mut self, header: Header, message: Option<C::Item>) {
        let mut flags = header.flags;
        flags.take_drain(); // A client that takes no requests: it never does.
        match (flags, message) {
            (Flags::MESSAGE, Some(message)) if self.running.len() >= self.config.in_flight => {
                self.parked.push_back((header, message));
            }
            (Flags::MESSAGE, Some(message)) => self.start(header, message),
            (Flags::CANCEL, _) => {
                self.parked.retain(|(parked, _)| parked.id != header.id);
                if let Some(cancel) = self.cancels.get(&header.id) {
                    cancel.abort();
                }
            }
            // Its answer may be dropped when the client does not read: then it sees a stalled stream anyhow.
            (Flags::PING, _) if self.wire.unwritten() < WRITE_AHEAD => {
                self.wire.append(|dst| Header::control(Flags::PONG, header.id).put(dst));
            }
            (Flags::PING | Flags::PONG, _) => {}
            (flags, _) if flags.is_empty() => {}
            (flags, _) => {
                let error = Error::new(Kind::Malformed, Phase::Read).with_message(format!(
                    "the client's frame header has flags that make no sense for a client: {flags:?}"
                ));
                self.ending = Some(Err(error));
            }
        }
    }

    /// Gives answers as long as there is room for them; whether there was one.
    fn answer(&mut self, cx: &mut Context<'_>) -> bool {
        let mut answered = false;
        for _ in 0..BATCH {
            if self.wire.unwritten() >= WRITE_AHEAD {
                break;
            }
            let Poll::Ready(Some((id, outcome))) = self.running.poll_next(cx) else { break };
            answered = true;
            self.cancels.remove(&id);
            let failed = match outcome {
                Outcome::Answered(response) => self.encode(id, response).err(),
                Outcome::Failed(error) => Some(Error::wrap(error)),
                Outcome::Panicked(error) => Some(error),
                Outcome::GivenUp => None,
                Outcome::Late => {
                    Some(Error::new(Kind::Timeout, Phase::Call).with_message("the client's deadline is over"))
                }
            };
            if let Some(error) = &failed {
                tell(&self.on_error, error);
            }
            match failed {
                Some(_) if self.format.header => {
                    let header = Header::answer(Flags::FAILED, id, self.format.load());
                    self.wire.append(|dst| header.put(dst));
                }
                Some(error) => {
                    // Nothing says whose answer is missing: nobody may wait for it, nor get another's in its place.
                    if !matches!(self.ending, Some(Err(_))) {
                        self.ending = Some(Err(error)); // The first.
                    }
                    if let Running::InOrder(running) = &mut self.running {
                        *running = FuturesOrdered::new();
                    }
                }
                None => {}
            }
        }
        answered
    }

    fn encode(&mut self, id: u64, response: S::Response) -> Result<(), Error> {
        let Self { wire, codec, format, .. } = self;
        let encoded = wire.encode(|dst| {
            if format.header {
                Header::answer(Flags::MESSAGE, id, format.load()).put(dst);
            }
            codec.encode(response, dst).map_err(unencodable)
        });
        encoded.map(|_start| ())
    }

    /// Closes a connection that nobody uses, and gives its buffers back before that.
    fn poll_idle(&mut self, cx: &mut Context<'_>) {
        if self.buffers.poll(&mut self.wire, cx) {
            self.cancels.shrink_to_fit();
        }
        let Some(limit) = self.config.idle_timeout.filter(|_| self.ending.is_none()) else { return };
        loop {
            if self.running.len() == 0 && self.active.elapsed() >= limit {
                self.ending = Some(Ok(()));
                return;
            }
            if !self.idle.is_set() {
                let from = if self.running.len() == 0 { self.active } else { Instant::now() };
                self.idle.set(after(from, limit));
            }
            if self.idle.poll(cx).is_pending() {
                return;
            }
        }
    }
}
