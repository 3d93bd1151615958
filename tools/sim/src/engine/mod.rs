//! The simulator: one thread, a clock of virtual nanoseconds, an event after the other.
//!
//! Calls arrive in an open loop, as a Poisson process per client, and their latency counts from their arrival, so that
//! nobody looks better by letting calls wait outside. A call's demand is drawn with the call and not with the server that
//! gets it: all strategies under one seed face the same work, and differ by where they send it.

pub(crate) mod call;
pub(crate) mod config;
pub(crate) mod fleet;
mod queue;
pub(crate) mod record;
mod reports;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use slab::Slab;

use self::call::{Call, CallId, ClientId};
use self::config::{Config, MICROS, MILLIS, SECONDS, Step};
use self::fleet::{Cold, Condition, Discipline, Fleet, Machine, Server, Work};
use self::queue::{Event, Queue};
use self::record::{Membership, Record};
use self::shared::Shared;
use crate::chance::{Rng, Role, exponential, split};
use crate::strategy::{Change, LoadReport, Outcome, ServerId, Strategy};

/// One way through the network takes this long, evenly drawn: 0.5 ms ± 0.1 there and back.
const ONE_WAY_NS: std::ops::RangeInclusive<u64> = 200 * MICROS..=300 * MICROS;
/// How often the requests in flight are counted.
const SAMPLE_EVERY: u64 = 50 * MILLIS;

struct Client {
    strategy: Box<dyn Strategy>,
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
        Client { strategy: strategy(rng.fork()), arrivals, demand, rng, woken: u64::MAX }
    };
    let mut sim = Sim {
        config,
        script: config.script(),
        now: 0,
        queue: Queue::default(),
        deadlines: VecDeque::new(),
        calls: Slab::new(),
        serial: 0,
        fleet: Fleet { servers: Vec::new(), mean_demand: config.mean_demand },
        clients: (0..config.clients).map(client).collect(),
        network: split(seed, Role::Network),
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

    fn after_one_way(&mut self) -> u64 {
        self.now + self.network.u64(ONE_WAY_NS)
    }

    // Clients.

    fn arm_arrival(&mut self, client: ClientId) {
        let rate = self.config.rate(self.now);
        let gap = exponential(&mut self.clients[client as usize].arrivals, SECONDS as f64 / rate) as u64;
        if self.now + gap < self.config.length {
            self.queue.push(self.now + gap, Event::Arrive(client));
        }
    }

    fn arm_wake(&mut self, client: ClientId) {
        let Client { strategy, woken, .. } = &mut self.clients[client as usize];
        if let Some(time) = strategy.next_wake().filter(|time| *time < *woken && *time < self.config.length) {
            *woken = time.max(self.now);
            self.queue.push(*woken, Event::Wake(client));
        }
    }

    fn arrive(&mut self, client: ClientId) {
        self.arm_arrival(client);
        let span = self.config.span_of(self.now);
        let Client { strategy, demand, rng, .. } = &mut self.clients[client as usize];
        let demand = self.config.demand.sample(demand);
        let Some(pick) = strategy.pick(self.now, rng, &self.fleet) else {
            self.record.end(self.config, self.now, span, 0, Outcome::Failed);
            return self.arm_wake(client);
        };
        strategy.probes(rng, &mut self.targets);
        self.record.pick(self.now, pick.server);
        self.record.probes += self.targets.len() as u64;
        self.fleet.server_mut(pick.server).assigned += 1;
        self.serial += 1;
        let call = self.calls.insert(Call {
            client,
            server: pick.server,
            token: pick.token,
            born: self.now,
            serial: self.serial,
            span,
            demand,
            reached: 0,
            found: 0,
            outcome: Outcome::Ok,
            report: None,
        }) as CallId;
        let time = self.after_one_way();
        self.queue.push(time, Event::Reach(call));
        if let Some(deadline) = self.config.deadline {
            self.deadlines.push_back((self.now + deadline, call, self.serial));
        }
        while let Some(server) = self.targets.pop() {
            let time = self.after_one_way();
            self.queue.push(time, Event::ProbeReach(client, server));
        }
        self.arm_wake(client);
    }

    /// The client gives up, and the server works on.
    fn cut(&mut self, id: CallId, serial: u64) {
        if let Some(call) = self.calls.get_mut(id as usize).filter(|call| call.serial == serial)
            && call.outcome != Outcome::Cut
        {
            call.outcome = Outcome::Cut;
            self.end(id, Outcome::Cut);
        }
    }

    fn answer(&mut self, id: CallId) {
        let outcome = self.calls[id as usize].outcome;
        if outcome != Outcome::Cut {
            self.end(id, outcome);
        }
        self.calls.remove(id as usize);
    }

    fn end(&mut self, id: CallId, outcome: Outcome) {
        let Call { client, token, born, span, report, .. } = self.calls[id as usize];
        let report = report.filter(|_| outcome != Outcome::Cut);
        self.record.end(self.config, born, span, self.now - born, outcome);
        self.clients[client as usize].strategy.end(token, self.now, outcome, report);
        self.arm_wake(client);
    }

    // Servers.

    fn reach(&mut self, id: CallId) {
        let call = &mut self.calls[id as usize];
        let (server_id, demand) = (call.server, call.demand);
        let server = self.fleet.server_mut(server_id);
        call.reached = self.now;
        call.found = server.in_flight;
        server.in_flight += 1;
        if server.ended {
            self.record.lost_in_drain += 1;
            return self.reply(id, Outcome::Failed);
        }
        if let Some((probability, after)) = server.condition.fails
            && self.chance.f64() < probability
        {
            return self.queue.push(self.now + after, Event::Finish(id, Outcome::Failed));
        }
        match &mut server.work {
            Work::Slots { slots, busy, .. } if *busy < *slots => {
                *busy += 1;
                let time = self.now + server.condition.duration(self.now, demand);
                self.queue.push(time, Event::Finish(id, Outcome::Ok));
            }
            Work::Slots { queue, waiting, .. } if waiting.len() < *queue => waiting.push_back(id),
            Work::Slots { .. } => self.reply(id, Outcome::Failed),
            Work::Shared(shared) => {
                if let Some((time, version)) = shared.add(self.now, id, demand) {
                    self.queue.push(time, Event::Turn(server_id, version));
                }
            }
        }
    }

    /// A slot is free for who waits; who failed fast never had one.
    fn finish_slot(&mut self, id: CallId, outcome: Outcome) {
        let server = self.fleet.server_mut(self.calls[id as usize].server);
        if let (Work::Slots { busy, waiting, .. }, Outcome::Ok) = (&mut server.work, outcome) {
            match waiting.pop_front() {
                Some(next) => {
                    let time = self.now + server.condition.duration(self.now, self.calls[next as usize].demand);
                    self.queue.push(time, Event::Finish(next, Outcome::Ok));
                }
                None => *busy -= 1,
            }
        }
        if server.ended && outcome == Outcome::Ok {
            self.record.lost_in_drain += 1;
            return self.reply(id, Outcome::Failed);
        }
        self.reply(id, outcome);
    }

    fn turn(&mut self, id: ServerId, version: u32) {
        let mut done = std::mem::take(&mut self.done);
        if let Work::Shared(shared) = &mut self.fleet.server_mut(id).work
            && let Some((time, version)) = shared.turn(self.now, version, &mut done)
        {
            self.queue.push(time, Event::Turn(id, version));
        }
        for call in done.drain(..) {
            self.reply(call, Outcome::Ok);
        }
        self.done = done;
    }

    /// The server is done with a call.
    fn reply(&mut self, id: CallId, outcome: Outcome) {
        let call = &mut self.calls[id as usize];
        let server = self.fleet.server_mut(call.server);
        server.in_flight -= 1;
        server.assigned -= 1;
        server.recent.record(self.now, call.found, self.now - call.reached);
        if call.outcome != Outcome::Cut {
            call.outcome = outcome;
            if self.clients[call.client as usize].strategy.reads_reports() {
                call.report = Some(server.recent.report(self.now, server.in_flight));
            }
        }
        let time = self.after_one_way();
        self.queue.push(time, Event::Answer(id));
    }

    /// A server answers probes as they come; one that has gone does not.
    fn probe(&mut self, client: ClientId, id: ServerId) {
        let server = self.fleet.server(id);
        if !server.ended {
            let report: LoadReport = server.recent.report(self.now, server.in_flight);
            let time = self.after_one_way();
            self.queue.push(time, Event::ProbeAnswer(client, id, report));
        }
    }

    fn change(&mut self, step: Step) {
        match step {
            Step::Become(id, condition) => self.fleet.server_mut(id).condition = condition,
            Step::Replace(old) => {
                self.fleet.server_mut(old).left = self.now;
                self.tell(Change::Removed(old));
                let cold = self.config.restart.map(|restart| {
                    let (factor, ramp) = restart.cold;
                    Cold { since: self.now, factor, ramp }
                });
                self.join(Condition { cold, ..Condition::default() });
            }
            Step::End(id) => self.fleet.server_mut(id).ended = true,
        }
    }

    fn join(&mut self, condition: Condition) {
        let id = self.fleet.servers.len() as ServerId;
        let work = match self.config.discipline {
            Discipline::Slots { slots, queue } => Work::Slots { slots, queue, busy: 0, waiting: VecDeque::new() },
            Discipline::Shared { machine } => {
                let speed = if id < machine.half_speed { 0.5 } else { 1.0 };
                // The first draw is now, the later ones at times of the server's own.
                let second = self.now + self.chance.u64(1..machine.redraw);
                self.queue.push(self.now, Event::Redraw(id));
                self.queue.push(second, Event::Redraw(id));
                Work::Shared(Shared::new(machine, speed))
            }
        };
        self.fleet.servers.push(Server::new(work, condition, self.now));
        self.tell(Change::Added(id));
    }

    fn tell(&mut self, change: Change) {
        for client in 0..self.config.clients {
            self.clients[client as usize].strategy.change(self.now, change);
            self.arm_wake(client);
        }
    }

    fn redraw(&mut self, id: ServerId) {
        let Discipline::Shared { machine: Machine { neighbours: (least, most), redraw, .. } } = self.config.discipline
        else {
            return;
        };
        let needed = least + (most - least) * self.chance.f64();
        if let Work::Shared(shared) = &mut self.fleet.server_mut(id).work
            && let Some((time, version)) = shared.leave(self.now, needed)
        {
            self.queue.push(time, Event::Turn(id, version));
        }
        if self.now > 0 && self.now + redraw < self.config.length {
            self.queue.push(self.now + redraw, Event::Redraw(id));
        }
    }

    fn sample(&mut self) {
        if let Some(span) = self.config.span_of(self.now) {
            let in_flight = &mut self.record.spans[span].in_flight;
            for server in self.fleet.servers.iter().filter(|server| !server.ended) {
                in_flight.saturating_record(u64::from(server.in_flight));
            }
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
