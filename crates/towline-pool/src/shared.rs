//! The core behind its lock, and what happens outside it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Weak};

use tokio::time::Instant;
use towline_core::{CloseReason, EndpointKey, Error, Event, LoadReport, Observers, Poolable, Rng, Room, TlsPeer};

use crate::bell::{Bell, Ring};
use crate::core::{Core, DialPermit, Need, Returned, Use};
use crate::effects::{Closed, Effect, Effects};
use crate::limits::Limits;
use crate::slot::{SlotId, ask};
use crate::stats::Stats;
use crate::sync::{AtomicBool, AtomicU8, AtomicUsize, Guard, Lock, Ordering};
use crate::total::{Member, Place, Total};

/// Starts the driver of an endpoint.
pub(crate) type SpawnDriver<C> = Box<dyn Fn(Weak<Shared<C>>) -> Result<(), Error> + Send + Sync>;

/// One endpoint's pool: open as long as a handle, a call or a checkout holds it. The driver does not.
pub(crate) struct Shared<C: Poolable> {
    core: Lock<Core<C>>,
    /// What the core says of its room, readable without the lock.
    room: AtomicU8,
    driving: AtomicBool,
    /// Has had a driver: then it has something to look after.
    was_driven: AtomicBool,
    /// Health checks that hold the pool: they are no reason to keep it.
    pub(crate) checks: AtomicUsize,
    pub(crate) bell: Arc<Bell>,
    pub(crate) limits: Limits,
    pub(crate) name: EndpointKey,
    pub(crate) observers: Observers,
    total: Option<Share<C>>,
    /// What endpoints did that are gone.
    past: Arc<Lock<Stats>>,
    reports: Reports,
    itself: Weak<Self>,
    spawn: SpawnDriver<C>,
}

/// What the server says about itself, for whoever wants to know.
#[derive(Default)]
struct Reports {
    /// Somebody has asked: until then connections are not.
    wanted: AtomicBool,
    last: Lock<Option<LoadReport>>,
}

/// An endpoint's part in the cap over all.
struct Share<C: Poolable> {
    total: Arc<Total>,
    itself: Weak<dyn Member>,
    /// Places that came for what was claimed, while a driver is there to use them.
    granted: Lock<Option<Vec<Place>>>,
    _connections: std::marker::PhantomData<fn(C)>,
}

const ROOMS: [Room; 4] = [Room::Ready, Room::Cold, Room::Full, Room::Down];

/// What an endpoint has in common with the others of its pool.
pub(crate) struct Common {
    pub(crate) limits: Limits,
    pub(crate) observers: Observers,
    pub(crate) total: Option<Arc<Total>>,
    pub(crate) past: Arc<Lock<Stats>>,
}

impl<C: Poolable> Shared<C> {
    pub(crate) fn new(name: EndpointKey, common: &Common, spawn: SpawnDriver<C>) -> Arc<Self> {
        let bell = Arc::new(Bell::new());
        let hunger = common.total.as_ref().map(|total| total.hunger());
        let core = Core::new(common.limits, bell.clone(), hunger, Rng::new(), Instant::now());
        let shared = Arc::new_cyclic(|itself: &Weak<Self>| Self {
            room: AtomicU8::new(core.room() as u8),
            core: Lock::new(core),
            driving: AtomicBool::new(false),
            was_driven: AtomicBool::new(false),
            checks: AtomicUsize::new(0),
            bell,
            limits: common.limits,
            name,
            observers: common.observers.clone(),
            total: common.total.clone().map(|total| Share {
                total,
                itself: itself.clone(),
                granted: Lock::new(None),
                _connections: std::marker::PhantomData,
            }),
            past: common.past.clone(),
            reports: Reports::default(),
            itself: itself.clone(),
            spawn,
        });
        if let Some(share) = &shared.total {
            share.total.join(share.itself.clone());
        }
        shared
    }

    /// Changes the core, and does what follows from it once the lock is released.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Core<C>, &mut Effects<C>) -> R) -> R {
        self.change_locked(self.core.lock(), change)
    }

    fn change_locked<R>(
        &self,
        mut core: Guard<'_, Core<C>>,
        change: impl FnOnce(&mut Core<C>, &mut Effects<C>) -> R,
    ) -> R {
        let mut effects = Effects::default();
        let result = change(&mut core, &mut effects);
        self.publish(core.room());
        drop(core);
        let Effects { wake_driver, wake, others } = effects;
        if wake_driver {
            self.call_driver();
        }
        if let Some(waker) = wake {
            waker.wake();
        }
        if !others.is_empty() {
            self.follow(others);
        }
        result
    }

    /// Somebody has to look after the pool, also when the last driver ended with its runtime. Where none can be started,
    /// whoever waits next will hear of it.
    fn call_driver(&self) {
        if self.is_driven() {
            self.bell.wake_driver();
        } else if self.was_driven.load(Ordering::Acquire) {
            let _refused = self.drive();
        }
    }

    /// Whom others wait for comes first: what is foreign may panic, and then does so last.
    fn follow(&self, effects: Vec<Effect<C>>) {
        let mut closed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Wake(waker) => waker.wake(),
                Effect::Unused(place) => drop(place),
                Effect::Closed(Closed { id, reason, connection, cut, ring, waker, place }) => {
                    drop(place);
                    closed.push((id, reason, connection, cut, ring, waker));
                }
            }
        }
        let mut panic = None;
        for (connection, reason, gone, cut, ring, waker) in closed {
            let end = || {
                end(gone, cut.then_some(&*ring));
                drop((ring, waker));
                self.observers.emit(Event::Closed { endpoint: &self.name, connection, reason });
            };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(end)) {
                panic.get_or_insert(payload);
            }
        }
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Others read it all the time: it is written only when it is new.
    fn publish(&self, room: Room) {
        if self.room.load(Ordering::Relaxed) != room as u8 {
            self.room.store(room as u8, Ordering::Release);
        }
    }

    /// An idle connection, if that has no further effect: most calls need no more. Tells whether it was used before.
    #[inline]
    pub(crate) fn take_idle(&self, into: &mut Option<C>) -> Option<(SlotId, bool)> {
        let mut core = self.core.lock();
        let taken = core.take_idle(into);
        if !core.has_idle() {
            self.publish(core.room());
        }
        taken
    }

    /// An idle connection as of [`take_idle`](Self::take_idle), or else what `change` makes of the core, under one lock: a
    /// return between "nothing is free" and "I wait" would be lost.
    pub(crate) fn take_idle_or<R>(
        &self,
        into: &mut Option<C>,
        change: impl FnOnce(&mut Core<C>, &mut Effects<C>) -> R,
    ) -> Result<(SlotId, bool), R> {
        let mut core = self.core.lock();
        match core.take_idle(into) {
            Some(taken) => {
                self.publish(core.room());
                Ok(taken)
            }
            None => Err(self.change_locked(core, change)),
        }
    }

    /// Takes back what was lent, if it is still there, see [`Core::give_back`].
    pub(crate) fn give_back(&self, slot: SlotId, lent: &mut Option<C>, mut how: Use) {
        if how.succeeded && self.reports.wanted.load(Ordering::Relaxed) {
            match lent.as_ref().map(|connection| ask(|| connection.reported())) {
                Some(Some(Some(report))) => *self.reports.last.lock() = Some(report),
                Some(None) => how.end = Some(CloseReason::Failed), // It panicked.
                Some(Some(None)) | None => {}
            }
        }
        let mut core = self.core.lock();
        match core.give_back_clean(slot, lent, how) {
            Returned::Idle => self.publish(Room::Ready),
            Returned::Share => self.publish(core.room()),
            Returned::HandedOver(waker) => {
                drop(core);
                waker.wake();
            }
            Returned::NotSimple => {
                if let Some(connection) = lent.take() {
                    let give_back = |core: &mut Core<C>, effects: &mut Effects<C>| {
                        core.give_back(slot, connection, how, Instant::now, effects)
                    };
                    drop(self.change_locked(core, give_back));
                }
            }
        }
    }

    /// What a server said with an answer since this was last asked.
    pub(crate) fn reported(&self) -> Option<LoadReport> {
        self.reports.wanted.store(true, Ordering::Relaxed);
        self.reports.last.lock().take()
    }

    /// Reads the core.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&mut Core<C>) -> R) -> R {
        read(&mut self.core.lock())
    }

    pub(crate) fn room(&self) -> Room {
        ROOMS[usize::from(self.room.load(Ordering::Acquire))]
    }

    /// What ends the call on an exclusive connection.
    pub(crate) fn peer(&self, slot: SlotId) -> Option<Arc<TlsPeer>> {
        self.read(|core| core.peer(slot))
    }

    pub(crate) fn ring(&self, slot: SlotId) -> Option<Arc<Ring>> {
        self.read(|core| core.ring(slot))
    }

    // === The driver ===

    pub(crate) fn is_driven(&self) -> bool {
        self.driving.load(Ordering::Acquire)
    }

    /// Starts the driver unless it runs.
    pub(crate) fn drive(&self) -> Result<(), Error> {
        if !self.is_driven() && !self.driving.swap(true, Ordering::AcqRel) {
            self.was_driven.store(true, Ordering::Release);
            if let Some(share) = &self.total {
                *share.granted.lock() = Some(Vec::new());
            }
            return (self.spawn)(self.itself.clone()); // A task that is refused is dropped, which says `undriven`.
        }
        Ok(())
    }

    /// The driver has ended, with these dials in progress; the next who waits starts another.
    pub(crate) fn undriven(&self, lost: Vec<DialPermit>) {
        let now = Instant::now();
        let unused = self.total.as_ref().and_then(|share| {
            share.total.withdraw(&share.itself);
            share.granted.lock().take()
        });
        self.change(|core, effects| {
            // Under the lock: who is woken by this must find that nobody drives.
            self.driving.store(false, Ordering::Release);
            core.driver_gone(lost, now, effects);
            // The next return, or whoever waits, starts another: not this one, whose runtime may be ending.
            effects.wake_driver = false;
        });
        drop(unused);
    }

    /// Room for another connection, where there is a cap over all.
    pub(crate) fn place(&self, need: Need, now: Instant) -> Option<Place> {
        let Some(share) = &self.total else { return Some(Place::default()) };
        if let Some(place) = share.granted() {
            return Some(place);
        }
        match need {
            Need::Waiter => {
                let destitute = self.read(|core| core.is_empty());
                share.total.claim(&share.itself, destitute).or_else(|| {
                    share.total.evict();
                    share.granted()
                })
            }
            // Nobody waits for it: no reason to close what others use.
            Need::Recovery => share.total.take(),
            Need::Warmth => share.total.take().or_else(|| {
                self.change(|core, effects| core.retire(now, effects));
                share.total.take()
            }),
        }
    }

    /// Nothing is to be dialled now.
    pub(crate) fn wants_no_place(&self) {
        if let Some(share) = &self.total {
            share.total.withdraw(&share.itself);
            while let Some(place) = share.granted() {
                drop(place);
            }
        }
    }

    pub(crate) fn shut_down(&self) {
        let now = Instant::now();
        self.change(|core, effects| core.shut_down(now, effects));
    }
}

impl<C: Poolable> Share<C> {
    fn granted(&self) -> Option<Place> {
        self.granted.lock().as_mut()?.pop()
    }
}

/// A connection that is closed; with the calls on it, if they are to end.
fn end<C: Poolable>(mut connection: Option<C>, cut: Option<&Ring>) {
    if let Some(ring) = cut {
        ring.cut();
        if let Some(connection) = &mut connection {
            connection.abort();
        }
    }
}

impl<C: Poolable> Member for Shared<C> {
    fn offer(&self, place: Place) -> Option<Place> {
        let Some(share) = &self.total else { return Some(place) };
        match &mut *share.granted.lock() {
            Some(granted) => granted.push(place),
            None => return Some(place),
        }
        self.bell.wake_driver();
        None
    }

    fn least_recent(&self) -> Option<Instant> {
        self.read(|core| core.least_recent())
    }

    fn evict_least_recent(&self) -> bool {
        let now = Instant::now();
        self.change(|core, effects| core.evict_least_recent(now, effects))
    }
}

// Whoever held the pool is gone: connections close, and the driver ends.
impl<C: Poolable> Drop for Shared<C> {
    fn drop(&mut self) {
        let now = Instant::now();
        if let Some(share) = &self.total {
            share.total.withdraw(&share.itself);
        }
        self.was_driven.store(false, Ordering::Release); // There is nothing to drive for.
        let last = self.change(|core, effects| {
            core.shut_down(now, effects);
            core.end_all(now, effects);
            core.stats()
        });
        *self.past.lock() += last.counters();
        self.bell.wake_driver();
    }
}

impl<C: Poolable> fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).field("limits", &self.limits).finish_non_exhaustive()
    }
}
