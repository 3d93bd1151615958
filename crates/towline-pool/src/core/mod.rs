//! The accounting of one endpoint: a synchronous core without I/O or tasks.
//!
//! Every method leaves the invariants true: connections in use, idle and settling are the live ones; live and dialling
//! together stay within the cap; nobody waits while a connection is free. What must not happen under the lock (waking,
//! dropping connections, telling observers) is collected in [`Effects`].
//!
//! ```text
//!            dialled                  lend                     returned clean
//!   (dial) ───────────▶ idle ◀────────────────▶ in use ───────────────────────────▶ oldest waiter, else idle
//!                        │ FIN, RST, stray,        │ returned busy
//!                        │ idle timeout, lifetime, ├──────────▶ settling ──▶ idle, when its response is read
//!                        │ surplus, unhealthy,     │
//!                        ▼ evicted                 ▼ dirty, failed, drained, old, worn out, poisoned
//!                      closed ◀──────────────────closed
//! ```
//!
//! Time is read where something is waited for. A return reads none: it is stamped with the core's own clock, which the
//! driver sets each [tick](Limits::tick) while connections come and go, and the first return after a pause.

mod dials;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Id;
use tokio::time::Instant;
use towline_core::sync::after;
use towline_core::{CloseReason, ConnectionId, Error, Kind, Phase, Poolable, Rng, Room, State};

pub(crate) use self::dials::{DialPermit, Need};
use crate::bell::{Bell, Ring};
use crate::effects::Effects;
use crate::limits::{IdleOrder, Limits};
use crate::queue::{Place, Queue, Wait};
use crate::reach::Reach;
use crate::slot::{Grant, Slot, SlotId, look};
use crate::stats::{Closed, Stats};
use crate::total::{Hunger, Want};

/// The order counts: what every checkout touches comes first, on few lines of a processor's cache.
#[repr(C)]
pub(crate) struct Core<C> {
    /// Exclusive connections that are idle, the most recently used last.
    idle: VecDeque<usize>,
    slots: Slab<Slot<C>>,
    clock: Clock,
    closed: bool,
    /// Who wants a place that a connection here has.
    hunger: Option<Arc<Hunger>>,
    queue: Queue<Result<Grant<C>, Error>>,
    counts: Counts,
    limits: Limits,
    /// How many are shared.
    shared: usize,
    dialling: usize,
    /// Calls that one connection carries; known from the first one on.
    capacity: Option<usize>,
    reach: Reach,
    surplus: upkeep::Surplus,
    warmth: dials::Warmth,
    /// The runtime of the driver.
    driven_on: Option<Id>,
    /// When something may be due.
    look_at: Option<Instant>,
    /// Tasks that wait for connections to come or go: `ready`, `warm` and `close`.
    watchers: Slab<Waker>,
    bell: Arc<Bell>,
    rng: Rng,
}

/// The time as it was last read.
struct Clock {
    now: Instant,
    /// At most a tick slow: the driver will set it by then.
    fresh: bool,
    /// Read since the driver set it.
    used: bool,
}

#[derive(Default)]
struct Counts {
    opened: u64,
    reused: u64,
    closed: Closed,
    dials_failed: u64,
    waits: u64,
    wait_time: Duration,
}

/// What came of a wish for a connection.
pub(crate) enum Lent<C> {
    Granted(Grant<C>),
    /// None is free: the caller has to wait, for the one in this slot if it is pinned.
    Wait(Option<usize>),
}

/// What became of a connection that came back.
pub(crate) enum Returned {
    Idle,
    /// To whom this waker belongs.
    HandedOver(Waker),
    /// There is more to see to.
    NotSimple,
}

/// What was there for somebody who waited, and for how long.
type PickedUp<C> = Option<Result<(Grant<C>, Duration), Error>>;

/// What somebody had been given who left.
type Left<C> = Option<Result<Grant<C>, Error>>;

/// How a connection comes back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Use {
    /// A call on it succeeded.
    pub(crate) succeeded: bool,
    /// Whoever had it wants it closed.
    pub(crate) poisoned: bool,
    /// It was not used, but looked into.
    pub(crate) check: bool,
}

impl<C: Poolable> Core<C> {
    pub(crate) fn new(limits: Limits, bell: Arc<Bell>, hunger: Option<Arc<Hunger>>, rng: Rng, now: Instant) -> Self {
        Self {
            limits,
            bell,
            rng,
            slots: Slab::new(),
            idle: VecDeque::new(),
            shared: 0,
            queue: Queue::new(),
            dialling: 0,
            capacity: None,
            reach: Reach::default(),
            warmth: dials::Warmth::new(limits.warm),
            closed: false,
            clock: Clock { now, fresh: false, used: false },
            driven_on: None,
            look_at: None,
            surplus: upkeep::Surplus::default(),
            hunger,
            watchers: Slab::new(),
            counts: Counts::default(),
        }
    }

    // === What is ===

    pub(crate) fn stats(&self) -> Stats {
        let Counts { opened, reused, closed, dials_failed, waits, wait_time } = self.counts;
        Stats {
            in_use: self
                .slots
                .iter()
                .map(|(_, slot)| slot.in_use + usize::from(slot.reading && slot.in_use == 0))
                .sum(),
            idle: self.slots.iter().filter(|(_, slot)| slot.is_idle()).count(),
            dialling: self.dialling,
            waiting: self.queue.len(),
            live: self.slots.len(),
            opened,
            reused,
            closed,
            dials_failed,
            waits,
            wait_time,
        }
    }

    /// Calls in flight and waiting.
    pub(crate) fn load(&self) -> usize {
        let shared = || self.slots.iter().map(|(_, slot)| slot.in_use).sum::<usize>();
        let in_use = if self.shared == 0 { self.slots.len() - self.idle.len() } else { shared() };
        in_use + self.queue.len()
    }

    pub(crate) fn room(&self) -> Room {
        if self.closed {
            Room::Down
        } else if !self.idle.is_empty() || (self.shared > 0 && self.slots.iter().any(|(_, slot)| slot.has_room())) {
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
        self.slots.is_empty() && self.reach.is_down()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn has_live(&self) -> bool {
        !self.slots.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.dialling == 0
    }

    /// Whether connections are under way, or will be after a pause.
    pub(crate) fn is_connecting(&self) -> bool {
        self.slots.is_empty() && (self.dialling > 0 || self.reach.is_down())
    }

    pub(crate) fn last_error(&self) -> Option<&Error> {
        self.reach.last_error()
    }

    // === Lending ===

    /// The most common case of [`lend`](Self::lend), and nothing else: an idle connection about which there is nothing
    /// to find out, and that has no effect on anybody. Tells whether it was used before.
    #[inline]
    pub(crate) fn take_idle(&mut self, into: &mut Option<C>) -> Option<(SlotId, bool)> {
        // With `min_idle`, somebody may have to see to the next.
        let index = self.next_idle().filter(|_| self.clock.fresh && self.idle.len() > self.limits.min_idle)?;
        let slot = self.slots.get_mut(index)?;
        if slot.ring.has_rung() || slot.calls + 1 >= slot.max_calls {
            return None;
        }
        *into = slot.connection.take();
        let (id, reused) = (SlotId { index, id: slot.id }, slot.calls > 0);
        slot.calls += 1;
        slot.in_use = 1;
        slot.listed = false;
        self.pop_next();
        self.counts.reused += u64::from(reused);
        Some((id, reused))
    }

    /// The common cases of [`give_back`](Self::give_back), and nothing else: a connection that was left clean, whose time
    /// is not over, and that goes to the oldest waiter or, if there is none, becomes idle. Takes nothing otherwise.
    #[inline]
    pub(crate) fn give_back_clean(&mut self, id: SlotId, lent: &mut Option<C>, how: Use) -> Returned {
        let simple = self.clock.fresh && !self.closed && !self.is_wanted() && !how.poisoned && !how.check;
        let (Some(slot), Some(connection)) = (
            self.slots.get_mut(id.index).filter(|known| simple && known.id == id.id && known.is_simple()),
            lent.as_mut(),
        ) else {
            return Returned::NotSimple;
        };
        if how.succeeded && (!slot.succeeded || self.reach.is_suspect()) {
            return Returned::NotSimple;
        }
        slot.ring.rearm();
        let mut cx = Context::from_waker(&slot.waker);
        let clean = look(connection, State::Busy, &mut cx) == Poll::Ready(State::Idle);
        if !clean || look(connection, State::Idle, &mut cx).is_ready() {
            return Returned::NotSimple;
        }
        slot.succeeded = true;
        self.clock.used = true;
        if self.queue.is_empty() {
            slot.connection = lent.take();
            slot.in_use = 0;
            slot.idle_since = self.clock.now;
            slot.trimmed = false;
            slot.listed = true;
            self.idle.push_back(id.index);
            return Returned::Idle;
        }
        if !self.queue.is_waited_for(id.index) || slot.calls + 1 >= slot.max_calls {
            return Returned::NotSimple;
        }
        slot.calls += 1;
        self.counts.reused += 1;
        let grant = lent.take().map(|connection| Grant { connection, slot: id, reused: true });
        match grant.map(|grant| self.queue.serve(id.index, Ok(grant))) {
            Some(Ok(waker)) => Returned::HandedOver(waker),
            _ => unreachable!("it was there, and somebody waits"),
        }
    }

    pub(crate) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    fn next_idle(&self) -> Option<usize> {
        match self.limits.idle_order {
            IdleOrder::MostRecent => self.idle.back().copied(),
            IdleOrder::LeastRecent => self.idle.front().copied(),
        }
    }

    /// A free connection at once; the caller waits otherwise. `pin` says that it has to be this one.
    pub(crate) fn lend(
        &mut self,
        pin: Option<ConnectionId>,
        now: impl Fn() -> Instant + Copy,
        effects: &mut Effects<C>,
    ) -> Result<Lent<C>, Error> {
        if self.closed {
            return Err(closed());
        }
        let slot = match pin {
            Some(pin) => Some(self.pinned(pin)?),
            None => None,
        };
        // A newcomer cannot overtake: nobody waits while a connection is free.
        let granted = match slot {
            Some(index) if self.slots[index].has_room() => Some(self.take(index, now, effects).ok_or_else(unpinned)?),
            Some(_) => None,
            None => self.take_free(now, effects),
        };
        if let Some(grant) = granted {
            return Ok(Lent::Granted(grant));
        }
        if self.is_down() {
            return Err(self.unreachable());
        }
        if self.queue.len() >= self.limits.max_waiters {
            return Err(Error::new(Kind::Overloaded, Phase::Queue)
                .with_message(format!("the queue is full (max_waiters {})", self.limits.max_waiters)));
        }
        Ok(Lent::Wait(slot))
    }

    fn pinned(&self, pin: ConnectionId) -> Result<usize, Error> {
        let mut slots = self.slots.iter();
        let pinned = slots.find(|(_, slot)| slot.id == pin && slot.draining.is_none());
        pinned.map(|(index, _)| index).ok_or_else(unpinned)
    }

    /// Waits for a connection; to be called when [`lend`](Self::lend) had none, under the same lock.
    pub(crate) fn join(&mut self, slot: Option<usize>, wait: Wait, waker: Waker, effects: &mut Effects<C>) -> Place {
        self.look_by(wait.until, effects);
        let place = self.queue.join(slot, wait, waker);
        effects.wake_driver |= self.need(wait.since).is_some();
        place
    }

    pub(crate) fn pick_up(
        &mut self,
        place: Place,
        waker: &Waker,
        now: impl Fn() -> Instant,
    ) -> (PickedUp<C>, Option<Waker>) {
        let (picked_up, old) = self.queue.pick_up(place, waker);
        let picked_up = picked_up.map(|(granted, since)| {
            granted.map(|grant| {
                let waited = now().saturating_duration_since(since);
                self.counts.waits += 1;
                self.counts.wait_time += waited;
                (grant, waited)
            })
        });
        (picked_up, old)
    }

    /// A caller stops waiting; what it was given meanwhile is its own to use or to give back. The waker is to be dropped
    /// without the lock.
    pub(crate) fn leave(&mut self, place: Place, effects: &mut Effects<C>) -> (Left<C>, Waker) {
        let left = self.queue.leave(place);
        self.claims_less(effects);
        left
    }

    /// Nobody waits any more: what was claimed for them is not wanted.
    fn claims_less(&self, effects: &mut Effects<C>) {
        effects.wake_driver |= self.queue.in_line() == 0 && self.is_wanted();
    }

    /// Whether other endpoints, or this one, claim a place.
    fn is_wanted(&self) -> bool {
        self.hunger.as_ref().is_some_and(|hunger| hunger.get() != Want::Nobody)
    }

    /// A connection with room that is still alive: of exclusive ones by the idle order, of shared ones the least busy.
    fn take_free(&mut self, now: impl Fn() -> Instant + Copy, effects: &mut Effects<C>) -> Option<Grant<C>> {
        loop {
            let index = match self.next_idle() {
                Some(index) => index,
                None if self.shared == 0 => return None,
                None => {
                    let with_room = self.slots.iter().filter(|(_, slot)| !slot.exclusive && slot.has_room());
                    with_room.min_by_key(|(_, slot)| slot.in_use)?.0
                }
            };
            if let Some(grant) = self.take(index, now, effects) {
                return Some(grant);
            }
        }
    }

    /// The connection at `index`, which has room; `None`, and it is closed, when it is not alive.
    fn take(&mut self, index: usize, now: impl Fn() -> Instant + Copy, effects: &mut Effects<C>) -> Option<Grant<C>> {
        let connection = self.hand_out(index, now, effects)?;
        let slot = &mut self.slots[index];
        let reused = slot.calls > 0;
        slot.calls += 1;
        let grant = Grant { connection, slot: SlotId { index, id: slot.id }, reused };
        self.counts.reused += u64::from(reused);
        if slot.calls >= slot.max_calls {
            self.drain(index, CloseReason::MaxCalls, effects);
        }
        Some(grant)
    }

    fn hand_out(&mut self, index: usize, now: impl Fn() -> Instant + Copy, effects: &mut Effects<C>) -> Option<C> {
        let slot = &self.slots[index];
        // The driver may not have run yet since the peer went. And what was not used for long is looked at in any case:
        // the machine may have slept.
        if (slot.ring.has_rung() || !self.clock.fresh) && !self.check(index, now, effects) {
            return None;
        }
        let slot = &mut self.slots[index];
        let connection = if slot.exclusive { slot.connection.take() } else { slot.connection.as_ref()?.share() };
        let Some(connection) = connection else {
            self.close(index, CloseReason::Failed, now(), effects);
            return None;
        };
        slot.in_use += 1;
        self.unlist(index);
        effects.wake_driver |= self.lasting_idle() < self.limits.min_idle;
        Some(connection)
    }

    /// A connection, or a share of one, comes back. What is left of it is to be dropped without the lock.
    pub(crate) fn give_back(
        &mut self,
        slot: SlotId,
        connection: C,
        how: Use,
        now: impl Fn() -> Instant + Copy,
        effects: &mut Effects<C>,
    ) -> Option<C> {
        let index = slot.index;
        let Some(slot) = self.slots.get_mut(index).filter(|known| known.id == slot.id) else {
            return Some(connection); // Of a connection that died, or was cut off, meanwhile.
        };
        if how.succeeded {
            if !slot.succeeded || self.reach.is_suspect() {
                self.reach.succeeded(slot.born);
            }
            slot.succeeded = true;
        }
        let exclusive = slot.exclusive;
        if how.poisoned {
            self.drain(index, CloseReason::Poisoned, effects);
        }
        let slot = &mut self.slots[index];
        slot.looked_into |= how.check;
        if exclusive {
            slot.connection = Some(connection);
            self.settle(index, now, effects);
            return None;
        }
        slot.in_use -= 1;
        slot.learn_limit();
        // The last call leaves it idle, unless a response is still being read.
        let look = slot.in_use == 0 || slot.ring.has_rung();
        if !look || self.check(index, now, effects) {
            self.becomes_free(index, now, effects);
        }
        Some(connection)
    }

    /// An exclusive connection is back; it has room again once its last response is read.
    fn settle(&mut self, index: usize, now: impl Fn() -> Instant + Copy, effects: &mut Effects<C>) {
        let slot = &mut self.slots[index];
        slot.ring.rearm();
        let Some(connection) = slot.connection.as_mut() else { return };
        let change = look(connection, State::Busy, &mut Context::from_waker(&slot.waker));
        slot.settling = change.is_pending();
        if slot.settling {
            // Somebody has to see how it ends.
            effects.wake_driver |= self.driven_on.is_none();
            return;
        }
        slot.in_use -= 1;
        // Whoever used it, and however, left it clean.
        slot.succeeded |= change == Poll::Ready(State::Idle);
        if self.check(index, now, effects) {
            self.becomes_free(index, now, effects);
        }
    }

    /// Looks at the connection at `index`, and closes or drains it when it is gone. Whether it can go on.
    fn check(&mut self, index: usize, now: impl Fn() -> Instant + Copy, effects: &mut Effects<C>) -> bool {
        let slot = &mut self.slots[index];
        match slot.watch() {
            Poll::Pending => {
                if slot.reading {
                    // It need not say when it is idle again.
                    let at = after(now(), self.limits.tick());
                    self.look_by(at, effects);
                }
                return true;
            }
            Poll::Ready(State::Draining) if !slot.is_idle() => {
                let reason = slot.close_reason();
                self.drain(index, reason, effects);
            }
            Poll::Ready(_) => self.close_gone(index, now(), effects),
        }
        false
    }

    /// The connection at `index` has room again: closes it if its time has come, else offers it.
    fn becomes_free(&mut self, index: usize, now: impl Fn() -> Instant + Copy, effects: &mut Effects<C>) {
        let slot = &mut self.slots[index];
        let looked_into = std::mem::take(&mut slot.looked_into);
        let over = match slot.draining {
            Some(reason) => Some(reason),
            None if self.closed => Some(CloseReason::Shutdown),
            // With `min_idle` it goes on until its replacement is there.
            None if slot.expired && self.limits.min_idle == 0 => Some(CloseReason::Lifetime),
            None => None,
        };
        if let Some(reason) = over {
            return self.discard(index, reason, now, effects);
        }
        if !looked_into {
            self.stamp(index, now, effects);
        }
        if self.gives_way(index) {
            return self.close(index, CloseReason::Evicted, now(), effects);
        }
        while self.slots.get(index).is_some_and(Slot::has_room) && self.queue.is_waited_for(index) {
            let Some(grant) = self.take(index, now, effects) else { return };
            match self.queue.serve(index, Ok(grant)) {
                Ok(waker) => effects.wake(waker),
                Err(_) => unreachable!("somebody waits"),
            }
            self.claims_less(effects);
        }
        if self.slots[index].is_idle() {
            self.list(index);
            if self.slots[index].expired {
                self.retire_replaced(now(), effects);
            }
        }
    }

    /// Notes when the connection at `index` was used.
    fn stamp(&mut self, index: usize, now: impl Fn() -> Instant, effects: &mut Effects<C>) {
        if !self.clock.fresh {
            self.clock.now = now();
            self.clock.fresh = true;
            let at = after(self.clock.now, self.limits.tick());
            self.look_by(at, effects);
        }
        self.clock.used = true;
        let slot = &mut self.slots[index];
        slot.idle_since = self.clock.now;
        slot.trimmed = false;
    }

    /// Whether the connection at `index`, back from its call, makes room for another endpoint: it does if nobody waits for
    /// it here. It also does for an endpoint that has none at all, if it is one of several, or if that endpoint has waited
    /// for longer than anybody here.
    fn gives_way(&self, index: usize) -> bool {
        let Some(hunger) = &self.hunger else { return false };
        if !self.slots[index].is_idle() || self.queue.is_pinned_to(index) {
            return false;
        }
        match hunger.get() {
            Want::Nobody => false,
            Want::Some => self.queue.is_empty(),
            Want::Destitute => {
                self.slots.len() > 1 || self.queue.first_since().is_none_or(|own| hunger.since() < Some(own))
            }
        }
    }

    fn list(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.exclusive {
            slot.listed = true;
            let since = slot.idle_since;
            // At the end, but for those that were only looked into: they keep their place.
            let before = self.idle.iter().rev().take_while(|other| self.slots[**other].idle_since > since).count();
            self.idle.insert(self.idle.len() - before, index);
        }
    }

    /// Takes the one that is handed out next out of the list.
    #[inline]
    fn pop_next(&mut self) {
        match self.limits.idle_order {
            IdleOrder::MostRecent => drop(self.idle.pop_back()),
            IdleOrder::LeastRecent => {
                self.idle.pop_front();
                self.surplus.saw(self.idle.len());
            }
        }
    }

    fn unlist(&mut self, index: usize) {
        if std::mem::take(&mut self.slots[index].listed) {
            if self.next_idle() == Some(index) {
                self.pop_next();
            } else {
                self.idle.retain(|idle| *idle != index);
                self.surplus.saw(self.idle.len());
            }
        }
    }

    // === Watching ===

    /// What ends the call on this connection, unless it is out of its slot.
    pub(crate) fn ring(&self, slot: SlotId) -> Option<Arc<Ring>> {
        self.slots.get(slot.index).filter(|known| known.id == slot.id).map(|known| known.ring.clone())
    }

    /// The driver runs here, and keeps the time of whoever waits.
    pub(crate) fn driven_on(&mut self, runtime: Id) {
        self.driven_on = Some(runtime);
    }

    pub(crate) fn is_driven_on(&self, runtime: Id) -> bool {
        self.driven_on == Some(runtime)
    }

    /// The driver has to look at this time at the latest.
    fn look_by(&mut self, at: Instant, effects: &mut Effects<C>) {
        if self.look_at.is_none_or(|look| look > at) {
            self.look_at = Some(at);
            effects.wake_driver = true;
        }
    }

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
        self.watchers.iter().for_each(|(_, waker)| effects.wake(waker.clone()));
    }
}

pub(crate) fn closed() -> Error {
    Error::new(Kind::Closed, Phase::Queue).with_message("the pool is closed")
}

fn unpinned() -> Error {
    Error::new(Kind::PinLost, Phase::Queue)
        .with_message("the connection that the call is pinned to is gone, or takes no more calls; begin with a new pin")
}
