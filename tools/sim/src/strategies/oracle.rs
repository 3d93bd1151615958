//! Who knows everything: the calls of all clients, those on the way included, how fast each server is now, and whether it
//! can be reached.
//!
//! It takes the server where a call of the mean size is expected to end first, and refuses the call when that is too late. It
//! does not know the size of calls, and does not plan ahead, so it is a bound in practice rather than in theory.

use super::{Connections, Members};
use crate::chance::Rng;
use crate::engine::fleet::Fleet;
use crate::strategy::{Change, Connection, LoadReport, Outcome, Pick, ServerId, Strategy, Token};

/// A call is refused when one of the mean size would take more than this part of the deadline: others are longer.
const HOPE: f64 = 0.5;

#[derive(Default)]
pub(super) struct Oracle {
    members: Members,
    connections: Connections,
}

impl Strategy for Oracle {
    fn pick(&mut self, now: u64, rng: &mut Rng, fleet: &Fleet) -> Option<Pick> {
        let expected = |id| if self.connections.is_up(id) { fleet.expected_ns(id, now) } else { f64::INFINITY };
        let server = self.members.least(rng, expected)?;
        let is_in_time = fleet.deadline.is_none_or(|deadline| expected(server) <= HOPE * deadline as f64);
        is_in_time.then_some(Pick { server, token: 0 })
    }

    fn end(&mut self, _: Token, _: u64, _: Outcome, _: Option<LoadReport>) {}

    fn change(&mut self, _: u64, change: Change) {
        self.members.change(change);
        self.connections.change(change);
    }

    fn connection(&mut self, _: u64, server: ServerId, connection: Connection) {
        self.connections.set(server, connection);
    }

    fn keeps_connected(&self) -> bool {
        true
    }
}
