//! Our own: the balancer's production core in the simulator's time. What is not here is the task that waits for
//! discovery and the future that waits for an endpoint; each pick, each count and each sweep is the library's.
//!
//! What that future does when an endpoint cannot be reached is told again in `another`: it asks the next, four in all.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use slab::Slab;
use towline_balance::core::{
    Clock, Detector, Flight, LENDERS, Levels, Node, PERIOD, Set, Settings, Snapshot, Stats, Sweep, weigh,
};
use towline_balance::{Circuit, HotCold, LoadMetric, Outliers, P2c, SlowStart};
use towline_core::{
    CallContext, Endpoint, EndpointId, Error, Lend, LoadReport as Reported, Outcome as Classified, Pick as Picks,
    Policy, Room, SessionKey, Target, Tried, View,
};
use towline_sticky::{Maglev, Rendezvous};

use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, Connection, Key, LoadReport, Outcome, Pick, ServerId, Strategy, Token, Wanted};
use crate::tables::Unloaded;

/// As it is without settings.
pub(super) fn default(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Towline::new(P2c::new(), Options::default(), rng))
}

/// Nobody is ejected: what the load and probation do alone.
pub(super) fn no_ejection(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Towline::new(P2c::new(), Options { outliers: Outliers::off(), ..Options::default() }, rng))
}

/// Two choices by calls in flight alone.
pub(super) fn in_flight(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Towline::new(P2c::new(), Options { metric: LoadMetric::in_flight(), ..Options::default() }, rng))
}

/// By what servers say about themselves.
pub(super) fn hot_cold(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Towline::new(HotCold::new(), Options { reads_reports: true, ..Options::default() }, rng))
}

/// With a limit of calls per server that is learned.
pub(super) fn adaptive(rng: Rng) -> Box<dyn Strategy> {
    let circuit = Circuit::new().adaptive(1, 100).expect("within range");
    Box::new(Towline::new(P2c::new(), Options { circuit, ..Options::default() }, rng))
}

/// What differs from one of ours to another.
#[derive(Default)]
struct Options {
    metric: LoadMetric,
    circuit: Circuit,
    outliers: Outliers,
    reads_reports: bool,
}

/// Sessions by a table.
pub(super) fn maglev(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Towline::new(Maglev::new(), Options::default(), rng))
}

/// Sessions by the highest score.
pub(super) fn rendezvous(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Towline::new(Rendezvous::new(), Options::default(), rng))
}

struct Towline<P: Policy> {
    policy: P,
    levels: Arc<Levels>,
    set: Set<Pool>,
    snapshot: Snapshot<Pool, P::Picker>,
    /// By server.
    pools: Vec<Pool>,
    rng: towline_core::Rng,
    salt: u64,
    flights: Slab<Flight>,
    sweep: Sweep,
    detector: Detector,
    sweep_at: Option<u64>,
    reads_reports: bool,
}

impl<P> Towline<P>
where
    P: Policy,
    P::Picker: Picks<()>,
{
    fn new(mut policy: P, options: Options, mut rng: Rng) -> Self {
        let Options { metric, circuit, outliers, reads_reports } = options;
        let (mut rng, salt) = (towline_core::Rng::with_seed(rng.u64(..)), rng.u64(..));
        let detector = Detector::new(outliers, SlowStart::default(), rng.fork());
        let (is_watched, load_bound) = (detector.is_on(), policy.load_bound());
        let settings = Settings { metric, circuit, is_watched, load_bound, ..Settings::default() };
        let levels = Levels::new(settings, Clock::Manual(AtomicU64::new(0)));
        let set = Set::default();
        let snapshot = Snapshot::new(levels.clone(), Vec::new(), Vec::new(), &mut policy, None);
        Self {
            policy,
            levels,
            set,
            snapshot,
            pools: Vec::new(),
            rng,
            salt,
            flights: Slab::new(),
            sweep: Sweep::default(),
            detector,
            sweep_at: None,
            reads_reports,
        }
    }

    /// What the library calls these servers, as far as they are there.
    fn ids(&self, servers: &[ServerId]) -> impl Iterator<Item = EndpointId> {
        let node = |server: &ServerId| {
            let key = endpoint(*server);
            self.snapshot.nodes().iter().find(move |node| node.stats().key() == key.key())
        };
        servers.iter().filter_map(node).map(Node::id)
    }

    /// A call of a session: one for each key, others under every seed.
    fn about(&self, key: Key) -> CallContext {
        let mut context = CallContext::default();
        context.set_session(Some(SessionKey::new([self.salt, u64::from(key)].map(u64::to_le_bytes).as_flattened())));
        context
    }

    fn at(&self, now: u64) {
        self.levels.clock().set(now);
    }

    fn begin(&mut self, now: u64, context: Option<&CallContext>, refused: Option<&Tried>) -> Option<Pick> {
        self.at(now);
        let choice = self.snapshot.pick(&(), context, refused, &mut self.rng, now).ok()?;
        if self.sweep_at.is_none() {
            self.sweep_at = Some(now + PERIOD.as_nanos() as u64);
        }
        let flight = self.snapshot.begin(choice, now);
        // Connections have room here, so one is asked at a time.
        self.snapshot.leave(choice, flight.is_some().then_some(choice.index), now);
        let flight = flight?;
        let server = id(flight.stats());
        self.snapshot.taken(&(), context, choice, now);
        Some(Pick { server, token: self.flights.insert(flight) as Token })
    }
}

fn id(stats: &Stats) -> ServerId {
    stats.key().as_str().parse().expect("keys are ids")
}

/// What the balancer sees of the simulator's pool of connections to a server.
#[derive(Clone, Default)]
struct Pool {
    /// An index into `ROOMS`.
    room: Arc<AtomicU8>,
}

const ROOMS: [Room; 3] = [Room::Ready, Room::Cold, Room::Down];

impl Pool {
    fn becomes(&self, room: Room) {
        let index = ROOMS.iter().position(|other| *other == room).expect("a pool here is never full");
        self.room.store(index as u8, Ordering::Relaxed);
    }
}

impl Lend for Pool {
    type Checkout = ();
    type Lend = Ready<Result<(), Error>>;

    fn room(&self) -> Room {
        ROOMS[usize::from(self.room.load(Ordering::Relaxed))]
    }

    /// Nobody asks: the simulator lets calls wait for their connections.
    fn lend(&self, _: Option<&CallContext>) -> Self::Lend {
        ready(Ok(()))
    }
}

fn endpoint(id: ServerId) -> Endpoint {
    let target: Target = "server:1".parse().expect("a host and a port");
    Endpoint::new(id.to_string().as_str(), target)
}

impl<P> Strategy for Towline<P>
where
    P: Policy,
    P::Picker: Picks<()>,
{
    fn pick(&mut self, now: u64, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        self.begin(now, None, None)
    }

    fn pick_for(&mut self, now: u64, wanted: Wanted<'_>, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        if wanted.key.is_none() && wanted.tried.is_empty() {
            return self.begin(now, None, None);
        }
        let mut context = wanted.key.map(|key| self.about(key)).unwrap_or_default();
        self.ids(wanted.tried).for_each(|id| context.tried_mut().add(id));
        self.begin(now, Some(&context), None)
    }

    fn places(&mut self, key: Key) -> Option<[ServerId; 2]> {
        let context = self.about(key);
        let view = View::new(self.snapshot.members(), &Unloaded);
        let mut order = self.snapshot.picker().order(&(), Some(&context), view, &mut self.rng);
        let home = order.next()?;
        let second = order.find(|index| *index != home).unwrap_or(home);
        let server = |index: usize| id(self.snapshot.nodes()[index].stats());
        Some([server(home), server(second)])
    }

    fn another(&mut self, now: u64, _: &mut Rng, _: &Fleet, asked: &[ServerId]) -> Option<Pick> {
        if asked.len() >= LENDERS {
            return None;
        }
        let mut refused = Tried::default();
        self.ids(asked).for_each(|id| refused.add(id));
        self.begin(now, None, Some(&refused))
    }

    fn end(&mut self, token: Token, now: u64, outcome: Outcome, report: Option<LoadReport>) {
        self.at(now);
        let flight = self.flights.remove(token as usize);
        if let Some(LoadReport { in_flight, latency_ns }) = report {
            flight.report(Reported { in_flight, latency: std::time::Duration::from_nanos(latency_ns) });
        }
        match outcome {
            Outcome::Ok => flight.end(Classified::Success),
            Outcome::Failed => flight.end(Classified::Failure),
            Outcome::Unreachable => flight.unreachable(),
            Outcome::Cut | Outcome::Superseded => drop(flight),
        }
    }

    fn change(&mut self, now: u64, change: Change) {
        self.at(now);
        match change {
            Change::Added(id) => {
                self.pools.resize_with(id as usize + 1, Pool::default);
                self.set.put(endpoint(id), self.pools[id as usize].clone(), &self.levels);
            }
            Change::Removed(id) => drop(self.set.remove(endpoint(id).key())),
        }
        self.snapshot = self.set.snapshot(&self.levels, &mut self.policy, Some(self.snapshot.picker()));
    }

    fn connection(&mut self, _: u64, server: ServerId, connection: Connection) {
        self.pools[server as usize].becomes(match connection {
            Connection::Up => Room::Ready,
            Connection::Lost => Room::Cold,
            Connection::Down => Room::Down,
        });
    }

    fn ejected(&self) -> usize {
        self.snapshot.nodes().iter().filter(|node| node.stats().is_ejected()).count()
    }

    fn reads_reports(&self) -> bool {
        self.reads_reports
    }

    fn next_wake(&self) -> Option<u64> {
        self.sweep_at
    }

    fn wake(&mut self, now: u64, _: &mut Rng) {
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep_at = None;
            self.at(now);
            let stats = || self.snapshot.nodes().iter().map(|node| node.stats());
            self.sweep.run(&self.levels, stats(), now);
            self.detector.run(&self.levels, stats(), now);
            weigh(&self.levels, self.snapshot.nodes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn towline(servers: ServerId) -> Box<dyn Strategy> {
        let mut towline = default(Rng::with_seed(1));
        (0..servers).for_each(|id| towline.change(0, Change::Added(id)));
        towline
    }

    #[test]
    fn a_call_that_cannot_be_sent_asks_four_different_endpoints_and_no_more() {
        let (mut towline, mut rng, fleet) = (towline(20), Rng::with_seed(1), Fleet::nobody());
        let first = towline.pick(0, &mut rng, &fleet).expect("there are servers");
        let mut asked = vec![first.server];
        towline.end(first.token, 0, Outcome::Unreachable, None);
        while let Some(pick) = towline.another(0, &mut rng, &fleet, &asked) {
            assert!(!asked.contains(&pick.server), "{asked:?}");
            asked.push(pick.server);
            towline.end(pick.token, 0, Outcome::Unreachable, None);
        }
        assert_eq!(asked.len(), LENDERS);
    }

    #[test]
    fn who_is_down_is_passed_over_while_anybody_is_not() {
        let (mut towline, mut rng, fleet) = (towline(20), Rng::with_seed(1), Fleet::nobody());
        (0..19).for_each(|id| towline.connection(0, id, Connection::Down));
        let mut picks = (0..1_000).filter_map(|_| towline.pick(0, &mut rng, &fleet));
        assert!(picks.all(|pick| pick.server == 19));
        towline.connection(0, 3, Connection::Up);
        let mut picks = (0..1_000).filter_map(|_| towline.pick(0, &mut rng, &fleet));
        assert!(picks.all(|pick| pick.server == 19 || pick.server == 3));
    }
}
