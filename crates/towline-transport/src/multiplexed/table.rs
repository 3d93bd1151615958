//! The calls of one connection: a synchronous core without I/O.
//!
//! An id is a sequence number with the entry's index in its low bits: looked up without hashing, and never used twice
//! (44 bits of sequence last 55 years at 10,000 calls per second).

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use towline_core::{CloseReason, Error, Kind, Phase, Rejected, Sent, State};

use crate::wire::already_closed;

const INDEX_BITS: u32 = 20;
pub(super) const MAX_ENTRIES: usize = 1 << INDEX_BITS;

/// One call of this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(pub(super) u64);

impl Id {
    pub(super) fn index(self) -> usize {
        (self.0 & (MAX_ENTRIES as u64 - 1)) as usize
    }
}

/// How far a call has come.
pub(super) enum Answer<Req, Res> {
    Queued,
    Sent,
    Done(Result<Res, Rejected<Req>>),
}

enum Stage<Req, Res> {
    Queued(Req),
    Sent,
    Done(Result<Res, Rejected<Req>>),
}

pub(super) struct Entry<Req, Res> {
    id: Id,
    stage: Stage<Req, Res>,
    waker: Waker,
}

pub(super) struct Table<Req, Res> {
    entries: Vec<Option<Entry<Req, Res>>>,
    free: Vec<u32>,
    /// Ids in the order in which they are to be sent; those of callers who left are passed over.
    queue: VecDeque<Id>,
    sequence: u64,
    in_flight: usize,
    discarded: u64,
    closed: Option<CloseReason>,
    watcher: Option<Waker>,
}

impl<Req, Res> Entry<Req, Res> {
    /// Whether the request left the table.
    pub(super) fn was_taken(&self) -> bool {
        !matches!(self.stage, Stage::Queued(_))
    }
}

impl<Req, Res> Table<Req, Res> {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            sequence: 0,
            in_flight: 0,
            discarded: 0,
            closed: None,
            watcher: None,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn discarded(&self) -> u64 {
        self.discarded
    }

    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        self.closed
    }

    pub(super) fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> Poll<State> {
        let state = match (self.closed, self.in_flight) {
            (Some(_), _) => State::Closed,
            (None, 0) => State::Idle,
            (None, _) => State::Busy,
        };
        if state != seen {
            return Poll::Ready(state);
        }
        self.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Admits a call, or gives its request back.
    pub(super) fn enqueue(&mut self, request: Req, limit: usize, waker: &Waker) -> Result<Id, Rejected<Req>> {
        if let Some(reason) = self.closed {
            return Err(Rejected::unsent(already_closed(reason), request));
        }
        if self.in_flight >= limit {
            let error = Error::new(Kind::Overloaded, Phase::Write)
                .with_message(format!("the connection has its limit of {limit} calls in flight"));
            return Err(Rejected::unsent(error, request));
        }
        let index = self.free.pop().map_or(self.entries.len(), |index| index as usize);
        let id = Id(self.sequence << INDEX_BITS | index as u64);
        self.sequence += 1;
        let entry = Some(Entry { id, stage: Stage::Queued(request), waker: waker.clone() });
        match self.entries.get_mut(index) {
            Some(slot) => *slot = entry,
            None => self.entries.push(entry),
        }
        self.queue.push_back(id);
        self.in_flight += 1;
        Ok(id)
    }

    /// Takes the next request that is to be sent.
    pub(super) fn next_to_send(&mut self) -> Option<(Id, Req)> {
        while let Some(id) = self.queue.pop_front() {
            if let Some(entry) = self.entry(id) {
                if let Stage::Queued(request) = std::mem::replace(&mut entry.stage, Stage::Sent) {
                    return Some((id, request));
                }
            }
        }
        None
    }

    /// Ends a call and returns whom to wake; when its caller left, counts the result as discarded and hands it back,
    /// to be dropped without the lock.
    pub(super) fn complete(
        &mut self,
        id: Id,
        result: Result<Res, Rejected<Req>>,
    ) -> Result<Waker, Result<Res, Rejected<Req>>> {
        match self.entry(id) {
            Some(entry) if matches!(entry.stage, Stage::Sent) => {
                entry.stage = Stage::Done(result);
                Ok(entry.waker.clone())
            }
            _ => {
                self.discarded += 1;
                Err(result)
            }
        }
    }

    /// Counts a response that belongs to nobody.
    pub(super) fn discard(&mut self) {
        self.discarded += 1;
    }

    /// How far the call has come; takes its result when it is done. The waker is to be woken without the lock.
    pub(super) fn poll_answer(&mut self, id: Id, waker: &Waker) -> (Answer<Req, Res>, Option<Waker>) {
        let entry = self.entry(id).expect("an entry lives until its caller takes the answer or leaves");
        match &entry.stage {
            Stage::Done(_) => {}
            Stage::Queued(_) => {
                entry.waker.clone_from(waker);
                return (Answer::Queued, None);
            }
            Stage::Sent => {
                entry.waker.clone_from(waker);
                return (Answer::Sent, None);
            }
        }
        let (watcher, entry) = self.remove(id);
        match entry.map(|entry| entry.stage) {
            Some(Stage::Done(result)) => (Answer::Done(result), watcher),
            _ => unreachable!("checked above"),
        }
    }

    /// The caller leaves.
    pub(super) fn cancel(&mut self, id: Id) -> (Option<Waker>, Option<Entry<Req, Res>>) {
        let removed = self.remove(id);
        // Ids of callers who left stay queued until they are passed over; a stalled writer must not make them pile up.
        if self.queue.len() > 2 * self.in_flight + 32 {
            let entries = &self.entries;
            self.queue.retain(|id| entries.get(id.index()).and_then(Option::as_ref).is_some_and(|e| e.id == *id));
        }
        removed
    }

    /// Ends the connection: calls that were sent fail with `error`, queued requests go back to their callers.
    pub(super) fn close(&mut self, reason: CloseReason, error: &Error) -> Vec<Waker> {
        if self.closed.is_some() {
            return Vec::new();
        }
        self.closed = Some(reason);
        self.queue.clear();
        let mut wakers: Vec<_> = self.watcher.take().into_iter().collect();
        for entry in self.entries.iter_mut().flatten() {
            entry.stage = match std::mem::replace(&mut entry.stage, Stage::Sent) {
                Stage::Queued(request) => Stage::Done(Err(Rejected::unsent(error.clone(), request))),
                Stage::Sent => Stage::Done(Err(error.clone().with_sent(Sent::Maybe).into())),
                done => done,
            };
            wakers.push(entry.waker.clone());
        }
        wakers
    }

    fn entry(&mut self, id: Id) -> Option<&mut Entry<Req, Res>> {
        self.entries.get_mut(id.index())?.as_mut().filter(|entry| entry.id == id)
    }

    fn remove(&mut self, id: Id) -> (Option<Waker>, Option<Entry<Req, Res>>) {
        if self.entry(id).is_none() {
            return (None, None);
        }
        let entry = self.entries[id.index()].take();
        self.free.push(id.index() as u32);
        self.in_flight -= 1;
        let watcher = if self.in_flight == 0 { self.watcher.take() } else { None };
        (watcher, entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Calls = Table<&'static str, &'static str>;

    fn enqueue(table: &mut Calls, request: &'static str) -> Id {
        table.enqueue(request, 8, Waker::noop()).unwrap()
    }

    // F2
    #[test]
    fn an_id_is_never_used_twice_though_its_entry_is() {
        let mut table = Calls::new();
        let first = enqueue(&mut table, "a");
        assert_eq!(table.next_to_send().unwrap().0, first);
        table.cancel(first);
        let second = enqueue(&mut table, "b");
        assert_eq!(first.index(), second.index());
        assert_ne!(first, second);
        assert_eq!(table.next_to_send().unwrap().0, second);
        assert!(table.complete(first, Ok("late")).is_err());
        assert_eq!(table.discarded(), 1);
        assert!(table.complete(second, Ok("own")).is_ok());
        assert!(matches!(table.poll_answer(second, Waker::noop()).0, Answer::Done(Ok("own"))));
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn a_caller_who_leaves_the_queue_takes_the_request_along() {
        let mut table = Calls::new();
        let first = enqueue(&mut table, "a");
        let second = enqueue(&mut table, "b");
        table.cancel(first);
        assert_eq!(table.next_to_send().unwrap(), (second, "b"));
        assert!(table.next_to_send().is_none());
    }

    #[test]
    fn callers_who_leave_do_not_pile_up_behind_a_stalled_writer() {
        let mut table = Calls::new();
        for _ in 0..10_000 {
            let id = enqueue(&mut table, "a");
            table.cancel(id);
        }
        assert!(table.queue.len() <= 40 && table.entries.len() == 1);
    }

    #[test]
    fn closing_gives_queued_requests_back_and_fails_sent_ones() {
        let mut table = Calls::new();
        let sent = enqueue(&mut table, "sent");
        table.next_to_send().unwrap();
        let queued = enqueue(&mut table, "queued");
        let woken = table.close(CloseReason::Peer, &Error::new(Kind::Closed, Phase::Read));
        assert_eq!(woken.len(), 2);
        let Answer::Done(Err(failed)) = table.poll_answer(sent, Waker::noop()).0 else { panic!() };
        assert_eq!((failed.request, failed.error.sent()), (None, Sent::Maybe));
        let Answer::Done(Err(back)) = table.poll_answer(queued, Waker::noop()).0 else { panic!() };
        assert_eq!((back.request, back.error.sent()), (Some("queued"), Sent::Never));
        assert_eq!(table.enqueue("new", 8, Waker::noop()).unwrap_err().request, Some("new"));
    }

    #[test]
    fn over_the_limit_a_request_comes_back() {
        let mut table = Calls::new();
        table.enqueue("a", 1, Waker::noop()).unwrap();
        let rejected = table.enqueue("b", 1, Waker::noop()).unwrap_err();
        assert_eq!((rejected.request, rejected.error.kind()), (Some("b"), Kind::Overloaded));
    }
}
