//! The simulator: one thread, a clock of virtual nanoseconds, an event after the other.
//!
//! Calls arrive in an open loop, as a Poisson process per client, and their latency counts from their arrival, so that
//! nobody looks better by letting calls wait outside. A call's demand is drawn with the call and not with the server that
//! gets it: all strategies under one seed face the same work, and differ by where they send it. What is below a balancer, a
//! pool of connections to each server, is the same for all of them.

pub(crate) mod call;
mod clients;
pub(crate) mod config;
pub(crate) mod fleet;
mod links;
mod queue;
pub(crate) mod record;
mod reports;
mod servers;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use slab::Slab;

use self::call::{Call, CallId};
use self::config::{Config, MICROS, MILLIS, Step};
use self::fleet::{Condition, Fleet};
use self::links::Link;
use self::queue::{Event, Queue};
use self::record::{Membership, Record};
use crate::chance::{Rng, Role, split};
use crate::strategy::{ServerId, Strategy};

/// One way through the network takes this long, evenly drawn: 0.5 ms ± 0.1 there and back.
const ONE_WAY_NS: std::ops::RangeInclusive<u64> = 200 * MICROS..=300 * MICROS;
/// How often the requests in flight are counted.
const SAMPLE_EVERY: u64 = 50 * MILLIS;

struct Client {
    strategy: Box<dyn Strategy>,
    /// By server.
    links: Vec<Link>,
    arrivals: Rng,
    demand: Rng,
    /// Its strategy's.
    rng: Rng,
    /// When it is woken next.
    woken: u64,
}

struct Sim<'a> {
    config: &'a Config,
    script: Vec<(u64, Step)>,
    now: u64,
    queue: Queue,
    /// Deadlines are as far ahead for all, so they come in the order in which they are set.
    deadlines: VecDeque<(u64, CallId, u64)>,
    calls: Slab<Call>,
    serial: u64,
    fleet: Fleet,
    clients: Vec<Client>,
    network: Rng,
    /// Pauses between dials.
    dials: Rng,
    chance: Rng,
    record: Record,
    /// Room for lists that live shorter than an event.
    done: Vec<CallId>,
    targets: Vec<ServerId>,
}

/// Runs one seed with a strategy for each client.
pub(crate) fn run(config: &Config, seed: u64, mut strategy: impl FnMut(Rng) -> Box<dyn Strategy>) -> Record {
    let client = |index| {
        let mut rng = split(seed, Role::Client(index));
        let (arrivals, demand) = (split(seed, Role::Arrivals(index)), split(seed, Role::Demand(index)));
        let strategy = strategy(rng.fork());
        Client { strategy, links: Vec::new(), arrivals, demand, rng, woken: u64::MAX }
    };
    let mut sim = Sim {
        config,
        script: config.script(),
        now: 0,
        queue: Queue::default(),
        deadlines: VecDeque::new(),
        calls: Slab::new(),
        serial: 0,
        fleet: Fleet { servers: Vec::new(), mean_demand: config.mean_demand, deadline: config.deadline },
        clients: (0..config.clients).map(client).collect(),
        network: split(seed, Role::Network),
        dials: split(seed, Role::Dials),
        chance: split(seed, Role::Servers),
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
        for _ in 0..self.config.servers {
            self.join(Condition::default());
        }
        for client in 0..self.config.clients {
            self.arm_arrival(client);
        }
        for step in 0..self.script.len() {
            self.queue.push(self.script[step].0, Event::Script(step as u32));
        }
        self.queue.push(SAMPLE_EVERY, Event::Sample);
    }

    fn next(&self) -> Option<u64> {
        let deadline = self.deadlines.front().map(|(time, ..)| *time);
        [self.queue.next(), deadline].into_iter().flatten().min()
    }

    /// A deadline that is over goes before whatever else happens at that time.
    fn step(&mut self) {
        match self.deadlines.front() {
            Some((time, call, serial)) if *time == self.now => {
                let (call, serial) = (*call, *serial);
                self.deadlines.pop_front();
                self.cut(call, serial);
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
        let none = vec![0; self.config.length.div_ceil(record::BUCKET) as usize];
        self.record.picks.resize(self.record.members.len(), none);
        self.record
    }
}
