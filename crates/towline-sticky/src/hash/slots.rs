//! Maglev's lookup table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4).
//!
//! Every endpoint has a permutation of the slots, by its key alone, and takes the first free slot of it when it is its turn.
//! Turns are by weight: the k-th slot of an endpoint comes at the time `k / weight`.
//!
//! All of this decides where sessions go, and never changes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::sessions::{GOLDEN, mix};

/// Which endpoint each slot belongs to.
#[derive(Debug, PartialEq)]
pub(crate) enum Slots {
    /// What fits is half as large, and so twice as near.
    Narrow(Box<[u16]>),
    Wide(Box<[u32]>),
}

/// An endpoint as the table knows it: the hash of its key, and its weight.
pub(crate) type Share = (u64, f64);

impl Slots {
    /// A table of `size` slots, a prime, for these endpoints: at least one, and sorted, so that the order of discovery does not
    /// matter. Those of weight 0 get nothing, unless all are.
    pub(crate) fn fill(size: u32, shares: &[Share]) -> Self {
        let last = shares.len() - 1;
        match u16::try_from(last) {
            // One value is for slots that are free.
            Ok(last) if last < u16::MAX => Self::Narrow(fill(size, shares, u16::MAX, |rank| rank as u16)),
            _ => Self::Wide(fill(size, shares, u32::MAX, |rank| rank as u32)),
        }
    }

    /// The rank of the endpoint that has the slot at `point`, of 2⁶⁴.
    #[inline]
    pub(crate) fn at(&self, point: u64) -> usize {
        let slot = |len: usize| ((u128::from(point) * len as u128) >> 64) as usize;
        match self {
            Self::Narrow(slots) => usize::from(slots[slot(slots.len())]),
            Self::Wide(slots) => slots[slot(slots.len())] as usize,
        }
    }

    /// The ranks of all slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let (narrow, wide): (&[u16], &[u32]) = match self {
            Self::Narrow(slots) => (slots, &[]),
            Self::Wide(slots) => (&[], slots),
        };
        narrow.iter().map(|rank| usize::from(*rank)).chain(wide.iter().map(|rank| *rank as usize))
    }
}

/// The permutation of one endpoint, as far as it has come.
struct Permutation {
    at: u32,
    step: u32,
}

impl Permutation {
    fn new(size: u32, endpoint: u64) -> Self {
        let below = |hash: u64, bound: u32| ((u128::from(hash) * u128::from(bound)) >> 64) as u32;
        Self { at: below(mix(endpoint), size), step: below(mix(endpoint ^ GOLDEN), size - 1) + 1 }
    }

    /// Takes the next free slot. There is one.
    fn take<T: Copy + PartialEq>(&mut self, slots: &mut [T], free: T, rank: T) {
        let size = slots.len() as u32;
        loop {
            let at = self.at;
            // Sizes are far below half of what fits.
            self.at += self.step;
            if self.at >= size {
                self.at -= size;
            }
            let slot = &mut slots[at as usize];
            if *slot == free {
                *slot = rank;
                return;
            }
        }
    }
}

fn fill<T: Copy + PartialEq>(size: u32, shares: &[Share], free: T, rank: impl Fn(usize) -> T) -> Box<[T]> {
    let mut slots = vec![free; size as usize].into_boxed_slice();
    let mut permutations: Vec<_> = shares.iter().map(|(hash, _)| Permutation::new(size, *hash)).collect();
    let first = shares[0].1;
    if shares.iter().all(|(_, weight)| *weight == first) {
        for turn in 0..size as usize {
            let turn = turn % shares.len();
            permutations[turn].take(&mut slots, free, rank(turn));
        }
        return slots;
    }
    // Times are positive, so that their bits order as they do; at the same time it is by rank.
    let time = |taken: u32, weight: f64| (f64::from(taken) / weight).to_bits();
    let with_weight = shares.iter().enumerate().filter(|(_, (_, weight))| *weight > 0.0);
    let mut turns: BinaryHeap<_> =
        with_weight.map(|(index, (_, weight))| Reverse((time(1, *weight), index, 1u32))).collect();
    for _ in 0..size {
        let Some(mut turn) = turns.peek_mut() else { break };
        let Reverse((at, index, taken)) = &mut *turn;
        permutations[*index].take(&mut slots, free, rank(*index));
        *taken += 1;
        *at = time(*taken, shares[*index].1);
    }
    slots
}

/// Whether `n` is prime.
pub(crate) fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= u64::from(n)).all(|d| u64::from(n) % d != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(n: u64) -> Vec<Share> {
        let mut shares: Vec<_> = (0..n).map(|i| (mix(i), 1.0)).collect();
        shares.sort_by_key(|(hash, _)| *hash);
        shares
    }

    fn counts(slots: &Slots, endpoints: usize) -> Vec<u32> {
        let mut counts = vec![0; endpoints];
        match slots {
            Slots::Narrow(slots) => slots.iter().for_each(|rank| counts[usize::from(*rank)] += 1),
            Slots::Wide(slots) => slots.iter().for_each(|rank| counts[*rank as usize] += 1),
        }
        counts
    }

    #[test]
    fn equal_weights_differ_by_one_slot_at_most() {
        for n in [1, 2, 3, 7, 500] {
            let counts = counts(&Slots::fill(65_537, &shares(n)), n as usize);
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{n}");
        }
    }

    #[test]
    fn slots_are_in_proportion_to_weights_however_uneven() {
        let weights = [0.0, 1.0, 2.0, 3.0, 1e-3, 1e3];
        let shares: Vec<_> = shares(6).iter().zip(weights).map(|((hash, _), weight)| (*hash, weight)).collect();
        let counts = counts(&Slots::fill(65_537, &shares), 6);
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            assert!((f64::from(*count) - weight / total * 65_537.0).abs() <= 1.0, "{counts:?}");
        }
    }

    #[test]
    fn weights_that_are_equal_are_as_none() {
        let heavy: Vec<_> = shares(9).iter().map(|(hash, _)| (*hash, 7.5)).collect();
        let nearly: Vec<_> =
            shares(9).iter().enumerate().map(|(i, (hash, _))| (*hash, 1.0 + i as f64 * 1e-12)).collect();
        let zero: Vec<_> = shares(9).iter().map(|(hash, _)| (*hash, 0.0)).collect();
        let plain = Slots::fill(251, &shares(9));
        assert_eq!(Slots::fill(251, &heavy), plain);
        assert_eq!(Slots::fill(251, &zero), plain);
        // The lightest has the odd slot, be it by a hair.
        let mut counted = counts(&Slots::fill(251, &nearly), 9);
        counted.rotate_left(1);
        assert_eq!(counted, counts(&plain, 9));
    }

    #[test]
    fn a_set_too_large_for_narrow_slots_has_wide_ones() {
        let slots = Slots::fill(131_071, &shares(65_535));
        assert!(matches!(slots, Slots::Narrow(_)));
        let slots = Slots::fill(131_071, &shares(65_536));
        assert!(matches!(slots, Slots::Wide(_)));
        assert_eq!(counts(&slots, 65_536).iter().max(), Some(&2));
    }

    #[test]
    fn primes_are_told_from_others() {
        let primes: Vec<_> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(!is_prime(65_536) && !is_prime(655_371) && is_prime(4_294_967_291));
    }
}
