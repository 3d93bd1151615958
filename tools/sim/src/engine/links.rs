//! The connections of a client: one to each server, as the pool below a balancer keeps them.
//!
//! All strategies have the same pool, and it does what ours does. Who is given to a server without a connection waits for a
//! dial. When one fails those who wait hear of it, and so does at once whoever comes after them; meanwhile the pool dials on by
//! itself, under backoff with full jitter. Connections to a server that joins are there from the beginning.

use super::call::CallId;
use super::config::{MILLIS, SECONDS};
use crate::chance::Rng;
use crate::strategy::Connection;

/// A dial that has had no answer for so long has failed. A lost packet of it is not sent again.
pub(crate) const DIAL_DEADLINE: u64 = 5 * SECONDS;
/// A connection that has had no answer for so long is lost: `TCP_USER_TIMEOUT`, as our connector sets it.
pub(crate) const USER_TIMEOUT: u64 = 20 * SECONDS;
/// The longest pause after the first dial that failed; it doubles with each.
const FIRST_PAUSE: u64 = 50 * MILLIS;
const LONGEST_PAUSE: u64 = 2 * SECONDS;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Up,
    /// Nobody has asked for it since it was lost.
    Lost,
    Dialling,
    /// The last dial failed: the next is under way, or waits for its time.
    Down,
}

/// What becomes of a call that is given to a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Given {
    Sent,
    /// For a dial that is under way.
    Waits,
    /// For one that is to begin now.
    Dials,
    /// The last dial failed.
    Refused,
}

#[derive(Default)]
pub(super) struct Link {
    state: State,
    /// Dials that failed in a row.
    failed: u32,
    /// When the dial that is under way began.
    pub(super) dialled: u64,
    waiting: Vec<CallId>,
    /// A packet was lost for good, and somebody looks after it.
    pub(super) is_watched: bool,
}

impl Link {
    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// What the balancer is told.
    pub(super) fn connection(&self) -> Connection {
        match self.state {
            State::Up => Connection::Up,
            State::Lost | State::Dialling => Connection::Lost,
            State::Down => Connection::Down,
        }
    }

    pub(super) fn give(&mut self, call: CallId) -> Given {
        match self.state {
            State::Up => return Given::Sent,
            State::Down => return Given::Refused,
            State::Lost | State::Dialling => self.waiting.push(call),
        }
        if self.state == State::Lost { Given::Dials } else { Given::Waits }
    }

    pub(super) fn lost(&mut self) {
        self.state = State::Lost;
    }

    /// One that is down stays so until a dial succeeds.
    pub(super) fn dials(&mut self, now: u64) {
        self.dialled = now;
        if self.state == State::Lost {
            self.state = State::Dialling;
        }
    }

    /// Who has waited for it.
    pub(super) fn connected(&mut self) -> Vec<CallId> {
        (self.state, self.failed) = (State::Up, 0);
        std::mem::take(&mut self.waiting)
    }

    /// Who has waited in vain, and the pause until the next dial.
    pub(super) fn failed(&mut self, rng: &mut Rng) -> (Vec<CallId>, u64) {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.failed.min(16)).min(LONGEST_PAUSE);
        (self.state, self.failed) = (State::Down, self.failed + 1);
        (std::mem::take(&mut self.waiting), rng.u64(0..=longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_while_the_first_dial_runs_waits_and_who_comes_after_it_failed_does_not() {
        let (mut link, mut rng) = (Link::default(), Rng::with_seed(1));
        assert_eq!(link.give(1), Given::Sent);
        link.lost();
        assert_eq!(link.give(2), Given::Dials);
        link.dials(0);
        assert_eq!(link.give(3), Given::Waits);
        assert_eq!(link.connection(), Connection::Lost);
        assert_eq!(link.failed(&mut rng).0, [2, 3]);
        for now in 1..3 {
            assert_eq!((link.give(4), link.connection()), (Given::Refused, Connection::Down));
            link.dials(now);
        }
        assert!(link.connected().is_empty());
        assert_eq!((link.give(5), link.connection()), (Given::Sent, Connection::Up));
    }

    #[test]
    fn pauses_double_from_50_ms_to_2_s_and_are_drawn_from_zero_on() {
        let longest = |failures: u32| {
            let pause = |seed| {
                let (mut link, mut rng) = (Link::default(), Rng::with_seed(seed));
                (0..failures).map(|_| link.failed(&mut rng).1).last().unwrap_or(0) / MILLIS
            };
            (0..1_000).map(pause).max().unwrap_or(0)
        };
        for (failures, most) in [(1, 50), (2, 100), (3, 200), (6, 1_600), (7, 2_000), (30, 2_000)] {
            let longest = longest(failures);
            assert!((most * 98 / 100..=most).contains(&longest), "{failures}: {longest}");
        }
    }
}
