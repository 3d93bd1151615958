//! Handing connections out, and the queue of those who wait for one.

use std::cmp::Reverse;
use std::task::Waker;

use tokio::time::Instant;
use towline_core::{CloseReason, ConnectionId, Error, Kind, Phase, Poolable};

use super::{Core, Left, Lent, PickedUp, closed, unpinned};
use crate::effects::Effects;
use crate::limits::IdleOrder;
use crate::queue::{Place, Wait};
use crate::slot::{Grant, SlotId};
use crate::total::Want;

impl<C: Poolable> Core<C> {
    /// The most common cases of [`lend`](Self::lend), and nothing else: an idle connection, or a share of one, about which
    /// there is nothing to find out, and that has no effect on anybody. Tells whether it was used before.
    #[inline]
    pub(crate) fn take_idle(&mut self, into: &mut Option<C>) -> Option<(SlotId, bool)> {
        if self.shared > 0 && self.idle.is_empty() {
            return self.take_share(into);
        }
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

    #[inline]
    fn take_share(&mut self, into: &mut Option<C>) -> Option<(SlotId, bool)> {
        let simple = self.clock.fresh && !self.closed && self.limits.min_idle == 0;
        let index = self.roomiest().filter(|_| simple)?;
        let slot = self.slots.get_mut(index)?;
        if slot.ring.has_rung() || slot.calls + 1 >= slot.max_calls {
            return None;
        }
        // One that cannot be shared any more is closed by who comes the long way.
        *into = Some(slot.share()?);
        let (id, reused) = (SlotId { index, id: slot.id }, slot.calls > 0);
        slot.calls += 1;
        slot.in_use += 1;
        self.counts.reused += u64::from(reused);
        Some((id, reused))
    }

    /// Of shared connections that have room, the one with most of it.
    #[inline]
    fn roomiest(&self) -> Option<usize> {
        let with_room = self.slots.iter().filter(|(_, slot)| !slot.exclusive && slot.has_room());
        with_room.min_by_key(|(_, slot)| Reverse(slot.limit - slot.in_use)).map(|(index, _)| index)
    }

    pub(crate) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    pub(super) fn next_idle(&self) -> Option<usize> {
        match self.limits.idle_order {
            IdleOrder::MostRecent => self.idle.back().copied(),
            IdleOrder::LeastRecent => self.idle.front().copied(),
        }
    }

    /// A free connection at once; the caller waits otherwise. `pin` says that it has to be this one, and `patient` that a
    /// first failure of a dial is not to end the wait.
    pub(crate) fn lend(
        &mut self,
        pin: Option<ConnectionId>,
        patient: bool,
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
        if self.is_hopeless(patient) {
            // Somebody wants it: where there is a cap over all, its next dial is worth a place.
            effects.wake_driver |= !std::mem::replace(&mut self.missed, true) && self.hunger.is_some();
            return Err(self.unreachable());
        }
        if self.queue.len() >= self.limits.max_waiters {
            return Err(Error::new(Kind::Overloaded, Phase::Queue)
                .with_message(format!("the queue is full (max_waiters {})", self.limits.max_waiters)));
        }
        Ok(Lent::Wait(slot))
    }

    pub(super) fn pinned(&self, pin: ConnectionId) -> Result<usize, Error> {
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
    pub(super) fn claims_less(&self, effects: &mut Effects<C>) {
        effects.wake_driver |= self.queue.in_line() == 0 && self.is_wanted();
    }

    /// Whether other endpoints, or this one, claim a place.
    pub(super) fn is_wanted(&self) -> bool {
        self.hunger.as_ref().is_some_and(|hunger| hunger.get() != Want::Nobody)
    }

    /// A connection with room that is still alive: of exclusive ones by the idle order, of shared ones the one with most
    /// room left. Who waits goes before whoever asks.
    pub(super) fn take_free(&mut self, now: impl Fn() -> Instant + Copy, effects: &mut Effects<C>) -> Option<Grant<C>> {
        loop {
            let index = match self.next_idle() {
                Some(index) => Some(index),
                None if self.shared == 0 => None,
                None => self.roomiest(),
            };
            let Some(index) = index else {
                // One whose response was read since may be free: the driver has heard, and not had its turn.
                let (index, _) = self.slots.iter().find(|(_, slot)| slot.settling && slot.ring.has_rung())?;
                self.rang(index, now(), effects);
                continue;
            };
            if let Some(grant) = self.take(index, now, effects) {
                return Some(grant);
            }
        }
    }

    /// The connection at `index`, which has room; `None`, and it is closed, when it is not alive.
    pub(super) fn take(
        &mut self,
        index: usize,
        now: impl Fn() -> Instant + Copy,
        effects: &mut Effects<C>,
    ) -> Option<Grant<C>> {
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

    pub(super) fn hand_out(
        &mut self,
        index: usize,
        now: impl Fn() -> Instant + Copy,
        effects: &mut Effects<C>,
    ) -> Option<C> {
        let slot = &self.slots[index];
        // The driver may not have run yet since the peer went. And what was not used for long is looked at in any case:
        // the machine may have slept.
        if (slot.ring.has_rung() || !self.clock.fresh) && !self.check(index, now, effects) {
            return None;
        }
        let slot = &mut self.slots[index];
        let connection = if slot.exclusive { slot.connection.take() } else { slot.share() };
        let Some(connection) = connection else {
            self.close_gone(index, now(), effects);
            return None;
        };
        slot.in_use += 1;
        self.unlist(index);
        effects.wake_driver |= self.lasting_idle() < self.limits.min_idle;
        Some(connection)
    }

    /// Takes the one that is handed out next out of the list.
    #[inline]
    pub(super) fn pop_next(&mut self) {
        match self.limits.idle_order {
            IdleOrder::MostRecent => drop(self.idle.pop_back()),
            IdleOrder::LeastRecent => {
                self.idle.pop_front();
                self.surplus.saw(self.idle.len());
            }
        }
    }

    pub(super) fn unlist(&mut self, index: usize) {
        if std::mem::take(&mut self.slots[index].listed) {
            if self.next_idle() == Some(index) {
                self.pop_next();
            } else {
                self.idle.retain(|idle| *idle != index);
                self.surplus.saw(self.idle.len());
            }
        }
    }
}
