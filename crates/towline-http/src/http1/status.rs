//! What is known of one HTTP/1 connection, by the four who hold it: the handle, the call, the response's body, and the
//! task with its stream.
//!
//! hyper tells little of why a connection ended, so the stream itself is asked: whether it ended, failed, or brought
//! bytes before any were sent. Whoever notices first that the connection is over says why.
//!
//! ```text
//!         call             head of the response            read to its end               hyper is ready
//!   Idle ─────▶ Calling ───────────────────────▶ Reading ─────────────────▶ Settling ─────────────────▶ Idle
//!                  └──────────── dropped ───────────┴──▶ cut: the task drops the stream
//! ```
//!
//! Settling takes long only while the request is still being sent, after a response that came early. It may take a second.

use std::io;
use std::task::Waker;

use towline_core::sync::Lock;
use towline_core::{CloseReason, State};

use crate::error::Task;
use crate::waker::note;

pub(crate) struct Status(Lock<Inner>);

struct Inner {
    stage: Stage,
    over: Option<CloseReason>,
    /// Was asked for another call while it settled, and had to be waited for.
    lingers: bool,
    /// What is under way belongs to nobody: end at once.
    cut: bool,
    /// A byte of the current call can have left.
    attempted: bool,
    /// One side said that no call follows this one.
    last: bool,
    /// How the stream ended.
    end: Option<CloseReason>,
    /// How hyper ended.
    finished: Option<Finished>,
    /// The handle is gone.
    orphan: bool,
    task: Task,
    watcher: Option<Waker>,
    driver: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Idle,
    Calling,
    Reading,
    /// The response was read, and hyper cannot take another call yet.
    Settling,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Finished {
    Well,
    Badly,
    Unasked,
}

/// What the task has to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Drive {
    /// Run the connection.
    On,
    /// Run it, and see that it can take another call soon.
    Settle,
    /// Run it until it has said goodbye.
    Leave,
    /// Drop it.
    Cut,
}

impl Inner {
    fn end_with(&mut self, reason: CloseReason) {
        self.over.get_or_insert(reason);
    }

    /// Says why hyper has ended, if it has.
    fn end_as_finished(&mut self) {
        let Some(finished) = self.finished else { return };
        let reason = match (self.end, finished) {
            _ if self.last => CloseReason::Drained,
            (Some(end), _) => end,
            (None, Finished::Unasked) => CloseReason::Stray,
            (None, Finished::Well) if !self.is_in_flight() => CloseReason::Drained,
            (None, _) => CloseReason::Failed,
        };
        self.end_with(reason);
    }

    fn is_in_flight(&self) -> bool {
        matches!(self.stage, Stage::Calling | Stage::Reading)
    }

    fn state(&self) -> State {
        match (self.over, self.stage) {
            (Some(_), _) => State::Closed,
            (None, Stage::Idle) => State::Idle,
            (None, _) => State::Busy,
        }
    }

    fn drive(&self) -> Drive {
        match self.over {
            _ if self.cut => Drive::Cut,
            Some(_) if !self.is_in_flight() => Drive::Leave,
            None if self.lingers => Drive::Settle,
            _ => Drive::On,
        }
    }
}

impl Status {
    pub(super) fn new() -> Self {
        Self(Lock::new(Inner {
            stage: Stage::Idle,
            over: None,
            lingers: false,
            cut: false,
            attempted: false,
            last: false,
            end: None,
            finished: None,
            orphan: false,
            task: Task::Runs,
            watcher: None,
            driver: None,
        }))
    }

    /// Changes what is known, and wakes whom that concerns once the lock is released.
    fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.0.lock();
        let before = (inner.state(), inner.stage, inner.drive());
        let result = change(&mut inner);
        let watcher = ((inner.state(), inner.stage) != (before.0, before.1)).then(|| inner.watcher.take());
        let driver = (inner.drive() != before.2).then(|| inner.driver.take());
        drop(inner);
        watcher.into_iter().chain(driver).flatten().for_each(Waker::wake);
        result
    }

    // === The handle ===

    pub(super) fn state(&self) -> State {
        self.0.lock().state()
    }

    pub(super) fn over(&self) -> Option<CloseReason> {
        self.0.lock().over
    }

    /// Wakes this task at the next change; whether hyper has to be asked first if it is ready for another call.
    pub(super) fn watch(&self, waker: &Waker) -> bool {
        let mut inner = self.0.lock();
        let old = note(&mut inner.watcher, waker);
        let settling = inner.stage == Stage::Settling && inner.over.is_none();
        drop(inner); // A waker's destructor is foreign.
        drop(old);
        settling
    }

    /// hyper is not ready for another call yet.
    pub(super) fn lingers(&self) {
        self.change(|inner| inner.lingers = inner.stage == Stage::Settling);
    }

    /// hyper is ready for another call, or never will be.
    pub(super) fn settled(&self, ready: bool) {
        self.change(|inner| {
            inner.lingers = false;
            if inner.stage == Stage::Settling {
                inner.stage = Stage::Idle;
            }
            if !ready {
                inner.end_with(inner.end.unwrap_or(CloseReason::Drained));
            }
        });
    }

    /// The handle was dropped: the connection ends, after the call in flight.
    pub(super) fn leave(&self) {
        self.change(|inner| {
            inner.orphan = true;
            if !inner.is_in_flight() {
                inner.end_with(CloseReason::Shutdown);
            }
        });
    }

    /// The connection ends at once, with whatever is under way.
    pub(super) fn abort(&self) {
        self.change(|inner| {
            inner.end_with(CloseReason::Shutdown);
            inner.cut = true;
            inner.task = Task::Cut;
        });
    }

    // === The call and the response's body ===

    /// Begins a call; `last` when it says itself that none follows.
    pub(super) fn begin(&self, last: bool) -> Result<(), Refused> {
        self.change(|inner| match (inner.over, inner.stage) {
            (Some(reason), _) => Err(Refused::Over(reason)),
            (None, Stage::Idle) => {
                (inner.stage, inner.attempted, inner.last) = (Stage::Calling, false, last);
                Ok(())
            }
            (None, _) => Err(Refused::Busy),
        })
    }

    /// Whether a byte of the call can have left.
    pub(super) fn attempted(&self) -> bool {
        self.0.lock().attempted
    }

    /// The response's head is there; `last` when it says that no call follows.
    pub(super) fn responded(&self, last: bool) {
        self.change(|inner| {
            inner.last |= last;
            inner.stage = Stage::Reading;
            inner.end_as_finished();
        });
    }

    /// The response was read to its end.
    pub(crate) fn read(&self) {
        self.change(|inner| {
            inner.stage = Stage::Settling;
            match inner.end {
                _ if inner.last => inner.end_with(CloseReason::Drained),
                Some(end) => inner.end_with(end),
                None if inner.orphan => inner.end_with(CloseReason::Shutdown),
                None => {}
            }
        });
    }

    /// The call has failed, or its request came back; hyper ends the connection.
    pub(crate) fn failed(&self) {
        self.change(|inner| {
            inner.stage = Stage::Settling;
            inner.end_with(inner.end.unwrap_or(CloseReason::Failed));
        });
    }

    /// The call, or its response, was dropped half-way, or its request has no end. Nothing leaves from here on. Whether a byte can have left.
    pub(crate) fn abandon(&self) -> bool {
        self.change(|inner| {
            inner.end_with(CloseReason::Dirty);
            inner.cut = true;
            inner.attempted
        })
    }

    // === The stream ===

    /// Asks whether bytes may be written; whether some could have left before.
    pub(super) fn writing(&self) -> io::Result<bool> {
        let mut inner = self.0.lock();
        match inner.cut {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(std::mem::replace(&mut inner.attempted, true)),
        }
    }

    /// The stream has failed to write; `before` as [`writing`](Self::writing) said.
    pub(super) fn write_failed(&self, before: bool, error: &io::Error) {
        self.change(|inner| {
            inner.attempted = before;
            inner.end = inner.end.or(Some(reason_of(error)));
        });
    }

    /// Bytes came.
    pub(super) fn received(&self) {
        self.change(|inner| {
            if !inner.attempted || !inner.is_in_flight() {
                inner.end_with(CloseReason::Stray);
            }
        });
    }

    /// The stream has ended, or failed.
    pub(super) fn ended(&self, error: Option<&io::Error>) {
        self.change(|inner| {
            let reason = error.map_or(CloseReason::Peer, reason_of);
            inner.end = inner.end.or(Some(reason));
            if !inner.attempted || !inner.is_in_flight() {
                inner.end_with(reason);
            }
        });
    }

    // === The task ===

    /// Notes whom to wake, and says what to do.
    pub(super) fn drive(&self, waker: &Waker) -> Drive {
        let mut inner = self.0.lock();
        let old = note(&mut inner.driver, waker);
        let drive = inner.drive();
        drop(inner);
        drop(old);
        drive
    }

    /// hyper has ended the connection, with an error when there was no call to hand it to.
    pub(super) fn finished(&self, result: &hyper::Result<()>) {
        self.change(|inner| {
            inner.finished = Some(match result {
                Ok(()) => Finished::Well,
                Err(error) if error.is_user() => Finished::Badly,
                // The stream is well and no response is awaited: what came with the end of the last one was too much.
                Err(_) => Finished::Unasked,
            });
            // A response may be on its way to its caller, and say more.
            if inner.stage != Stage::Calling {
                inner.end_as_finished();
            }
        });
    }

    /// The task is gone.
    pub(super) fn lost(&self) {
        self.change(|inner| {
            inner.task = Task::Lost;
            inner.end_with(CloseReason::Failed);
        });
    }

    pub(crate) fn task(&self) -> Task {
        self.0.lock().task
    }
}

/// Why a connection takes no call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    Over(CloseReason),
    Busy,
}

/// What an error of the stream says of the connection.
fn reason_of(error: &io::Error) -> CloseReason {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof => CloseReason::Peer,
        io::ErrorKind::TimedOut => CloseReason::Unresponsive,
        io::ErrorKind::PermissionDenied => CloseReason::Untrusted,
        _ => CloseReason::Failed,
    }
}
