//! Which servers each client is connected to, while servers come and go: counting, without a call or a clock.

mod dealt;
mod random;
mod ring;
mod towline;

use crate::chance::{Role, split};
use crate::figures::{Figures, Metric, Run};
use crate::strategies::TOWLINE;
use crate::strategy::{Change, ServerId};

#[derive(Clone, Copy)]
pub(crate) struct Config {
    pub(crate) servers: u32,
    pub(crate) clients: usize,
    /// Servers per client.
    pub(crate) size: usize,
    /// So many servers leave, and as many others join, one by one.
    pub(crate) replaced: u32,
}

/// The most connections that a server may have, of so many on so many servers: a tenth above the mean, rounded up.
pub(crate) fn limit(connections: usize, servers: usize) -> usize {
    (11 * connections).div_ceil(10 * servers)
}

/// A client connects to a server, or somebody leaves one.
enum Step {
    Enters(usize, ServerId),
    Leaves(ServerId),
}

type Tell<'a> = &'a mut dyn FnMut(Step);

/// All clients of one way to choose.
trait Clients {
    /// `coming` is for those who would rather work client by client, and changes no choice.
    fn begin(&mut self, servers: &[ServerId], coming: &[Change], tell: Tell<'_>);

    fn change(&mut self, change: Change, tell: Tell<'_>);
}

/// A way to choose by name.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    make: fn(&Config, u64) -> Box<dyn Clients>,
}

/// Ours, of clients that have names and no indices.
pub(crate) const TOWLINE_NAMED: &str = "towline-named";

/// In the order of the tables.
pub(crate) const ALL: &[Named] = &[
    Named { name: TOWLINE, make: |config, seed| Box::new(towline::Towline::nth(config, seed)) },
    Named { name: TOWLINE_NAMED, make: |config, seed| Box::new(towline::Towline::named(config, seed)) },
    Named { name: "grpc-random", make: |config, seed| Box::new(random::Random::new(config, seed)) },
    Named { name: "google-deterministic", make: |config, seed| Box::new(dealt::Dealt::new(config, seed)) },
    Named { name: "finagle-aperture", make: |config, seed| Box::new(ring::Aperture::new(config, seed)) },
];

/// What became of the connections.
struct Count {
    /// By server, ever.
    connections: Vec<usize>,
    there: Vec<ServerId>,
    all: usize,
    /// By client, in this change.
    swaps: Vec<u32>,
}

impl Count {
    fn step(&mut self, step: Step) {
        match step {
            Step::Enters(client, server) => {
                self.connections[server as usize] += 1;
                self.all += 1;
                self.swaps[client] += 1;
            }
            Step::Leaves(server) => {
                self.connections[server as usize] -= 1;
                self.all -= 1;
            }
        }
    }
}

/// What is worst over all changes.
#[derive(Default)]
struct Worst {
    steps: usize,
    max_mean: f64,
    over: usize,
    at_zero: usize,
    swaps: u32,
}

impl Worst {
    fn look(&mut self, count: &Count) {
        let connections = || count.there.iter().map(|server| count.connections[*server as usize]);
        let most = connections().max().unwrap_or(0);
        self.steps += 1;
        self.max_mean = self.max_mean.max((most * count.there.len()) as f64 / count.all as f64);
        self.over += usize::from(most > limit(count.all, count.there.len()));
        self.at_zero = self.at_zero.max(connections().filter(|connections| *connections == 0).count());
    }
}

/// Leaving and joining alternate, either first; under one seed, everybody sees the same.
fn changes(config: &Config, seed: u64) -> Vec<Change> {
    let mut rng = split(seed, Role::Servers);
    let mut there: Vec<_> = (0..config.servers).collect();
    let mut replace = |new: ServerId| {
        let old = rng.usize(..there.len());
        let (joined, left) = (Change::Added(new), Change::Removed(std::mem::replace(&mut there[old], new)));
        if rng.bool() { [left, joined] } else { [joined, left] }
    };
    (config.servers..config.servers + config.replaced).flat_map(&mut replace).collect()
}

/// One run.
pub(crate) fn run(config: &Config, who: &Named, seed: u64) -> Run {
    let changes = changes(config, seed);
    let mut clients = (who.make)(config, seed);
    let mut count = Count {
        connections: vec![0; (config.servers + config.replaced) as usize],
        there: (0..config.servers).collect(),
        all: 0,
        swaps: vec![0; config.clients],
    };
    let servers = count.there.clone();
    clients.begin(&servers, &changes, &mut |step| count.step(step));
    let mut worst = Worst::default();
    worst.look(&count);
    let mut swaps = 0;
    for change in &changes {
        count.swaps.fill(0);
        match change {
            Change::Added(server) => count.there.push(*server),
            Change::Removed(server) => count.there.retain(|there| there != server),
        }
        clients.change(*change, &mut |step| count.step(step));
        worst.look(&count);
        worst.swaps = worst.swaps.max(count.swaps.iter().copied().max().unwrap_or(0));
        swaps += count.swaps.iter().map(|swaps| u64::from(*swaps)).sum::<u64>();
    }
    let mut whole = Figures::default();
    whole.set(Metric::PerClient, count.all as f64 / config.clients as f64);
    whole.set(Metric::MaxMean, worst.max_mean);
    whole.set(Metric::OverLimit, 100.0 * worst.over as f64 / worst.steps as f64);
    whole.set(Metric::AtZero, worst.at_zero as f64);
    whole.set(Metric::Swaps, swaps as f64 / changes.len() as f64 / config.clients as f64);
    whole.set(Metric::MostSwaps, f64::from(worst.swaps));
    Run { whole, spans: Vec::new(), curve: Vec::new() }
}

/// Subsets that are computed anew after every change.
struct Anew {
    of: Vec<Vec<ServerId>>,
    /// By server, in which comparison it was seen last.
    seen: Vec<u64>,
    comparisons: u64,
}

impl Anew {
    fn new(config: &Config) -> Self {
        let ever = (config.servers + config.replaced) as usize;
        Self { of: vec![Vec::new(); config.clients], seen: vec![0; ever], comparisons: 0 }
    }

    /// From now on these are the servers of a client, each once.
    fn set(&mut self, client: usize, servers: impl Iterator<Item = ServerId>, tell: Tell<'_>) {
        let old = std::mem::replace(&mut self.of[client], servers.collect());
        let new = &self.of[client];
        for (before, after, is_new) in [(&old, new, true), (new, &old, false)] {
            self.comparisons += 1;
            before.iter().for_each(|server| self.seen[*server as usize] = self.comparisons);
            for server in after.iter().filter(|server| self.seen[**server as usize] != self.comparisons) {
                tell(if is_new { Step::Enters(client, *server) } else { Step::Leaves(*server) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config { servers: 60, clients: 30, size: 20, replaced: 20 };

    #[test]
    fn everybody_has_as_many_servers_as_they_say_and_the_same_ones_again() {
        for who in ALL {
            let run_once = || run(&CONFIG, who, 3);
            let per_client = run_once().whole.get(Metric::PerClient).unwrap();
            // Where an aperture ends within a server it has a part of that one, too.
            assert!((19.0..=21.0).contains(&per_client), "{} {per_client}", who.name);
            assert_eq!(run_once(), run_once());
        }
    }

    #[test]
    fn chance_leaves_the_spread_that_theory_gives() {
        let config = Config { servers: 1_000, clients: 100, size: 20, replaced: 0 };
        let who = ALL.iter().find(|who| who.name == "grpc-random").unwrap();
        let at_zero = |seed| run(&config, who, seed).whole.get(Metric::AtZero).unwrap();
        let mean = (1..=5).map(at_zero).sum::<f64>() / 5.0;
        // (1 − 20/1000)^100 of a thousand.
        assert!((mean - 132.6).abs() < 12.0, "{mean}");
    }

    #[test]
    fn dealing_is_even_until_somebody_leaves_and_then_nearly_all_is_new() {
        let who = ALL.iter().find(|who| who.name == "google-deterministic").unwrap();
        let still = Config { servers: 100, clients: 50, size: 20, replaced: 0 };
        assert_eq!(run(&still, who, 1).whole.get(Metric::MaxMean), Some(1.0));
        let moving = Config { replaced: 10, ..still };
        assert!(run(&moving, who, 1).whole.get(Metric::Swaps).unwrap() > 10.0);
    }

    #[test]
    fn the_limit_is_a_tenth_above_the_mean_rounded_up() {
        assert_eq!([limit(200, 1_000), limit(2_000, 1_000), limit(20_000, 1_000), limit(20_000, 100)], [1, 3, 22, 220]);
    }
}
