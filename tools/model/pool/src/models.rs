//! The models.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering}; // Not loom's: it counts what loom does.

use loom::thread;
use towline_core::{Error, Kind};

use crate::sync::Lock;
use crate::total::{Member, Place, Total};
use crate::toys::{Lending, acquire, ask, assert_at_rest, drive, endpoint, open, until_empty};

/// Checks all schedules up to so many preemptions, and says how many there were.
fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions)); // LOOM_MAX_PREEMPTIONS goes before.
    let schedules = Arc::new(AtomicU64::new(0));
    let count = schedules.clone();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        check();
    });
    let (thread, schedules) = (std::thread::current(), schedules.load(Ordering::Relaxed));
    // Not by a macro, whose output cargo shows of failed tests only.
    writeln!(std::io::stderr(), "{}: {schedules} schedules", thread.name().unwrap_or("model")).unwrap();
}

#[test]
fn callers_of_one_connection_lose_no_wake_up_and_none_has_it_with_another() {
    model(3, || {
        let pool = endpoint(1, None);
        open(&pool);
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || drop(acquire(&pool).unwrap()))
            })
            .collect();
        drop(acquire(&pool).unwrap());
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        assert_at_rest(&pool, 1);
    });
}

#[test]
fn a_waiter_that_leaves_at_any_time_passes_on_what_it_was_given() {
    model(3, || {
        let pool = endpoint(1, None);
        open(&pool);
        let held = acquire(&pool).unwrap();
        let mut leaves = Lending::new(&pool);
        assert!(ask(&mut leaves).is_pending());
        let stays = {
            let pool = pool.clone();
            thread::spawn(move || drop(acquire(&pool).unwrap()))
        };
        let returns = thread::spawn(move || drop(held));
        drop(leaves);
        returns.join().unwrap();
        stays.join().unwrap();
        assert_at_rest(&pool, 1);
    });
}

#[test]
fn nobody_overtakes_who_waits() {
    model(3, || {
        let pool = endpoint(1, None);
        open(&pool);
        let held = acquire(&pool).unwrap();
        let mut first = Lending::new(&pool);
        assert!(ask(&mut first).is_pending());
        let newcomer = {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut newcomer = Lending::new(&pool);
                ask(&mut newcomer).is_ready()
            })
        };
        let returns = thread::spawn(move || drop(held));
        assert!(!newcomer.join().unwrap(), "the first has not picked up what is its own");
        returns.join().unwrap();
        assert!(ask(&mut first).is_ready());
        assert_at_rest(&pool, 1);
    });
}

#[test]
fn a_dial_and_a_return_serve_one_waiter_each_whichever_comes_first() {
    model(2, || {
        let pool = endpoint(2, None);
        open(&pool);
        let held = acquire(&pool).unwrap();
        let driver = drive(&pool);
        let other = {
            let pool = pool.clone();
            thread::spawn(move || acquire(&pool).unwrap())
        };
        drop(held);
        let own = acquire(&pool).unwrap();
        drop((own, other.join().unwrap()));
        let live = pool.read(|core| core.stats().live);
        assert!((1..=2).contains(&live));
        assert_at_rest(&pool, live);
        pool.shut_down();
        driver.join().unwrap();
        assert_at_rest(&pool, 0);
    });
}

#[test]
fn a_connection_that_dies_is_replaced_whoever_has_it_and_counted_once() {
    model(2, || {
        let pool = endpoint(1, None);
        let wire = open(&pool);
        let driver = drive(&pool);
        let dies = thread::spawn(move || wire.close());
        // A connection that dies before it served anybody is as good as a failed dial.
        let served = |held: Result<_, Error>| held.map_or_else(|error| error.kind() == Kind::Unavailable, |_held| true);
        assert!(served(acquire(&pool)));
        dies.join().unwrap();
        assert!(served(acquire(&pool)));
        pool.shut_down();
        driver.join().unwrap();
        assert_at_rest(&pool, 0);
        let stats = pool.read(|core| core.stats());
        assert!((1..=2).contains(&stats.opened), "{stats:?}");
    });
}

#[test]
fn an_idle_connection_that_dies_is_closed_without_a_caller() {
    model(3, || {
        let pool = endpoint(1, None);
        let wire = open(&pool);
        drop(acquire(&pool).unwrap()); // it was well, so nothing is dialled in its place
        let driver = drive(&pool);
        let dies = thread::spawn(move || wire.close());
        until_empty(&pool);
        dies.join().unwrap();
        pool.shut_down();
        driver.join().unwrap();
        assert_at_rest(&pool, 0);
    });
}

#[test]
fn a_pool_that_is_closed_tells_whoever_waits_and_keeps_nothing() {
    model(3, || {
        let pool = endpoint(1, None);
        open(&pool);
        let held = acquire(&pool).unwrap();
        let waits = {
            let pool = pool.clone();
            thread::spawn(move || drop(acquire(&pool)))
        };
        let closes = {
            let pool = pool.clone();
            thread::spawn(move || pool.shut_down())
        };
        drop(held);
        waits.join().unwrap();
        closes.join().unwrap();
        assert_at_rest(&pool, 0);
    });
}

#[test]
fn two_endpoints_with_one_place_between_them_both_get_their_turn() {
    model(2, || {
        let total = Arc::new(Total::new(1));
        let (a, b) = (endpoint(1, Some(&total)), endpoint(1, Some(&total)));
        open(&a);
        let drivers = drive(&b);
        let other = {
            let b = b.clone();
            thread::spawn(move || drop(acquire(&b).unwrap()))
        };
        // It may lose its only connection to the other before it comes to this.
        let mut own = Lending::new(&a);
        drop(ask(&mut own));
        drop(own);
        other.join().unwrap();
        b.shut_down();
        drivers.join().unwrap();
        assert_at_rest(&b, 0);
        let live = a.read(|core| core.stats().live);
        assert_at_rest(&a, live);
        assert!(total.take().is_some() == (live == 0), "the place is where the connection is");
    });
}

#[test]
fn a_place_that_becomes_free_while_it_is_claimed_is_somebodys() {
    #[derive(Default)]
    struct Claimant(Lock<Vec<Place>>);
    impl Member for Claimant {
        fn offer(&self, place: Place) -> Option<Place> {
            self.0.lock().push(place);
            None
        }
        fn least_recent(&self) -> Option<tokio::time::Instant> {
            None
        }
        fn evict_least_recent(&self) -> bool {
            false
        }
    }
    model(3, || {
        let total = Arc::new(Total::new(1));
        let place = total.take().unwrap();
        let claimant = Arc::<Claimant>::default();
        let member = Arc::downgrade(&claimant) as std::sync::Weak<dyn Member>;
        total.join(member.clone());
        let drops = thread::spawn(move || drop(place));
        let own = total.claim(&member, true);
        drops.join().unwrap();
        let offered = std::mem::take(&mut *claimant.0.lock());
        assert_eq!(usize::from(own.is_some()) + offered.len(), 1);
    });
}
