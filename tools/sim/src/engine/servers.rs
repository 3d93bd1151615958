//! The servers' half of the world: calls are worked on, and servers come, go and change.

use std::collections::VecDeque;

use super::Sim;
use super::call::{CallId, ClientId};
use super::config::Step;
use super::fleet::{Cold, Condition, Discipline, Machine, Reach, Server, Work};
use super::links::Link;
use super::queue::Event;
use super::shared::Shared;
use crate::strategy::{Change, LoadReport, Outcome, ServerId};

impl Sim<'_> {
    pub(super) fn reach(&mut self, id: CallId) {
        let call = &mut self.calls[id as usize];
        let (server_id, demand) = (call.server, call.demand);
        let server = self.fleet.server_mut(server_id);
        if server.condition.reach != Reach::Open {
            server.assigned -= 1;
            return self.lose(id);
        }
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
    pub(super) fn finish_slot(&mut self, id: CallId, outcome: Outcome) {
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

    pub(super) fn turn(&mut self, id: ServerId, version: u32) {
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
        let (server_id, client) = (call.server, call.client);
        if !call.has_ended {
            call.outcome = outcome;
            if self.clients[client as usize].strategy.reads_reports() {
                call.report = Some(server.recent.report(self.now, server.in_flight));
            }
        }
        let time = self.after_travel(server_id);
        self.queue.push(time, Event::Answer(id));
    }

    /// A server answers probes as they come; one that has gone, or that nobody reaches, does not.
    pub(super) fn probe(&mut self, client: ClientId, id: ServerId) {
        let server = self.fleet.server(id);
        if !server.ended && server.condition.reach == Reach::Open {
            let report: LoadReport = server.recent.report(self.now, server.in_flight);
            let time = self.after_one_way();
            self.queue.push(time, Event::ProbeAnswer(client, id, report));
        }
    }

    pub(super) fn change(&mut self, step: Step) {
        match step {
            Step::Become(id, condition) => {
                self.fleet.server_mut(id).condition = condition;
                if matches!(condition.reach, Reach::Refuses | Reach::IgnoresDials) {
                    self.reset(id);
                }
            }
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

    pub(super) fn join(&mut self, condition: Condition) {
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
        self.clients.iter_mut().for_each(|client| client.links.push(Link::default()));
        self.tell(Change::Added(id));
    }

    fn tell(&mut self, change: Change) {
        for client in 0..self.config.clients {
            self.clients[client as usize].strategy.change(self.now, change);
            self.arm_wake(client);
        }
    }

    pub(super) fn redraw(&mut self, id: ServerId) {
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
}
