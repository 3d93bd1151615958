//! What happens next: events ordered by time, and by their making where times are equal, so that no run depends on how a
//! heap breaks ties.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::call::{CallId, ClientId};
use super::request::RequestId;
use super::shared::Version;
use crate::strategy::{LoadReport, Outcome, ServerId};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A client has a new call.
    Arrive(ClientId),
    /// Of a request by its serial number: it is late, its pause is over, or it has taken too long.
    Hedge(RequestId, u64),
    Again(RequestId, u64),
    Deadline(RequestId, u64),
    /// A call reaches its server.
    Reach(CallId),
    /// A server with slots is done with a call.
    Finish(CallId, Outcome),
    /// The news that a call, by its serial number, is not wanted any more reaches its server.
    Stop(CallId, u64),
    /// A server pauses.
    Pause(ServerId),
    /// A server that shares its cores may be done with a call.
    Turn(ServerId, Version),
    /// The answer is back at the client.
    Answer(CallId),
    /// A client's probe is at a server, and the answer back.
    ProbeReach(ClientId, ServerId),
    ProbeAnswer(ClientId, ServerId, LoadReport),
    /// A client's dial is at a server, and its end at the client: whether there is a connection.
    DialReach(ClientId, ServerId),
    DialEnd(ClientId, ServerId, bool),
    /// A client's pause after a failed dial is over.
    Redial(ClientId, ServerId),
    /// A client has waited long enough for a server's packets.
    GiveUp(ClientId, ServerId),
    /// The next step of the scenario's script.
    Script(u32),
    /// The neighbours of a server change what they need.
    Redraw(ServerId),
    /// Somebody counts the requests in flight.
    Sample,
    Wake(ClientId),
}

#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    seq: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, time: u64, event: Event) {
        self.heap.push(Reverse(Entry { time, seq: self.seq, event }));
        self.seq += 1;
    }

    /// When the next event is.
    pub(crate) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(entry)| entry.time)
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse(entry)| (entry.time, entry.event))
    }
}

struct Entry {
    time: u64,
    seq: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time, self.seq).cmp(&(other.time, other.seq))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_their_making() {
        let mut queue = Queue::default();
        for client in 0..100 {
            queue.push(u64::from(client % 3), Event::Arrive(client));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|(time, event)| match event {
                Event::Arrive(client) => (time, client),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(order.is_sorted(), "{order:?}");
    }
}
