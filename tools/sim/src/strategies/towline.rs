//! Our own: the balancer's production core in the simulator's time. What is not here is the task that waits for
//! discovery and the future that waits for an endpoint; each pick, each count and each sweep is the library's.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use slab::Slab;
use towline_balance::core::{Clock, Detector, Flight, Levels, PERIOD, Set, Settings, Snapshot, Sweep};
use towline_balance::{HotCold, LoadMetric, Outliers, P2c, SlowStart};
use towline_core::{Endpoint, Lent, LoadReport as Reported, Outcome as Classified, Pick as Picks, Policy, Target};

use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, LoadReport, Outcome, Pick, ServerId, Strategy, Token};

/// As it is without settings.
pub(super) fn default(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Towline::new(P2c::new(), LoadMetric::default(), rng, false))
}

/// Two choices by calls in flight alone.
pub(super) fn in_flight(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Towline::new(P2c::new(), LoadMetric::in_flight(), rng, false))
}

/// By what servers say about themselves.
pub(super) fn hot_cold(rng: Rng) -> Box<dyn Strategy> {
    Box::new(Towline::new(HotCold::new(), LoadMetric::default(), rng, true))
}

struct Towline<P: Policy> {
    policy: P,
    levels: Arc<Levels>,
    set: Set<Lent<()>>,
    snapshot: Snapshot<Lent<()>, P::Picker>,
    rng: towline_core::Rng,
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
    fn new(mut policy: P, metric: LoadMetric, mut rng: Rng, reads_reports: bool) -> Self {
        let mut rng = towline_core::Rng::with_seed(rng.u64(..));
        let detector = Detector::new(Outliers::default(), SlowStart::default(), rng.fork());
        let settings = Settings { metric, is_watched: detector.is_on(), ..Settings::default() };
        let levels = Levels::new(settings, Clock::Manual(AtomicU64::new(0)));
        let set = Set::default();
        let snapshot = Snapshot::new(levels.clone(), Vec::new(), Vec::new(), &mut policy, None);
        Self {
            policy,
            levels,
            set,
            snapshot,
            rng,
            flights: Slab::new(),
            sweep: Sweep::default(),
            detector,
            sweep_at: None,
            reads_reports,
        }
    }

    fn at(&self, now: u64) {
        self.levels.clock().set(now);
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
        self.at(now);
        let choice = self.snapshot.pick(&(), None, None, &mut self.rng, now).ok()?;
        let stats = self.snapshot.nodes()[choice.index].stats().clone();
        let server = stats.key().as_str().parse().expect("keys are ids");
        if self.sweep_at.is_none() {
            self.sweep_at = Some(now + PERIOD.as_nanos() as u64);
        }
        let flight = Flight::begin(stats, now)?;
        Some(Pick { server, token: self.flights.insert(flight) as Token })
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
            Outcome::Cut => drop(flight),
        }
    }

    fn change(&mut self, now: u64, change: Change) {
        self.at(now);
        match change {
            Change::Added(id) => drop(self.set.put(endpoint(id), Lent::new(()), &self.levels)),
            Change::Removed(id) => drop(self.set.remove(endpoint(id).key())),
        }
        self.snapshot = self.set.snapshot(&self.levels, &mut self.policy, Some(self.snapshot.picker()));
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
        }
    }
}
