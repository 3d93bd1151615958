//! The servers: what they do with a call, and what befalls them.

use std::collections::VecDeque;

use super::call::CallId;
use super::clients::RETRANSMIT;
use super::reports::Recent;
use super::shared::Shared;
use crate::strategy::ServerId;

/// How a server works on several calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Discipline {
    /// So many at a time, the rest wait in order; more than `queue` waiting are refused.
    Slots { slots: u32, queue: usize },
    /// All at a time, each on a core of its own while there are enough.
    Shared { machine: Machine },
}

/// What a server that shares its cores runs on, together with neighbours. A core is as fast as one of the scenario's
/// healthy servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) cores: f64,
    /// Cores that are the server's whatever its neighbours need.
    pub(crate) allocation: f64,
    /// What the neighbours need is drawn evenly from here; they get what there is.
    pub(crate) neighbours: (f64, f64),
    /// Nanoseconds between draws.
    pub(crate) redraw: u64,
    /// So many of the servers do their work at half the speed.
    pub(crate) half_speed: u32,
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Condition {
    /// Calls that arrive now take so long, whatever they demand.
    pub(crate) fixed_ns: Option<u64>,
    /// Calls fail: with what probability, after how long.
    pub(crate) fails: Option<(f64, u64)>,
    /// Calls fail with this probability once all work on them is done.
    pub(crate) fails_late: f64,
    pub(crate) cold: Option<Cold>,
    /// Everything takes so many times as long.
    pub(crate) slower: Option<f64>,
    /// Packets are lost with this probability, each way.
    pub(crate) loss: Option<f64>,
    pub(crate) reach: Reach,
}

/// Whether a server can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    #[default]
    Open,
    /// Nobody listens: dials are refused after a round trip, and connections are reset.
    Refuses,
    /// Dials get no answer, and connections are reset.
    IgnoresDials,
    /// Nothing gets through. Connections stay until they have not been answered for too long.
    Silent,
}

/// Everything takes `factor` times as long at first, and gets better evenly until `ramp` has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cold {
    pub(crate) since: u64,
    pub(crate) factor: f64,
    pub(crate) ramp: u64,
}

impl Condition {
    /// How long `demand` takes if work on it starts now.
    pub(crate) fn duration(&self, now: u64, demand: f64) -> u64 {
        self.fixed_ns.unwrap_or_else(|| (demand * self.factor(now)) as u64)
    }

    fn factor(&self, now: u64) -> f64 {
        let cold = self.cold.map_or(1.0, |cold| {
            let warm = ((now - cold.since) as f64 / cold.ramp as f64).min(1.0);
            cold.factor - (cold.factor - 1.0) * warm
        });
        cold * self.slower.unwrap_or(1.0)
    }

    /// What lost packets add to a call, on average: the first time that each of its two is sent again.
    fn expected_wait(&self) -> f64 {
        2.0 * self.loss.unwrap_or(0.0) * RETRANSMIT as f64
    }
}

pub(crate) enum Work {
    Slots { slots: u32, queue: usize, busy: u32, waiting: VecDeque<CallId> },
    Shared(Shared),
}

pub(crate) struct Server {
    pub(crate) work: Work,
    pub(crate) condition: Condition,
    /// Calls that are there.
    pub(crate) in_flight: u32,
    /// Calls that are there or on the way.
    pub(crate) assigned: u32,
    pub(crate) recent: Recent,
    /// All of its pauses together, the present one to its end, and that.
    pub(crate) paused: u64,
    pub(crate) pauses_until: u64,
    /// Known to discovery from here until there.
    pub(crate) joined: u64,
    pub(crate) left: u64,
    /// Nobody is there any more.
    pub(crate) ended: bool,
}

impl Server {
    pub(crate) fn new(work: Work, condition: Condition, joined: u64) -> Self {
        let (recent, left) = (Recent::default(), u64::MAX);
        let (in_flight, assigned, paused, pauses_until, ended) = (0, 0, 0, 0, false);
        Self { work, condition, in_flight, assigned, recent, paused, pauses_until, joined, left, ended }
    }
}

/// All servers that there ever were, by id.
pub(crate) struct Fleet {
    pub(crate) servers: Vec<Server>,
    /// The mean of the scenario's demands.
    pub(crate) mean_demand: f64,
    /// How long clients wait.
    pub(crate) deadline: Option<u64>,
}

impl Fleet {
    /// For strategies that do not look.
    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        Self { servers: Vec::new(), mean_demand: 1.0, deadline: None }
    }

    pub(crate) fn server(&self, id: ServerId) -> &Server {
        &self.servers[id as usize]
    }

    pub(crate) fn server_mut(&mut self, id: ServerId) -> &mut Server {
        &mut self.servers[id as usize]
    }

    pub(crate) fn is_failing(&self, id: ServerId) -> bool {
        self.server(id).condition.fails.is_some()
    }

    /// How long one more call to a server is expected to take, from all that is true of the server now.
    pub(crate) fn expected_ns(&self, id: ServerId, now: u64) -> f64 {
        let server = self.server(id);
        if server.ended || self.is_failing(id) || server.condition.reach != Reach::Open {
            return f64::INFINITY;
        }
        match &server.work {
            Work::Slots { slots, .. } => {
                let each = server.condition.duration(now, self.mean_demand) as f64;
                let ahead = (server.assigned + 1).saturating_sub(*slots);
                each * (1.0 + f64::from(ahead) / f64::from(*slots)) + server.condition.expected_wait()
            }
            Work::Shared(shared) => self.mean_demand / shared.rate(server.assigned as usize + 1),
        }
    }
}
