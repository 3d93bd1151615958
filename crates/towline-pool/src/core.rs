//! The accounting of one endpoint: a synchronous core without I/O or tasks.
//!
//! Every method takes the time as an argument and leaves the invariants true: connections in use, idle and settling
//! are the live ones; live and dialling together stay within the cap; nobody waits while a connection is free. What
//! must not happen under the lock (waking, dropping connections, telling observers) is collected in [`Effects`].
//!
//! ```text
//!            dialled                  lend                     returned clean
//!   (dial) ───────────▶ idle ◀────────────────▶ in use ───────────────────────────▶ oldest waiter, else idle
//!                        │ FIN, RST, stray,        │ returned busy
//!                        │ idle timeout, lifetime  ├──────────▶ settling ──▶ idle, when its response is read
//!                        ▼                         ▼ dirty, failed, drained, old
//!                      closed ◀──────────────────closed
//! ```

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;
use towline_core::sync::after;
use towline_core::{CloseReason, ConnectionId, Error, Kind, Phase, Poolable, Rng, Room, Sharing, State};

use crate::bell::{Bell, Ring};
use crate::config::Limits;
use crate::effects::Effects;
use crate::health::Health;
use crate::queue::{Place, Queue};
use crate::slot::{Grant, Slot, SlotId, TRIM};
use crate::stats::Stats;

/// The right to dial once; counted until it is handed back with the result.
#[derive(Debug)]
#[must_use = "a permit that is not handed back counts as a dial for ever"]
pub(crate) struct DialPermit(());

/// Somebody waits for so many connections to be open.
struct Warming {
    want: usize,
    reached: bool,
    failures_before: u64,
}

/// A connection that its peer ends within this time, before it served a call, counts as a failed dial. One that ends
/// later was well, and idle.
const EARLY: Duration = Duration::from_secs(1);

pub(crate) struct Core<C> {
    limits: Limits,
    bell: Arc<Bell>,
    rng: Rng,
    slots: Slab<Slot<C>>,
    /// Exclusive connections that are idle, the most recently used last.
    idle: Vec<usize>,
    queue: Queue<Result<Grant<C>, Error>>,
    dialling: usize,
    /// Calls that one connection carries; known from the first one on.
    capacity: Option<usize>,
    health: Health,
    warm: usize,
    warming: Slab<Warming>,
    closed: bool,
    /// When the driver will look again by itself.
    wakes_at: Option<Instant>,
    /// Tasks that wait for connections to come or go: `ready`, `warm` and `close`.
    watchers: Slab<Waker>,
    stats: Stats,
}

impl<C: Poolable> Core<C> {
    pub(crate) fn new(limits: Limits, bell: Arc<Bell>, rng: Rng) -> Self {
        Self {
            limits,
            bell,
            rng,
            slots: Slab::new(),
            idle: Vec::new(),
            queue: Queue::new(),
            dialling: 0,
            capacity: None,
            health: Health::default(),
            warm: limits.warm,
            warming: Slab::new(),
            closed: false,
            wakes_at: None,
            watchers: Slab::new(),
            stats: Stats::default(),
        }
    }

    // === What is ===

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            in_use: self.slots.iter().map(|(_, slot)| slot.in_use).sum(),
            idle: self.slots.iter().filter(|(_, slot)| slot.is_idle()).count(),
            dialling: self.dialling,
            waiting: self.queue.len(),
            live: self.slots.len(),
            ..self.stats
        }
    }

    pub(crate) fn room(&self) -> Room {
        if self.closed {
            Room::Down
        } else if self.slots.iter().any(|(_, slot)| slot.has_room()) {
            Room::Ready
        } else if self.is_down() {
            Room::Down
        } else if self.slots.len() + self.dialling < self.limits.max_connections {
            Room::Cold
        } else {
            Room::Full
        }
    }

    /// Nothing is open and the last dial failed: a call would fail.
    fn is_down(&self) -> bool {
        self.slots.is_empty() && self.health.is_down()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.dialling == 0
    }

    /// Whether connections are under way, or will be after a pause.
    pub(crate) fn is_connecting(&self) -> bool {
        self.slots.is_empty() && (self.dialling > 0 || self.health.is_down())
    }

    pub(crate) fn has_live(&self) -> bool {
        !self.slots.is_empty()
    }

    pub(crate) fn last_error(&self) -> Option<&Error> {
        self.health.last_error()
    }

    // === Lending ===

    /// A free connection at once, or `None` when the caller has to wait.
    pub(crate) fn lend(&mut self, now: Instant, effects: &mut Effects<C>) -> Result<Option<Grant<C>>, Error> {
        if self.closed {
            return Err(closed());
        }
        // A newcomer cannot overtake: nobody waits while a connection is free.
        if let Some(grant) = self.take_free(now, effects) {
            return Ok(Some(grant));
        }
        if self.is_down() {
            return Err(self.unreachable());
        }
        if self.queue.len() >= self.limits.max_waiters {
            return Err(Error::new(Kind::Overloaded, Phase::Queue)
                .with_message(format!("the queue is full (max_waiters {})", self.limits.max_waiters)));
        }
        Ok(None)
    }

    /// Waits for a connection; to be called when [`lend`](Self::lend) had none, under the same lock.
    pub(crate) fn join(&mut self, waker: Waker, effects: &mut Effects<C>) -> Place {
        effects.wake_driver = true;
        self.queue.join(waker)
    }

    pub(crate) fn pick_up(&mut self, place: Place, waker: &Waker) -> Option<Result<Grant<C>, Error>> {
        self.queue.pick_up(place, waker)
    }

    /// A caller stops waiting; what it was given meanwhile is its own to use or to give back.
    pub(crate) fn leave(&mut self, place: Place) -> Option<Result<Grant<C>, Error>> {
        self.queue.leave(place)
    }

    /// The least busy connection with room that is still alive.
    fn take_free(&mut self, now: Instant, effects: &mut Effects<C>) -> Option<Grant<C>> {
        loop {
            let index = match self.idle.pop() {
                Some(index) => index,
                None => {
                    let shared = self.slots.iter().filter(|(_, slot)| slot.limit > 1 && slot.has_room());
                    shared.min_by_key(|(_, slot)| slot.in_use)?.0
                }
            };
            let slot = &mut self.slots[index];
            slot.ring.rearm();
            // The driver may not have run yet since the peer went: one look before anybody relies on it.
            match slot.watch() {
                Poll::Pending => {}
                Poll::Ready(State::Draining) if slot.in_use > 0 => {
                    slot.drain();
                    continue;
                }
                Poll::Ready(_) => {
                    self.close_gone(index, now, effects);
                    continue;
                }
            }
            let connection = if slot.limit > 1 {
                slot.connection.as_ref().and_then(Poolable::share)
            } else {
                slot.connection.take()
            };
            let Some(connection) = connection else {
                self.close(index, CloseReason::Failed, now, effects);
                continue;
            };
            slot.in_use += 1;
            let reused = std::mem::replace(&mut slot.lent_before, true);
            self.stats.reused += u64::from(reused);
            return Some(Grant { connection, slot: SlotId { index, id: slot.id }, reused });
        }
    }

    /// A connection, or a share of one, comes back; `succeeded` when a call on it did.
    pub(crate) fn give_back(
        &mut self,
        slot_id: SlotId,
        connection: C,
        succeeded: bool,
        now: Instant,
        effects: &mut Effects<C>,
    ) {
        let index = slot_id.index;
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.id == slot_id.id) else {
            effects.dropped.push(connection); // A share of a connection that died meanwhile.
            return;
        };
        if succeeded {
            slot.succeeded = true;
            self.health.succeeded(slot.born);
        }
        if slot.limit > 1 {
            slot.in_use -= 1;
            slot.idle_since = now;
            effects.dropped.push(connection);
            return self.becomes_free(index, now, effects);
        }
        slot.connection = Some(connection);
        self.settles(index, now, effects);
    }

    /// An exclusive connection is back; it has room again once its last response is read.
    fn settles(&mut self, index: usize, now: Instant, effects: &mut Effects<C>) {
        let slot = &mut self.slots[index];
        slot.ring.rearm();
        let Some(connection) = slot.connection.as_mut() else { return };
        let change = connection.poll_change(State::Busy, &mut Context::from_waker(&slot.waker));
        slot.settling = change.is_pending();
        if let Poll::Ready(state) = change {
            slot.in_use -= 1;
            // Whoever used it, and however, left it clean.
            slot.succeeded |= state == State::Idle;
            self.becomes_free(index, now, effects);
        }
    }

    /// The connection at `index` has room again: closes it if its time has come, else offers it.
    fn becomes_free(&mut self, index: usize, now: Instant, effects: &mut Effects<C>) {
        let slot = &mut self.slots[index];
        if self.closed {
            slot.draining.get_or_insert(CloseReason::Shutdown);
        }
        if let Some(reason) = slot.draining {
            if slot.is_idle() {
                self.close(index, reason, now, effects);
            }
            return;
        }
        match slot.watch() {
            Poll::Pending => {}
            Poll::Ready(State::Draining) if slot.in_use > 0 => return slot.drain(),
            Poll::Ready(_) => return self.close_gone(index, now, effects),
        }
        if slot.limit == 1 {
            slot.idle_since = now;
            slot.trimmed = false;
            self.idle.push(index);
        }
        self.serve_waiters(now, effects);
        // The driver has to look when this one has been idle for a while. Later returns find it set.
        let at = after(now, self.limits.idle_timeout.map_or(TRIM, |limit| limit.min(TRIM)));
        effects.wake_driver |= self.wakes_at.is_none_or(|wakes| wakes > at);
    }

    fn serve_waiters(&mut self, now: Instant, effects: &mut Effects<C>) {
        while !self.queue.is_empty() {
            let Some(grant) = self.take_free(now, effects) else { return };
            match self.queue.serve(Ok(grant)) {
                Ok(waker) => effects.wake.push(waker),
                Err(_) => unreachable!("somebody waits"),
            }
        }
    }

    // === Dialling ===

    /// The right to dial, when one is due.
    pub(crate) fn start_dial(&mut self, now: Instant) -> Option<DialPermit> {
        let live_or_dialling = self.slots.len() + self.dialling;
        if self.closed
            || live_or_dialling >= self.limits.max_connections
            || self.dialling >= self.limits.max_dials
            || self.health.backs_off(now)
        {
            return None;
        }
        // The first dial goes alone: until it is done nobody knows how many calls a connection carries, and an
        // endpoint that is down needs one probe, not four.
        let alone = self.capacity.is_none() || self.health.is_suspect();
        if alone && self.dialling > 0 {
            return None;
        }
        let for_waiters = self.queue.len() > self.dialling * self.capacity.unwrap_or(1);
        let for_warmth = live_or_dialling < self.warm;
        let to_recover = self.is_down() && self.dialling == 0;
        (for_waiters || for_warmth || to_recover).then(|| {
            self.dialling += 1;
            DialPermit(())
        })
    }

    /// A dial has ended well: whichever came first, this or a return, serves the oldest waiter.
    pub(crate) fn dial_succeeded(
        &mut self,
        permit: DialPermit,
        connection: C,
        now: Instant,
        effects: &mut Effects<C>,
    ) -> ConnectionId {
        self.end_dial(permit, effects);
        let limit = match connection.sharing() {
            Sharing::Exclusive => 1,
            Sharing::Shared { limit } => limit.max(1),
        };
        self.capacity = Some(limit);
        self.health.opened();
        let first_life = self.stats.opened < self.limits.max_connections as u64;
        self.stats.opened += 1;
        let (low, span) = if first_life { (0.5, 0.5) } else { (0.9, 0.2) };
        let life = self.limits.max_lifetime.map(|life| life.mul_f64(low + span * self.rng.unit()));
        let id = ConnectionId::fresh();
        let entry = self.slots.vacant_entry();
        let index = entry.key();
        let ring = Arc::new(Ring::new(self.bell.clone(), index));
        entry.insert(Slot {
            id,
            connection: Some(connection),
            limit,
            in_use: 0,
            lent_before: false,
            succeeded: false,
            settling: false,
            draining: None,
            expires: life.map(|life| after(now, life)),
            born: now,
            idle_since: now,
            trimmed: true,
            waker: ring.clone().into(),
            ring,
        });
        let live = self.slots.len();
        if live >= self.warm {
            self.warm = 0; // Reached; from here on connections come and go with the calls.
        }
        self.warming.iter_mut().for_each(|(_, warming)| warming.reached |= live >= warming.want);
        self.becomes_free(index, now, effects);
        id
    }

    /// A dial has failed. Waiters learn the cause at once, unless somebody can still serve them. Returns when the
    /// next dial may start.
    pub(crate) fn dial_failed(
        &mut self,
        permit: DialPermit,
        error: Error,
        now: Instant,
        effects: &mut Effects<C>,
    ) -> Instant {
        self.end_dial(permit, effects);
        self.stats.dials_failed += 1;
        let at = self.failed(error, now);
        self.fail_whom_nobody_serves(effects);
        at
    }

    /// Nothing is open or under way, and the last dial failed: whoever waits would wait for a backoff.
    fn fail_whom_nobody_serves(&mut self, effects: &mut Effects<C>) {
        if self.is_empty() && self.is_down() {
            self.fail_waiters(&self.unreachable(), effects);
        }
    }

    pub(crate) fn dials_given_up(&mut self, permits: Vec<DialPermit>, effects: &mut Effects<C>) {
        permits.into_iter().for_each(|permit| self.end_dial(permit, effects));
    }

    fn end_dial(&mut self, DialPermit(()): DialPermit, effects: &mut Effects<C>) {
        self.dialling -= 1;
        self.wake_watchers(effects);
        effects.wake_driver = true;
    }

    fn failed(&mut self, error: Error, now: Instant) -> Instant {
        self.health.failed(error, now, self.limits.dial_backoff, &mut self.rng)
    }

    fn unreachable(&self) -> Error {
        let unknown = || Error::new(Kind::Unavailable, Phase::Dial);
        self.health.last_error().cloned().unwrap_or_else(unknown)
    }

    fn fail_waiters(&mut self, error: &Error, effects: &mut Effects<C>) {
        while let Ok(waker) = self.queue.serve(Err(error.clone())) {
            effects.wake.push(waker);
        }
    }

    /// Wants at least this many connections open, once and within the cap. Ask with the key, and end with it.
    pub(crate) fn start_warming(&mut self, connections: usize, effects: &mut Effects<C>) -> usize {
        let want = connections.min(self.limits.max_connections);
        let reached = self.slots.len() >= want;
        if !reached {
            self.warm = self.warm.max(want);
            effects.wake_driver = true;
        }
        self.warming.insert(Warming { want, reached, failures_before: self.health.failures() })
    }

    /// Whether they were all open at some time; the first failure since the wish ends it.
    pub(crate) fn is_warm(&self, key: usize) -> Option<Result<(), Error>> {
        let Warming { reached, failures_before, .. } = &self.warming[key];
        if *reached {
            return Some(Ok(()));
        }
        if self.closed {
            return Some(Err(closed()));
        }
        (self.health.failures() > *failures_before).then(|| Err(self.unreachable()))
    }

    pub(crate) fn end_warming(&mut self, key: usize) {
        self.warming.remove(key);
    }

    // === Closing ===

    /// The connection at `index` rang: it may be gone, or have settled.
    pub(crate) fn rang(&mut self, index: usize, now: Instant, effects: &mut Effects<C>) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.settling {
            return self.settles(index, now, effects);
        }
        slot.ring.rearm();
        if slot.connection.is_none() {
            return; // Lent: whoever has it will find out.
        }
        match slot.watch() {
            Poll::Pending => {}
            Poll::Ready(State::Draining) if slot.in_use > 0 => slot.drain(),
            Poll::Ready(_) => self.close_gone(index, now, effects),
        }
    }

    /// Closes what is idle for too long or too old, and trims what has been idle for a while; when to look again.
    pub(crate) fn expire(&mut self, now: Instant, effects: &mut Effects<C>) -> Option<Instant> {
        let mut next = self.health.not_before().filter(|at| *at > now);
        let mut due = Vec::new();
        for (index, slot) in &mut self.slots {
            let idle_until = self.limits.idle_timeout.map(|limit| after(slot.idle_since, limit));
            if slot.is_idle() && idle_until.is_some_and(|at| at <= now) {
                due.push((index, CloseReason::IdleTimeout));
            } else if slot.expires.is_some_and(|at| at <= now) {
                slot.draining.get_or_insert(CloseReason::Lifetime);
                if slot.is_idle() {
                    due.push((index, CloseReason::Lifetime));
                }
            } else {
                next = next.into_iter().chain(slot.expires).chain(slot.trim(now)).min();
                if slot.is_idle() {
                    next = next.into_iter().chain(idle_until).min();
                }
            }
        }
        for (index, reason) in due {
            self.close(index, reason, now, effects);
        }
        self.wakes_at = next;
        next
    }

    /// No more lending; waiters fail, idle connections close, those in use when they come back.
    pub(crate) fn shut_down(&mut self, now: Instant, effects: &mut Effects<C>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.fail_waiters(&closed(), effects);
        for index in self.idle_slots() {
            self.close(index, CloseReason::Shutdown, now, effects);
        }
        self.wake_watchers(effects);
        effects.wake_driver = true;
    }

    /// The driver is gone: with its runtime, by a panic, or because nothing is left to do. What it was dialling is
    /// lost; what lived on its runtime may be. Whoever waits is woken, to start another.
    pub(crate) fn driver_gone(&mut self, lost: Vec<DialPermit>, now: Instant, effects: &mut Effects<C>) {
        self.wakes_at = None;
        for index in self.idle_slots() {
            self.close(index, CloseReason::Shutdown, now, effects);
        }
        let dialling = !lost.is_empty();
        self.dials_given_up(lost, effects);
        if dialling {
            let error = Error::new(Kind::Runtime, Phase::Dial).with_message("the pool's task ended while it dialled");
            self.failed(error, now);
            self.fail_whom_nobody_serves(effects);
        }
        effects.wake.extend(self.queue.wakers());
        self.wake_watchers(effects);
    }

    fn idle_slots(&self) -> Vec<usize> {
        self.slots.iter().filter(|(_, slot)| slot.is_idle()).map(|(index, _)| index).collect()
    }

    /// Closes a connection that says itself that it takes no more calls.
    fn close_gone(&mut self, index: usize, now: Instant, effects: &mut Effects<C>) {
        let reason = self.slots[index].close_reason();
        self.close(index, reason, now, effects);
    }

    fn close(&mut self, index: usize, reason: CloseReason, now: Instant, effects: &mut Effects<C>) {
        let slot = self.slots.remove(index);
        if slot.limit == 1 {
            self.idle.retain(|idle| *idle != index);
        }
        self.stats.closed += 1;
        // A backend that accepts and hangs up is as unreachable as one that refuses: without this, dials to it would
        // follow each other without a pause.
        let by_peer = match reason {
            CloseReason::Peer => true,
            CloseReason::Stray | CloseReason::Failed | CloseReason::Drained => !slot.lent_before,
            _ => false,
        };
        if by_peer && !slot.succeeded && now.saturating_duration_since(slot.born) < EARLY {
            let error = Error::new(Kind::Unavailable, Phase::Dial).with_message(
                "the peer closed the last connection before it served a call (does it expect TLS, or none?)",
            );
            self.failed(error, now);
        }
        self.fail_whom_nobody_serves(effects);
        effects.closed.push((slot.id, reason, slot.connection));
        if self.slots.is_empty() {
            self.wake_watchers(effects);
        }
        // Its place in the cap is free, and somebody may wait for one.
        effects.wake_driver = true;
    }

    // === Watching ===

    /// Wakes this task at the next change; `key` from the last time. Returns a waker to be dropped without the lock.
    pub(crate) fn watch(&mut self, key: &mut Option<usize>, waker: &Waker) -> Option<Waker> {
        match *key {
            Some(key) => Some(std::mem::replace(&mut self.watchers[key], waker.clone())),
            None => {
                *key = Some(self.watchers.insert(waker.clone()));
                None
            }
        }
    }

    pub(crate) fn unwatch(&mut self, key: usize) -> Waker {
        self.watchers.remove(key)
    }

    fn wake_watchers(&self, effects: &mut Effects<C>) {
        effects.wake.extend(self.watchers.iter().map(|(_, waker)| waker.clone()));
    }
}

pub(crate) fn closed() -> Error {
    Error::new(Kind::Closed, Phase::Queue).with_message("the pool is closed")
}
