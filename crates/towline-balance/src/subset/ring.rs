//! All endpoints in the order of their hashes, and the stretch of them that is a client's.

use std::collections::VecDeque;

use tower::discover::Change;
use towline_core::{Endpoint, EndpointKey};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Where a client begins: a part of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    rank: u64,
    of: u64,
}

impl Place {
    /// The beginning of the ring.
    pub(super) const FIRST: Self = Self { rank: 0, of: 1 };

    /// Of a client by its index, which is below the number of clients: as many come before it as have smaller indices when
    /// those are read from their lowest bit on.
    pub(super) fn nth(index: usize, clients: usize) -> Self {
        let (index, of) = (index as u64, clients as u64);
        // Those that agree with the index below this bit, and have a 0 where it has a 1.
        let smaller = |bit: u32| {
            let first = index & ((1 << bit) - 1);
            u128::from(of - first).div_ceil(2 << bit) as u64
        };
        Self { rank: (0..u64::BITS).filter(|bit| index >> bit & 1 == 1).map(smaller).sum(), of }
    }

    /// The rank of the endpoint to begin with, the nearest; that of the first is also the number of endpoints. Rounded down, one
    /// endpoint less would move everybody where clients divide endpoints: a half of one on average, where this is a quarter.
    fn start(self, endpoints: usize) -> usize {
        let (rank, of) = (u128::from(self.rank), u128::from(self.of));
        ((2 * rank * endpoints as u128 + of) / (2 * of)) as usize
    }
}

/// What is to be done with the subset.
pub type Moves = VecDeque<Change<EndpointKey, Endpoint>>;

/// Knows all endpoints, since any of them may be in the subset tomorrow: some 200 bytes of each, with its key and target. A
/// change costs a binary search, the moving of 16 bytes for each endpoint behind it, and a look at the ends of the subset; a
/// whole set costs its sorting.
#[derive(Debug)]
pub struct Ring {
    place: Place,
    size: usize,
    seed: u64,
    /// By hash, and by key where hashes are equal.
    spots: Vec<Spot>,
}

#[derive(Debug)]
struct Spot {
    hash: u64,
    // Few are looked at, many are moved: behind a pointer.
    known: Box<Known>,
}

#[derive(Debug)]
struct Known {
    endpoint: Endpoint,
    chosen: bool,
}

impl Spot {
    fn key(&self) -> &str {
        self.known.endpoint.key().as_str()
    }
}

impl Ring {
    /// An empty one. The hash is fixed, so that processes and versions agree: `xxh3_64` of the key with this seed.
    pub(super) fn new(place: Place, size: usize, seed: u64) -> Self {
        Self { place, size, seed, spots: Vec::new() }
    }

    /// Adds an endpoint or changes its attributes; `moves` gets what that does to the subset.
    pub fn insert(&mut self, endpoint: Endpoint, moves: &mut Moves) {
        match self.find(endpoint.key()) {
            Ok(rank) => {
                let known = &mut self.spots[rank].known;
                known.endpoint = endpoint;
                if known.chosen {
                    moves.push_back(insertion(&known.endpoint));
                }
            }
            Err(rank) => {
                let hash = self.hash(endpoint.key());
                self.spots.insert(rank, Spot { hash, known: Box::new(Known { endpoint, chosen: false }) });
                self.settle(rank, moves);
            }
        }
    }

    /// Removes an endpoint, if it is known; `moves` gets what that does to the subset.
    pub fn remove(&mut self, key: &EndpointKey, moves: &mut Moves) {
        let Ok(rank) = self.find(key) else { return };
        let gone = self.spots.remove(rank);
        self.settle(rank, moves);
        if gone.known.chosen {
            moves.push_back(Change::Remove(key.clone()));
        }
    }

    /// These are all endpoints, of two with one key the last: those of the subset, in the order they came in and with whatever
    /// is there twice.
    pub fn replace(&mut self, mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
        let spot = |endpoint: &Endpoint| {
            let known = Known { endpoint: endpoint.clone(), chosen: false };
            Spot { hash: self.hash(endpoint.key()), known: Box::new(known) }
        };
        // The last first: sorting keeps it there, and of equals the first is kept.
        let mut spots: Vec<_> = endpoints.iter().rev().map(spot).collect();
        spots.sort_by(|a, b| (a.hash, a.key()).cmp(&(b.hash, b.key())));
        spots.dedup_by(|a, b| (a.hash, a.key()) == (b.hash, b.key()));
        self.spots = spots;
        let (start, length) = self.window();
        for offset in 0..length {
            let rank = (start + offset) % self.spots.len();
            self.spots[rank].known.chosen = true;
        }
        endpoints.retain(|endpoint| self.find(endpoint.key()).is_ok_and(|rank| self.spots[rank].known.chosen));
        endpoints
    }

    /// There are no endpoints.
    pub fn clear(&mut self) {
        self.spots.clear();
    }

    fn hash(&self, key: &EndpointKey) -> u64 {
        xxh3_64_with_seed(key.as_str().as_bytes(), self.seed)
    }

    /// The rank of an endpoint, or the one that it would have.
    fn find(&self, key: &EndpointKey) -> Result<usize, usize> {
        let (hash, key) = (self.hash(key), key.as_str());
        self.spots.binary_search_by(|spot| spot.hash.cmp(&hash).then_with(|| spot.key().cmp(key)))
    }

    /// Where the subset begins, and how long it is.
    fn window(&self) -> (usize, usize) {
        let count = self.spots.len();
        (self.place.start(count) % count.max(1), self.size.min(count))
    }

    /// After one endpoint has come to `near`, or gone from there: chooses who is in the window now, then lets go of who is not,
    /// so that the subset is never short of endpoints for an exchange.
    ///
    /// Only the ends of the window are looked at, as it moves by one endpoint at most. Where it passes the end of the ring, it may
    /// move and have one come or go inside, both at once: then its end moves by two.
    fn settle(&mut self, near: usize, moves: &mut Moves) {
        let count = self.spots.len();
        if count == 0 {
            return;
        }
        let (start, length) = self.window();
        let is_in = |rank: usize| (rank + count - start) % count < length;
        // Without a step below zero, whatever the count.
        let (begin, end) = (start + count, start + length + count);
        for rank in [near, begin, end - 2, end - 1].map(|rank| rank % count) {
            let known = &mut self.spots[rank].known;
            if is_in(rank) && !known.chosen {
                known.chosen = true;
                moves.push_back(insertion(&known.endpoint));
            }
        }
        for rank in [begin - 1, end, end + 1].map(|rank| rank % count) {
            let known = &mut self.spots[rank].known;
            if !is_in(rank) && known.chosen {
                known.chosen = false;
                moves.push_back(Change::Remove(known.endpoint.key().clone()));
            }
        }
    }
}

fn insertion(endpoint: &Endpoint) -> Change<EndpointKey, Endpoint> {
    Change::Insert(endpoint.key().clone(), endpoint.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_ranked_by_their_indices_with_the_bits_reversed() {
        for clients in [1usize, 2, 3, 7, 8, 100, 1_000, 1_023] {
            let mut order: Vec<_> = (0..clients).collect();
            order.sort_by_key(|index| index.reverse_bits());
            for (rank, index) in order.into_iter().enumerate() {
                assert_eq!(Place::nth(index, clients), Place { rank: rank as u64, of: clients as u64 });
            }
        }
        let last = Place::nth(usize::MAX - 1, usize::MAX);
        assert!(last.start(usize::MAX >> 1) <= usize::MAX >> 1);
    }
}
