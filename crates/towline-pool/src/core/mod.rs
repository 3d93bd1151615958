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
mod lending;
mod returning;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Id;
use tokio::time::Instant;
use towline_core::{CloseReason, Error, Kind, Phase, Poolable, Rng, Room, TlsPeer};

pub use self::dials::Lives;
pub(crate) use self::dials::{DialPermit, Need};
use crate::bell::{Bell, Ring};
use crate::effects::Effects;
use crate::limits::Limits;
use crate::queue::Queue;
use crate::reach::Reach;
use crate::slot::{Grant, Slot, SlotId};
use crate::stats::{Closed, Stats};
use crate::total::Hunger;

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
    /// Somebody was refused since the last dial.
    missed: bool,
    /// Calls that one connection carries; known from the first one on.
    capacity: Option<usize>,
    reach: Reach,
    surplus: upkeep::Surplus,
    warmth: dials::Warmth,
    lives: Lives,
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
    /// The connection carries other calls.
    Share,
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
    /// Whoever had it can have done something with it.
    pub(crate) used: bool,
    /// It is to be closed, for this reason.
    pub(crate) end: Option<CloseReason>,
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
            missed: false,
            capacity: None,
            reach: Reach::default(),
            warmth: dials::Warmth::new(limits.warm),
            lives: Lives::default(),
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

    /// Nothing is open and the last dial failed.
    fn is_down(&self) -> bool {
        self.slots.is_empty() && self.reach.is_down()
    }

    /// Whether who waits would wait for a backoff, and is not patient enough to wait for one that is short.
    fn is_hopeless(&self, patient: bool) -> bool {
        self.is_down() && !(patient && self.reach.is_unclear())
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

    // === Watching ===

    /// What ends the call on this connection, unless it is out of its slot.
    pub(crate) fn ring(&self, slot: SlotId) -> Option<Arc<Ring>> {
        self.slots.get(slot.index).filter(|known| known.id == slot.id).map(|known| known.ring.clone())
    }

    /// Who is at the other end of this connection.
    pub(crate) fn peer(&self, slot: SlotId) -> Option<Arc<TlsPeer>> {
        self.slots.get(slot.index).filter(|known| known.id == slot.id).and_then(|known| known.peer.clone())
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
