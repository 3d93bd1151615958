//! The clients' half of the world: calls arrive, are given to servers, and end; connections come and go.

use super::Sim;
use super::call::{Call, CallId, ClientId, Place};
use super::config::{MILLIS, SECONDS};
use super::fleet::Reach;
use super::links::{DIAL_DEADLINE, Given, Link, USER_TIMEOUT};
use super::queue::Event;
use super::{Client, ONE_WAY_NS};
use crate::chance::exponential;
use crate::strategy::{Outcome, ServerId};

/// A lost packet is sent again after so long, and after twice as long each time that it is lost again.
pub(super) const RETRANSMIT: u64 = 200 * MILLIS;
/// Linux's cap.
const LONGEST_RETRANSMIT: u64 = 120 * SECONDS;

impl Sim<'_> {
    pub(super) fn after_one_way(&mut self) -> u64 {
        self.now + self.network.u64(ONE_WAY_NS)
    }

    /// When a packet from or to a server arrives, if it arrives at all.
    pub(super) fn after_travel(&mut self, server: ServerId) -> u64 {
        let mut time = self.after_one_way();
        if let Some(loss) = self.fleet.server(server).condition.loss {
            let mut wait = RETRANSMIT;
            while self.network.f64() < loss && wait < LONGEST_RETRANSMIT {
                time += wait;
                wait *= 2;
            }
        }
        time
    }

    pub(super) fn arm_arrival(&mut self, client: ClientId) {
        let rate = self.config.rate(self.now);
        let gap = exponential(&mut self.clients[client as usize].arrivals, SECONDS as f64 / rate) as u64;
        if self.now + gap < self.config.length {
            self.queue.push(self.now + gap, Event::Arrive(client));
        }
    }

    pub(super) fn arm_wake(&mut self, client: ClientId) {
        let Client { strategy, woken, .. } = &mut self.clients[client as usize];
        if let Some(time) = strategy.next_wake().filter(|time| *time < *woken && *time < self.config.length) {
            *woken = time.max(self.now);
            self.queue.push(*woken, Event::Wake(client));
        }
    }

    pub(super) fn arrive(&mut self, client: ClientId) {
        self.arm_arrival(client);
        let Client { strategy, demand, rng, .. } = &mut self.clients[client as usize];
        let demand = self.config.demand.sample(demand);
        let Some(pick) = strategy.pick(self.now, rng, &self.fleet) else {
            let span = self.config.span_of(self.now);
            self.record.end(self.config, self.now, span, 0, Outcome::Failed);
            return self.arm_wake(client);
        };
        strategy.probes(rng, &mut self.targets);
        self.record.probes += self.targets.len() as u64;
        self.serial += 1;
        let call = Call::new(self.config, client, self.now, self.serial, demand, &pick);
        let call = self.calls.insert(call) as CallId;
        if let Some(deadline) = self.config.deadline {
            self.deadlines.push_back((self.now + deadline, call, self.serial));
        }
        self.give(call);
        while let Some(server) = self.targets.pop() {
            let time = self.after_one_way();
            self.queue.push(time, Event::ProbeReach(client, server));
        }
        self.arm_wake(client);
    }

    /// A call goes to its server, or waits for a connection to it.
    fn give(&mut self, id: CallId) {
        let Call { client, server, .. } = self.calls[id as usize];
        self.record.pick(self.now, server);
        match self.link(client, server).give(id) {
            Given::Sent => self.send(id),
            Given::Waits => {}
            Given::Dials => self.dial(client, server),
            Given::Refused => self.unreachable(id),
        }
    }

    fn send(&mut self, id: CallId) {
        let call = &mut self.calls[id as usize];
        call.place = Place::Away;
        let server = call.server;
        self.fleet.server_mut(server).assigned += 1;
        let time = self.after_travel(server);
        self.queue.push(time, Event::Reach(id));
    }

    /// There is no connection to be had. The strategy may know somebody else to ask.
    fn unreachable(&mut self, id: CallId) {
        let call = &mut self.calls[id as usize];
        if call.has_ended {
            self.calls.remove(id as usize);
            return;
        }
        let client = call.client;
        let Client { strategy, rng, .. } = &mut self.clients[client as usize];
        strategy.end(call.token, self.now, Outcome::Unreachable, None);
        call.asked.push(call.server);
        match strategy.another(self.now, rng, &self.fleet, &call.asked) {
            Some(pick) => {
                (call.server, call.token) = (pick.server, pick.token);
                self.give(id);
            }
            None => {
                let Call { born, span, .. } = self.calls.remove(id as usize);
                self.record.end(self.config, born, span, self.now - born, Outcome::Unreachable);
            }
        }
        self.arm_wake(client);
    }

    /// The client gives up, and the server works on.
    pub(super) fn cut(&mut self, id: CallId, serial: u64) {
        if self.calls.get(id as usize).is_some_and(|call| call.serial == serial && !call.has_ended) {
            self.end(id, Outcome::Cut);
        }
    }

    pub(super) fn answer(&mut self, id: CallId) {
        let call = &self.calls[id as usize];
        if self.fleet.server(call.server).condition.reach == Reach::Silent {
            return self.lose(id);
        }
        let outcome = call.outcome;
        if !call.has_ended {
            self.end(id, outcome);
        }
        self.calls.remove(id as usize);
    }

    fn end(&mut self, id: CallId, outcome: Outcome) {
        let call = &mut self.calls[id as usize];
        call.has_ended = true;
        let Call { client, token, born, span, report, place, .. } = *call;
        if place == Place::Gone {
            self.calls.remove(id as usize);
        }
        let report = report.filter(|_| outcome != Outcome::Cut);
        self.record.end(self.config, born, span, self.now - born, outcome);
        self.clients[client as usize].strategy.end(token, self.now, outcome, report);
        self.arm_wake(client);
    }

    /// Nobody hears of a call any more. Its connection has nothing to show for it, and will be given up in the end.
    pub(super) fn lose(&mut self, id: CallId) {
        let call = &mut self.calls[id as usize];
        call.place = Place::Gone;
        let Call { client, server, has_ended, .. } = *call;
        if has_ended {
            self.calls.remove(id as usize);
        }
        let link = self.link(client, server);
        if link.is_up() && !std::mem::replace(&mut link.is_watched, true) {
            self.queue.push(self.now + USER_TIMEOUT, Event::GiveUp(client, server));
        }
    }

    // Connections.

    fn link(&mut self, client: ClientId, server: ServerId) -> &mut Link {
        &mut self.clients[client as usize].links[server as usize]
    }

    pub(super) fn dial(&mut self, client: ClientId, server: ServerId) {
        let now = self.now;
        self.link(client, server).dials(now);
        let time = self.after_one_way();
        self.queue.push(time, Event::DialReach(client, server));
    }

    pub(super) fn dial_reach(&mut self, client: ClientId, id: ServerId) {
        let server = self.fleet.server(id);
        let (reach, ended) = (server.condition.reach, server.ended);
        let (time, is_answered) = match reach {
            Reach::Open | Reach::Refuses => (self.after_one_way(), reach == Reach::Open && !ended),
            Reach::IgnoresDials | Reach::Silent => (self.link(client, id).dialled + DIAL_DEADLINE, false),
        };
        self.queue.push(time, Event::DialEnd(client, id, is_answered));
    }

    /// A server that stopped listening in the meantime has taken the connection with it.
    pub(super) fn dial_end(&mut self, client: ClientId, server: ServerId, is_answered: bool) {
        if is_answered && self.fleet.server(server).condition.reach == Reach::Open {
            let waited = self.link(client, server).connected();
            self.tell_connection(client, server);
            for call in waited {
                match self.calls[call as usize].has_ended {
                    true => drop(self.calls.remove(call as usize)),
                    false => self.send(call),
                }
            }
            return;
        }
        let (waited, pause) = self.clients[client as usize].links[server as usize].failed(&mut self.dials);
        self.tell_connection(client, server);
        for call in waited {
            self.unreachable(call);
        }
        if self.now + pause < self.config.length {
            self.queue.push(self.now + pause, Event::Redial(client, server));
        }
    }

    /// A connection had a packet that was not answered for long.
    pub(super) fn give_up(&mut self, client: ClientId, server: ServerId) {
        self.link(client, server).is_watched = false;
        if self.fleet.server(server).condition.reach == Reach::Silent && self.link(client, server).is_up() {
            return self.disconnect(client, server);
        }
        self.fail_calls(client, server, |call| call.place == Place::Gone);
    }

    /// The connections to a server are reset.
    pub(super) fn reset(&mut self, server: ServerId) {
        for client in 0..self.config.clients {
            if self.link(client, server).is_up() {
                self.disconnect(client, server);
            }
        }
    }

    fn disconnect(&mut self, client: ClientId, server: ServerId) {
        self.link(client, server).lost();
        self.tell_connection(client, server);
        self.fail_calls(client, server, |call| call.place != Place::Waiting);
        if self.clients[client as usize].strategy.keeps_connected() {
            self.dial(client, server);
        }
    }

    fn fail_calls(&mut self, client: ClientId, server: ServerId, is_lost: impl Fn(&Call) -> bool) {
        let theirs = |call: &Call| call.client == client && call.server == server && !call.has_ended && is_lost(call);
        let lost: Vec<_> = self.calls.iter().filter(|(_, call)| theirs(call)).map(|(id, _)| id as CallId).collect();
        for call in lost {
            self.end(call, Outcome::Failed);
        }
    }

    fn tell_connection(&mut self, client: ClientId, server: ServerId) {
        let connection = self.link(client, server).connection();
        self.clients[client as usize].strategy.connection(self.now, server, connection);
        self.arm_wake(client);
    }
}
