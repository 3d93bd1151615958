//! The clients' connections: they are lost, and dialled again.

use super::Sim;
use super::call::{Call, CallId, ClientId, Place};
use super::fleet::Reach;
use super::links::{DIAL_DEADLINE, Link, USER_TIMEOUT};
use super::queue::Event;
use crate::strategy::{Outcome, ServerId};

impl Sim<'_> {
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

    pub(super) fn link(&mut self, client: ClientId, server: ServerId) -> &mut Link {
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
