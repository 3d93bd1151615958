//! Moving bytes: all queued requests into one write, answers to their callers. Run by the driver or by a caller, with
//! the driver's waker either way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use towline_core::{CloseReason, Error, Kind, Phase, Rejected, Sent};

use super::config::SharedConfig;
use super::dialect::{Dialect, Heard};
use super::id::Id;
use super::link::{Link, Rest};
use super::pings::{Due, Pings};
use super::table::{Effects, Table};
use crate::header::header_refused;
use crate::wire::{IdleBuffers, Incoming, Wire, WriteDeadline, close_reason, ended_before_answer};

/// Requests are encoded ahead of the stream up to this many bytes: enough for writes that are worth their system call,
/// and little beside what the kernel buffers anyway, so that a call that is given up may still never be sent.
const WRITE_AHEAD: usize = 256 * 1024;
/// Requests taken from the table at once.
const BATCH: usize = 64;
/// Turns around the loop before the task lets its siblings run.
const TURNS: usize = 16;
/// Answers taken from one turn's reading, likewise.
const ANSWERS: usize = 64;

/// What callers and the driver ask of an engine, whatever it is made of.
pub(super) trait Run<Req, Res>: Send {
    /// Sends what is queued, as a caller who is alone; [`Rest::Driver`] when that leaves the driver something to do.
    fn run_once(&mut self, link: &SharedLink<Req, Res>) -> Rest;

    /// Sends and receives until neither goes on; resolves when the connection has ended.
    fn poll_run(&mut self, link: &SharedLink<Req, Res>, cx: &mut Context<'_>) -> Poll<()>;

    /// Ends the connection because nobody is left who could use it.
    fn leave(&mut self, link: &SharedLink<Req, Res>);

    /// Writes what is unwritten, and says goodbye.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// The task ends: the stream is closed, and the connection, if it was not.
    fn abandon(&mut self, link: &SharedLink<Req, Res>);
}

/// Callers, driver and engine of one connection.
pub(super) type SharedLink<Req, Res> = Link<Table<Req, Res>, dyn Run<Req, Res>>;

pub(super) struct Engine<Io, C, D, Req, Res> {
    wire: Wire<Io>,
    codec: C,
    dialect: D,
    deadline: WriteDeadline,
    buffers: IdleBuffers,
    pings: Pings,
    /// Taken from the table and not yet encoded.
    batch: VecDeque<(Id, Req)>,
    /// Encoded, and where in the stream, as long as bytes before that are unwritten.
    encoded: VecDeque<(u64, Id)>,
    answers: Vec<Heard<Res>>,
    effects: Effects<Req, Res>,
    /// The driver's, once it has run.
    driver: Option<Waker>,
    life: Life,
    /// Bytes that had come when last looked.
    received: u64,
    /// Set when the table takes no more calls.
    shut: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Open,
    /// Somebody runs the engine, or panicked as they did.
    Running,
    Ended,
}

impl<Io, C, D, Req, Res> Engine<Io, C, D, Req, Res>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    C: Send,
    D: Dialect<C, Req, Response = Res>,
    Req: Send,
    Res: Send,
{
    pub(super) fn new(io: Io, codec: C, dialect: D, config: &SharedConfig, shut: Arc<AtomicBool>) -> Self {
        Self {
            wire: Wire::new(io),
            codec,
            dialect,
            deadline: WriteDeadline::new(config.write_timeout),
            buffers: IdleBuffers::default(),
            pings: Pings::new(config.ping),
            batch: VecDeque::new(),
            encoded: VecDeque::new(),
            answers: Vec::new(),
            effects: Effects::default(),
            driver: None,
            life: Life::Open,
            received: 0,
            shut,
        }
    }

    /// Encodes what is queued, up to [`WRITE_AHEAD`]; whether that is all.
    fn encode_queued(&mut self, link: &SharedLink<Req, Res>, now: &mut Option<Instant>) -> bool {
        let Self { wire, codec, dialect, batch, encoded, effects, .. } = self;
        if D::TELLS_OF_CANCELS {
            let mut cancelled = link.table().take_cancelled();
            if !cancelled.is_empty() {
                // What is not encoded yet need not be, nor cancelled.
                batch.retain(|(id, _)| match cancelled.iter().position(|given_up| given_up == id) {
                    Some(at) => {
                        cancelled.swap_remove(at);
                        false
                    }
                    None => true,
                });
            }
            // A peer that pings and never reads must not fill the buffer.
            if !cancelled.is_empty() || dialect.has_control() && wire.unwritten() < WRITE_AHEAD {
                wire.append(|dst| dialect.control(&cancelled, dst));
            }
        }
        loop {
            while wire.unwritten() < WRITE_AHEAD && dialect.window() > 0 {
                let Some((id, request)) = batch.pop_front() else { break };
                match wire.encode(|dst| dialect.encode(codec, id, request, dst)) {
                    Ok(start) => encoded.push_back((start, id)),
                    Err(error) => link.table().complete(id, Err(error.into()), effects),
                }
            }
            effects.happen();
            if dialect.window() == 0 {
                link.table().blocked(*now.get_or_insert_with(Instant::now));
            }
            if !batch.is_empty() || wire.unwritten() >= WRITE_AHEAD || dialect.window() == 0 {
                return false;
            }
            let mut table = link.table();
            if !table.has_queued() {
                return true;
            }
            let now = *now.get_or_insert_with(Instant::now);
            if batch.capacity() == 0 {
                batch.reserve_exact(1);
            }
            table.take(BATCH.min(dialect.window()), now, batch);
        }
    }

    fn may_encode(&self) -> bool {
        self.wire.unwritten() < WRITE_AHEAD && self.dialect.window() > 0
    }

    /// Writes what the stream takes.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        if self.wire.is_flushed() {
            return Ok(());
        }
        self.buffers.used();
        if self.wire.poll_send(cx)?.is_ready() {
            self.deadline.moved();
        }
        if self.wire.unwritten() == 0 {
            self.encoded.clear();
        } else {
            while self.encoded.front().is_some_and(|(start, _)| self.wire.can_have_left(*start)) {
                self.encoded.pop_front();
            }
        }
        Ok(())
    }

    /// Hands out answers; whether there may be more.
    fn receive(&mut self, link: &SharedLink<Req, Res>, cx: &mut Context<'_>) -> Result<bool, Error> {
        let Self { wire, codec, dialect, answers, .. } = self;
        let mut end = Ok(true);
        while answers.len() < ANSWERS {
            match wire.poll_next(cx, |src, eof| dialect.decode(codec, src, eof)) {
                Poll::Ready(Ok(Incoming::Message(heard))) => {
                    if answers.capacity() == 0 {
                        answers.reserve_exact(1);
                    }
                    answers.push(heard);
                }
                Poll::Ready(Ok(Incoming::End)) => {
                    // A server that knows nothing of headers takes them for huge frames.
                    let hint = D::TELLS_OF_CANCELS && wire.received() == 0;
                    end = Err(if hint { header_refused() } else { ended_before_answer() });
                    break;
                }
                Poll::Ready(Err(error)) => {
                    end = Err(error);
                    break;
                }
                Poll::Pending => {
                    end = Ok(false);
                    break;
                }
            }
        }
        // Also when the stream broke: answers that came before are their callers'.
        if !self.answers.is_empty() {
            self.hand_out(link)?;
        }
        end
    }

    fn hand_out(&mut self, link: &SharedLink<Req, Res>) -> Result<(), Error> {
        let Self { dialect, answers, effects, buffers, .. } = self;
        buffers.used();
        let mut unasked = false;
        {
            let mut table = link.table();
            table.heard();
            for heard in answers.drain(..) {
                match heard {
                    Heard::Answer(id, answer) => table.complete(id, answer.map_err(Rejected::from), effects),
                    Heard::Nobodys => table.discard(),
                    Heard::Alive => {}
                    Heard::Unasked => unasked = true,
                }
            }
            if let Some(load) = dialect.take_load() {
                table.set_load(load);
            }
            if dialect.drains() {
                table.drain(CloseReason::Drained, effects);
            }
        }
        effects.happen();
        if unasked {
            return Err(Error::new(Kind::Unasked, Phase::Read).with_message(
                "the peer sent a message that answers no request: nobody could tell whose the next one is",
            ));
        }
        Ok(())
    }

    fn exchange(&mut self, link: &SharedLink<Req, Res>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut now = None;
        if self.dialect.is_at_rest() {
            // What came unasked must not be taken for the answer to what is sent next.
            self.receive(link, cx)?;
        }
        for _ in 0..TURNS {
            let more = !self.encode_queued(link, &mut now);
            if let Err(error) = self.send(cx) {
                // Answers that came before the stream broke are their callers'.
                while self.receive(link, cx).unwrap_or(false) {}
                return Poll::Ready(Err(error));
            }
            let received = self.receive(link, cx)?;
            if self.shut.load(Ordering::Acquire) && link.table().is_drained() && self.wire.is_flushed() {
                return Poll::Ready(Ok(()));
            }
            let answered = self.dialect.has_control() && self.wire.unwritten() < WRITE_AHEAD;
            if !(received || answered || more && self.may_encode()) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What is due although nothing moves: a stalled write, buffers that nobody uses, a peer that says nothing.
    fn poll_upkeep(&mut self, link: &SharedLink<Req, Res>, cx: &mut Context<'_>) -> Poll<Error> {
        // A part of a message is a sign of life as well.
        if std::mem::replace(&mut self.received, self.wire.received()) != self.wire.received() {
            self.pings.heard();
        }
        while let Poll::Ready(due) = self.pings.poll(cx) {
            if due == Due::Dead {
                return Poll::Ready(Error::new(Kind::Timeout, Phase::Read).with_message("the peer answered no ping"));
            }
            let id = link.table().ping_id();
            let Self { wire, codec, dialect, .. } = self;
            let asked = wire.encode(|dst| dialect.ping(codec, id, dst).map(|asked| self.pings.asked(asked)));
            if let Err(error) = asked.and_then(|_start| self.send(cx)) {
                return Poll::Ready(error);
            }
        }
        if self.buffers.poll(&mut self.wire, cx) {
            (self.batch, self.encoded, self.answers) = Default::default();
            self.effects = Effects::default();
            self.dialect.shrink();
            link.table().shrink();
        }
        if self.wire.is_flushed() { Poll::Pending } else { self.deadline.poll_stalled(self.wire.written(), cx) }
    }

    /// The connection is over: everybody learns why, and gets back what was not sent.
    fn end(&mut self, link: &SharedLink<Req, Res>, reason: CloseReason, error: &Error) {
        self.life = Life::Ended;
        let Self { wire, batch, encoded, effects, .. } = self;
        {
            let mut table = link.table();
            for (id, request) in batch.drain(..) {
                table.complete(id, Err(Rejected::unsent(error.clone().with_sent(Sent::Never), request)), effects);
            }
            for (start, id) in encoded.drain(..) {
                if !wire.can_have_left(start) {
                    table.complete(id, Err(error.clone().with_sent(Sent::Never).into()), effects);
                }
            }
            table.close(reason, error, effects);
        }
        if reason != CloseReason::Shutdown {
            // What was said never to have left must not leave with the goodbye.
            wire.give_up();
        }
        effects.happen();
    }

    fn end_with(&mut self, link: &SharedLink<Req, Res>, result: Result<(), Error>) {
        match result {
            Ok(()) => self.end(link, CloseReason::Shutdown, &Error::new(Kind::Closed, Phase::Read)),
            Err(error) => self.end(link, close_reason(&error), &error),
        }
    }

    /// Says that a panic has left the engine in an unknown state.
    fn panicked(&mut self, link: &SharedLink<Req, Res>) {
        let error = Error::new(Kind::Runtime, Phase::Call).with_message("the connection's codec panicked");
        self.end(link, CloseReason::Failed, &error);
    }
}

impl<Io, C, D, Req, Res> Run<Req, Res> for Engine<Io, C, D, Req, Res>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    C: Send,
    D: Dialect<C, Req, Response = Res>,
    Req: Send,
    Res: Send,
{
    fn run_once(&mut self, link: &SharedLink<Req, Res>) -> Rest {
        let Some(driver) = self.driver.clone().filter(|_| self.life == Life::Open) else { return Rest::Driver };
        self.life = Life::Running;
        let cx = &mut Context::from_waker(&driver);
        // One look at the stream first: the peer may be gone, and the driver not have run since.
        let result = self.receive(link, cx).and_then(|_| {
            let all = self.encode_queued(link, &mut None);
            self.send(cx).map(|_| all)
        });
        self.life = Life::Open;
        match result {
            Ok(true) if self.wire.is_flushed() && self.buffers.are_watched() => Rest::Nothing,
            Ok(_) => Rest::Driver,
            Err(error) => {
                self.end_with(link, Err(error));
                Rest::Driver
            }
        }
    }

    fn poll_run(&mut self, link: &SharedLink<Req, Res>, cx: &mut Context<'_>) -> Poll<()> {
        match self.life {
            Life::Ended => return Poll::Ready(()),
            Life::Running => {
                self.panicked(link);
                return Poll::Ready(());
            }
            Life::Open => self.life = Life::Running,
        }
        match &mut self.driver {
            Some(driver) => driver.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        let over = match self.exchange(link, cx) {
            Poll::Pending => self.poll_upkeep(link, cx).map(Err),
            ready => ready,
        };
        self.life = Life::Open;
        over.map(|result| self.end_with(link, result))
    }

    fn leave(&mut self, link: &SharedLink<Req, Res>) {
        self.end_with(link, Ok(()));
    }

    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A peer that is gone needs no goodbye.
        match std::task::ready!(self.wire.poll_send(cx)) {
            Ok(()) => self.wire.poll_shutdown(cx).map(|_| ()),
            Err(_) => Poll::Ready(()),
        }
    }

    fn abandon(&mut self, link: &SharedLink<Req, Res>) {
        if self.life != Life::Ended {
            let gone = Error::new(Kind::Runtime, Phase::Read).with_message("the connection's task is gone");
            self.end(link, CloseReason::Failed, &gone);
        }
        self.wire.hang_up();
    }
}
