//! What a client decides with: the seam between the simulator and everything that it compares.

use crate::chance::Rng;
use crate::engine::fleet::Fleet;

/// A server's identity. A replacement is somebody else: ids are never given twice, and count up from zero.
pub(crate) type ServerId = u32;

/// Whatever a strategy wants to get back when a call ends.
pub(crate) type Token = u64;

/// What a call is about; see [`Keys`](crate::engine::config::Keys).
pub(crate) type Key = u32;

/// What a strategy may know of a call before it chooses.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) key: Option<Key>,
    /// Where earlier attempts of the call went, and one that is under way.
    pub(crate) tried: &'a [ServerId],
}

/// A call that has started, as far as the strategy is concerned.
pub(crate) struct Pick {
    pub(crate) server: ServerId,
    pub(crate) token: Token,
}

/// How a call ended for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    /// The server answered that it failed, or refused.
    Failed,
    /// The deadline passed first. The server does not know.
    Cut,
    /// Another attempt of the call was answered first.
    Superseded,
    /// There was no connection to be had, and the server has seen nothing of it.
    Unreachable,
}

/// What a pool says about its connection to a server. It is up when a server joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    Up,
    /// There is none; a call would wait for a dial.
    Lost,
    /// The last dial failed; a call would fail.
    Down,
}

/// What a server says about itself, with an answer or to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoadReport {
    /// Its requests, from all clients.
    pub(crate) in_flight: u32,
    /// The median latency of recent requests that arrived when about as many were in flight; 0 when there are none.
    pub(crate) latency_ns: u64,
}

/// News from discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added(ServerId),
    Removed(ServerId),
}

/// One client's balancer. Times are virtual nanoseconds since the start of the run. The servers of the start are given
/// as changes at time 0.
pub(crate) trait Strategy {
    /// Chooses where a call goes and counts it as started; `None` when there is nowhere to go.
    ///
    /// `fleet` is the truth about all servers. Only the oracle and the yardsticks look at it.
    fn pick(&mut self, now: u64, rng: &mut Rng, fleet: &Fleet) -> Option<Pick>;

    /// As `pick`, for who minds what a call is about or where it has been.
    fn pick_for(&mut self, now: u64, _wanted: Wanted<'_>, rng: &mut Rng, fleet: &Fleet) -> Option<Pick> {
        self.pick(now, rng, fleet)
    }

    /// Where calls about this are at home and where they go when there is no room, for who has such places.
    fn places(&mut self, _key: Key) -> Option<[ServerId; 2]> {
        None
    }

    /// A call of this strategy has ended. There is a report if the server answered and `reads_reports`.
    fn end(&mut self, token: Token, now: u64, outcome: Outcome, report: Option<LoadReport>);

    fn change(&mut self, now: u64, change: Change);

    /// The server of a call could not be reached, which `end` has been told: who is asked instead, other than those of
    /// `asked`. By default nobody, and the call has failed.
    fn another(&mut self, _now: u64, _rng: &mut Rng, _fleet: &Fleet, _asked: &[ServerId]) -> Option<Pick> {
        None
    }

    /// The connection to a server is another now.
    fn connection(&mut self, _now: u64, _server: ServerId, _connection: Connection) {}

    /// Whether a lost connection is dialled at once; by default it is when a call wants it.
    fn keeps_connected(&self) -> bool {
        false
    }

    /// The servers that it keeps away from because they do badly.
    fn ejected(&self) -> usize {
        0
    }

    /// Whether answers shall carry reports.
    fn reads_reports(&self) -> bool {
        false
    }

    /// When `wake` wants to be called next; asked after every other call.
    fn next_wake(&self) -> Option<u64> {
        None
    }

    /// Time for what is due.
    fn wake(&mut self, _now: u64, _rng: &mut Rng) {}

    /// Asked after every pick: the servers to probe now.
    fn probes(&mut self, _rng: &mut Rng, _targets: &mut Vec<ServerId>) {}

    /// The answer to a probe, a round trip later.
    fn probed(&mut self, _now: u64, _server: ServerId, _report: LoadReport) {}
}
