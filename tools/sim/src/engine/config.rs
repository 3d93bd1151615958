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

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) servers: u32,
    pub(crate) discipline: Discipline,
    pub(crate) demand: Dist,
    /// The mean of `demand`.
    pub(crate) mean_demand: f64,
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
}

impl Config {
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
