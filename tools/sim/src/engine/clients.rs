//! The clients' half of the world: calls arrive, are given to servers, perhaps more than once, and end.

use super::Sim;
use super::call::{Call, CallId, ClientId, Place};
use super::config::{MILLIS, SECONDS};
use super::fleet::Reach;
use super::links::Given;
use super::queue::Event;
use super::request::{Request, RequestId};
use super::{Client, ONE_WAY_NS};
use crate::chance::exponential;
use crate::repeats::{Attempt, Failed};
use crate::strategy::{Outcome, ServerId, Wanted};

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
        let deadline = self.config.deadline.map(|after| self.now + after);
        self.request(client, None, deadline);
    }

    /// A client has a call to make, for a call of the tier before or for somebody outside.
    pub(super) fn request(&mut self, client: ClientId, parent: Option<CallId>, deadline: Option<u64>) {
        let Client { demand, keys, repeats, tier, .. } = &mut self.clients[client as usize];
        let demand = self.config.demand.sample(demand);
        let key = self.keyed.as_ref().map(|keyed| keyed.draw(self.now, keys));
        let hedge_after = repeats.begun(self.now);
        self.record.begun(self.config, *tier, self.now);
        self.serial += 1;
        let (born, serial) = (self.now, self.serial);
        let span = self.config.span_of(born);
        let (attempts, failed, legs, tried) = (0, None, [None; 2], Vec::new());
        let request = Request {
            client,
            born,
            serial,
            span,
            demand,
            key,
            parent,
            deadline,
            hedge_after,
            attempts,
            failed,
            legs,
            tried,
        };
        let id = self.requests.insert(request) as RequestId;
        match deadline {
            Some(at) if parent.is_none() => self.deadlines.push_back((at, id, serial)),
            Some(at) => self.queue.push(at, Event::Deadline(id, serial)),
            None => {}
        }
        if let Some(after) = hedge_after {
            self.queue.push(born + after, Event::Hedge(id, serial));
        }
        self.attempt(id);
    }

    /// One more attempt is made of a request.
    fn attempt(&mut self, id: RequestId) {
        let request = &mut self.requests[id as usize];
        let client = request.client;
        let Client { strategy, repeats, rng, tier, .. } = &mut self.clients[client as usize];
        let wanted = Wanted { key: request.key, tried: &request.tried };
        let pick = strategy.pick_for(self.now, wanted, rng, &self.fleet);
        self.record.attempt(self.config, *tier, request);
        request.attempts += 1;
        let Some(pick) = pick else {
            let (number, is_hedge, after) = (request.attempts - 1, request.legs != [None; 2], request.failed);
            let (outcome, latency) = (Outcome::Unreachable, 0);
            let hedge_after = request.hedge_after;
            repeats.ended(self.now, Attempt { outcome, latency, number, is_hedge, after, hedge_after });
            if request.legs == [None; 2] {
                self.failed(id, Outcome::Unreachable);
            }
            return self.arm_wake(client);
        };
        strategy.probes(rng, &mut self.targets);
        self.record.probes += self.targets.len() as u64;
        if let (Some(keyed), Some(key)) = (&mut self.keyed, request.key) {
            keyed.admit(self.now, key, pick.server, strategy.places(key));
        }
        self.serial += 1;
        let call = self.calls.insert(Call::new(request, id, self.now, self.serial, &pick)) as CallId;
        let free = request.legs.iter_mut().find(|leg| leg.is_none());
        *free.expect("two attempts at a time") = Some(call);
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

    pub(super) fn send(&mut self, id: CallId) {
        let call = &mut self.calls[id as usize];
        call.place = Place::Sent;
        let server = call.server;
        self.fleet.server_mut(server).assigned += 1;
        let time = self.after_travel(server);
        self.queue.push(time, Event::Reach(id));
    }

    /// There is no connection to be had. The strategy may know somebody else to ask.
    pub(super) fn unreachable(&mut self, id: CallId) {
        let call = &mut self.calls[id as usize];
        if call.has_ended {
            self.calls.remove(id as usize);
            return;
        }
        let client = call.client;
        let Client { strategy, rng, .. } = &mut self.clients[client as usize];
        call.asked.push(call.server);
        strategy.end(call.token, self.now, Outcome::Unreachable, None);
        match strategy.another(self.now, rng, &self.fleet, &call.asked) {
            Some(pick) => {
                (call.server, call.token) = (pick.server, pick.token);
                self.give(id);
            }
            None => {
                let leg = Leg::of(&self.calls.remove(id as usize));
                let request = leg.request;
                self.leg_over(id, leg, Outcome::Unreachable);
                self.go_on(request, Outcome::Unreachable);
            }
        }
        self.arm_wake(client);
    }

    /// A caller gives up, and so do the servers' clients on its behalf.
    pub(super) fn cut(&mut self, id: RequestId, serial: u64) {
        let Some(request) = self.requests.get(id as usize).filter(|request| request.serial == serial) else { return };
        let client = request.client;
        self.give_up_legs(id, Outcome::Cut);
        self.finish_request(id, Outcome::Cut);
        self.arm_wake(client);
    }

    /// The time for an attempt beside the first has come.
    pub(super) fn hedge(&mut self, id: RequestId, serial: u64) {
        let Some(request) = self.requests.get_mut(id as usize).filter(|request| request.serial == serial) else {
            return;
        };
        let [Some(first), None] = request.legs else { return };
        let is_first = request.attempts == 1;
        if is_first && self.clients[request.client as usize].repeats.may_hedge(self.now) {
            let server = self.calls[first as usize].server;
            request.tried.push(server);
            self.record.hedges += 1;
            self.attempt(id);
        }
    }

    /// The pause before another attempt is over.
    pub(super) fn again(&mut self, id: RequestId, serial: u64) {
        if self.requests.get(id as usize).is_some_and(|request| request.serial == serial) {
            self.attempt(id);
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

    /// An attempt has ended by itself.
    pub(super) fn end(&mut self, id: CallId, outcome: Outcome) {
        let Call { client, request, .. } = self.calls[id as usize];
        self.end_leg(id, outcome);
        self.go_on(request, outcome);
        self.arm_wake(client);
    }

    /// The client is done with an attempt.
    fn end_leg(&mut self, id: CallId, outcome: Outcome) {
        let call = &mut self.calls[id as usize];
        call.has_ended = true;
        let report = call.report.filter(|_| matches!(outcome, Outcome::Ok | Outcome::Failed));
        self.clients[call.client as usize].strategy.end(call.token, self.now, outcome, report);
        let over = Leg::of(call);
        if call.place == Place::Gone {
            self.calls.remove(id as usize);
        }
        self.leg_over(id, over, outcome);
    }

    /// What remains of it is what the request and those who repeat it know.
    fn leg_over(&mut self, id: CallId, leg: Leg, outcome: Outcome) {
        let Leg { request, client, server, begun, number, is_hedge, after } = leg;
        if let Some(keyed) = &mut self.keyed {
            keyed.end(server);
        }
        let request = &mut self.requests[request as usize];
        let (latency, hedge_after) = (self.now - begun, request.hedge_after);
        let attempt = Attempt { outcome, latency, number, is_hedge, after, hedge_after };
        self.clients[client as usize].repeats.ended(self.now, attempt);
        request.legs.iter_mut().filter(|leg| **leg == Some(id)).for_each(|leg| *leg = None);
        if outcome != Outcome::Ok && !request.tried.contains(&server) {
            request.tried.push(server);
        }
    }

    /// An attempt of a request has ended like this. A failure waits for the other, if there is one.
    fn go_on(&mut self, id: RequestId, outcome: Outcome) {
        if outcome == Outcome::Ok {
            self.give_up_legs(id, Outcome::Superseded);
            self.finish_request(id, Outcome::Ok);
        } else if self.requests[id as usize].legs == [None; 2] {
            self.failed(id, outcome);
        }
    }

    fn give_up_legs(&mut self, id: RequestId, outcome: Outcome) {
        for leg in self.requests[id as usize].legs.into_iter().flatten() {
            self.end_leg(leg, outcome);
            if self.config.stops_work && self.calls.contains(leg as usize) {
                let serial = self.calls[leg as usize].serial;
                let time = self.after_one_way();
                self.queue.push(time, Event::Stop(leg, serial));
            }
        }
    }

    /// No attempt of a request is under way any more, and none went well.
    fn failed(&mut self, id: RequestId, outcome: Outcome) {
        let request = &mut self.requests[id as usize];
        request.failed = Some(outcome);
        let Request { client, serial, attempts, deadline, .. } = *request;
        let Client { repeats, repeats_rng, .. } = &mut self.clients[client as usize];
        let left = deadline.map(|deadline| deadline.saturating_sub(self.now));
        match repeats.again(self.now, Failed { outcome, attempts, left }, repeats_rng) {
            Some(pause) => self.queue.push(self.now + pause, Event::Again(id, serial)),
            None => self.finish_request(id, outcome),
        }
    }

    fn finish_request(&mut self, id: RequestId, outcome: Outcome) {
        let Request { born, span, parent, .. } = self.requests.remove(id as usize);
        match parent {
            None => self.record.end(self.config, born, span, self.now - born, outcome),
            Some(call) => self.reply(call, if outcome == Outcome::Ok { Outcome::Ok } else { Outcome::Failed }),
        }
    }
}

/// What is to be known of an attempt when it is over.
struct Leg {
    request: RequestId,
    client: ClientId,
    server: ServerId,
    begun: u64,
    number: u32,
    is_hedge: bool,
    after: Option<Outcome>,
}

impl Leg {
    fn of(call: &Call) -> Self {
        let Call { request, client, server, begun, number, is_hedge, after, .. } = *call;
        Self { request, client, server, begun, number, is_hedge, after }
    }
}
