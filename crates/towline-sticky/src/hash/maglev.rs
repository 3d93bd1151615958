//! A lookup table.

use std::sync::Arc;

use towline_balance::{P2cOrder, P2cPicker};
use towline_core::{CallContext, Error, Home, HomeLoss, Members, Pick, Policy, Rng, Terms, View};

use super::slots::{Share, Slots, is_prime};
use crate::sessions::{
    GOLDEN, Sessions, bound_settings, config, hash, mix, session, session_settings, stateless_settings,
};

/// Sends every session to the endpoint that has its slot in a table, and calls without a session by
/// [`P2c`](towline_balance::P2c): a pick costs the same over three endpoints as over ten thousand.
///
/// The table is Maglev's (Eisenbud et al., NSDI 2016), filled in proportion to weights. It is the same in every process,
/// whatever the order of discovery, so all clients of one set agree. When an endpoint leaves, its sessions spread over all
/// others, and a few more move along than would have to; the larger the table, the fewer:
///
/// | slots | memory | built in | imbalance | moved in excess |
/// |---:|---:|---:|---:|---:|
/// | 65,537 | 128 KiB | 1.5 ms | 0.7 % | 0.9–1.4 % |
/// | 163,841 | 320 KiB | 3.4 ms | 0.3 % | 0.6–0.7 % |
/// | 409,609 | 800 KiB | 10 ms | 0.1 % | 0.3–0.4 % |
/// | 655,373, the default | 1.3 MiB | 17 ms | 0.08 % | 0.24–0.30 % |
/// | 2,097,169 | 4 MiB | 65 ms | 0.02 % | 0.11–0.16 % |
/// | 5,242,883 | 10 MiB | 0.3 s | 0.01 % | 0.06–0.09 % |
///
/// That is for 500 endpoints that lose one, two and three; with uneven weights it is built in three times as long.
///
/// It is built on the balancer's driver whenever keys or weights have changed, off the path of calls. Above 65,535 endpoints a
/// slot takes four bytes instead of two. A set with more endpoints than slots leaves some without sessions; a hundred slots per
/// endpoint are a good least.
///
/// **Its homes are not [`Rendezvous`](crate::Rendezvous)'**: going from one to the other, or to another size, moves nearly all
/// sessions. That is why nobody does it by the size of the set; choose when you know how large it can become.
///
/// The hash is fixed: with `s = xxh3_64(session)`, unseeded, the home has the slot `⌊s × slots / 2⁶⁴⌋`. Further choices are
/// stable per session too: the slots of `mix(s + n × 0x9e3779b97f4a7c15)`, n from 1 to 7, with splitmix64's finalizer; then all
/// endpoints in turn by hash. A choice may come twice.
///
/// ```
/// use towline_balance::BalanceBuilder;
/// use towline_sticky::Maglev;
///
/// let policy = Maglev::new().slots(65_537)?.bounded(1.5)?;
/// assert!(Maglev::new().slots(65_536).is_err());
/// let balance = BalanceBuilder::new(policy);
/// # let _ = balance;
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Maglev {
    slots: u32,
    sessions: Sessions,
}

impl Maglev {
    /// Primes to choose the size of a table from, each about two and a half times the one before.
    pub const SIZES: [u32; 6] = [65_537, 163_841, 409_609, 655_373, 2_097_169, 5_242_883];

    const DEFAULT: u32 = 655_373;
    /// 64 MiB, and seconds to build.
    const MOST: u32 = 1 << 25;

    /// The policy, with 655,373 slots and loads bounded at 1.25 times the mean.
    pub fn new() -> Self {
        Self { slots: Self::DEFAULT, sessions: Sessions::bounded() }
    }

    /// How many slots the table has: one of [`SIZES`](Self::SIZES), or any other prime. All clients that are to agree need the
    /// same.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config) when `slots` is no prime, or above 2²⁵: 64 MiB.
    pub fn slots(mut self, slots: u32) -> Result<Self, Error> {
        if slots > Self::MOST || !is_prime(slots) {
            let message = format!(
                "a Maglev table has a prime number of slots, at most {}, not {slots}: take one of {:?}",
                Self::MOST,
                Self::SIZES
            );
            return Err(config(message));
        }
        self.slots = slots;
        Ok(self)
    }
}

impl Default for Maglev {
    fn default() -> Self {
        Self::new()
    }
}

session_settings!(Maglev);
bound_settings!(Maglev, "By default `factor` is 1.25, or none with [`Strict`](crate::WhenHomeFails::Strict).");
stateless_settings!(Maglev);

impl Policy for Maglev {
    type Picker = MaglevPicker;

    fn build(&mut self, set: &Members, last: Option<&MaglevPicker>) -> MaglevPicker {
        let mut ranked: Vec<(Share, u32)> = set
            .iter()
            .zip(0..)
            .map(|(member, index)| {
                let endpoint = &member.endpoint;
                ((Home::from(endpoint.key()).to_u64(), endpoint.weight().get()), index)
            })
            .collect();
        ranked.sort_by_key(|((hash, _), _)| *hash);
        let shares: Vec<_> = ranked.iter().map(|(share, _)| *share).collect();
        let table = match last {
            // Ids, zones and metadata move nobody.
            Some(last) if last.table.shares == shares => last.table.clone(),
            _ if shares.is_empty() => Arc::new(Table { slots: Slots::Narrow(Box::new([])), shares }),
            _ => Arc::new(Table { slots: Slots::fill(self.slots, &shares), shares }),
        };
        MaglevPicker {
            table,
            indices: ranked.into_iter().map(|(_, index)| index).collect(),
            fallback: P2cPicker::new(set),
            sessions: self.sessions.clone(),
        }
    }

    fn load_bound(&self) -> Option<f64> {
        self.sessions.load_bound()
    }
}

/// What [`Maglev`] builds for a set.
#[derive(Clone, Debug)]
pub struct MaglevPicker {
    table: Arc<Table>,
    /// Of the endpoints, by rank.
    indices: Vec<u32>,
    /// For calls without a session.
    fallback: P2cPicker,
    sessions: Sessions,
}

#[derive(Debug)]
struct Table {
    slots: Slots,
    /// By rank: what the slots are for.
    shares: Vec<Share>,
}

/// Choices by hash. More than one in a hundred sessions gets here only where half of the set is out.
const PROBES: usize = 8;

impl MaglevPicker {
    /// The `n`th choice of a session.
    #[inline]
    fn choice(&self, session: u64, n: usize) -> Option<usize> {
        let rank = match n {
            0 => self.table.slots.at(session),
            1..PROBES => self.table.slots.at(mix(session.wrapping_add(GOLDEN.wrapping_mul(n as u64)))),
            _ => {
                let (turn, len) = (n - PROBES, self.indices.len());
                if turn >= len {
                    return None;
                }
                let start = ((u128::from(mix(session)) * len as u128) >> 64) as usize;
                if start + turn >= len { start + turn - len } else { start + turn }
            }
        };
        self.indices.get(rank).map(|index| *index as usize)
    }

    /// The endpoint of every slot, for simulators that count them. Not part of the stable surface.
    #[doc(hidden)]
    pub fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.table.slots.iter().map(|rank| self.indices[rank] as usize)
    }
}

impl<Req> Pick<Req> for MaglevPicker {
    type Order<'a>
        = MaglevOrder<'a>
    where
        Req: 'a;

    #[inline]
    fn order<'a>(
        &'a self,
        _request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> MaglevOrder<'a> {
        MaglevOrder(match session(context) {
            Some(session) => Order::Session { picker: self, session: hash(session), next: 0 },
            None => Order::Any(self.fallback.draw(view, rng)),
        })
    }

    #[inline]
    fn terms(&self, _request: &Req, context: Option<&CallContext>) -> Terms {
        session(context).map_or(Terms::BALANCED, |session| self.sessions.terms(hash(session)))
    }

    #[inline]
    fn taken(&self, _request: &Req, context: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        self.sessions.went(context, view, index, skipped, |session| self.choice(hash(session), 0).unwrap_or(index));
    }

    fn refused(&self, _request: &Req, context: Option<&CallContext>, why: HomeLoss) {
        self.sessions.refused(context, why);
    }
}

/// The candidates of [`Maglev`]: for a session, its home, seven more by hash, then all endpoints in turn.
#[derive(Clone, Debug)]
pub struct MaglevOrder<'a>(Order<'a>);

#[derive(Clone, Debug)]
enum Order<'a> {
    Session { picker: &'a MaglevPicker, session: u64, next: usize },
    Any(P2cOrder<'a>),
}

impl Iterator for MaglevOrder<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        match &mut self.0 {
            Order::Any(order) => order.next(),
            Order::Session { picker, session, next } => {
                let choice = picker.choice(*session, *next)?;
                *next += 1;
                Some(choice)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use towline_core::Call;

    use super::*;
    use crate::testing::{Unloaded, named, set};

    fn picker(set: &Members) -> MaglevPicker {
        Maglev::new().slots(65_537).unwrap().build(set, None)
    }

    /// The keys of a session's candidates, best first.
    fn order(picker: &MaglevPicker, set: &Members, session: &str) -> Vec<String> {
        let call = Call::new(()).with_session(session);
        let view = View::new(set, &Unloaded);
        let order = picker.order(&call, Some(call.context()), view, &mut Rng::with_seed(1));
        order.map(|index| set[index].endpoint.key().to_string()).collect()
    }

    const FIVE: [(&str, f64); 5] = [("a:1", 1.0), ("b:1", 1.0), ("c:1", 1.0), ("d:1", 1.0), ("e:1", 1.0)];

    #[test]
    fn homes_are_the_same_in_every_process_and_version() {
        let set = set(&FIVE);
        let of = |maglev: Maglev| {
            let picker = maglev.clone().build(&set, None);
            ["alice", "bob", "carol", "dave"].map(|who| order(&picker, &set, who)[..3].join(" "))
        };
        assert_eq!(of(Maglev::new()), ["e:1 e:1 d:1", "d:1 c:1 b:1", "d:1 c:1 b:1", "e:1 c:1 a:1"]);
        assert_eq!(
            of(Maglev::new().slots(65_537).unwrap()),
            ["c:1 a:1 a:1", "c:1 c:1 a:1", "d:1 c:1 b:1", "b:1 c:1 a:1"]
        );
    }

    #[test]
    fn the_order_of_discovery_does_not_matter() {
        let mut reversed = FIVE;
        reversed.reverse();
        let (one, other) = (set(&FIVE), set(&reversed));
        let (first, second) = (picker(&one), picker(&other));
        for session in 0..100 {
            let session = session.to_string();
            assert_eq!(order(&first, &one, &session), order(&second, &other, &session));
        }
    }

    #[test]
    fn all_endpoints_come_up_after_a_few_choices_by_hash() {
        let mut uneven = FIVE;
        uneven[2].1 = 0.0;
        let set = set(&uneven);
        let picker = picker(&set);
        let mut seconds = BTreeSet::new();
        for session in 0..100 {
            let order = order(&picker, &set, &session.to_string());
            assert_eq!(order.len(), PROBES + 5);
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 5);
            assert!(order[..PROBES].iter().all(|key| key != "c:1"), "weight 0 comes last");
            seconds.insert(order[1].clone());
        }
        assert_eq!(seconds.len(), 4, "second choices spread");
    }

    #[test]
    fn sessions_spread_by_weight() {
        let set = set(&[("a:1", 1.0), ("b:1", 2.0), ("c:1", 0.0), ("d:1", 1.0)]);
        let picker = picker(&set);
        let mut homes = BTreeMap::<String, u32>::new();
        for session in 0..20_000 {
            *homes.entry(order(&picker, &set, &session.to_string()).remove(0)).or_default() += 1;
        }
        for (key, share) in [("a:1", 5_000), ("b:1", 10_000), ("d:1", 5_000)] {
            assert!(homes[key].abs_diff(share) < 300, "{homes:?}");
        }
        assert!(!homes.contains_key("c:1"));
    }

    /// The key of each slot's endpoint.
    fn slots<'a>(picker: &MaglevPicker, set: &'a Members) -> Vec<&'a str> {
        let Slots::Narrow(slots) = &picker.table.slots else { panic!("a small set") };
        let key = |rank: &u16| set[picker.indices[usize::from(*rank)] as usize].endpoint.key().as_str();
        slots.iter().map(key).collect()
    }

    // S11
    #[test]
    fn of_500_endpoints_losing_1_2_or_3_few_sessions_move_that_need_not_and_the_rest_stay_even() {
        let all: Vec<_> = (0..500).map(|i| named(&format!("10.0.{}.{}:7000", i / 250, i % 250))).collect();
        let before = Maglev::new().build(&all, None);
        let homes = slots(&before, &all);
        for lost in 1..=3 {
            let mut left = all.clone();
            let gone: BTreeSet<_> = (0..lost).map(|i| left.remove(i * 100 + 7).endpoint.key().to_string()).collect();
            let after = Maglev::new().build(&left, Some(&before));
            let mut shares = BTreeMap::<&str, f64>::new();
            let mut excess = 0;
            for (old, new) in homes.iter().zip(slots(&after, &left)) {
                *shares.entry(new).or_default() += 1.0;
                excess += u32::from(*old != new && !gone.contains(*old));
            }
            let mean = homes.len() as f64 / left.len() as f64;
            let worst = shares.values().map(|share| (share / mean - 1.0).abs()).fold(0.0, f64::max);
            assert_eq!(shares.len(), left.len());
            assert!(worst <= 0.001, "{lost} lost: imbalance {worst}");
            let excess = f64::from(excess) / homes.len() as f64;
            assert!(excess <= 0.005, "{lost} lost: {excess} moved in excess");
        }
    }

    #[test]
    fn a_table_is_built_again_only_for_other_keys_or_weights() {
        let members = set(&FIVE);
        let first = picker(&members);
        let mut maglev = Maglev::new().slots(65_537).unwrap();
        let mut moved = members.clone();
        moved.rotate_left(2);
        let second = maglev.build(&moved, Some(&first));
        assert!(Arc::ptr_eq(&first.table, &second.table));
        for session in ["alice", "bob", "carol"] {
            assert_eq!(order(&first, &members, session), order(&second, &moved, session));
        }
        let mut heavier = FIVE;
        heavier[0].1 = 2.0;
        assert!(!Arc::ptr_eq(&first.table, &maglev.build(&set(&heavier), Some(&first)).table));
    }

    #[test]
    fn a_set_of_nobody_has_no_candidates() {
        let picker = Maglev::new().build(&[], None);
        assert_eq!(picker.choice(7, PROBES), None);
    }

    #[test]
    fn bad_sizes_and_bounds_say_what_to_change() {
        for slots in [0, 1, 4, 65_536, 655_371, u32::MAX, 33_554_467] {
            let error = Maglev::new().slots(slots).unwrap_err();
            assert_eq!(error.kind(), towline_core::Kind::Config);
            assert!(error.to_string().contains("65537"), "{error}");
        }
        for size in Maglev::SIZES.into_iter().chain([2, 3, 251]) {
            assert!(Maglev::new().slots(size).is_ok(), "{size}");
        }
        for factor in [f64::NAN, f64::INFINITY, 1.0, 0.5, -1.0, 0.0] {
            let error = Maglev::new().bounded(factor).unwrap_err();
            assert!(error.kind() == towline_core::Kind::Config && error.to_string().contains("1.25"), "{error}");
        }
        assert_eq!(Maglev::new().load_bound(), Some(1.25));
        assert_eq!(Maglev::new().bounded(2.0).unwrap().load_bound(), Some(2.0));
        assert_eq!(Maglev::new().unbounded().load_bound(), None);
        let error = Maglev::new().when_home_fails(crate::WhenHomeFails::Move).unwrap_err();
        assert!(error.kind() == towline_core::Kind::Config && error.to_string().contains("table"), "{error}");
        assert_eq!(Maglev::new().upkeep(), None::<Duration>);
    }
}
