//! Which server each hash belongs to, and who moves when servers change: counting, without a call or a clock.

mod maglev;
mod ring;
mod towline;

pub(crate) use self::maglev::Maglev;
pub(crate) use self::ring::Ring;
pub(crate) use self::towline::Unloaded;
use crate::chance::{Role, mix, split};
use crate::figures::{Figures, Metric, Run};
use crate::strategies::TOWLINE;
use crate::strategy::ServerId;

/// A server and its weight.
pub(crate) type Weighted = (ServerId, f64);

/// Where hashes belong.
pub(crate) trait Table {
    fn home(&self, hash: u64) -> ServerId;

    /// What part of all hashes each of these has, in their order, where that can be known.
    fn shares(&self, servers: &[Weighted]) -> Option<Vec<f64>>;
}

/// What befalls the servers of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// So many leave at once.
    Leave(usize),
    Join,
    /// One has so many times its weight.
    Weigh(f64),
    /// So many leave one after the other, each with another in its place.
    Replace(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) servers: u32,
    pub(crate) keys: u32,
    pub(crate) event: Event,
}

/// A way to build tables by name.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    make: fn(&[Weighted], u64) -> Box<dyn Table>,
}

/// The least entries of a ring that Envoy and gRPC begin with.
pub(crate) const RING: usize = 1_024;
/// The slots of Envoy's table.
const MAGLEV: usize = 65_537;

/// In the order of the tables.
pub(crate) const ALL: &[Named] = &[
    Named { name: TOWLINE, make: |servers, seed| Box::new(towline::Slots::new(None, servers, seed)) },
    Named { name: "towline-65537", make: |servers, seed| Box::new(towline::Slots::new(Some(65_537), servers, seed)) },
    Named { name: "towline-rendezvous", make: |servers, seed| Box::new(towline::Scores::new(servers, seed)) },
    Named { name: "maglev-65537", make: |servers, seed| Box::new(Maglev::new(MAGLEV, servers, seed)) },
    Named { name: "ring-1024", make: |servers, seed| Box::new(Ring::new(RING, servers, seed)) },
];

/// What servers are hashed by: under each seed they have other names.
pub(crate) fn hash_of(server: ServerId, seed: u64) -> u64 {
    mix(mix(seed) ^ u64::from(server))
}

/// The servers after a step, and the one of them that a key has reason to move to, or to leave; those who have left, it must.
struct Step {
    servers: Vec<Weighted>,
    gaining: Option<ServerId>,
    losing: Option<ServerId>,
}

/// The first is the beginning.
fn steps(config: &Config, seed: u64) -> Vec<Step> {
    let mut rng = split(seed, Role::Servers);
    let mut servers: Vec<Weighted> = (0..config.servers).map(|id| (id, 1.0)).collect();
    let mut next = config.servers;
    let mut steps = vec![Step { servers: servers.clone(), gaining: None, losing: None }];
    let mut step = |servers: &Vec<Weighted>, gaining, losing| {
        steps.push(Step { servers: servers.clone(), gaining, losing });
    };
    match config.event {
        Event::Leave(count) => {
            for _ in 0..count {
                servers.swap_remove(rng.usize(..servers.len()));
            }
            step(&servers, None, None);
        }
        Event::Join => {
            servers.push((next, 1.0));
            step(&servers, Some(next), None);
        }
        Event::Weigh(times) => {
            let (id, weight) = &mut servers[rng.usize(..config.servers as usize)];
            *weight *= times;
            let id = Some(*id);
            if times > 1.0 { step(&servers, id, None) } else { step(&servers, None, id) }
        }
        Event::Replace(count) => {
            for _ in 0..count {
                let place = rng.usize(..servers.len());
                servers[place] = (next, 1.0);
                step(&servers, Some(next), None);
                next += 1;
            }
        }
    }
    steps
}

/// One run.
pub(crate) fn run(config: &Config, who: &Named, seed: u64) -> Run {
    let mut steps = steps(config, seed).into_iter();
    let before = steps.next().expect("there is a beginning").servers;
    let mut table = (who.make)(&before, seed);
    let keys: Vec<_> = (0..config.keys).map(|key| mix(mix(!seed) ^ u64::from(key))).collect();
    let mut homes: Vec<_> = keys.iter().map(|key| table.home(*key)).collect();
    let mut imbalance = imbalance(&*table, &before);
    let (mut moved, mut excess, mut count) = (0u64, 0u64, 0u64);
    for Step { servers, gaining, losing } in steps {
        table = (who.make)(&servers, seed);
        let is_there = |home: ServerId| servers.iter().any(|(id, _)| *id == home);
        for (key, home) in keys.iter().zip(&mut homes) {
            let now = table.home(*key);
            if now != *home {
                moved += 1;
                let has_reason = gaining == Some(now) || losing == Some(*home) || !is_there(*home);
                excess += u64::from(!has_reason);
            }
            *home = now;
        }
        imbalance = imbalance.zip(self::imbalance(&*table, &servers)).map(|(before, now)| before.max(now));
        count += u64::from(config.keys);
    }
    let mut whole = Figures::default();
    if let Some(imbalance) = imbalance {
        whole.set(Metric::Imbalance, 100.0 * imbalance);
    }
    whole.set(Metric::MaxMean, max_mean(&homes));
    whole.set(Metric::Moved, 100.0 * moved as f64 / count as f64);
    whole.set(Metric::Excess, 100.0 * excess as f64 / count as f64);
    Run { whole, spans: Vec::new(), curve: Vec::new() }
}

/// By how much the server with the largest share for its weight is above its due.
fn imbalance(table: &dyn Table, servers: &[Weighted]) -> Option<f64> {
    let all: f64 = servers.iter().map(|(_, weight)| weight).sum();
    let over = |(share, (_, weight)): (f64, &Weighted)| share * all / weight - 1.0;
    let shares = table.shares(servers)?;
    Some(shares.into_iter().zip(servers).map(over).fold(0.0, f64::max))
}

/// Of the keys: what chance adds.
fn max_mean(homes: &[ServerId]) -> f64 {
    let mut counts = std::collections::BTreeMap::<_, usize>::new();
    homes.iter().for_each(|home| *counts.entry(home).or_default() += 1);
    let most = counts.values().max().copied().unwrap_or(0);
    (most * counts.len()) as f64 / homes.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config { servers: 50, keys: 20_000, event: Event::Leave(1) };

    fn figure(who: &str, event: Event, metric: Metric) -> f64 {
        let who = ALL.iter().find(|named| named.name == who).unwrap();
        let config = Config { event, ..CONFIG };
        assert_eq!(run(&config, who, 3), run(&config, who, 3), "{}", who.name);
        run(&config, who, 3).whole.get(metric).unwrap()
    }

    #[test]
    fn a_ring_and_the_highest_score_move_only_what_they_must() {
        for who in ["ring-1024", "towline-rendezvous"] {
            // With three fewer a ring would have another number of points for each, and be another ring.
            for event in [Event::Leave(1), Event::Join, Event::Replace(5)] {
                assert_eq!(figure(who, event, Metric::Excess), 0.0, "{who} {event:?}");
            }
        }
        // One of fifty.
        let moved = figure("towline-rendezvous", Event::Leave(1), Metric::Moved);
        assert!((moved - 2.0).abs() < 0.4, "{moved}");
    }

    #[test]
    fn a_short_ring_is_as_uneven_as_theory_says() {
        // 21 points each: the deviation of a share is 1/√21 of it, and the most of fifty two and a half of these or so above.
        let imbalance = figure("ring-1024", Event::Leave(1), Metric::Imbalance);
        assert!((30.0..110.0).contains(&imbalance), "{imbalance}");
    }

    #[test]
    fn tables_are_even_and_move_a_little_more_than_they_must_the_larger_the_less() {
        for who in ["maglev-65537", "towline-65537", TOWLINE] {
            assert!(figure(who, Event::Leave(1), Metric::Imbalance) < 0.3, "{who}");
        }
        let excess = |who| figure(who, Event::Leave(1), Metric::Excess);
        assert!(excess("maglev-65537") > 2.0 * excess(TOWLINE));
    }

    #[test]
    fn weights_are_heeded() {
        for who in ALL {
            let moved = figure(who.name, Event::Weigh(2.0), Metric::Moved);
            // From one in fifty to two in fifty-one.
            assert!((0.5..6.0).contains(&moved), "{} {moved}", who.name);
        }
    }
}
