//! Who is compared. Each strategy has a name, and a scenario lists the names that it runs; one that is not in `ALL` is left
//! out, and its goals are missed.

mod blind;
pub(crate) mod clock;
mod hashed;
mod least;
mod oracle;
mod peers;
pub(crate) mod prequal;
mod tower;
mod towline;
pub(crate) mod yardstick;

use crate::chance::Rng;
use crate::strategy::{Change, Connection, ServerId, Strategy};

/// A strategy by name.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    /// Makes one for a client, with a generator for what it draws behind the simulator's back.
    pub(crate) make: fn(Rng) -> Box<dyn Strategy>,
}

/// Ours: goals are about it.
pub(crate) const TOWLINE: &str = "towline";
/// Ours, by what servers say about themselves.
pub(crate) const TOWLINE_HOT_COLD: &str = "towline-hot-cold";
/// Ours, with a limit of calls per server that is learned.
pub(crate) const TOWLINE_ADAPTIVE: &str = "towline-adaptive";
/// Ours, without ejection.
pub(crate) const TOWLINE_NO_EJECTION: &str = "towline-no-ejection";
/// Ours, for sessions.
pub(crate) const TOWLINE_RENDEZVOUS: &str = "towline-rendezvous";
pub(crate) const TOWLINE_MAGLEV: &str = "towline-maglev";
/// The bound that regret is against.
pub(crate) const ORACLE: &str = "oracle";

/// In the order of the tables.
pub(crate) const ALL: &[Named] = &[
    Named { name: TOWLINE, make: towline::default },
    Named { name: "towline-in-flight", make: towline::in_flight },
    Named { name: TOWLINE_NO_EJECTION, make: towline::no_ejection },
    Named { name: TOWLINE_ADAPTIVE, make: towline::adaptive },
    Named { name: TOWLINE_HOT_COLD, make: towline::hot_cold },
    Named { name: "random", make: |_| Box::new(blind::Random::default()) },
    Named { name: "round-robin", make: |rng| Box::new(blind::RoundRobin::new(rng)) },
    Named { name: "least-request", make: |_| Box::new(least::LeastRequest::new(least::Choice::All)) },
    Named { name: "p2c-least-request", make: |_| Box::new(least::LeastRequest::new(least::Choice::Two)) },
    Named { name: "tower-p2c-pending", make: tower::pending },
    Named { name: "tower-p2c-ewma", make: tower::ewma },
    Named { name: "prequal-no-probes", make: |_| Box::new(prequal::Prequal::without_probes()) },
    Named { name: "prequal", make: |_| Box::new(prequal::Prequal::with_probes()) },
    Named { name: "envoy", make: |rng| Box::new(peers::envoy::Envoy::new(rng)) },
    Named { name: "grpc-a50", make: |rng| Box::new(peers::a50::Grpc::new(rng)) },
    Named { name: "finagle", make: |rng| Box::new(peers::finagle::Finagle::new(rng)) },
    Named { name: "linkerd", make: |rng| Box::new(peers::linkerd::Linkerd::new(rng)) },
    Named { name: TOWLINE_RENDEZVOUS, make: towline::rendezvous },
    Named { name: TOWLINE_MAGLEV, make: towline::maglev },
    Named { name: "ring-1024", make: |rng| Box::new(hashed::Hashed::ring(rng)) },
    Named { name: "maglev", make: |rng| Box::new(hashed::Hashed::maglev(rng)) },
    Named { name: "rendezvous", make: |rng| Box::new(hashed::Hashed::rendezvous(rng)) },
    Named { name: "haproxy-125", make: |rng| Box::new(hashed::Hashed::haproxy(rng)) },
    Named { name: "envoy-125", make: |rng| Box::new(hashed::Hashed::envoy(rng)) },
    Named { name: ORACLE, make: |_| Box::new(oracle::Oracle::default()) },
    Named { name: "p2c-perfect", make: |_| Box::new(yardstick::Yardstick::perfect()) },
    Named { name: "p2c-error-blind", make: |_| Box::new(yardstick::Yardstick::error_blind()) },
];

/// Those with these names that there are.
pub(crate) fn named(names: &[&str]) -> Vec<&'static Named> {
    ALL.iter().filter(|strategy| names.contains(&strategy.name)).collect()
}

/// The servers that discovery knows of.
#[derive(Clone, Default)]
pub(crate) struct Members(Vec<ServerId>);

impl Members {
    pub(crate) fn change(&mut self, change: Change) {
        match change {
            Change::Added(id) => self.0.push(id),
            Change::Removed(id) => self.0.retain(|member| *member != id),
        }
    }

    pub(crate) fn contains(&self, id: ServerId) -> bool {
        self.0.contains(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ServerId> {
        self.0.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, index: usize) -> ServerId {
        self.0[index]
    }

    pub(crate) fn random(&self, rng: &mut Rng) -> Option<ServerId> {
        if self.0.is_empty() { None } else { Some(self.0[rng.usize(..self.0.len())]) }
    }

    /// Those for which this holds.
    pub(crate) fn only(&self, mut holds: impl FnMut(ServerId) -> bool) -> Self {
        Self(self.iter().filter(|id| holds(*id)).collect())
    }

    /// Two different ones, or the only one twice.
    pub(crate) fn two(&self, rng: &mut Rng) -> Option<(ServerId, ServerId)> {
        let first = match self.0.len() {
            0 => return None,
            1 => return Some((self.0[0], self.0[0])),
            len => rng.usize(..len),
        };
        let second = rng.usize(..self.0.len() - 1);
        Some((self.0[first], self.0[if second >= first { second + 1 } else { second }]))
    }

    /// The one of the least cost, any of them where several are.
    pub(crate) fn least<C: PartialOrd>(&self, rng: &mut Rng, cost: impl Fn(ServerId) -> C) -> Option<ServerId> {
        let mut best: Option<(C, ServerId)> = None;
        let mut ties = 1;
        for id in self.iter() {
            let cost = cost(id);
            match &best {
                Some((least, _)) if cost > *least => {}
                Some((least, _)) if cost == *least => {
                    ties += 1;
                    if rng.u32(..ties) == 0 {
                        best = Some((cost, id));
                    }
                }
                _ => (best, ties) = (Some((cost, id)), 1),
            }
        }
        best.map(|(_, id)| id)
    }
}

/// What pools say about their connections, by server.
#[derive(Default)]
pub(crate) struct Connections(Vec<Connection>);

impl Connections {
    pub(crate) fn change(&mut self, change: Change) {
        if let Change::Added(id) = change {
            self.0.resize(id as usize + 1, Connection::Up);
        }
    }

    pub(crate) fn set(&mut self, server: ServerId, connection: Connection) {
        self.0[server as usize] = connection;
    }

    pub(crate) fn get(&self, server: ServerId) -> Connection {
        self.0[server as usize]
    }

    pub(crate) fn is_up(&self, server: ServerId) -> bool {
        self.get(server) == Connection::Up
    }
}
