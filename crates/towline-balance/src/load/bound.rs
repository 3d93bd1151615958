//! Bounded load: no endpoint has more calls in flight than so many times the mean (Mirrokni, Thorup and Zadimoghaddam,
//! "Consistent Hashing with Bounded Loads", 2016), for policies that keep calls together and would otherwise follow one busy
//! key into the ground.
//!
//! There are two allowances. A call whose endpoint is its home may fill that up to the bound. Calls that overflow, and those of
//! a key that alone has half of what an endpoint may have, stop half-way between the mean and the bound. So what is left of
//! every endpoint belongs to its own keys: where overflow goes up to the bound, a hot key pushes out everybody who lives where
//! it overflows to. There is always an endpoint below the mean, so overflow always finds one.
//!
//! The count of all calls in flight is one word that every call writes. That costs more than the rest of a pick when many threads
//! do; it is the price of a bound that holds at every admission, and paid only by policies that ask for it.

use super::Stats;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Keys are told apart as far as this: two that fall together count as one, and so as hot a little sooner.
const KEYS: usize = 4_096;

/// How far an endpoint may be filled by a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Up to the bound.
    Home,
    /// Half-way to it.
    Overflow,
    /// Without end: nobody else can take the call.
    #[default]
    Any,
}

#[derive(Debug)]
pub(crate) struct Bound {
    factor: f64,
    /// Of all endpoints.
    in_flight: AtomicU32,
    /// Of the endpoints that can take calls, a float.
    weight: AtomicU64,
    /// How many these are.
    endpoints: AtomicU32,
    /// By key.
    keys: Box<[AtomicU32]>,
}

impl Bound {
    pub(crate) fn new(factor: f64) -> Self {
        Self {
            factor,
            in_flight: AtomicU32::new(0),
            weight: AtomicU64::new(1f64.to_bits()),
            endpoints: AtomicU32::new(1),
            keys: (0..KEYS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// What the mean is of. When nobody can take calls, it stays what it was.
    pub(crate) fn set_of(&self, weights: impl Iterator<Item = f64>) {
        let (sum, count) = weights.fold((0.0, 0), |(sum, count), weight| (sum + weight, count + 1));
        if sum > 0.0 {
            self.weight.store(f64::to_bits(sum), Ordering::Relaxed);
            self.endpoints.store(count, Ordering::Relaxed);
        }
    }

    /// Calls in flight that an endpoint may have per unit of weight, when there are `calls` in all.
    fn per_weight(&self, calls: u32, allowance: Allowance) -> f64 {
        let factor = match allowance {
            Allowance::Home => self.factor,
            Allowance::Overflow => f64::midpoint(1.0, self.factor),
            Allowance::Any => f64::INFINITY,
        };
        factor * f64::from(calls) / f64::from_bits(self.weight.load(Ordering::Relaxed))
    }

    fn key(&self, key: u64) -> &AtomicU32 {
        &self.keys[key as usize % KEYS]
    }

    /// What a call of `key` may have of a candidate, if that has room for it.
    pub(crate) fn allows(&self, key: Option<u64>, stats: &Stats, weight: f64, is_first: bool) -> Option<Allowance> {
        let calls = self.in_flight.load(Ordering::Relaxed) + 1;
        let is_at_home = is_first && !self.is_hot(key, calls);
        let allowance = if is_at_home { Allowance::Home } else { Allowance::Overflow };
        let most = round(self.per_weight(calls, allowance) * weight);
        (f64::from(stats.in_flight() + 1) <= most).then_some(allowance)
    }

    /// Whether a key has half of what an endpoint of mean weight may have.
    fn is_hot(&self, key: Option<u64>, calls: u32) -> bool {
        let most = self.factor * f64::from(calls) / f64::from(self.endpoints.load(Ordering::Relaxed));
        key.is_some_and(|key| f64::from(self.key(key).load(Ordering::Relaxed) + 1) > most / 2.0)
    }

    /// Counts a call, if an endpoint of this weight that had `before` in flight may have it.
    pub(crate) fn enter(&self, entry: Entry, before: u32) -> bool {
        let calls = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(key) = entry.key {
            self.key(key).fetch_add(1, Ordering::Relaxed);
        }
        let may = f64::from(before + 1) <= round(self.per_weight(calls, entry.allowance) / entry.per_call);
        if !may {
            self.leave(entry.key);
        }
        may
    }

    pub(crate) fn leave(&self, key: Option<u64>) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(key) = key {
            self.key(key).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Up, but for what the arithmetic adds.
fn round(calls: f64) -> f64 {
    (calls - 1e-9).ceil().max(1.0)
}

/// How a call comes to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) allowance: Allowance,
    pub(crate) key: Option<u64>,
    /// 1 over the endpoint's weight: divided by only where loads are bounded.
    pub(crate) per_call: f64,
}

impl Default for Entry {
    fn default() -> Self {
        Self { allowance: Allowance::Any, key: None, per_call: 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(allowance: Allowance) -> Entry {
        Entry { allowance, key: None, per_call: 1.0 }
    }

    /// A bound of 1.25 over so many endpoints, with calls in flight elsewhere.
    fn bound(endpoints: usize, calls: u32) -> Bound {
        let bound = Bound::new(1.25);
        bound.set_of(std::iter::repeat_n(1.0, endpoints));
        bound.in_flight.store(calls, Ordering::Relaxed);
        bound
    }

    #[test]
    fn the_bound_counts_the_call_that_comes_and_is_rounded_up() {
        for (calls, home, overflow) in [(0, 1, 1), (7, 2, 2), (15, 4, 4), (99, 25, 23), (159, 40, 36)] {
            // Every one that is let in counts, so each is asked of a bound of its own.
            let most = |allowance| (0..100).take_while(|n| bound(5, calls).enter(entry(allowance), *n)).count();
            assert_eq!((most(Allowance::Home), most(Allowance::Overflow)), (home, overflow), "{calls}");
            assert_eq!(most(Allowance::Any), 100);
        }
    }

    #[test]
    fn a_call_that_is_not_let_in_was_never_there() {
        let bound = bound(5, 10);
        let refused = Entry { key: Some(7), ..entry(Allowance::Home) };
        assert!(!bound.enter(refused, 50));
        assert_eq!(bound.in_flight.load(Ordering::Relaxed), 10);
        assert_eq!(bound.key(7).load(Ordering::Relaxed), 0);
        assert!(bound.enter(refused, 0));
        bound.leave(refused.key);
        assert_eq!(bound.in_flight.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn a_key_with_half_of_what_an_endpoint_may_have_is_hot_and_others_are_not() {
        let bound = bound(5, 99);
        // 25 in all: half of them are 12.5.
        bound.key(1).store(12, Ordering::Relaxed);
        bound.key(2).store(11, Ordering::Relaxed);
        assert!(bound.is_hot(Some(1), 100));
        assert!(!bound.is_hot(Some(2), 100) && !bound.is_hot(None, 100));
    }

    #[test]
    fn heavier_endpoints_may_have_more() {
        let bound = Bound::new(1.25);
        bound.set_of([1.0, 3.0].into_iter());
        bound.in_flight.store(39, Ordering::Relaxed);
        let most = |weight| {
            let mut before = 0;
            while bound.enter(Entry { per_call: 1.0 / weight, ..entry(Allowance::Home) }, before) {
                bound.leave(None);
                before += 1;
            }
            before
        };
        assert_eq!((most(1.0), most(3.0)), (13, 38));
    }

    #[test]
    fn when_nobody_can_take_calls_the_mean_stays_what_it_was() {
        let bound = bound(5, 99);
        bound.set_of(std::iter::empty());
        assert!(bound.enter(entry(Allowance::Home), 24));
        assert!(!bound.enter(entry(Allowance::Home), 26));
    }
}
