//! The calls of one connection: a synchronous core without I/O.
//!
//! The engine takes requests and brings answers in batches, so that the lock is taken once for many calls. Wakers,
//! requests and answers that are left over are handed out in [`Effects`], to be woken and dropped without the lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use towline_core::{CloseReason, Error, Kind, Phase, Rejected, Sent, State};

use super::config::Retire;
use super::id::{Id, IndexBits};
use crate::ServerLoad;
use crate::wire::already_closed;

/// How far a call has come.
pub(super) enum Answer<Req, Res> {
    Queued,
    Sent,
    Done(Result<Res, Rejected<Req>>),
}

/// What follows from the end of a call once the lock is released.
#[derive(Debug, Default)]
pub(super) struct After {
    /// The driver has something to do.
    pub(super) tell: bool,
    /// To be dropped.
    pub(super) old: Option<Waker>,
}

/// How a queued call gets on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Queued {
    pub(super) id: Id,
    /// Nothing else is in flight.
    pub(super) alone: bool,
    /// Nobody has told the driver yet that something is queued.
    pub(super) first: bool,
}

/// What a caller who left had left behind.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// The request had been taken by the engine: bytes of it may be on their way.
    pub(super) taken: bool,
    /// The driver has something to do.
    pub(super) tell: bool,
    /// To be dropped once the lock is released.
    pub(super) old: Option<Waker>,
}

/// How long a call must have waited for its being given up to say something about the connection.
pub(super) const WAITED: Duration = Duration::from_millis(100);

enum Stage<Req, Res> {
    /// Nobody's: the next call takes it.
    Vacant,
    Queued(Req),
    /// Taken by the engine at this time.
    Sent(Instant),
    Done(Result<Res, Rejected<Req>>),
}

struct Entry<Req, Res> {
    id: Id,
    stage: Stage<Req, Res>,
    waker: Option<Waker>,
    /// The streak's epoch in which the call began.
    epoch: u64,
}

impl<Req, Res> Entry<Req, Res> {
    fn is(&self, id: Id) -> bool {
        self.id == id && !matches!(self.stage, Stage::Vacant)
    }
}

/// What has to happen once the lock is released.
#[must_use]
pub(super) struct Effects<Req, Res> {
    pub(super) wake: Vec<Waker>,
    /// Requests and answers that nobody wants, whose destructors are foreign.
    pub(super) dropped: Vec<Result<Res, Rejected<Req>>>,
}

impl<Req, Res> Default for Effects<Req, Res> {
    fn default() -> Self {
        Self { wake: Vec::new(), dropped: Vec::new() }
    }
}

impl<Req, Res> Effects<Req, Res> {
    /// Lets it happen; what is empty afterwards can be used again.
    pub(super) fn happen(&mut self) {
        self.wake.drain(..).for_each(Waker::wake);
        self.dropped.clear();
    }
}

pub(super) struct Table<Req, Res> {
    entries: Vec<Entry<Req, Res>>,
    free: Vec<u32>,
    /// Ids in the order in which they are to be sent; those of callers who left are passed over.
    queue: VecDeque<Id>,
    /// The driver knows, or will find out, that something is queued.
    told: bool,
    limit: usize,
    bits: IndexBits,
    sequence: u64,
    in_flight: usize,
    discarded: u64,
    draining: Option<CloseReason>,
    closed: Option<CloseReason>,
    watcher: Option<Waker>,
    retire: Option<Retire>,
    /// Timeouts in a row that began after one another, and how many there have been in all.
    streak: u32,
    epoch: u64,
    /// Since when nothing can be sent before an answer comes.
    blocked: Option<Instant>,
    /// Calls that were given up after they were sent, for an engine that tells the peer.
    cancelled: Option<Vec<Id>>,
    load: Option<ServerLoad>,
    /// Set when no more calls are taken, to be read without the lock.
    shut: Arc<AtomicBool>,
}

impl<Req, Res> Table<Req, Res> {
    pub(super) fn new(limit: usize, retire: Option<Retire>, tells_of_cancels: bool) -> Self {
        Self {
            shut: Arc::default(),
            entries: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            told: false,
            limit,
            bits: IndexBits::for_limit(limit),
            sequence: 0,
            in_flight: 0,
            discarded: 0,
            draining: None,
            closed: None,
            watcher: None,
            retire,
            streak: 0,
            epoch: 0,
            blocked: None,
            cancelled: tells_of_cancels.then(Vec::new),
            load: None,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn discarded(&self) -> u64 {
        self.discarded
    }

    pub(super) fn load(&self) -> Option<ServerLoad> {
        self.load
    }

    pub(super) fn set_load(&mut self, load: ServerLoad) {
        self.load = Some(load);
    }

    /// Set when no more calls are taken.
    pub(super) fn shut(&self) -> Arc<AtomicBool> {
        self.shut.clone()
    }

    /// Why the connection takes no more calls, if so.
    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        self.closed.or(self.draining)
    }

    /// Whether the connection has finished what was in flight when it began to drain.
    pub(super) fn is_drained(&self) -> bool {
        self.draining.is_some() && self.in_flight == 0
    }

    /// Wakes when the connection drains or closes: who counts its calls knows whether it is idle. Also returns a waker that
    /// is to be dropped once the lock is released.
    pub(super) fn poll_change(&mut self, seen: State, cx: &mut Context<'_>) -> (Poll<State>, Option<Waker>) {
        let state = match self {
            Self { closed: Some(_), .. } => State::Closed,
            Self { draining: Some(_), .. } => State::Draining,
            Self { in_flight: 0, .. } => State::Idle,
            _ => State::Busy,
        };
        if state != seen {
            return (Poll::Ready(state), None);
        }
        if self.watcher.as_ref().is_some_and(|watcher| watcher.will_wake(cx.waker())) {
            return (Poll::Pending, None);
        }
        (Poll::Pending, self.watcher.replace(cx.waker().clone()))
    }

    // === Callers ===

    /// Admits a call, or gives its request back.
    pub(super) fn enqueue(&mut self, request: Req, waker: &Waker) -> Result<Queued, Rejected<Req>> {
        if let Some(reason) = self.close_reason() {
            return Err(Rejected::unsent(already_closed(reason), request));
        }
        if self.in_flight >= self.limit {
            let error = Error::new(Kind::Overloaded, Phase::Write)
                .with_message(format!("the connection has its limit of {} calls in flight", self.limit));
            return Err(Rejected::unsent(error, request));
        }
        let index = self.free.pop().map_or(self.entries.len(), |index| index as usize);
        let id = self.fresh(index);
        let entry = Entry { id, stage: Stage::Queued(request), waker: Some(waker.clone()), epoch: self.epoch };
        match self.entries.get_mut(index) {
            Some(vacant) => *vacant = entry,
            None => {
                if index == 0 {
                    // Many connections never carry more than one call at once.
                    self.entries.reserve_exact(1);
                }
                self.entries.push(entry);
            }
        }
        self.queue.push_back(id);
        let alone = self.in_flight == 0;
        self.in_flight += 1;
        Ok(Queued { id, alone, first: !std::mem::replace(&mut self.told, true) })
    }

    fn fresh(&mut self, index: usize) -> Id {
        self.sequence += 1;
        self.bits.id(self.sequence, index)
    }

    /// An id for a ping: no entry has it, so that its answer is nobody's.
    pub(super) fn ping_id(&mut self) -> Id {
        self.fresh(self.bits.nobody())
    }

    /// How far the call has come; takes its result when it is done.
    pub(super) fn poll_answer(&mut self, id: Id, waker: &Waker, after: &mut After) -> Answer<Req, Res> {
        let entry = self.entry(id).expect("an entry lives until its caller takes the answer or leaves");
        match &entry.stage {
            Stage::Done(_) => {}
            stage => {
                let answer = if let Stage::Queued(_) = stage { Answer::Queued } else { Answer::Sent };
                if !entry.waker.as_ref().is_some_and(|own| own.will_wake(waker)) {
                    after.old = entry.waker.replace(waker.clone());
                }
                return answer;
            }
        }
        let Stage::Done(result) = std::mem::replace(&mut entry.stage, Stage::Vacant) else { unreachable!("just seen") };
        self.vacated(id, after);
        Answer::Done(result)
    }

    /// The caller leaves. Whether its request had been taken, and whether the driver has something to do about it.
    pub(super) fn cancel(&mut self, id: Id, effects: &mut Effects<Req, Res>) -> Left {
        let Some(entry) = self.entry(id) else { return Left::default() };
        let (stage, epoch) = (std::mem::replace(&mut entry.stage, Stage::Vacant), entry.epoch);
        // Of the caller's own task, which is at work: it needs no waking.
        let mut after = After { old: entry.waker.take(), ..After::default() };
        self.vacated(id, &mut after);
        let mut left = Left { taken: true, tell: after.tell, old: after.old };
        match stage {
            Stage::Vacant => {}
            Stage::Queued(request) => {
                left.taken = false;
                if let Some(since) = self.blocked {
                    left.tell |= self.given_up(epoch, since, effects);
                }
                effects.dropped.push(Err(Rejected::unsent(already_closed(CloseReason::Dirty), request)));
            }
            Stage::Sent(at) => {
                if let Some(cancelled) = self.cancelled.as_mut().filter(|_| self.closed.is_none()) {
                    cancelled.push(id);
                    left.tell = true;
                }
                left.tell |= self.given_up(epoch, at, effects);
            }
            Stage::Done(result) => effects.dropped.push(result),
        }
        // Ids of callers who left stay queued until they are passed over; a stalled writer must not make them pile up.
        if self.queue.len() > 2 * self.in_flight + 32 {
            let (entries, bits) = (&self.entries, self.bits);
            self.queue.retain(|id| entries.get(bits.index(*id)).is_some_and(|entry| entry.is(*id)));
        }
        left
    }

    /// A call that was sent at `at` is given up without an answer: whether that retires the connection.
    ///
    /// Only calls that began after the last one that counts count, so a burst of timeouts counts once.
    fn given_up(&mut self, epoch: u64, at: Instant, effects: &mut Effects<Req, Res>) -> bool {
        let Some(Retire { after, waited }) = self.retire else { return false };
        if epoch != self.epoch || at.elapsed() < waited {
            return false;
        }
        self.epoch += 1;
        self.streak += 1;
        self.streak >= after && self.drain(CloseReason::Unresponsive, effects)
    }

    // === The engine ===

    /// Whether something is queued. If not, the next who queues something tells the driver.
    pub(super) fn has_queued(&mut self) -> bool {
        self.blocked = None;
        self.told = !self.queue.is_empty();
        self.told
    }

    /// Nothing can be sent before an answer comes: calls that are given up while they wait for that count like those that
    /// were sent.
    pub(super) fn blocked(&mut self, now: Instant) {
        self.blocked.get_or_insert(now);
    }

    /// Takes up to `most` requests that are to be sent, in order.
    pub(super) fn take(&mut self, most: usize, now: Instant, into: &mut VecDeque<(Id, Req)>) {
        self.blocked = None;
        for _ in 0..most {
            let Some(id) = self.queue.pop_front() else { break };
            let Some(entry) = self.entry(id) else { continue };
            if let Stage::Queued(_) = entry.stage {
                let Stage::Queued(request) = std::mem::replace(&mut entry.stage, Stage::Sent(now)) else {
                    unreachable!()
                };
                into.push_back((id, request));
            }
        }
    }

    /// Takes the calls that the peer is to be told are given up.
    pub(super) fn take_cancelled(&mut self) -> Vec<Id> {
        self.cancelled.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Ends a call; when its caller left, counts its result as discarded.
    pub(super) fn complete(&mut self, id: Id, result: Result<Res, Rejected<Req>>, effects: &mut Effects<Req, Res>) {
        match self.entry(id) {
            Some(entry) if matches!(entry.stage, Stage::Sent(_)) => {
                entry.stage = Stage::Done(result);
                effects.wake.extend(entry.waker.take());
            }
            _ => {
                self.discarded += 1;
                effects.dropped.push(result);
            }
        }
    }

    /// The peer has said something: it is alive.
    pub(super) fn heard(&mut self) {
        self.streak = 0;
    }

    /// Counts an answer that belongs to nobody.
    pub(super) fn discard(&mut self) {
        self.discarded += 1;
    }

    /// Takes no more calls: queued requests go back to their callers, those that were sent finish. Whether that is new.
    pub(super) fn drain(&mut self, reason: CloseReason, effects: &mut Effects<Req, Res>) -> bool {
        if self.close_reason().is_some() {
            return false;
        }
        self.draining = Some(reason);
        self.shut.store(true, Ordering::Release);
        self.queue.clear();
        effects.wake.extend(self.watcher.take());
        for entry in &mut self.entries {
            entry.stage = match std::mem::replace(&mut entry.stage, Stage::Sent(Instant::now())) {
                Stage::Queued(request) => Stage::Done(Err(Rejected::unsent(already_closed(reason), request))),
                other => {
                    entry.stage = other;
                    continue;
                }
            };
            effects.wake.extend(entry.waker.take());
        }
        true
    }

    /// Ends the connection: calls that were sent fail with `error`, queued requests go back to their callers.
    pub(super) fn close(&mut self, reason: CloseReason, error: &Error, effects: &mut Effects<Req, Res>) {
        if self.closed.is_some() {
            return;
        }
        // Why a connection drained says more than how it ended then.
        self.closed = Some(self.draining.unwrap_or(reason));
        self.shut.store(true, Ordering::Release);
        self.queue.clear();
        effects.wake.extend(self.watcher.take());
        for entry in &mut self.entries {
            entry.stage = match std::mem::replace(&mut entry.stage, Stage::Sent(Instant::now())) {
                Stage::Queued(request) => Stage::Done(Err(Rejected::unsent(error.clone(), request))),
                Stage::Sent(_) => Stage::Done(Err(error.clone().with_sent(Sent::Maybe).into())),
                other => other,
            };
            effects.wake.extend(entry.waker.take());
        }
    }

    fn entry(&mut self, id: Id) -> Option<&mut Entry<Req, Res>> {
        self.entries.get_mut(self.bits.index(id)).filter(|entry| entry.is(id))
    }

    /// The call's entry is vacant from now on.
    fn vacated(&mut self, id: Id, after: &mut After) {
        self.free.push(self.bits.index(id) as u32);
        self.in_flight -= 1;
        if self.in_flight == 0 {
            after.tell = self.draining.is_some();
        }
    }

    /// Gives memory of a past rush back.
    pub(super) fn shrink(&mut self) {
        if self.in_flight == 0 {
            (self.entries, self.free, self.queue) = (Vec::new(), Vec::new(), VecDeque::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Calls = Table<&'static str, &'static str>;

    fn table() -> Calls {
        Table::new(8, None, false)
    }

    fn enqueue(table: &mut Calls, request: &'static str) -> Id {
        table.enqueue(request, Waker::noop()).unwrap().id
    }

    fn take(table: &mut Calls) -> Vec<(Id, &'static str)> {
        let mut taken = VecDeque::new();
        table.take(64, Instant::now(), &mut taken);
        taken.into()
    }

    fn cancel(table: &mut Calls, id: Id) -> Left {
        table.cancel(id, &mut Effects::default())
    }

    fn complete(table: &mut Calls, id: Id, answer: &'static str) -> usize {
        let mut effects = Effects::default();
        table.complete(id, Ok(answer), &mut effects);
        effects.wake.len()
    }

    fn answer(table: &mut Calls, id: Id) -> Answer<&'static str, &'static str> {
        table.poll_answer(id, Waker::noop(), &mut After::default())
    }

    // F2
    #[test]
    fn an_id_is_never_used_twice_though_its_entry_is() {
        let mut table = table();
        let first = enqueue(&mut table, "a");
        assert_eq!(take(&mut table), [(first, "a")]);
        assert!(cancel(&mut table, first).taken);
        let second = enqueue(&mut table, "b");
        assert_eq!(table.bits.index(first), table.bits.index(second));
        assert_ne!(first, second);
        assert_eq!(take(&mut table), [(second, "b")]);
        assert_eq!((complete(&mut table, first, "late"), table.discarded()), (0, 1));
        assert_eq!(complete(&mut table, second, "own"), 1);
        assert_eq!((complete(&mut table, second, "again"), table.discarded()), (0, 2), "a duplicate");
        assert!(matches!(answer(&mut table, second), Answer::Done(Ok("own"))));
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn a_caller_who_leaves_the_queue_takes_the_request_along() {
        let mut table = table();
        let (first, second) = (enqueue(&mut table, "a"), enqueue(&mut table, "b"));
        let left = cancel(&mut table, first);
        assert!(!left.taken && !left.tell);
        assert_eq!(take(&mut table), [(second, "b")]);
    }

    #[test]
    fn callers_who_leave_do_not_pile_up_behind_a_stalled_writer() {
        let mut table = table();
        for _ in 0..10_000 {
            let id = enqueue(&mut table, "a");
            cancel(&mut table, id);
        }
        assert!(table.queue.len() <= 40 && table.entries.len() == 1);
    }

    #[test]
    fn closing_gives_queued_requests_back_and_fails_sent_ones() {
        let mut table = table();
        let sent = enqueue(&mut table, "sent");
        take(&mut table);
        let queued = enqueue(&mut table, "queued");
        let mut effects = Effects::default();
        table.close(CloseReason::Peer, &Error::new(Kind::Closed, Phase::Read), &mut effects);
        assert_eq!(effects.wake.len(), 2);
        let Answer::Done(Err(failed)) = answer(&mut table, sent) else { panic!() };
        assert_eq!((failed.request, failed.error.sent()), (None, Sent::Maybe));
        let Answer::Done(Err(back)) = answer(&mut table, queued) else { panic!() };
        assert_eq!((back.request, back.error.sent()), (Some("queued"), Sent::Never));
        assert_eq!(table.enqueue("new", Waker::noop()).unwrap_err().request, Some("new"));
    }

    // F38
    #[test]
    fn draining_gives_queued_requests_back_and_lets_sent_ones_finish() {
        let mut table = table();
        let sent = enqueue(&mut table, "sent");
        take(&mut table);
        let queued = enqueue(&mut table, "queued");
        assert!(table.drain(CloseReason::Drained, &mut Effects::default()));
        assert!(!table.drain(CloseReason::Drained, &mut Effects::default()));
        let Answer::Done(Err(back)) = answer(&mut table, queued) else { panic!() };
        assert_eq!((back.request, back.error.sent()), (Some("queued"), Sent::Never));
        assert_eq!(table.enqueue("new", Waker::noop()).unwrap_err().request, Some("new"));
        assert!(!table.is_drained());
        complete(&mut table, sent, "answer");
        let mut after = After::default();
        let polled = table.poll_answer(sent, Waker::noop(), &mut after);
        assert!(matches!(polled, Answer::Done(Ok("answer"))) && after.tell && table.is_drained());
    }

    #[test]
    fn the_driver_is_told_once_until_it_looks() {
        let mut table = table();
        let first = |table: &mut Calls| table.enqueue("x", Waker::noop()).unwrap().first;
        assert!(first(&mut table) && !first(&mut table));
        let mut taken = VecDeque::new();
        table.take(1, Instant::now(), &mut taken);
        assert!(!first(&mut table), "more is queued, which whoever takes knows");
        assert_eq!(take(&mut table).len(), 2);
        assert!(!table.has_queued());
        assert!(first(&mut table));
    }

    #[test]
    fn over_the_limit_a_request_comes_back() {
        let mut table = Table::<_, ()>::new(1, None, false);
        assert!(table.enqueue("a", Waker::noop()).unwrap().alone);
        let rejected = table.enqueue("b", Waker::noop()).unwrap_err();
        assert_eq!((rejected.request, rejected.error.kind()), (Some("b"), Kind::Overloaded));
    }

    #[test]
    fn only_sent_calls_are_told_to_the_peer_as_cancelled() {
        let mut table = Table::<_, ()>::new(8, None, true);
        let sent = table.enqueue("sent", Waker::noop()).unwrap().id;
        table.take(64, Instant::now(), &mut VecDeque::new());
        let queued = table.enqueue("queued", Waker::noop()).unwrap().id;
        let left = table.cancel(queued, &mut Effects::default());
        assert!(!left.taken && !left.tell);
        let left = table.cancel(sent, &mut Effects::default());
        assert!(left.taken && left.tell);
        assert_eq!((table.take_cancelled(), table.take_cancelled()), (vec![sent], vec![]));
    }
}
