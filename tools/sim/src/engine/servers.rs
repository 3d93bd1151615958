//! The servers' half of the world: calls are worked on, and servers come, go and change.

use std::collections::VecDeque;

use super::Sim;
use super::call::{Call, CallId, ClientId, Place};
use super::config::{Pauses, Step};
use super::fleet::{Cold, Condition, Discipline, Machine, Reach, Server, Work};
use super::links::Link;
use super::queue::Event;
use super::shared::Shared;
use crate::chance::exponential;
use crate::strategy::{Change, LoadReport, Outcome, ServerId};

impl Sim<'_> {
    pub(super) fn reach(&mut self, id: CallId) {
        let call = &mut self.calls[id as usize];
        let (server_id, demand) = (call.server, call.demand);
        let server = self.fleet.server_mut(server_id);
        if call.place == Place::Gone {
            server.assigned -= 1;
            self.calls.remove(id as usize);
            return;
        }
        call.place = Place::Away;
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
                self.work(id);
            }
            Work::Slots { queue, waiting, .. } if waiting.len() < *queue => {
                waiting.push_back(id);
                call.place = Place::Queued;
            }
            Work::Slots { .. } => self.reply(id, Outcome::Failed),
            Work::Shared(shared) => {
                if let Some((time, version)) = shared.add(self.now, id, demand) {
                    self.queue.push(time, Event::Turn(server_id, version));
                }
            }
        }
    }

    /// Work on a call begins in a slot that is its own, or when the pause is over.
    fn work(&mut self, id: CallId) {
        let call = &mut self.calls[id as usize];
        let miss = match (&mut self.keyed, call.key) {
            (Some(keyed), Some(key)) => keyed.cost(call.server, key, self.now),
            _ => 1.0,
        };
        let server = self.fleet.server(call.server);
        call.place = Place::Working;
        call.paused = server.paused;
        let begins = server.pauses_until.max(self.now);
        let time = begins + server.condition.duration(self.now, call.demand * miss);
        self.queue.push(time, Event::Finish(id, Outcome::Ok));
    }

    /// A slot is free for who waits.
    fn free_slot(&mut self, id: ServerId) {
        let Work::Slots { busy, waiting, .. } = &mut self.fleet.server_mut(id).work else { return };
        match waiting.pop_front() {
            Some(next) => self.work(next),
            None => *busy -= 1,
        }
    }

    /// A call is done, unless its server has paused meanwhile; who failed fast never had a slot.
    pub(super) fn finish_slot(&mut self, id: CallId, mut outcome: Outcome) {
        let call = &mut self.calls[id as usize];
        let server_id = call.server;
        let server = self.fleet.server(server_id);
        if call.place == Place::Gone {
            // Stopped; its slot is somebody else's.
            self.calls.remove(id as usize);
            return;
        }
        if outcome == Outcome::Ok {
            if server.paused != call.paused {
                let time = self.now + (server.paused - call.paused);
                call.paused = server.paused;
                return self.queue.push(time, Event::Finish(id, outcome));
            }
            call.place = Place::Away;
            let fails = server.condition.fails_late;
            self.free_slot(server_id);
            if fails > 0.0 && self.chance.f64() < fails {
                outcome = Outcome::Failed;
            }
        }
        let server = self.fleet.server(server_id);
        if server.ended && outcome == Outcome::Ok {
            self.record.lost_in_drain += 1;
            return self.reply(id, Outcome::Failed);
        }
        match outcome == Outcome::Ok && self.config.has_next(server_id) {
            true => self.descend(id),
            false => self.reply(id, outcome),
        }
    }

    /// A server calls the next tier for a call that it has worked on, if there is time left.
    fn descend(&mut self, id: CallId) {
        let Call { server, deadline, .. } = self.calls[id as usize];
        if deadline.is_some_and(|deadline| deadline <= self.now) {
            return self.reply(id, Outcome::Failed);
        }
        self.request(self.config.clients + server, Some(id), deadline);
    }

    /// A call is not wanted any more. Who waits for the next tier, or has been answered, is left alone.
    pub(super) fn stop(&mut self, id: CallId, serial: u64) {
        let Some(call) = self.calls.get_mut(id as usize).filter(|call| call.serial == serial) else { return };
        let (server_id, place) = (call.server, call.place);
        match place {
            // Overtaken on the way.
            Place::Sent => call.place = Place::Gone,
            Place::Queued => {
                self.calls.remove(id as usize);
                let server = self.fleet.server_mut(server_id);
                (server.in_flight, server.assigned) = (server.in_flight - 1, server.assigned - 1);
                if let Work::Slots { waiting, .. } = &mut server.work {
                    waiting.retain(|waits| *waits != id);
                }
            }
            Place::Working => {
                call.place = Place::Gone;
                let server = self.fleet.server_mut(server_id);
                (server.in_flight, server.assigned) = (server.in_flight - 1, server.assigned - 1);
                self.free_slot(server_id);
            }
            Place::Waiting | Place::Away | Place::Gone => {}
        }
    }

    pub(super) fn arm_pause(&mut self, server: ServerId, after: u64) {
        let Some(Pauses { mean_gap, .. }) = self.config.pauses else { return };
        let at = after + exponential(&mut self.pauses[server as usize], mean_gap as f64) as u64;
        if at < self.config.length {
            self.queue.push(at, Event::Pause(server));
        }
    }

    pub(super) fn pause(&mut self, id: ServerId) {
        let Some(Pauses { length, .. }) = self.config.pauses else { return };
        let until = self.now + length;
        let server = self.fleet.server_mut(id);
        (server.paused, server.pauses_until) = (server.paused + length, until);
        self.arm_pause(id, until);
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
    pub(super) fn reply(&mut self, id: CallId, outcome: Outcome) {
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
                self.tell(Change::Removed(old), 0);
                let cold = self.config.restart.map(|restart| {
                    let (factor, ramp) = restart.cold;
                    Cold { since: self.now, factor, ramp }
                });
                self.join(Condition { cold, ..Condition::default() }, 0);
            }
            Step::End(id) => self.fleet.server_mut(id).ended = true,
        }
    }

    pub(super) fn join(&mut self, condition: Condition, tier: u32) {
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
        self.tell(Change::Added(id), tier);
    }

    /// Those who call this tier.
    fn tell(&mut self, change: Change, tier: u32) {
        for client in 0..self.clients.len() as ClientId {
            if self.clients[client as usize].tier != tier {
                continue;
            }
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
