//! What is kept for sessions: bounded, forgotten when idle, and found by a hash of the key, so that a key of a mebibyte
//! costs no more to keep than one of eight bytes.
//!
//! An entry has the step of the clock in which it was last used, and its turn in the order. A use moves it to the back only if
//! that changes the one or matters for the other: within an eighth of the capacity from the back it stays where it is,
//! since moving touches the cache lines of three others. So the order is by step, the front says what has been idle for
//! longest, and who is evicted has not been used while seven eighths of the others were.

use tokio::time::Instant;
use towline_core::sync::Lock;
use towline_core::{Rng, SessionKey};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::StickyStats;
use crate::clock::{Clock, Tick};
use crate::recent::{Id, Recent};

struct Entry<V> {
    value: V,
    used: Tick,
    turn: u32,
}

/// One shard: takes the time, locks nothing, counts nothing.
struct Entries<V> {
    /// Whoever was used last is at the back.
    map: Recent<Entry<V>>,
    capacity: usize,
    idle: Tick,
    /// How often anything was moved to the back.
    turn: u32,
}

/// Entries that a call drops because they have been idle for too long, besides its own.
const PER_CALL: usize = 2;
/// And a sweep, of each shard.
const PER_SWEEP: usize = 64;

impl<V> Entries<V> {
    fn new(capacity: usize, idle: Tick) -> Self {
        Self { map: Recent::new(), capacity, idle, turn: 0 }
    }

    /// Whether that has been idle for too long. What is of a step to come is of this one: clocks are set by several.
    fn is_over(&self, used: Tick, now: Tick) -> bool {
        let age = now.wrapping_sub(used);
        age > self.idle && age < Tick::MAX / 2
    }

    /// Uses an entry, unless it has been idle for too long. What was dropped is added to `expired`.
    #[inline]
    fn get(&mut self, id: Id, now: Tick, expired: &mut usize) -> Option<&mut V> {
        let slack = (self.capacity / 8) as u32;
        let place = self.map.find(id)?;
        let Entry { used, turn, .. } = *self.map.get(place);
        if used != now && self.is_over(used, now) {
            self.map.remove(place);
            *expired += 1;
            return None;
        }
        if used != now || self.turn.wrapping_sub(turn) > slack {
            self.turn = self.turn.wrapping_add(1);
            let entry = self.map.get(place);
            (entry.used, entry.turn) = (now, self.turn);
            self.map.move_to_back(place);
        }
        Some(&mut self.map.get(place).value)
    }

    /// Drops entries that have been idle for too long, `most` at most; how many.
    fn expire(&mut self, now: Tick, most: usize) -> usize {
        let mut dropped = 0;
        while dropped < most && self.map.front().is_some_and(|entry| self.is_over(entry.used, now)) {
            self.map.pop_front();
            dropped += 1;
        }
        dropped
    }

    fn is_full(&self) -> bool {
        self.map.len() >= self.capacity
    }

    /// Adds an entry that is not there.
    fn insert(&mut self, id: Id, value: V, now: Tick) {
        self.turn = self.turn.wrapping_add(1);
        self.map.insert(id, Entry { value, used: now, turn: self.turn });
    }
}

/// Apart in memory: a lock that is taken must not slow down its neighbours.
#[repr(align(128))]
struct Shard<V>(Lock<Entries<V>>);

/// What is kept for sessions, in shards.
pub(crate) struct Kept<V> {
    shards: Box<[Shard<V>]>,
    clock: Clock,
    seed: u64,
    stats: StickyStats,
}

/// A shard has at least this capacity, so that none is much fuller than the others.
const PER_SHARD: usize = 1_024;
const MOST_SHARDS: usize = 64;

impl<V: Clone> Kept<V> {
    /// Room for `capacity` of them, at least one.
    pub(crate) fn new(capacity: usize, clock: Clock, stats: StickyStats) -> Self {
        let shards = 1 << (capacity / PER_SHARD).clamp(1, MOST_SHARDS).ilog2();
        let shard = |index| {
            let capacity = capacity / shards + usize::from(index < capacity % shards);
            Shard(Lock::new(Entries::new(capacity, clock.idle())))
        };
        Self { shards: (0..shards).map(shard).collect(), clock, seed: Rng::new().next_u64(), stats }
    }

    /// What `session` is known by among those of this `scope`: XXH3 of 128 bits, seeded at random, so that nobody outside can
    /// choose keys that fall together. Two sessions that did would share what is kept; among a million that is one chance in
    /// 10²⁶.
    #[inline]
    pub(crate) fn id(&self, session: &SessionKey, scope: u64) -> Id {
        let hash = xxh3_128_with_seed(session.as_bytes(), self.seed ^ scope);
        Id { high: (hash >> 64) as u64, low: hash as u64 }
    }

    #[inline]
    fn shard(&self, id: Id) -> &Lock<Entries<V>> {
        // The map looks at the other half.
        &self.shards[id.high as usize % self.shards.len()].0
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn stats(&self) -> &StickyStats {
        &self.stats
    }

    /// Whether there is something for this session. Does not use it.
    pub(crate) fn has(&self, id: Id) -> bool {
        let mut entries = self.shard(id).lock();
        let used = entries.map.find(id).map(|place| entries.map.get(place).used);
        used.is_some_and(|used| !entries.is_over(used, self.clock.read()))
    }

    /// Uses what is kept for a session; makes it if there is nothing, in place of what was used longest ago if there is no
    /// room. Whoever comes at the same time gets the same.
    #[inline]
    pub(crate) fn get_or_make(&self, id: Id, make: impl FnOnce() -> V) -> V {
        let mut expired = 0;
        let mut entries = self.shard(id).lock();
        if let Some(value) = entries.get(id, self.clock.read(), &mut expired) {
            return value.clone();
        }
        // The clock is read where that matters little, so that what nobody drives goes by time as well.
        let now = self.clock.set(Instant::now());
        expired += entries.expire(now, PER_CALL);
        let evicts = entries.is_full();
        if evicts {
            entries.map.pop_front();
        }
        let value = make();
        entries.insert(id, value.clone(), now);
        drop(entries);
        self.count(expired, evicts);
        value
    }

    /// As [`get_or_make`](Self::get_or_make), of those for whom time is read at every use; `None` if there is no room.
    pub(crate) fn get_or_add(&self, id: Id, make: impl FnOnce() -> V) -> Option<V> {
        let now = self.clock.set(Instant::now());
        let mut expired = 0;
        let mut entries = self.shard(id).lock();
        if let Some(value) = entries.get(id, now, &mut expired) {
            return Some(value.clone());
        }
        expired += entries.expire(now, PER_CALL);
        let added = (!entries.is_full()).then(|| {
            let value = make();
            entries.insert(id, value.clone(), now);
            value
        });
        drop(entries);
        self.stats.expired(expired);
        if added.is_some() {
            self.stats.entered();
        }
        added
    }

    /// Changes what is kept for a session, if there is anything.
    pub(crate) fn change<R>(&self, id: Id, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let mut expired = 0;
        let mut entries = self.shard(id).lock();
        let changed = entries.get(id, self.clock.read(), &mut expired).map(change);
        drop(entries);
        self.stats.expired(expired);
        changed
    }

    /// Forgets a session; whether there was one.
    pub(crate) fn remove(&self, id: Id) -> bool {
        let mut entries = self.shard(id).lock();
        let removed = entries.map.find(id).map(|place| entries.map.remove(place));
        drop(entries);
        self.stats.left(usize::from(removed.is_some()));
        removed.is_some()
    }

    /// Drops some of what has been idle for too long, in all shards; whether there may be more.
    pub(crate) fn sweep(&self) -> bool {
        let now = self.clock.set(Instant::now());
        let mut more = false;
        for shard in &self.shards {
            let mut entries = shard.0.lock();
            let expired = entries.expire(now, PER_SWEEP);
            if expired == PER_SWEEP {
                more = true;
            } else {
                entries.map.shrink();
            }
            drop(entries);
            self.stats.expired(expired);
        }
        more
    }

    /// After a new one.
    fn count(&self, expired: usize, evicts: bool) {
        self.stats.expired(expired);
        self.stats.entered();
        if evicts {
            self.stats.evicted();
        }
    }
}

impl<V> Drop for Kept<V> {
    fn drop(&mut self) {
        let entries = self.shards.iter().map(|shard| shard.0.lock().map.len()).sum();
        self.stats.left(entries);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> Id {
        Id { high: n, low: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    /// What [`Entries`] does, in the plainest way: pairs of key and step, whoever was used last at the end.
    #[derive(Default)]
    struct Model(Vec<(u64, Tick)>);

    impl Model {
        fn get(&mut self, key: u64, now: Tick, idle: Tick) -> bool {
            let Some(index) = self.0.iter().position(|(k, _)| *k == key) else { return false };
            let (_, used) = self.0.remove(index);
            let lives = now - used <= idle;
            if lives {
                self.0.push((key, now));
            }
            lives
        }
    }

    proptest! {
        // Below a capacity of eight there is no slack, and the order is exact.
        #[test]
        fn few_entries_are_the_model(
            capacity in 1..8usize,
            steps in vec((0..12u64, prop_oneof![3 => Just(0), 1 => 1..6u32], prop_oneof![4 => Just(false), 1 => Just(true)]), 1..200),
        ) {
            const IDLE: Tick = 5;
            let (mut entries, mut model, mut now) = (Entries::new(capacity, IDLE), Model::default(), 0);
            for (key, passes, sweeps) in steps {
                now += passes;
                let mut expired = 0;
                if sweeps {
                    entries.expire(now, usize::MAX);
                    model.0.retain(|(_, used)| now - used <= IDLE);
                }
                let found = entries.get(id(key), now, &mut expired).map(|value| *value);
                let known = model.get(key, now, IDLE);
                prop_assert_eq!(found, known.then_some(key));
                if !known {
                    if entries.is_full() {
                        entries.map.pop_front();
                    }
                    entries.insert(id(key), key, now);
                    if model.0.len() == capacity {
                        model.0.remove(0);
                    }
                    model.0.push((key, now));
                }
                let kept: Vec<_> = entries.map.iter().map(|entry| (entry.value, entry.used)).collect();
                prop_assert_eq!(&kept, &model.0);
            }
        }

        #[test]
        fn who_is_evicted_has_not_been_used_while_seven_eighths_of_the_others_were(
            capacity in 8..64usize,
            uses in vec((0..100u64, prop_oneof![9 => Just(0u32), 1 => Just(1)]), 1..500),
        ) {
            let (mut entries, mut history, mut now) = (Entries::new(capacity, 1_000), Vec::new(), 0);
            for (key, passes) in uses {
                now += passes;
                let mut expired = 0;
                if entries.get(id(key), now, &mut expired).is_none() {
                    if entries.is_full() {
                        let evicted = entries.map.pop_front().unwrap();
                        let since: std::collections::BTreeSet<_> =
                            history.iter().rev().take_while(|k| **k != evicted.value).collect();
                        prop_assert!(since.len() + 1 >= capacity - capacity / 8, "{} of {}", since.len(), capacity);
                    }
                    entries.insert(id(key), key, now);
                }
                history.push(key);
                prop_assert!(entries.map.len() <= capacity);
                // By step, so that the front says who is to expire.
                let used: Vec<_> = entries.map.iter().map(|entry| entry.used).collect();
                prop_assert!(used.is_sorted());
            }
        }
    }

    fn kept(capacity: usize, idle: Duration) -> (Kept<u64>, StickyStats) {
        let stats = StickyStats::new();
        (Kept::new(capacity, Clock::new(idle), stats.clone()), stats)
    }

    // F35
    #[tokio::test(start_paused = true)]
    async fn a_million_keys_that_come_once_leave_no_more_than_the_capacity() {
        let (kept, stats) = kept(10_000, Duration::from_secs(60));
        for n in 0..1_000_000u64 {
            kept.get_or_make(kept.id(&SessionKey::new(n.to_le_bytes()), 0), || n);
        }
        let entries: usize = kept.shards.iter().map(|shard| shard.0.lock().map.len()).sum();
        let counts = stats.counts();
        assert_eq!(counts.entries, entries as u64);
        assert!((9_500..=10_000).contains(&entries), "{entries}");
        assert_eq!(counts.evicted, 1_000_000 - counts.entries);
    }

    // F35
    #[tokio::test(start_paused = true)]
    async fn calls_drop_what_is_idle_in_their_shard_without_a_sweep() {
        let (kept, stats) = kept(1_000, Duration::from_secs(60));
        for n in 0..1_000 {
            kept.get_or_make(id(n), || n);
        }
        tokio::time::advance(Duration::from_secs(70)).await;
        for n in 1_000..1_500 {
            kept.get_or_make(id(n), || n);
        }
        let counts = stats.counts();
        assert_eq!((counts.entries, counts.expired, counts.evicted), (500, 1_000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_drops_a_bounded_part_and_gives_memory_back_in_the_end() {
        let (kept, stats) = kept(1_000, Duration::from_secs(60));
        for n in 0..1_000 {
            kept.get_or_make(id(n), || n);
        }
        tokio::time::advance(Duration::from_secs(50)).await;
        assert!(!kept.sweep() && stats.counts().entries == 1_000, "not yet");
        tokio::time::advance(Duration::from_secs(20)).await;
        let mut sweeps = 1;
        while kept.sweep() {
            assert_eq!(stats.counts().entries, 1_000 - 64 * sweeps);
            sweeps += 1;
        }
        assert_eq!((sweeps, stats.counts().entries), (16, 0));
        assert_eq!(kept.shards[0].0.lock().map.capacity(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_is_evicted_a_new_one_waits_for_room() {
        let (kept, stats) = kept(2, Duration::from_secs(60));
        assert_eq!((kept.get_or_add(id(1), || 1), kept.get_or_add(id(2), || 2)), (Some(1), Some(2)));
        assert_eq!(kept.get_or_add(id(3), || 3), None);
        assert_eq!(kept.get_or_add(id(1), || 9), Some(1));
        assert!(kept.remove(id(2)) && !kept.remove(id(2)));
        assert_eq!(kept.get_or_add(id(3), || 3), Some(3));
        tokio::time::advance(Duration::from_secs(70)).await;
        assert_eq!(kept.get_or_add(id(1), || 7), Some(7), "too late");
        assert_eq!(stats.counts().entries, 1);
        drop(kept);
        assert_eq!(stats.counts().entries, 0);
    }

    #[test]
    fn capacities_add_up_over_shards() {
        for capacity in [1, 7, 1_023, 1_024, 5_000, 100_000, 1_000_003] {
            let (kept, _stats) = kept(capacity, Duration::from_secs(1));
            assert_eq!(kept.shards.iter().map(|shard| shard.0.lock().capacity).sum::<usize>(), capacity);
            assert!(kept.shards.len().is_power_of_two());
        }
    }
}
