//! Taking connections back, and what becomes of them then.

use std::task::{Context, Poll};

use tokio::time::Instant;
use towline_core::sync::after;
use towline_core::{CloseReason, Poolable, State};

use super::{Core, Returned, Use};
use crate::effects::Effects;
use crate::slot::{Grant, Slot, SlotId, look};
use crate::total::Want;

impl<C: Poolable> Core<C> {
    /// The common cases of [`give_back`](Self::give_back), and nothing else: a connection that was left clean, whose time
    /// is not over, and that goes to the oldest waiter or, if there is none, becomes idle. Takes nothing otherwise.
    ///
    /// The connection is asked under the lock: to ask it before, its ring would have to go along, which costs what it saves.
    #[inline]
    pub(crate) fn give_back_clean(&mut self, id: SlotId, lent: &mut Option<C>, how: Use) -> Returned {
        let simple = self.clock.fresh && !self.closed && !self.is_wanted() && how.end.is_none() && !how.check;
        if self.shared > 0 && simple && self.give_back_share(id, how) {
            return Returned::Share;
        }
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
        slot.succeeded |= how.used;
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

    /// A share comes back of a connection that carries other calls and that nobody waits for: whether that was all.
    fn give_back_share(&mut self, id: SlotId, how: Use) -> bool {
        let is_suspect = self.reach.is_suspect();
        let known = self.slots.get_mut(id.index).filter(|known| known.id == id.id);
        let is_shared = |slot: &&mut Slot<C>| !slot.exclusive && slot.draining.is_none() && !slot.checking;
        let Some(slot) = known.filter(is_shared).filter(|slot| slot.in_use > 1 && !slot.ring.has_rung()) else {
            return false;
        };
        if !self.queue.is_empty() || how.succeeded && (!slot.succeeded || is_suspect) || !slot.learn_limit() {
            return false;
        }
        slot.in_use -= 1;
        slot.idle_since = self.clock.now;
        slot.trimmed = false;
        self.clock.used = true;
        true
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
        if let Some(reason) = how.end {
            self.drain(index, reason, effects);
        }
        let slot = &mut self.slots[index];
        slot.looked_into |= how.check;
        if exclusive {
            slot.connection = Some(connection);
            self.settle(index, how.used, now, effects);
            return None;
        }
        slot.in_use -= 1;
        if !slot.learn_limit() {
            self.close_gone(index, now(), effects);
            return Some(connection);
        }
        // The last call leaves it idle, unless a response is still being read.
        let look = slot.in_use == 0 || slot.ring.has_rung();
        if !look || self.check(index, now, effects) {
            self.becomes_free(index, now, effects);
        }
        Some(connection)
    }

    /// An exclusive connection is back; it has room again once its last response is read.
    pub(super) fn settle(
        &mut self,
        index: usize,
        used: bool,
        now: impl Fn() -> Instant + Copy,
        effects: &mut Effects<C>,
    ) {
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
        slot.succeeded |= used && change == Poll::Ready(State::Idle);
        if self.check(index, now, effects) {
            self.becomes_free(index, now, effects);
        }
    }

    /// Looks at the connection at `index`, and closes or drains it when it is gone. Whether it can go on.
    pub(super) fn check(&mut self, index: usize, now: impl Fn() -> Instant + Copy, effects: &mut Effects<C>) -> bool {
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
    pub(super) fn becomes_free(&mut self, index: usize, now: impl Fn() -> Instant + Copy, effects: &mut Effects<C>) {
        let slot = &mut self.slots[index];
        let looked_into = std::mem::take(&mut slot.looked_into);
        if let Some(reason) = slot.draining.or(self.closed.then_some(CloseReason::Shutdown)) {
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
        }
    }

    /// Notes when the connection at `index` was used.
    pub(super) fn stamp(&mut self, index: usize, now: impl Fn() -> Instant, effects: &mut Effects<C>) {
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
    pub(super) fn gives_way(&self, index: usize) -> bool {
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

    pub(super) fn list(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.exclusive {
            slot.listed = true;
            let since = slot.idle_since;
            // At the end, but for those that were only looked into: they keep their place.
            let before = self.idle.iter().rev().take_while(|other| self.slots[**other].idle_since > since).count();
            self.idle.insert(self.idle.len() - before, index);
        }
    }
}
