//! What a run consists of.

use super::fleet::{Condition, Discipline};
use crate::chance::Dist;
use crate::strategy::ServerId;

pub(crate) const MICROS: u64 = 1_000;
pub(crate) const MILLIS: u64 = 1_000_000;
pub(crate) const SECONDS: u64 = 1_000_000_000;

/// From one time to another, the latter not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Span {
    pub(crate) fn seconds(from: u64, to: u64) -> Self {
        Self { from: from * SECONDS, to: to * SECONDS }
    }

    pub(crate) fn contains(&self, time: u64) -> bool {
        (self.from..self.to).contains(&time)
    }
}

/// Servers that something is wrong with for a while.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) servers: Vec<ServerId>,
    pub(crate) span: Span,
    pub(crate) condition: Condition,
}

/// Old servers leave and new ones come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart {
    /// One after the other, so often within the span.
    pub(crate) every: u64,
    pub(crate) span: Span,
    /// From the news that it leaves to its end.
    pub(crate) drain: u64,
    /// A new one is so much slower at first, for so long.
    pub(crate) cold: (f64, u64),
}

/// Servers that stop now and then, each for itself, and do nothing for a while: neither work that was begun nor any other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pauses {
    pub(crate) length: u64,
    /// From the end of one to the beginning of the next, exponentially distributed.
    pub(crate) mean_gap: u64,
}

/// Calls are about something: the first of so many keys is asked for most, the k-th by k to the power of this less often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) count: u32,
    pub(crate) exponent: f64,
    /// From then on one more key has this part of the calls.
    pub(crate) hot: (u64, f64),
    /// Keys that a server has at hand. The first server that is asked for a key has it.
    pub(crate) cached: usize,
    /// A call about any other takes so many times as long.
    pub(crate) miss: f64,
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// In each tier. Their ids count up through the tiers.
    pub(crate) servers: u32,
    /// Servers of all tiers but the last call one of the next for every call that they have worked on, and answer with its
    /// outcome; meanwhile the call has no slot. Their own work on it is drawn like anybody's.
    pub(crate) tiers: u32,
    pub(crate) discipline: Discipline,
    pub(crate) demand: Dist,
    /// The mean of `demand`.
    pub(crate) mean_demand: f64,
    /// Of the first tier.
    pub(crate) clients: u32,
    /// Calls per second of all clients together, from a time on.
    pub(crate) rates: Vec<(u64, f64)>,
    /// When the last call arrives; those under way are waited for.
    pub(crate) length: u64,
    /// How long a client waits.
    pub(crate) deadline: Option<u64>,
    /// Calls that arrive in these spans are measured, each span for itself.
    pub(crate) measured: Vec<Span>,
    /// Latency above which a call is slow.
    pub(crate) slow_ns: u64,
    /// The figures of a fault are about the first; no server has two at a time.
    pub(crate) faults: Vec<Fault>,
    pub(crate) restart: Option<Restart>,
    pub(crate) pauses: Option<Pauses>,
    pub(crate) keys: Option<Keys>,
    /// Servers with slots are told when their client has given up a call, and stop working on it. Otherwise they work on.
    pub(crate) stops_work: bool,
}

/// A second in which nobody calls: what scenarios do not say.
impl Default for Config {
    fn default() -> Self {
        Self {
            servers: 1,
            tiers: 1,
            discipline: Discipline::Slots { slots: 1, queue: 0 },
            demand: Dist::Normal { mean: MILLIS as f64, sd: 0.0 },
            mean_demand: MILLIS as f64,
            clients: 1,
            rates: Vec::new(),
            length: SECONDS,
            deadline: None,
            measured: vec![Span { from: 0, to: SECONDS }],
            slow_ns: SECONDS,
            faults: Vec::new(),
            restart: None,
            pauses: None,
            keys: None,
            stops_work: false,
        }
    }
}

impl Config {
    /// Whether these servers have others to call.
    pub(crate) fn has_next(&self, server: ServerId) -> bool {
        self.tiers > 1 && server < (self.tiers - 1) * self.servers
    }

    /// Calls per second of one client.
    pub(crate) fn rate(&self, now: u64) -> f64 {
        let of_all = self.rates.iter().rev().find(|(from, _)| *from <= now).map_or(0.0, |(_, rate)| *rate);
        of_all / f64::from(self.clients)
    }

    /// Servers that nothing ever is wrong with.
    pub(crate) fn healthy(&self) -> impl Iterator<Item = ServerId> {
        let is_healthy = |server: &ServerId| self.faults.iter().all(|fault| !fault.servers.contains(server));
        (0..self.servers).filter(is_healthy)
    }

    /// Calls per second that they can do, where that is limited.
    pub(crate) fn capacity(&self) -> Option<f64> {
        let Discipline::Slots { slots, .. } = self.discipline else { return None };
        Some(self.healthy().count() as f64 * f64::from(slots) * SECONDS as f64 / self.mean_demand)
    }

    /// Of the first fault.
    pub(crate) fn is_in_fault(&self, time: u64) -> bool {
        self.faults.first().is_some_and(|fault| fault.span.contains(time))
    }

    pub(crate) fn span_of(&self, time: u64) -> Option<usize> {
        self.measured.iter().position(|span| span.contains(time))
    }

    /// What is done to the servers, in order.
    pub(crate) fn script(&self) -> Vec<(u64, Step)> {
        let mut script = Vec::new();
        for Fault { servers, span, condition } in &self.faults {
            for server in servers {
                script.push((span.from, Step::Become(*server, *condition)));
                script.push((span.to, Step::Become(*server, Condition::default())));
            }
        }
        if let Some(Restart { every, span, drain, .. }) = self.restart {
            for (old, time) in (span.from..span.to).step_by(every as usize).enumerate() {
                script.push((time, Step::Replace(old as ServerId)));
                script.push((time + drain, Step::End(old as ServerId)));
            }
        }
        script.sort_by_key(|(time, _)| *time);
        script
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Become(ServerId, Condition),
    /// A new server joins, and this one begins to drain.
    Replace(ServerId),
    End(ServerId),
}
