//! When a connection is made, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;
use towline_core::sync::after;
use towline_core::{ConnectionId, Error, Kind, Phase, Poolable, Rng, Sharing, TlsPeer};

use super::{Core, closed};
use crate::bell::Ring;
use crate::effects::{Effect, Effects};
use crate::slot::{Slot, limit_of};
use crate::total::Place;

/// The right to dial once; counted until it is handed back with the result.
#[must_use = "a permit that is not handed back counts as a dial for ever"]
pub(crate) struct DialPermit(Place);

/// What a dial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Somebody waits, or was refused because the last dial failed.
    Waiter,
    /// The last dial failed, and nobody has asked since.
    Recovery,
    /// Connections are wanted ahead.
    Warmth,
}

/// Who wants connections ahead, once.
pub(super) struct Warmth {
    /// As soon as the target is known.
    at_start: usize,
    wishes: Slab<Wish>,
}

struct Wish {
    want: usize,
    reached: bool,
    failures_before: u64,
}

impl Warmth {
    pub(super) fn new(at_start: usize) -> Self {
        Self { at_start, wishes: Slab::new() }
    }

    /// So many are wanted still.
    fn want(&self) -> usize {
        let wishes = self.wishes.iter().filter(|(_, wish)| !wish.reached).map(|(_, wish)| wish.want);
        wishes.max().unwrap_or(0).max(self.at_start)
    }

    /// So many are open. Once there are enough, connections come and go with the calls.
    fn reached(&mut self, live: usize) {
        if live >= self.at_start {
            self.at_start = 0;
        }
        self.wishes.iter_mut().for_each(|(_, wish)| wish.reached |= live >= wish.want);
    }
}

/// How long connections live, so that those which were opened together do not end together: at the start of a client, or after
/// a restart of the backend. One that takes the place of another which has lived its time has a time of its own already.
#[derive(Debug, Default)]
pub struct Lives {
    /// Those that have lived their time and were not replaced yet.
    worn_out: usize,
}

impl Lives {
    /// A connection has lived its time: said when that is over, since its replacement may begin before it ends.
    pub fn worn_out(&mut self) {
        self.worn_out += 1;
    }

    /// Another begins.
    pub fn begin(&mut self) -> Life {
        let is_first = self.worn_out == 0;
        self.worn_out = self.worn_out.saturating_sub(1);
        Life { is_first }
    }
}

/// Of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    is_first: bool,
}

impl Life {
    /// As a part of the limit.
    pub fn draw(self, rng: &mut Rng) -> f64 {
        let (low, span) = if self.is_first { (0.2, 0.8) } else { (0.9, 0.2) };
        low + span * rng.unit()
    }
}

impl<C: Poolable> Core<C> {
    /// Whether a dial is due, and for what.
    pub(crate) fn need(&self, now: Instant) -> Option<Need> {
        let live_or_dialling = self.slots.len() + self.dialling;
        if self.closed
            || live_or_dialling >= self.limits.max_connections
            || self.dialling >= self.limits.max_dials
            || self.reach.backs_off(now)
        {
            return None;
        }
        // The first dial goes alone: until it is done nobody knows how many calls a connection carries, and an
        // endpoint that is down needs one probe, not four.
        let alone = self.capacity.is_none() || self.reach.is_suspect();
        if alone && self.dialling > 0 {
            return None;
        }
        let down = self.is_down() && self.dialling == 0;
        if self.queue.in_line() > self.dialling.saturating_mul(self.capacity.unwrap_or(1)) || (down && self.missed) {
            Some(Need::Waiter)
        } else if down {
            Some(Need::Recovery)
        } else if live_or_dialling < self.warmth.want() || self.lasting_idle() + self.dialling < self.limits.min_idle {
            Some(Need::Warmth)
        } else {
            None
        }
    }

    /// Connections that nobody uses and whose time is not over.
    pub(super) fn lasting_idle(&self) -> usize {
        if self.limits.min_idle == 0 {
            return 0;
        }
        // One that is being looked into is as good as idle.
        let idle = |slot: &Slot<C>| slot.checking || (slot.is_idle() && slot.has_room());
        self.slots.iter().filter(|(_, slot)| idle(slot) && !slot.expired).count()
    }

    /// A dial begins, if it is still due.
    pub(crate) fn start_dial(&mut self, place: Place, now: Instant) -> Result<DialPermit, Place> {
        if self.need(now).is_none() {
            return Err(place);
        }
        self.dialling += 1;
        self.missed = false;
        Ok(DialPermit(place))
    }

    /// A dial has ended well: whichever came first, this or a return, serves the oldest waiter.
    pub(crate) fn dial_succeeded(
        &mut self,
        DialPermit(place): DialPermit,
        (connection, sharing): (C, Sharing),
        peer: Option<Arc<TlsPeer>>,
        now: Instant,
        effects: &mut Effects<C>,
    ) -> ConnectionId {
        self.dial_ended(effects);
        let (limit, exclusive) = (limit_of(sharing), sharing == Sharing::Exclusive);
        // At least one, where a peer takes none for now: a dial is expected to serve somebody.
        self.capacity = Some(limit.max(1));
        self.shared += usize::from(!exclusive);
        self.reach.opened();
        self.counts.opened += 1;
        let part = self.lives.begin();
        let life = self.limits.max_lifetime.map(|life| after(now, times(life, part.draw(&mut self.rng))));
        let calls = self.limits.max_calls.map(|calls| calls as f64 * part.draw(&mut self.rng));
        let check_at = self.limits.check_every.map(|every| after(now, times(every, 0.9 + 0.2 * self.rng.unit())));
        let id = ConnectionId::fresh();
        let entry = self.slots.vacant_entry();
        let index = entry.key();
        let ring = Arc::new(Ring::new(self.bell.clone(), index));
        entry.insert(Slot {
            id,
            connection: Some(connection),
            exclusive,
            limit,
            in_use: 0,
            reading: false,
            calls: 0,
            max_calls: calls.map_or(u64::MAX, |calls| (calls as u64).max(1)),
            succeeded: false,
            settling: false,
            draining: None,
            expires: life,
            expired: false,
            born: now,
            idle_since: now,
            check_at,
            checking: false,
            looked_into: false,
            trimmed: true,
            listed: false,
            waker: ring.clone().into(),
            ring,
            place,
            peer,
        });
        for at in life.into_iter().chain(check_at) {
            self.look_by(at, effects);
        }
        let live = self.slots.len();
        self.warmth.reached(live);
        if self.check(index, || now, effects) {
            self.becomes_free(index, || now, effects);
        }
        self.retire_replaced(now, effects);
        id
    }

    /// A dial has failed. Waiters learn the cause at once, unless somebody can still serve them: another dial, a
    /// connection in use, or for the patient the next dial, if this was the first to fail. Returns when that may start.
    pub(crate) fn dial_failed(
        &mut self,
        permit: DialPermit,
        error: Error,
        now: Instant,
        effects: &mut Effects<C>,
    ) -> Instant {
        self.dial_given_up(permit, effects);
        self.counts.dials_failed += 1;
        let at = self.failed(error, now, effects);
        self.fail_whom_nobody_serves(effects);
        at
    }

    pub(crate) fn dial_given_up(&mut self, DialPermit(place): DialPermit, effects: &mut Effects<C>) {
        effects.others.push(Effect::Unused(place));
        self.dial_ended(effects);
    }

    fn dial_ended(&mut self, effects: &mut Effects<C>) {
        self.dialling -= 1;
        self.wake_watchers(effects);
        effects.wake_driver = true;
    }

    /// The endpoint could not be reached; when it may be dialled again.
    pub(super) fn failed(&mut self, error: Error, now: Instant, effects: &mut Effects<C>) -> Instant {
        let at = self.reach.failed(error, now, self.limits.dial_backoff, &mut self.rng);
        self.look_by(at, effects);
        at
    }

    pub(super) fn unreachable(&self) -> Error {
        let unknown = || Error::new(Kind::Unavailable, Phase::Dial);
        self.reach.last_error().cloned().unwrap_or_else(unknown)
    }

    /// Nothing is open or under way, and dials fail: whoever waits would wait for a backoff.
    pub(super) fn fail_whom_nobody_serves(&mut self, effects: &mut Effects<C>) {
        if self.is_empty() && self.is_hopeless(true) {
            self.fail_waiters(&self.unreachable(), effects);
        } else if self.is_empty() && self.is_hopeless(false) {
            let error = self.unreachable();
            while let Ok(waker) = self.queue.serve_first_impatient(Err(error.clone())) {
                effects.wake(waker);
            }
        }
    }

    /// Fails everybody in the line for any connection.
    pub(super) fn fail_waiters(&mut self, error: &Error, effects: &mut Effects<C>) {
        while let Ok(waker) = self.queue.serve_first(None, Err(error.clone())) {
            effects.wake(waker);
        }
    }

    // === Warmth ===

    /// Wants at least this many connections open, once and within the cap. Ask with the key, and end with it.
    pub(crate) fn start_warming(&mut self, connections: usize, effects: &mut Effects<C>) -> usize {
        let want = connections.min(self.limits.max_connections).min(self.limits.max_total.unwrap_or(usize::MAX));
        let reached = self.slots.len() >= want;
        effects.wake_driver |= !reached;
        self.warmth.wishes.insert(Wish { want, reached, failures_before: self.reach.failures() })
    }

    /// Whether they were all open at some time; the first failure since the wish ends it.
    pub(crate) fn is_warm(&self, key: usize) -> Option<Result<(), Error>> {
        let Wish { reached, failures_before, .. } = &self.warmth.wishes[key];
        if *reached {
            return Some(Ok(()));
        }
        if self.closed {
            return Some(Err(closed()));
        }
        (self.reach.failures() > *failures_before).then(|| Err(self.unreachable()))
    }

    pub(crate) fn end_warming(&mut self, key: usize) {
        self.warmth.wishes.remove(key);
    }
}

/// A part of `span`, or a little more than it; settings may be as long as "never".
pub(super) fn times(span: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(span.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}
