//! Calls that are about something: what servers have at hand, and whether calls about the same go to the same server.

use std::collections::{BTreeMap, HashMap};

use super::config::{Keys, SECONDS};
use crate::chance::{Rng, Zipf};
use crate::strategy::{Key, ServerId};

/// No server may have more calls in flight than so many times the mean, rounded up.
pub(crate) const BOUND: f64 = 1.25;
/// From the beginning of the hot key until it counts.
const SETTLES: u64 = 5 * SECONDS;

/// What is counted. All but `over` from when the hot key has settled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    /// Calls that were admitted above the bound, at any time.
    pub(crate) over: u64,
    /// The most calls that a server had when one was admitted there, over the mean.
    pub(crate) max_mean: f64,
    /// Calls about keys that alone have less than half of what a server may have, and how many of them went home.
    pub(crate) cool: u64,
    pub(crate) at_home: u64,
    /// All calls, and by home those about cool keys.
    pub(crate) calls: u64,
    pub(crate) cool_by_home: Vec<u64>,
    /// Calls that went elsewhere than home, and how many of them filled a server up to the bound.
    pub(crate) overflow: u64,
    pub(crate) filling: u64,
    /// Of those about cool keys that did so again, and how many of them had the same second choice as before.
    pub(crate) again: u64,
    pub(crate) to_second: u64,
    /// Calls about the hot key, by server.
    pub(crate) hot: Vec<u64>,
    pub(crate) looked_up: u64,
    pub(crate) missed: u64,
}

impl Followed {
    /// Calls about cool keys that could have gone home if every server had nothing else, and its part of all calls by the bound.
    pub(crate) fn at_home_at_most(&self) -> u64 {
        let most = BOUND * self.calls as f64 / self.cool_by_home.len() as f64;
        self.cool_by_home.iter().map(|calls| (*calls).min(most as u64)).sum()
    }
}

pub(crate) struct Keyed {
    keys: Keys,
    zipf: Zipf,
    /// Keys that any server has been asked for.
    known: Vec<bool>,
    /// By server.
    caches: Vec<Cache>,
    in_flight: Vec<u32>,
    /// On all servers.
    calls: u32,
    /// Where a key went last when it did not go home.
    last: HashMap<Key, ServerId>,
    followed: Followed,
}

impl Keyed {
    pub(crate) fn new(keys: Keys, servers: u32) -> Self {
        let servers = servers as usize;
        Self {
            keys,
            zipf: Zipf::new(keys.count, keys.exponent),
            known: vec![false; keys.count as usize + 1],
            caches: vec![Cache::new(keys.cached); servers],
            in_flight: vec![0; servers],
            calls: 0,
            last: HashMap::new(),
            followed: Followed { hot: vec![0; servers], cool_by_home: vec![0; servers], ..Followed::default() },
        }
    }

    fn is_hot_since(&self, now: u64) -> bool {
        now >= self.keys.hot.0
    }

    /// The hot key is one more than those of Zipf's law.
    pub(crate) fn draw(&self, now: u64, rng: &mut Rng) -> Key {
        let is_hot = rng.f64() < self.keys.hot.1;
        let key = self.zipf.sample(rng);
        if is_hot && self.is_hot_since(now) { self.keys.count } else { key }
    }

    /// What part of the calls is about this, once there is a hot key.
    fn share(&self, key: Key) -> f64 {
        let (_, hot) = self.keys.hot;
        if key == self.keys.count { hot } else { self.zipf.share(key) * (1.0 - hot) }
    }

    /// A call about this is admitted to a server. `places` are where it is at home and its second choice, for who has such.
    pub(crate) fn admit(&mut self, now: u64, key: Key, server: ServerId, places: Option<[ServerId; 2]>) {
        let (servers, followed) = (self.in_flight.len() as f64, &mut self.followed);
        self.calls += 1;
        let there = &mut self.in_flight[server as usize];
        *there += 1;
        let there = f64::from(*there);
        let mean = f64::from(self.calls) / servers;
        let bound = (BOUND * mean - 1e-9).ceil();
        followed.over += u64::from(there > bound);
        if now < self.keys.hot.0 + SETTLES {
            return;
        }
        followed.calls += 1;
        followed.max_mean = followed.max_mean.max(there / mean);
        if key == self.keys.count {
            followed.hot[server as usize] += 1;
        }
        let Some([home, second]) = places else { return };
        let goes_home = server == home;
        followed.overflow += u64::from(!goes_home);
        followed.filling += u64::from(!goes_home && there >= bound);
        if self.share(key) < BOUND / 2.0 / servers {
            let followed = &mut self.followed;
            followed.cool += 1;
            followed.cool_by_home[home as usize] += 1;
            followed.at_home += u64::from(goes_home);
            if !goes_home && let Some(last) = self.last.insert(key, second) {
                followed.again += 1;
                followed.to_second += u64::from(last == second);
            }
        }
    }

    pub(crate) fn end(&mut self, server: ServerId) {
        self.calls -= 1;
        self.in_flight[server as usize] -= 1;
    }

    /// What a call about this costs on a server, as a multiple of its work; from now on it is at hand there.
    pub(crate) fn cost(&mut self, server: ServerId, key: Key, now: u64) -> f64 {
        let was_known = std::mem::replace(&mut self.known[key as usize], true);
        let is_there = self.caches[server as usize].use_now(key) || !was_known;
        if now >= self.keys.hot.0 + SETTLES {
            self.followed.looked_up += 1;
            self.followed.missed += u64::from(!is_there);
        }
        if is_there { 1.0 } else { self.keys.miss }
    }

    pub(crate) fn finish(self) -> Followed {
        self.followed
    }
}

/// What was used last.
#[derive(Clone)]
struct Cache {
    most: usize,
    uses: u64,
    /// When each was used last, and the other way round.
    used: HashMap<Key, u64>,
    order: BTreeMap<u64, Key>,
}

impl Cache {
    fn new(most: usize) -> Self {
        Self { most, uses: 0, used: HashMap::new(), order: BTreeMap::new() }
    }

    /// Whether it was there. It is now.
    fn use_now(&mut self, key: Key) -> bool {
        self.uses += 1;
        let before = self.used.insert(key, self.uses);
        if let Some(before) = before {
            self.order.remove(&before);
        }
        self.order.insert(self.uses, key);
        if self.order.len() > self.most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.used.remove(&oldest);
        }
        before.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Keys = Keys { count: 100, exponent: 1.0, hot: (10 * SECONDS, 0.2), cached: 2, miss: 10.0 };
    const LATER: u64 = 20 * SECONDS;

    #[test]
    fn a_cache_keeps_what_was_used_last() {
        let mut cache = Cache::new(2);
        let hits: Vec<_> = [1, 2, 1, 3, 1, 2].map(|key| cache.use_now(key)).into();
        assert_eq!(hits, [false, false, true, false, true, false]);
    }

    #[test]
    fn the_first_who_is_asked_has_it_and_others_miss_it() {
        let mut keyed = Keyed::new(KEYS, 2);
        let costs: Vec<_> = [(0, 7), (0, 7), (1, 7), (1, 7)].map(|(server, key)| keyed.cost(server, key, LATER)).into();
        assert_eq!(costs, [1.0, 1.0, 10.0, 1.0]);
        let Followed { looked_up, missed, .. } = keyed.finish();
        assert_eq!((looked_up, missed), (4, 1));
    }

    #[test]
    fn the_bound_counts_the_call_that_is_admitted() {
        let mut keyed = Keyed::new(KEYS, 4);
        // 1 of ⌈1.25 × 1/4⌉, and then the second there of ⌈1.25 × 2/4⌉.
        keyed.admit(0, 50, 0, None);
        assert_eq!(keyed.followed.over, 0);
        keyed.admit(0, 50, 0, None);
        assert_eq!(keyed.followed.over, 1);
        keyed.end(0);
        // ⌈1.25 × 4/4⌉ is 2.
        for server in [1, 2, 0] {
            keyed.admit(0, 50, server, None);
        }
        assert_eq!(keyed.followed.over, 1);
    }

    #[test]
    fn who_stays_at_home_and_who_fills_a_server_is_counted_once_the_hot_key_has_settled() {
        let mut keyed = Keyed::new(KEYS, 10);
        keyed.admit(0, 50, 1, Some([0, 1]));
        for (server, key) in [(0, 50), (1, 50), (1, 50), (0, 0), (1, 100)] {
            keyed.admit(LATER, key, server, Some([0, 1]));
        }
        let Followed { cool, at_home, overflow, filling, again, to_second, hot, over, .. } = keyed.finish();
        // Key 0 is too hot to be asked.
        assert_eq!((cool, at_home, overflow), (3, 1, 3));
        assert_eq!((again, to_second), (1, 1));
        assert_eq!((hot[..2].to_vec(), hot.iter().sum::<u64>(), over), (vec![0, 1], 1, 4));
        assert_eq!(filling, 3);
    }

    #[test]
    fn a_home_can_have_its_part_of_all_calls_by_the_bound_and_no_more() {
        let cool_by_home = vec![400, 100, 0, 0];
        let followed = Followed { calls: 1_000, cool_by_home, ..Followed::default() };
        assert_eq!(followed.at_home_at_most(), 312 + 100);
    }

    #[test]
    fn the_hot_key_has_its_part_of_the_calls_from_its_time_on() {
        let (keyed, mut rng) = (Keyed::new(KEYS, 2), Rng::with_seed(1));
        let mut hot = |now| (0..10_000).filter(|_| keyed.draw(now, &mut rng) == KEYS.count).count();
        assert_eq!(hot(0), 0);
        assert!(hot(LATER).abs_diff(2_000) < 150);
    }
}
