//! The simulator: one thread, a clock of virtual nanoseconds, an event after the other.
//!
//! Calls arrive in an open loop, as a Poisson process per client, and their latency counts from their arrival, so that
//! nobody looks better by letting calls wait outside. A call's demand is drawn with the call and not with the server that
//! gets it: all strategies under one seed face the same work, and differ by where they send it. What is below a balancer, a
//! pool of connections to each server, is the same for all of them.
//!
//! A request is what a caller wants; calls are the attempts that its client makes of it: others when one has failed, and one
//! beside another that is late, of which the loser is given up. Servers of all tiers but the last are clients of the next.

pub(crate) mod call;
mod clients;
pub(crate) mod config;
mod connecting;
pub(crate) mod fleet;
pub(crate) mod keyed;
mod links;
mod queue;
pub(crate) mod record;
mod reports;
pub(crate) mod request;
mod servers;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use slab::Slab;

use self::call::{Call, CallId, ClientId};
use self::config::{Config, MICROS, MILLIS, Step};
use self::fleet::{Condition, Fleet};
use self::keyed::Keyed;
use self::links::Link;
use self::queue::{Event, Queue};
use self::record::{Membership, Record};
use self::request::{Request, RequestId};
use crate::chance::{Rng, Role, split};
use crate::repeats::{Once, Repeats};
use crate::strategy::{ServerId, Strategy};

/// One way through the network takes this long, evenly drawn: 0.5 ms ± 0.1 there and back.
const ONE_WAY_NS: std::ops::RangeInclusive<u64> = 200 * MICROS..=300 * MICROS;
/// How often the requests in flight are counted.
const SAMPLE_EVERY: u64 = 50 * MILLIS;

struct Client {
    strategy: Box<dyn Strategy>,
    repeats: Box<dyn Repeats>,
    /// Of the servers that it calls.
    tier: u32,
    /// By server.
    links: Vec<Link>,
    arrivals: Rng,
    demand: Rng,
    keys: Rng,
    /// Its strategy's.
    rng: Rng,
    repeats_rng: Rng,
    /// When it is woken next.
    woken: u64,
}

struct Sim<'a> {
    config: &'a Config,
    script: Vec<(u64, Step)>,
    now: u64,
    queue: Queue,
    /// Deadlines are as far ahead for all in the first tier, so they come in the order in which they are set.
    deadlines: VecDeque<(u64, RequestId, u64)>,
    requests: Slab<Request>,
    calls: Slab<Call>,
    serial: u64,
    fleet: Fleet,
    /// What calls are about, if they are about anything.
    keyed: Option<Keyed>,
    /// Those that calls come from, and then the servers that have others to call.
    clients: Vec<Client>,
    network: Rng,
    /// Pauses between dials.
    dials: Rng,
    chance: Rng,
    /// By server.
    pauses: Vec<Rng>,
    record: Record,
    /// Room for lists that live shorter than an event.
    done: Vec<CallId>,
    targets: Vec<ServerId>,
}

/// Runs one seed with a strategy for each client, every call sent once.
pub(crate) fn run(config: &Config, seed: u64, strategy: impl FnMut(Rng) -> Box<dyn Strategy>) -> Record {
    run_repeating(config, seed, strategy, |_| Box::new(Once))
}

/// Runs one seed with a strategy and its own way to repeat calls for each client.
pub(crate) fn run_repeating(
    config: &Config,
    seed: u64,
    mut strategy: impl FnMut(Rng) -> Box<dyn Strategy>,
    mut repeats: impl FnMut(Rng) -> Box<dyn Repeats>,
) -> Record {
    let client = |index: ClientId| {
        let mut rng = split(seed, Role::Client(index));
        let mut repeats_rng = split(seed, Role::Repeats(index));
        Client {
            strategy: strategy(rng.fork()),
            repeats: repeats(repeats_rng.fork()),
            tier: index.checked_sub(config.clients).map_or(0, |server| server / config.servers + 1),
            links: Vec::new(),
            arrivals: split(seed, Role::Arrivals(index)),
            demand: split(seed, Role::Demand(index)),
            keys: split(seed, Role::Keys(index)),
            rng,
            repeats_rng,
            woken: u64::MAX,
        }
    };
    let clients = config.clients + (config.tiers - 1) * config.servers;
    let mut sim = Sim {
        config,
        script: config.script(),
        now: 0,
        queue: Queue::default(),
        deadlines: VecDeque::new(),
        requests: Slab::new(),
        calls: Slab::new(),
        serial: 0,
        fleet: Fleet { servers: Vec::new(), mean_demand: config.mean_demand, deadline: config.deadline },
        keyed: config.keys.map(|keys| Keyed::new(keys, config.servers)),
        clients: (0..clients).map(client).collect(),
        network: split(seed, Role::Network),
        dials: split(seed, Role::Dials),
        chance: split(seed, Role::Servers),
        pauses: (0..config.servers).map(|server| split(seed, Role::Pauses(server))).collect(),
        record: Record::new(config),
        done: Vec::new(),
        targets: Vec::new(),
    };
    sim.begin();
    while let Some(time) = sim.next() {
        sim.now = time;
        sim.step();
    }
    sim.finish()
}

impl Sim<'_> {
    fn begin(&mut self) {
        for server in 0..self.config.servers * self.config.tiers {
            self.join(Condition::default(), server / self.config.servers);
        }
        for client in 0..self.config.clients {
            self.arm_arrival(client);
        }
        for step in 0..self.script.len() {
            self.queue.push(self.script[step].0, Event::Script(step as u32));
        }
        self.queue.push(SAMPLE_EVERY, Event::Sample);
        (0..self.pauses.len()).for_each(|server| self.arm_pause(server as ServerId, self.now));
    }

    fn next(&self) -> Option<u64> {
        let deadline = self.deadlines.front().map(|(time, ..)| *time);
        [self.queue.next(), deadline].into_iter().flatten().min()
    }

    /// A deadline that is over goes before whatever else happens at that time.
    fn step(&mut self) {
        match self.deadlines.front() {
            Some((time, request, serial)) if *time == self.now => {
                let (request, serial) = (*request, *serial);
                self.deadlines.pop_front();
                self.cut(request, serial);
            }
            _ => {
                if let Some((_, event)) = self.queue.pop() {
                    self.handle(event);
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(client) => self.arrive(client),
            Event::Reach(call) => self.reach(call),
            Event::Finish(call, outcome) => self.finish_slot(call, outcome),
            Event::Hedge(request, serial) => self.hedge(request, serial),
            Event::Again(request, serial) => self.again(request, serial),
            Event::Deadline(request, serial) => self.cut(request, serial),
            Event::Stop(call, serial) => self.stop(call, serial),
            Event::Pause(server) => self.pause(server),
            Event::Turn(server, version) => self.turn(server, version),
            Event::Answer(call) => self.answer(call),
            Event::ProbeReach(client, server) => self.probe(client, server),
            Event::ProbeAnswer(client, server, report) => {
                self.clients[client as usize].strategy.probed(self.now, server, report);
                self.arm_wake(client);
            }
            Event::DialReach(client, server) => self.dial_reach(client, server),
            Event::DialEnd(client, server, is_answered) => self.dial_end(client, server, is_answered),
            Event::Redial(client, server) => self.dial(client, server),
            Event::GiveUp(client, server) => self.give_up(client, server),
            Event::Script(step) => self.change(self.script[step as usize].1),
            Event::Redraw(server) => self.redraw(server),
            Event::Sample => self.sample(),
            Event::Wake(client) => {
                let Client { strategy, rng, woken, .. } = &mut self.clients[client as usize];
                if *woken == self.now {
                    *woken = u64::MAX;
                    strategy.wake(self.now, rng);
                    self.arm_wake(client);
                }
            }
        }
    }

    fn sample(&mut self) {
        if let Some(span) = self.config.span_of(self.now) {
            let in_flight = &mut self.record.spans[span].in_flight;
            for server in self.fleet.servers.iter().filter(|server| !server.ended) {
                in_flight.saturating_record(u64::from(server.in_flight));
            }
        }
        let servers = self.fleet.servers.len();
        for client in &self.clients {
            self.record.most_ejected = self.record.most_ejected.max(client.strategy.ejected() as f64 / servers as f64);
        }
        if self.now + SAMPLE_EVERY < self.config.length {
            self.queue.push(self.now + SAMPLE_EVERY, Event::Sample);
        }
    }

    fn finish(mut self) -> Record {
        let members = self.fleet.servers.iter().map(|server| Membership { joined: server.joined, left: server.left });
        self.record.members = members.collect();
        self.record.keyed = self.keyed.map(Keyed::finish);
        let none = vec![0; self.config.length.div_ceil(record::BUCKET) as usize];
        self.record.picks.resize(self.record.members.len(), none);
        self.record
    }
}
