//! Maglev's table as Envoy fills it: in turns, in each of which those with less than the largest weight take part now and then.

use super::{Table, Weighted, hash_of};
use crate::chance::mix;
use crate::strategy::ServerId;

pub(crate) struct Maglev {
    slots: Vec<ServerId>,
}

impl Maglev {
    /// `size` is a prime.
    pub(crate) fn new(size: usize, servers: &[Weighted], seed: u64) -> Self {
        let heaviest = servers.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
        let mut permutations: Vec<_> = servers
            .iter()
            .map(|(id, weight)| {
                let hash = hash_of(*id, seed);
                let (at, skip) = (mix(hash) % size as u64, mix(!hash) % (size as u64 - 1) + 1);
                (*id, at as usize, skip as usize, weight / heaviest, 0.0)
            })
            .collect();
        let (mut slots, mut free) = (vec![ServerId::MAX; size], size);
        for turn in 1.. {
            for (id, at, skip, weight, taken) in &mut permutations {
                if f64::from(turn) * *weight < *taken {
                    continue;
                }
                *taken += 1.0;
                while slots[*at] != ServerId::MAX {
                    *at = (*at + *skip) % size;
                }
                slots[*at] = *id;
                free -= 1;
                if free == 0 {
                    return Self { slots };
                }
            }
        }
        unreachable!("turns do not end before the slots do")
    }
}

impl Table for Maglev {
    fn home(&self, hash: u64) -> ServerId {
        self.slots[(hash % self.slots.len() as u64) as usize]
    }

    fn shares(&self, servers: &[Weighted]) -> Option<Vec<f64>> {
        let mut counts = std::collections::BTreeMap::<_, usize>::new();
        self.slots.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
        let share = |(id, _): &Weighted| counts.get(id).copied().unwrap_or(0) as f64 / self.slots.len() as f64;
        Some(servers.iter().map(share).collect())
    }
}
