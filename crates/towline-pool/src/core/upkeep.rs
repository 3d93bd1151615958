//! What becomes of connections: looking after them, and ending them.

use std::time::Duration;

use tokio::time::Instant;
use towline_core::sync::after;
use towline_core::{CloseReason, ConnectionId, Error, Kind, Phase, Poolable};

use super::dials::times;
use super::{Core, DialPermit, closed};
use crate::effects::{Closed, Effect, Effects};
use crate::limits::IdleOrder;
use crate::slot::{Grant, Slot, SlotId};

/// A connection that its peer ends within this time, before it served a call, counts as a failed dial. One that ends
/// later was well, and idle.
const EARLY: Duration = Duration::from_secs(1);

/// How a connection ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The pool has no use for it.
    ByUs,
    /// The same, and the calls on it end too.
    Cut,
    /// It said so.
    ByItself,
}

/// How many connections nobody needed. When the least recently used one is handed out first, none is ever idle for
/// long, however many there are: what tells is the lowest number of idle ones over a while.
#[derive(Default)]
pub(super) struct Surplus {
    low: usize,
    ends: Option<Instant>,
}

impl Surplus {
    pub(super) fn saw(&mut self, idle: usize) {
        self.low = self.low.min(idle);
    }

    /// The lowest number in the window that has ended, if one has; the next begins.
    fn ended(&mut self, idle: usize, now: Instant, window: Duration) -> Option<usize> {
        let ended = self.ends.is_some_and(|at| at <= now);
        let low = ended.then_some(self.low);
        if ended || self.ends.is_none() {
            *self = Self { low: idle, ends: Some(after(now, window)) };
        }
        low
    }
}

/// The earliest of several times.
#[derive(Default)]
struct Next(Option<Instant>);

impl Next {
    fn at(&mut self, at: impl IntoIterator<Item = Instant>) {
        self.0 = self.0.into_iter().chain(at).min();
    }
}

impl<C: Poolable> Core<C> {
    // === Looking after connections ===

    /// The connection at `index` rang: it may be gone, or have settled.
    pub(crate) fn rang(&mut self, index: usize, now: Instant, effects: &mut Effects<C>) {
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.ring.has_rung()) else { return };
        if slot.settling {
            // Its response was read: it was used.
            return self.settle(index, true, || now, effects);
        }
        if slot.connection.is_none() {
            return slot.ring.rearm(); // Lent: whoever has it will find out.
        }
        let (limit, reading) = (slot.limit, slot.reading);
        if self.check(index, || now, effects) {
            let slot = &self.slots[index];
            if slot.limit > limit || (reading && slot.is_idle()) {
                self.becomes_free(index, || now, effects);
            }
        }
    }

    pub(crate) fn looks_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Does what is due: tells callers that their wait is over, closes connections whose time has come, gives memory of
    /// idle ones back.
    pub(crate) fn look(&mut self, now: Instant, effects: &mut Effects<C>) {
        self.correct_stamps(now);
        let used = self.clock.used;
        self.clock = super::Clock { now, fresh: used, used: false };
        let mut next = Next::default();
        next.at(used.then(|| after(now, self.limits.tick())));
        next.at(self.reach.not_before().filter(|at| *at > now));
        next.at(self.end_waits(None, now, effects));
        self.look_at_idle(now, &mut next, effects);
        self.look_at_ages(now, &mut next, effects);
        self.trim_surplus(now, &mut next, effects);
        self.look_at = next.0;
    }

    /// The driver comes late, where its runtime stood still: what came back meanwhile did so nobody knows when.
    fn correct_stamps(&mut self, now: Instant) {
        let stamp = self.clock.now;
        let late = self.clock.fresh && now > after(stamp, self.limits.tick() * 2);
        if late && self.clock.used {
            let since_then = self.slots.iter_mut().filter(|(_, slot)| slot.idle_since >= stamp);
            since_then.for_each(|(_, slot)| slot.idle_since = now);
        }
    }

    /// Fails whoever has waited in this line for long enough; when to look again.
    fn end_waits(&mut self, slot: Option<usize>, now: Instant, effects: &mut Effects<C>) -> Option<Instant> {
        while let Some(until) = self.queue.first_until(slot) {
            if until > now {
                return Some(until);
            }
            let error = self.waited_in_vain(self.limits.wait_deadline);
            if let Ok(waker) = self.queue.serve_first(slot, Err(error)) {
                effects.wake(waker);
            }
        }
        None
    }

    /// What a caller hears who waited this long, in a queue that it is still in.
    pub(crate) fn waited_in_vain(&self, waited: Duration) -> Error {
        let stats = self.stats();
        let total =
            self.limits.max_total.map(|max| format!(", max_total {max} over all endpoints")).unwrap_or_default();
        let error = Error::new(Kind::Timeout, Phase::Queue).with_message(format!(
            "no connection within {} ms: {} in use, {} dialling, {} waiting (max_connections {}{total})",
            waited.as_millis(),
            stats.in_use,
            stats.dialling,
            stats.waiting,
            self.limits.max_connections,
        ));
        match self.last_error() {
            Some(cause) => error.with_source(cause.clone()),
            None => error,
        }
    }

    /// Closes what is idle for too long, but for what `min_idle` keeps, and trims what was not used for two ticks.
    fn look_at_idle(&mut self, now: Instant, next: &mut Next, effects: &mut Effects<C>) {
        // A shared connection need not say that it is idle again.
        for index in self.indices(|slot| slot.reading) {
            self.slots[index].ring.note();
            effects.wake_driver = true;
            next.at([after(now, self.limits.tick())]);
        }
        let mut spare =
            self.slots.iter().filter(|(_, slot)| slot.is_idle()).count().saturating_sub(self.limits.min_idle);
        let trim = self.limits.tick() * 2;
        let (mut over, mut broken) = (Vec::new(), Vec::new());
        // Those that were idle for longest first.
        let mut idle: Vec<_> = self.slots.iter().filter(|(_, slot)| slot.is_idle()).map(|(index, _)| index).collect();
        idle.sort_by_key(|index| self.slots[*index].idle_since);
        for index in idle {
            let slot = &mut self.slots[index];
            if let Some(limit) = self.limits.idle_timeout.filter(|_| spare > 0) {
                let until = after(slot.idle_since, limit);
                if until <= now {
                    spare -= 1;
                    over.push(index);
                    continue;
                }
                next.at([until]);
            }
            if !slot.trimmed && slot.exclusive {
                let at = after(slot.idle_since, trim);
                if at > now {
                    next.at([at]);
                } else if !slot.trim() {
                    broken.push(index);
                }
            }
        }
        broken.into_iter().for_each(|index| self.close_gone(index, now, effects));
        over.into_iter().for_each(|index| self.close(index, CloseReason::IdleTimeout, now, effects));
    }

    /// Retires what is old, ends waits for single connections, and finds when health checks are due.
    fn look_at_ages(&mut self, now: Instant, next: &mut Next, effects: &mut Effects<C>) {
        for (_, slot) in &mut self.slots {
            if !slot.expired && slot.expires.is_some_and(|at| at <= now) {
                slot.expired = true;
                self.lives.worn_out();
            }
            next.at(slot.expires.filter(|_| !slot.expired));
            // What is due begins as soon as there is room for one more check.
            next.at(slot.check_at.filter(|at| *at > now && slot.is_idle() && !slot.checking));
        }
        self.retire_replaced(now, effects);
        for index in self.indices(|_| true) {
            next.at(self.end_waits(Some(index), now, effects));
        }
    }

    /// Closes what is old: at once, unless `min_idle` wants its replacement to be there first and there is room for one.
    pub(super) fn retire_replaced(&mut self, now: Instant, effects: &mut Effects<C>) {
        let grows = !self.closed && self.slots.len() + self.dialling < self.limits.max_connections && !self.is_down();
        let keep = self.limits.min_idle.saturating_sub(self.lasting_idle());
        let old = self.indices(|slot| slot.expired);
        let idle = old.iter().filter(|index| self.slots[**index].is_idle()).count();
        let mut retire = if grows { idle.saturating_sub(keep) } else { idle };
        for index in old {
            if !self.slots[index].is_idle() {
                self.drain(index, CloseReason::Lifetime, effects);
            } else if retire > 0 {
                retire -= 1;
                self.close(index, CloseReason::Lifetime, now, effects);
            }
        }
    }

    /// There is no room for a replacement: what is old goes without.
    pub(crate) fn retire(&mut self, now: Instant, effects: &mut Effects<C>) {
        for index in self.indices(|slot| slot.expired && slot.is_idle()) {
            self.close(index, CloseReason::Lifetime, now, effects);
        }
    }

    fn trim_surplus(&mut self, now: Instant, next: &mut Next, effects: &mut Effects<C>) {
        let (IdleOrder::LeastRecent, Some(window)) = (self.limits.idle_order, self.limits.idle_timeout) else { return };
        if self.idle.is_empty() {
            self.surplus = Surplus::default();
            return;
        }
        let unused = self.surplus.ended(self.idle.len(), now, window).unwrap_or(0);
        for _ in self.limits.min_idle..unused {
            let Some(index) = self.idle.front().copied() else { break };
            self.close(index, CloseReason::Surplus, now, effects);
        }
        next.at(self.surplus.ends);
    }

    // === Health checks ===

    /// An idle connection whose health is to be checked.
    pub(crate) fn start_check(&mut self, now: Instant, effects: &mut Effects<C>) -> Option<Grant<C>> {
        let due = |slot: &Slot<C>| slot.is_idle() && slot.has_room() && slot.check_at.is_some_and(|at| at <= now);
        let every = self.limits.check_every?;
        for index in self.indices(due) {
            let (rest, idle_since) = (times(every, 0.9 + 0.2 * self.rng.unit()), self.slots[index].idle_since);
            // One that was used in the meantime was well then.
            let at = after(idle_since, rest);
            self.slots[index].check_at = Some(if at > now { at } else { after(now, rest) });
            if at > now {
                self.look_by(at, effects);
                continue;
            }
            self.slots[index].checking = true;
            let slot = SlotId { index, id: self.slots[index].id };
            if let Some(connection) = self.hand_out(index, || now, effects) {
                // Not a call: it does not wear the connection out.
                return Some(Grant { connection, slot, reused: self.slots[index].calls > 0 });
            }
        }
        None
    }

    /// A health check has ended: with the connection unfit if it `failed`.
    pub(crate) fn checked(&mut self, id: ConnectionId, failed: bool, now: Instant, effects: &mut Effects<C>) {
        let Some((index, slot)) = self.slots.iter_mut().find(|(_, slot)| slot.id == id) else { return };
        slot.checking = false;
        let check_at = slot.check_at;
        if failed {
            self.discard(index, CloseReason::Unhealthy, || now, effects);
        } else if let Some(at) = check_at {
            self.look_by(at, effects);
        }
    }

    // === Ending ===

    /// Closes every connection, after the calls on it.
    pub(crate) fn evict(&mut self, now: Instant, effects: &mut Effects<C>) {
        for index in self.indices(|_| true) {
            self.discard(index, CloseReason::Evicted, || now, effects);
        }
    }

    /// Closes this connection, after the calls on it.
    pub(super) fn discard(
        &mut self,
        index: usize,
        reason: CloseReason,
        now: impl Fn() -> Instant,
        effects: &mut Effects<C>,
    ) {
        if self.slots[index].is_idle() {
            self.close(index, reason, now(), effects);
        } else {
            self.drain(index, reason, effects);
        }
    }

    /// This connection takes no more calls, and is closed after those it has.
    pub(super) fn drain(&mut self, index: usize, reason: CloseReason, effects: &mut Effects<C>) {
        self.slots[index].draining.get_or_insert(reason);
        self.unpin(index, effects);
    }

    /// When the least recently used idle connection was used.
    pub(crate) fn least_recent(&self) -> Option<Instant> {
        self.least_recently_used().map(|index| self.slots[index].idle_since)
    }

    /// Makes its place free for another endpoint.
    pub(crate) fn evict_least_recent(&mut self, now: Instant, effects: &mut Effects<C>) -> bool {
        let index = self.least_recently_used();
        if let Some(index) = index {
            self.close(index, CloseReason::Evicted, now, effects);
        }
        index.is_some()
    }

    fn least_recently_used(&self) -> Option<usize> {
        let shared = || {
            let idle = self.slots.iter().filter(|(_, slot)| !slot.exclusive && slot.is_idle());
            idle.min_by_key(|(_, slot)| slot.idle_since).map(|(index, _)| index)
        };
        self.idle.front().copied().or_else(shared)
    }

    /// No more lending; waiters fail, idle connections close, those in use when they come back.
    pub(crate) fn shut_down(&mut self, now: Instant, effects: &mut Effects<C>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.fail_waiters(&closed(), effects);
        for index in self.indices(|_| true) {
            while let Ok(waker) = self.queue.serve_first(Some(index), Err(closed())) {
                effects.wake(waker);
            }
            if self.slots[index].is_idle() {
                self.close(index, CloseReason::Shutdown, now, effects);
            }
        }
        self.wake_watchers(effects);
        effects.wake_driver = true;
    }

    /// Ends the calls in flight of a pool that is closed.
    pub(crate) fn cut(&mut self, now: Instant, effects: &mut Effects<C>) {
        self.indices(|_| true)
            .into_iter()
            .for_each(|index| self.end(index, CloseReason::Shutdown, End::Cut, now, effects));
    }

    /// Nobody holds the pool any more: whatever its connections still read goes on without it.
    pub(crate) fn end_all(&mut self, now: Instant, effects: &mut Effects<C>) {
        self.indices(|_| true).into_iter().for_each(|index| self.close(index, CloseReason::Shutdown, now, effects));
    }

    /// The driver is gone: with its runtime, by a panic, or because nothing is left to do. What it was dialling is
    /// lost; what lived on its runtime may be. Whoever waits is woken, to start another.
    pub(crate) fn driver_gone(&mut self, lost: Vec<DialPermit>, now: Instant, effects: &mut Effects<C>) {
        (self.look_at, self.clock.fresh, self.driven_on) = (None, false, None);
        for index in self.indices(Slot::is_idle) {
            self.close(index, CloseReason::Shutdown, now, effects);
        }
        self.indices(|slot| slot.checking).into_iter().for_each(|index| self.slots[index].checking = false);
        let dialling = !lost.is_empty();
        lost.into_iter().for_each(|permit| self.dial_given_up(permit, effects));
        if dialling {
            let error = Error::new(Kind::Runtime, Phase::Dial).with_message("the pool's task ended while it dialled");
            self.failed(error, now, effects);
            self.fail_whom_nobody_serves(effects);
        }
        self.queue.wakers().for_each(|waker| effects.wake(waker));
        self.wake_watchers(effects);
    }

    fn indices(&self, which: impl Fn(&Slot<C>) -> bool) -> Vec<usize> {
        self.slots.iter().filter(|(_, slot)| which(slot)).map(|(index, _)| index).collect()
    }

    /// Closes a connection that says itself that it takes no more calls.
    pub(super) fn close_gone(&mut self, index: usize, now: Instant, effects: &mut Effects<C>) {
        let slot = &self.slots[index];
        let reason = match (slot.close_reason(), slot.draining) {
            // Cut short, because of something that was known before.
            (CloseReason::Dirty, Some(draining)) => draining,
            (reason, _) => reason,
        };
        self.end(index, reason, End::ByItself, now, effects);
    }

    pub(super) fn close(&mut self, index: usize, reason: CloseReason, now: Instant, effects: &mut Effects<C>) {
        self.end(index, reason, End::ByUs, now, effects);
    }

    fn end(&mut self, index: usize, reason: CloseReason, how: End, now: Instant, effects: &mut Effects<C>) {
        self.unlist(index);
        self.unpin(index, effects);
        let slot = self.slots.remove(index);
        self.shared -= usize::from(!slot.exclusive);
        self.counts.closed.count(reason);
        if reason == CloseReason::MaxCalls {
            self.lives.worn_out();
        }
        // A backend that accepts and hangs up is as unreachable as one that refuses: without this, dials to it would
        // follow each other without a pause. So is one whose connections are dead when they come, of whatever.
        let is_peers = matches!(reason, CloseReason::Peer | CloseReason::Untrusted);
        let served_nobody = !slot.succeeded && (slot.calls == 0 || is_peers);
        let early = now.saturating_duration_since(slot.born) < EARLY;
        if how == End::ByItself && served_nobody && early {
            let error = match reason {
                CloseReason::Untrusted => Error::new(Kind::Tls, Phase::Handshake).with_message(
                    "the peer does not accept our certificate, or wants one: it said so after the last handshake",
                ),
                CloseReason::Peer => Error::new(Kind::Unavailable, Phase::Dial).with_message(
                    "the peer closed the last connection before it served a call (does it expect TLS, or none?)",
                ),
                reason => Error::new(Kind::Unavailable, Phase::Dial)
                    .with_message(format!("the last connection ended before it served a call ({reason})")),
            };
            self.failed(error, now, effects);
        }
        self.fail_whom_nobody_serves(effects);
        let Slot { id, connection, ring, waker, place, .. } = slot;
        let cut = how == End::Cut;
        effects.others.push(Effect::Closed(Closed { id, reason, connection, cut, ring, waker, place }));
        if self.slots.is_empty() {
            self.wake_watchers(effects);
        }
        // Its place in the cap is free, and somebody may wait for one.
        effects.wake_driver = true;
    }

    /// Tells those who wait for the connection at `index` that it takes no more calls.
    fn unpin(&mut self, index: usize, effects: &mut Effects<C>) {
        while let Ok(waker) = self.queue.serve_first(Some(index), Err(super::unpinned())) {
            effects.wake(waker);
        }
    }
}
