//! Calls about the same go to the same server: the ways of others, with a bound of the load and without.
//!
//! HAProxy and Envoy bound the calls in flight of one proxy; both count those, and round up, as their sources do.

use super::Members;
use crate::chance::{Rng, mix};
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, Key, LoadReport, Outcome, Pick, ServerId, Strategy, Token, Wanted};
use crate::tables::{Maglev, RING, Ring, Table, Weighted};

const MAGLEV: usize = 65_537;
/// Percent of the mean.
const FACTOR: u32 = 125;

/// Where a call goes whose home has too many.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overflow {
    /// There is no such thing.
    Never,
    /// To the next on the ring that has room for one more: HAProxy's `hash-balance-factor`.
    Next,
    /// To the first with room in an order that the hash shuffles: Envoy's `hash_balance_factor`. One that is not above its
    /// slots takes one more.
    Jump,
}

enum Hashing {
    Ring(Ring),
    Maglev(Maglev),
    /// The highest score; nothing to build.
    Rendezvous,
}

pub(super) struct Hashed {
    make: fn(&[Weighted], u64) -> Hashing,
    overflow: Overflow,
    hashing: Hashing,
    members: Members,
    /// Other places under every seed.
    salt: u64,
    /// By server.
    in_flight: Vec<u32>,
    calls: u32,
}

impl Hashed {
    pub(super) fn ring(rng: Rng) -> Self {
        Self::new(|servers, salt| Hashing::Ring(Ring::new(RING, servers, salt)), Overflow::Never, rng)
    }

    pub(super) fn maglev(rng: Rng) -> Self {
        Self::new(|servers, salt| Hashing::Maglev(Maglev::new(MAGLEV, servers, salt)), Overflow::Never, rng)
    }

    pub(super) fn rendezvous(rng: Rng) -> Self {
        Self::new(|_, _| Hashing::Rendezvous, Overflow::Never, rng)
    }

    pub(super) fn haproxy(rng: Rng) -> Self {
        Self { overflow: Overflow::Next, ..Self::ring(rng) }
    }

    pub(super) fn envoy(rng: Rng) -> Self {
        Self { overflow: Overflow::Jump, ..Self::ring(rng) }
    }

    fn new(make: fn(&[Weighted], u64) -> Hashing, overflow: Overflow, mut rng: Rng) -> Self {
        let (members, salt) = (Members::default(), rng.u64(..));
        let hashing = Hashing::Rendezvous;
        Self { make, overflow, hashing, members, salt, in_flight: Vec::new(), calls: 0 }
    }

    fn hash(&self, key: Key) -> u64 {
        mix(self.salt ^ mix(u64::from(key)))
    }

    fn home(&self, hash: u64) -> Option<ServerId> {
        match &self.hashing {
            _ if self.members.len() == 0 => None,
            Hashing::Ring(ring) => Some(ring.home(hash)),
            Hashing::Maglev(table) => Some(table.home(hash)),
            Hashing::Rendezvous => self.members.iter().max_by_key(|id| mix(hash ^ mix(u64::from(*id)))),
        }
    }

    /// Those who come after the home, in the order in which they are asked.
    fn others(&self, hash: u64) -> Box<dyn Iterator<Item = ServerId> + '_> {
        match (&self.hashing, self.overflow) {
            (Hashing::Ring(ring), Overflow::Next) => Box::new(ring.walk(hash)),
            (_, Overflow::Jump) => {
                let (mut all, mut rng) = (self.members.iter().collect::<Vec<_>>(), Rng::with_seed(hash));
                rng.shuffle(&mut all);
                Box::new(all.into_iter())
            }
            _ => Box::new(std::iter::empty()),
        }
    }

    fn has_room(&self, id: ServerId) -> bool {
        let there = self.in_flight[id as usize];
        let of_all = ((self.calls + 1) * FACTOR).div_ceil(100);
        let slots = of_all.div_ceil(self.members.len() as u32);
        match self.overflow {
            Overflow::Never => true,
            Overflow::Next => there < slots,
            Overflow::Jump => there <= slots,
        }
    }
}

impl Strategy for Hashed {
    /// Calls about nothing are not its concern.
    fn pick(&mut self, _: u64, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        None
    }

    fn pick_for(&mut self, _: u64, wanted: Wanted<'_>, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        let hash = self.hash(wanted.key?);
        let home = self.home(hash)?;
        let server = match self.has_room(home) {
            true => home,
            false => self.others(hash).find(|id| self.has_room(*id)).unwrap_or(home),
        };
        self.in_flight[server as usize] += 1;
        self.calls += 1;
        Some(Pick { server, token: server.into() })
    }

    fn end(&mut self, token: Token, _: u64, _: Outcome, _: Option<LoadReport>) {
        self.in_flight[token as usize] -= 1;
        self.calls -= 1;
    }

    fn change(&mut self, _: u64, change: Change) {
        self.members.change(change);
        if let Change::Added(id) = change {
            self.in_flight.resize(id as usize + 1, 0);
        }
        let servers: Vec<_> = self.members.iter().map(|id| (id, 1.0)).collect();
        if !servers.is_empty() {
            self.hashing = (self.make)(&servers, self.salt);
        }
    }

    fn places(&mut self, key: Key) -> Option<[ServerId; 2]> {
        let hash = self.hash(key);
        let home = self.home(hash)?;
        let second = self.others(hash).find(|id| *id != home).unwrap_or(home);
        Some([home, second])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(make: fn(Rng) -> Hashed, servers: ServerId) -> Hashed {
        let mut hashed = make(Rng::with_seed(1));
        (0..servers).for_each(|id| hashed.change(0, Change::Added(id)));
        hashed
    }

    /// Where so many calls about one key go, all in flight.
    fn picks(hashed: &mut Hashed, calls: usize) -> Vec<ServerId> {
        let wanted = Wanted { key: Some(7), tried: &[] };
        let mut pick = || hashed.pick_for(0, wanted, &mut Rng::with_seed(1), &Fleet::nobody()).map(|pick| pick.server);
        (0..calls).filter_map(|_| pick()).collect()
    }

    fn most(picks: &[ServerId], servers: ServerId) -> usize {
        (0..servers).map(|id| picks.iter().filter(|pick| **pick == id).count()).max().unwrap_or(0)
    }

    #[test]
    fn without_a_bound_all_go_home() {
        for make in [Hashed::ring as fn(Rng) -> Hashed, Hashed::maglev, Hashed::rendezvous] {
            let mut hashed = hashed(make, 10);
            let [home, _] = hashed.places(7).unwrap();
            assert!(picks(&mut hashed, 100).iter().all(|server| *server == home));
        }
    }

    #[test]
    fn haproxy_s_bound_counts_the_call_that_comes_and_envoy_s_does_not() {
        for (make, most_of_a_hundred) in [(Hashed::haproxy as fn(Rng) -> Hashed, 13), (Hashed::envoy, 14)] {
            let mut hashed = hashed(make, 10);
            let picks = picks(&mut hashed, 100);
            assert_eq!(most(&picks, 10), most_of_a_hundred);
            let [home, second] = hashed.places(7).unwrap();
            let first_two: Vec<_> = picks.iter().take(4).collect();
            assert!(picks[0] == home && first_two.contains(&&second), "{picks:?}");
        }
    }
}
