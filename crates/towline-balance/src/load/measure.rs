//! How endpoints do as a whole that are compared with each other.
//!
//! # When all are needed
//!
//! Probation keeps calls from who fails, so the others get them. That is right as long as they can take them. Where most of a
//! set fails it goes wrong by itself: whoever has not failed yet, perhaps because it is too slow to, gets the calls of all,
//! and then more than it can do. Its callers give up, which says nothing where all have queues, so it still has not
//! failed, while the others sit idle; and its queue is there long after whatever began this. An outage of servers behind these
//! endpoints is enough. So there nobody is kept from calls: who fails is called rather than who has a long queue, and is found
//! to be well by the first answer instead of by a probe seconds later.

use crate::sync::{AtomicBool, AtomicU32, Ordering};

/// What is usual grows by this with every sweep, twice in 70 s of sweeps: by then an overload is the rule.
const FORGETS: f32 = 1.001;

/// What is usual follows by this part of the difference with every sweep, downwards …
const FOLLOWS: f32 = 0.05;
/// … and in the first ones, until so many, upwards as well.
const YOUNG: u32 = 20;

/// Times the usual latency that the median is when a set has too much to do.
const OVERLOADED: f32 = 4.0;

/// Where all are needed, a call to who fails costs so many times what it would else: more than to who does well, and less
/// than to who has a queue.
pub(super) const NEEDED: f64 = OVERLOADED as f64;

/// How peers do as a whole. Written by the sweep.
#[derive(Debug)]
pub(crate) struct Measure {
    median: AtomicU32,
    limit: AtomicU32,
    usual: AtomicU32,
    needs_all: AtomicBool,
}

impl Default for Measure {
    fn default() -> Self {
        let (zero, infinite) = (0f32.to_bits(), f32::INFINITY.to_bits());
        Self {
            median: AtomicU32::new(zero),
            limit: AtomicU32::new(infinite),
            usual: AtomicU32::new(infinite),
            needs_all: AtomicBool::new(false),
        }
    }
}

impl Measure {
    /// The median of their latencies in nanoseconds, 0 before there is one.
    #[inline]
    pub(crate) fn median(&self) -> f32 {
        f32::from_bits(self.median.load(Ordering::Relaxed))
    }

    /// The latency in nanoseconds above which one of them is on probation.
    #[inline]
    pub(crate) fn limit(&self) -> f32 {
        f32::from_bits(self.limit.load(Ordering::Relaxed))
    }

    /// The median where there are no queues: about the least there was lately, in nanoseconds; infinite before there is
    /// one.
    #[inline]
    pub(crate) fn usual(&self) -> f32 {
        f32::from_bits(self.usual.load(Ordering::Relaxed))
    }

    /// Whether they queue as a whole.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.is_queue(self.median())
    }

    /// Whether who takes so long has a queue.
    fn is_queue(&self, latency: f32) -> bool {
        latency > OVERLOADED * self.usual()
    }

    /// Whether nobody may be kept from calls, because most of them fail and the others have more than they can do. That is over
    /// when the queues of the others are gone.
    #[inline]
    pub(crate) fn needs_all(&self) -> bool {
        self.needs_all.load(Ordering::Relaxed)
    }

    /// Sets what the `look`th sweep has found.
    pub(super) fn set(&self, median: f32, limit: f32, look: u32) {
        if median > 0.0 {
            let usual = self.usual();
            let usual = if usual == f32::INFINITY { median } else { usual };
            // One low median is chance, and so is the first.
            let step = (median - usual) * FOLLOWS;
            let usual = if look < YOUNG { usual + step } else { (usual + step).min(usual * FORGETS) };
            self.usual.store(usual.to_bits(), Ordering::Relaxed);
        }
        self.median.store(median.to_bits(), Ordering::Relaxed);
        self.limit.store(limit.to_bits(), Ordering::Relaxed);
    }

    /// Sets whether most of them fail, and how long the others take.
    pub(super) fn set_failing(&self, most_fail: bool, others: Option<f32>) {
        let needs_all = (most_fail || self.needs_all()) && others.is_some_and(|latency| self.is_queue(latency));
        self.needs_all.store(needs_all, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use towline_core::{EndpointKey, Outcome};

    use crate::load::{Admission, Clock, Flight, Levels, Nanos, Settings, Stats, Sweep};
    use crate::sync::AtomicU64;

    const MS: Nanos = 1_000_000;
    const SECOND: Nanos = 1_000 * MS;

    /// A set that has answered in 10 ms for a while, until a second.
    struct Calm {
        levels: Arc<Levels>,
        sweep: Sweep,
        all: Vec<Arc<Stats>>,
    }

    impl Calm {
        fn of(endpoints: usize) -> Self {
            let levels = Levels::new(Settings::default(), Clock::Manual(AtomicU64::new(0)));
            let all = (0..endpoints).map(|index| Stats::new(EndpointKey::new(index.to_string()), levels.clone()));
            let mut calm = Self { all: all.collect(), levels, sweep: Sweep::default() };
            for look in 1..=30 {
                (0..endpoints).for_each(|index| calm.ends(index, look * 30 * MS, 10 * MS, Outcome::Success));
                calm.look(look * 30 * MS);
            }
            calm
        }

        /// A call to one of them ends at `now`.
        fn ends(&self, index: usize, now: Nanos, took: Nanos, outcome: Outcome) {
            let flight = Flight::begin(self.all[index].clone(), now - took).unwrap();
            flight.end_at(now, Some(outcome));
        }

        fn fail(&self, indices: std::ops::Range<usize>, now: Nanos) {
            indices.for_each(|index| (0..2).for_each(|_| self.ends(index, now, MS, Outcome::Failure)));
        }

        fn look(&mut self, now: Nanos) {
            self.sweep.run(&self.levels, self.all.iter(), now);
        }

        fn admit(&self, now: Nanos) -> Vec<Admission> {
            self.all.iter().map(|stats| stats.admits(now)).collect()
        }
    }

    #[test]
    fn who_fails_is_needed_when_most_do_and_the_others_queue_and_only_then() {
        for (failing, latency, expected) in
            [(3, 41, Admission::Yes), (3, 39, Admission::No), (2, 41, Admission::No), (4, 41, Admission::No)]
        {
            let mut set = Calm::of(4);
            set.fail(0..failing, SECOND);
            (failing..4).for_each(|index| set.ends(index, SECOND, latency * MS, Outcome::Success));
            set.look(SECOND);
            let admitted = set.admit(SECOND + MS);
            assert!(admitted[..failing].iter().all(|admission| *admission == expected), "{failing}: {admitted:?}");
        }
    }

    #[test]
    fn who_has_asked_to_be_left_alone_is_where_all_are_needed() {
        let mut set = Calm::of(4);
        set.fail(0..3, SECOND);
        set.ends(0, SECOND, MS, Outcome::Pushback(Some(Duration::from_secs(9))));
        set.ends(3, SECOND, 900 * MS, Outcome::Success);
        set.look(SECOND);
        assert_eq!(set.admit(SECOND + MS), [Admission::No, Admission::Yes, Admission::Yes, Admission::Yes]);
    }

    #[test]
    fn who_fails_and_is_needed_is_dearer_than_who_is_well_and_cheaper_than_who_has_a_queue() {
        let mut set = Calm::of(7);
        set.fail(0..4, SECOND);
        (5..7).for_each(|index| set.ends(index, SECOND, 41 * MS, Outcome::Success));
        set.look(SECOND);
        let [fails, is_well, queues] = [0, 4, 5].map(|index: usize| set.all[index].load(SECOND, 1.0));
        assert!(is_well < fails && fails < queues, "{is_well}, {fails}, {queues}");
    }

    #[test]
    fn who_fails_is_needed_until_the_queues_of_the_others_are_gone() {
        let mut set = Calm::of(4);
        set.fail(0..3, SECOND);
        set.ends(3, SECOND, 41 * MS, Outcome::Success);
        set.look(SECOND);
        set.ends(0, SECOND + 50 * MS, 41 * MS, Outcome::Success);
        set.look(SECOND + 60 * MS);
        let later = SECOND + 70 * MS;
        assert_eq!(set.admit(later)[1..3], [Admission::Yes; 2], "two of four are not most, but the others queue");
        (0..2).for_each(|_| set.ends(0, later, 10 * MS, Outcome::Success));
        set.look(later);
        assert_eq!(set.admit(later + MS)[1..3], [Admission::No; 2]);
    }
}
