//! What is known of one HTTP/2 connection, by its handles, calls, bodies, and its task.
//!
//! A stream is taken from when hyper gets the request until the response's body was read or dropped, and that of the request is done. Streams are counted
//! here and not left to hyper, which would queue what is too much, and would lose the first of the queue when the peer
//! goes away. So requests wait with their callers, first come, first served, and come back unsent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use towline_core::sync::Lock;
use towline_core::{CloseReason, State};

use crate::error::Task;
use crate::waker::note;

pub(crate) struct Link {
    inner: Lock<Inner>,
    /// How many calls the pool may have on it, for whoever only wants to know that.
    room: AtomicUsize,
}

struct Inner {
    /// Calls that the peer allows, and we do.
    limit: usize,
    /// Streams that are taken, and those of them whose response is being read.
    streams: usize,
    reading: usize,
    /// Who waits for a stream, in order. A waker is taken when its turn has come.
    waiting: BTreeMap<u64, Option<Waker>>,
    most_waiting: usize,
    next: u64,
    /// No more calls, for this reason.
    over: Option<CloseReason>,
    /// The task has ended, or everything that it ran.
    closed: bool,
    cut: bool,
    lost: bool,
    watcher: Option<Waker>,
    driver: Option<Waker>,
}

/// What the task has to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Drive {
    /// Run the connection.
    On,
    /// Run it until it has said goodbye.
    Leave,
    /// Drop it.
    Cut,
}

/// Why a call gets no stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    Over(CloseReason),
    Full,
}

/// A place in the queue for streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

impl Inner {
    fn state(&self) -> State {
        match self.over {
            _ if self.closed => State::Closed,
            Some(_) => State::Draining,
            None if self.streams == 0 && self.waiting.is_empty() => State::Idle,
            None => State::Busy,
        }
    }

    fn drive(&self) -> Drive {
        match self.over {
            _ if self.cut => Drive::Cut,
            Some(_) if self.streams == 0 => Drive::Leave,
            _ => Drive::On,
        }
    }

    fn has_room(&self) -> bool {
        self.over.is_none() && self.streams < self.limit
    }

    /// How many calls there is room for besides the responses that are being read.
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.reading)
    }

    /// Whom a change concerns. The watcher counts calls itself, and need not hear that one begins or ends: only when the connection
    /// takes no more, and when there is more room than the calls that were there took. Where they did not take all of it, it learns of
    /// more with the next one that ends.
    fn wakers(&mut self, before: &Before) -> Wakers {
        let has_ended = (self.over.is_some(), self.closed) != before.ended;
        let has_room_again = self.room() > before.room && before.calls >= before.room;
        let watcher = if has_ended || has_room_again { self.watcher.take() } else { None };
        let driver = if self.drive() != before.drive { self.driver.take() } else { None };
        let mut wakers = Wakers { few: [watcher, driver, None], all: Vec::new() };
        if self.over.is_some() {
            wakers.all.extend(self.waiting.values_mut().filter_map(Option::take));
        } else if self.has_room() {
            wakers.few[2] = self.waiting.values_mut().next().and_then(Option::take);
        }
        wakers
    }

    fn before(&self) -> Before {
        let calls = self.streams - self.reading + self.waiting.len();
        Before { drive: self.drive(), room: self.room(), calls, ended: (self.over.is_some(), self.closed) }
    }
}

/// What a change is compared with.
struct Before {
    drive: Drive,
    room: usize,
    /// Those that wait for their response's head.
    calls: usize,
    ended: (bool, bool),
}

/// Seldom more than one.
struct Wakers {
    few: [Option<Waker>; 3],
    all: Vec<Waker>,
}

impl Link {
    pub(super) fn new(most_waiting: usize) -> Self {
        let inner = Inner {
            limit: 0,
            streams: 0,
            reading: 0,
            waiting: BTreeMap::new(),
            most_waiting,
            next: 0,
            over: None,
            closed: false,
            cut: false,
            lost: false,
            watcher: None,
            driver: None,
        };
        Self { inner: Lock::new(inner), room: AtomicUsize::new(0) }
    }

    /// Changes what is known, and wakes whom that concerns once the lock is released.
    fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.inner.lock();
        let before = inner.before();
        let result = change(&mut inner);
        let Wakers { few, all } = inner.wakers(&before);
        self.room.store(inner.room(), Ordering::Relaxed);
        drop(inner);
        few.into_iter().flatten().chain(all).for_each(Waker::wake);
        result
    }

    // === Handles ===

    pub(super) fn state(&self) -> State {
        self.inner.lock().state()
    }

    pub(super) fn over(&self) -> Option<CloseReason> {
        self.inner.lock().over
    }

    /// How many calls the pool may have on it.
    pub(super) fn limit(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }

    pub(super) fn poll_change(&self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        let mut inner = self.inner.lock();
        let state = inner.state();
        if state != seen {
            return Poll::Ready(state);
        }
        let old = note(&mut inner.watcher, cx.waker());
        drop(inner); // A waker's destructor is foreign.
        drop(old);
        Poll::Pending
    }

    /// Ends the connection with its calls.
    pub(super) fn abort(&self) {
        self.change(|inner| {
            inner.over.get_or_insert(CloseReason::Shutdown);
            inner.cut = true;
        });
    }

    // === Calls ===

    /// Waits for a stream. With a ticket from the last time, which is void once this is ready.
    pub(super) fn poll_stream(
        self: &Arc<Self>,
        ticket: &mut Option<Ticket>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, Refused>> {
        let (result, old) = self.change(|inner| {
            let first = inner.waiting.first_key_value().map(|(first, _)| *first);
            let turn = first == ticket.map(|Ticket(place)| place);
            if let Some(reason) = inner.over {
                let old = ticket.take().and_then(|Ticket(place)| inner.waiting.remove(&place));
                return (Poll::Ready(Err(Refused::Over(reason))), old.flatten());
            }
            if turn && inner.has_room() {
                let old = ticket.take().and_then(|Ticket(place)| inner.waiting.remove(&place));
                inner.streams += 1;
                return (Poll::Ready(Ok(())), old.flatten());
            }
            if ticket.is_none() && inner.waiting.len() >= inner.most_waiting {
                return (Poll::Ready(Err(Refused::Full)), None);
            }
            let Ticket(place) = *ticket.get_or_insert_with(|| {
                inner.next += 1;
                Ticket(inner.next)
            });
            (Poll::Pending, inner.waiting.insert(place, Some(cx.waker().clone())).flatten())
        });
        drop(old);
        result.map_ok(|()| Stream { link: self.clone(), reading: AtomicBool::new(false) })
    }

    /// A call leaves the queue.
    pub(super) fn leave(&self, Ticket(place): Ticket) {
        let old = self.change(|inner| inner.waiting.remove(&place));
        drop(old);
    }

    // === The task ===

    /// Notes whom to wake, and says what to do.
    pub(super) fn drive(&self, waker: &Waker) -> Drive {
        let mut inner = self.inner.lock();
        let old = note(&mut inner.driver, waker);
        let drive = inner.drive();
        drop(inner);
        drop(old);
        drive
    }

    /// The peer allows so many calls.
    pub(super) fn allow(&self, limit: usize) {
        if self.inner.lock().limit != limit {
            self.change(|inner| inner.limit = limit);
        }
    }

    /// No more calls.
    pub(super) fn end(&self, reason: CloseReason) {
        self.change(|inner| inner.over.get_or_insert(reason).to_owned());
    }

    /// Everything that the task ran has ended.
    pub(super) fn closed(&self) {
        self.change(|inner| {
            inner.over.get_or_insert(CloseReason::Failed);
            inner.closed = true;
        });
    }

    /// The task was dropped before the connection ended.
    pub(super) fn lost(&self) {
        self.change(|inner| {
            inner.lost = true;
            inner.over.get_or_insert(CloseReason::Failed);
            inner.closed = true;
        });
    }

    pub(crate) fn task(&self) -> Task {
        let inner = self.inner.lock();
        match inner.over {
            _ if inner.lost => Task::Lost,
            _ if inner.cut => Task::Cut,
            Some(_) => Task::Ended,
            None => Task::Runs,
        }
    }
}

/// One stream, taken.
pub(crate) struct Stream {
    link: Arc<Link>,
    reading: AtomicBool,
}

impl Stream {
    /// The response's head is there.
    pub(super) fn read(&self) {
        self.reading.store(true, Ordering::Relaxed);
        self.link.change(|inner| inner.reading += 1);
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let reading = usize::from(*self.reading.get_mut());
        self.link.change(|inner| {
            inner.streams -= 1;
            inner.reading -= reading;
        });
    }
}
