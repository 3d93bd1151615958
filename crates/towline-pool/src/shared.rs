//! The core behind its lock, and what happens outside it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use tokio::time::Instant;
use towline_core::sync::Lock;
use towline_core::{EndpointKey, Error, Event, Observers, Poolable, Rng, Room};

use crate::bell::Bell;
use crate::config::Limits;
use crate::core::{Core, DialPermit};
use crate::effects::Effects;

/// Starts the driver of an endpoint.
pub(crate) type SpawnDriver<C> = Box<dyn Fn(Arc<Shared<C>>) -> Result<(), Error> + Send + Sync>;

/// What handles and waiting calls hold: the pool is open as long as one of them is there.
pub(crate) struct Users<C: Poolable>(Arc<Shared<C>>);

impl<C: Poolable> Users<C> {
    pub(crate) fn of(shared: Shared<C>) -> Arc<Self> {
        let shared = Arc::new(shared);
        let users = Arc::new(Self(shared.clone()));
        *shared.users.lock() = Arc::downgrade(&users);
        users
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<C>> {
        &self.0
    }
}

impl<C: Poolable> std::ops::Deref for Users<C> {
    type Target = Arc<Shared<C>>;

    fn deref(&self) -> &Arc<Shared<C>> {
        &self.0
    }
}

impl<C: Poolable> Drop for Users<C> {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

/// One endpoint's pool: shared by its users, checkouts and the driver.
pub(crate) struct Shared<C: Poolable> {
    core: Lock<Core<C>>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) limits: Limits,
    pub(crate) name: EndpointKey,
    pub(crate) observers: Observers,
    users: Lock<Weak<Users<C>>>,
    /// What the core says of its room, readable without the lock.
    room: AtomicU8,
    driving: AtomicBool,
    spawn: SpawnDriver<C>,
}

const ROOMS: [Room; 4] = [Room::Ready, Room::Cold, Room::Full, Room::Down];

impl<C: Poolable> Shared<C> {
    pub(crate) fn new(limits: Limits, name: EndpointKey, observers: Observers, spawn: SpawnDriver<C>) -> Self {
        let bell = Arc::<Bell>::default();
        let core = Core::new(limits, bell.clone(), Rng::new());
        Self {
            room: AtomicU8::new(core.room() as u8),
            core: Lock::new(core),
            bell,
            limits,
            name,
            observers,
            users: Lock::new(Weak::new()),
            driving: AtomicBool::new(false),
            spawn,
        }
    }

    /// Its users, unless the last is gone.
    pub(crate) fn users(&self) -> Option<Arc<Users<C>>> {
        self.users.lock().upgrade()
    }

    /// Changes the core, and does what follows from it once the lock is released.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Core<C>, &mut Effects<C>) -> R) -> R {
        let mut effects = Effects::default();
        let result = {
            let mut core = self.core.lock();
            let result = change(&mut core, &mut effects);
            self.room.store(core.room() as u8, Ordering::Release);
            result
        };
        let Effects { wake, closed, dropped, wake_driver } = effects;
        if wake_driver {
            self.bell.wake_driver();
        }
        wake.into_iter().for_each(Waker::wake);
        drop(dropped);
        for (connection, reason, dropped) in closed {
            drop(dropped);
            self.observers.emit(Event::Closed { endpoint: &self.name, connection, reason });
        }
        result
    }

    /// Reads the core.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&mut Core<C>) -> R) -> R {
        read(&mut self.core.lock())
    }

    pub(crate) fn room(&self) -> Room {
        ROOMS[usize::from(self.room.load(Ordering::Acquire))]
    }

    pub(crate) fn is_driven(&self) -> bool {
        self.driving.load(Ordering::Acquire)
    }

    /// Starts the driver unless it runs.
    pub(crate) fn drive(self: &Arc<Self>) -> Result<(), Error> {
        if !self.is_driven() && !self.driving.swap(true, Ordering::AcqRel) {
            return (self.spawn)(self.clone()); // A task that is refused is dropped, which says `undriven`.
        }
        Ok(())
    }

    /// The driver has ended, with these dials in progress; the next who waits starts another.
    pub(crate) fn undriven(&self, lost: Vec<DialPermit>) {
        let now = Instant::now();
        self.change(|core, effects| {
            // Under the lock: who is woken by this must find that nobody drives.
            self.driving.store(false, Ordering::Release);
            core.driver_gone(lost, now, effects);
        });
    }

    pub(crate) fn shut_down(&self) {
        let now = Instant::now();
        self.change(|core, effects| core.shut_down(now, effects));
    }
}

impl<C: Poolable> fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).field("limits", &self.limits).finish_non_exhaustive()
    }
}
