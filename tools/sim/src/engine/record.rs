//! What a run leaves behind.

use hdrhistogram::Histogram;

use super::config::{Config, MILLIS, SECONDS};
use super::keyed::Followed;
use super::request::Request;
use crate::strategy::{Outcome, ServerId};

/// Picks are counted per bucket of this length.
pub(crate) const BUCKET: u64 = 100 * MILLIS;

/// Calls that arrived in one span.
#[derive(Clone)]
pub(crate) struct SpanRecord {
    /// Of the calls that were answered well, and of those that were cut, which count as the deadline.
    pub(crate) latencies: Histogram<u32>,
    /// Requests in flight, over all servers and the time.
    pub(crate) in_flight: Histogram<u32>,
    /// The longest of `latencies`, which a histogram does not know exactly.
    pub(crate) longest: u64,
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) slow: u64,
}

impl SpanRecord {
    fn new() -> Self {
        let histogram = |max, digits| Histogram::new_with_max(max, digits).expect("the bounds are sound");
        let (latencies, in_flight) = (histogram(600 * SECONDS, 3), histogram(1 << 20, 3));
        Self { latencies, in_flight, longest: 0, calls: 0, errors: 0, slow: 0 }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("the bounds are the same");
        self.in_flight.add(&other.in_flight).expect("the bounds are the same");
        self.longest = self.longest.max(other.longest);
        self.calls += other.calls;
        self.errors += other.errors;
        self.slow += other.slow;
    }
}

/// When a server was known to discovery.
#[derive(Clone, Copy)]
pub(crate) struct Membership {
    pub(crate) joined: u64,
    pub(crate) left: u64,
}

pub(crate) struct Record {
    pub(crate) spans: Vec<SpanRecord>,
    /// Per server and bucket.
    pub(crate) picks: Vec<Vec<u32>>,
    /// Calls that were answered well, by the bucket of the answer.
    pub(crate) good: Vec<u32>,
    pub(crate) members: Vec<Membership>,
    /// Slow calls that arrived while the fault lasted.
    pub(crate) slow_in_fault: u64,
    /// Calls that arrived after the fault, and those that were not answered well.
    pub(crate) after_fault: (u64, u64),
    /// Calls that failed because a server that was replaced had gone.
    pub(crate) lost_in_drain: u64,
    pub(crate) probes: u64,
    /// Attempts beside others.
    pub(crate) hedges: u64,
    /// By tier, of the calls that began while the fault lasted: how many there were, and how many attempts were made of them.
    pub(crate) tiers: Vec<(u64, u64)>,
    /// Where calls about the same went.
    pub(crate) keyed: Option<Followed>,
    /// The largest part of the servers that a client kept away from at a time.
    pub(crate) most_ejected: f64,
    /// Of the whole run.
    pub(crate) calls: u64,
    buckets: usize,
}

impl Record {
    pub(crate) fn new(config: &Config) -> Self {
        let buckets = config.length.div_ceil(BUCKET) as usize;
        Self {
            spans: vec![SpanRecord::new(); config.measured.len()],
            picks: Vec::new(),
            good: vec![0; buckets],
            members: Vec::new(),
            slow_in_fault: 0,
            after_fault: (0, 0),
            lost_in_drain: 0,
            probes: 0,
            hedges: 0,
            tiers: vec![(0, 0); config.tiers as usize],
            keyed: None,
            most_ejected: 0.0,
            calls: 0,
            buckets,
        }
    }

    pub(crate) fn pick(&mut self, now: u64, server: ServerId) {
        let server = server as usize;
        if self.picks.len() <= server {
            self.picks.resize(server + 1, vec![0; self.buckets]);
        }
        // Not after the last arrival: later attempts are of calls that are still under way.
        if let Some(picks) = self.picks[server].get_mut((now / BUCKET) as usize) {
            *picks += 1;
        }
    }

    pub(crate) fn begun(&mut self, config: &Config, tier: u32, now: u64) {
        self.tiers[tier as usize].0 += u64::from(config.is_in_fault(now));
    }

    pub(crate) fn attempt(&mut self, config: &Config, tier: u32, of: &Request) {
        self.tiers[tier as usize].1 += u64::from(config.is_in_fault(of.born));
    }

    pub(crate) fn end(&mut self, config: &Config, born: u64, span: Option<usize>, latency: u64, outcome: Outcome) {
        self.calls += 1;
        let slow = latency > config.slow_ns;
        if slow && config.is_in_fault(born) {
            self.slow_in_fault += 1;
        }
        if config.faults.first().is_some_and(|fault| born >= fault.span.to) {
            let (calls, errors) = &mut self.after_fault;
            *calls += 1;
            *errors += u64::from(outcome != Outcome::Ok);
        }
        if outcome == Outcome::Ok
            && let Some(good) = self.good.get_mut(((born + latency) / BUCKET) as usize)
        {
            *good += 1;
        }
        let Some(span) = span.map(|span| &mut self.spans[span]) else { return };
        span.calls += 1;
        span.slow += u64::from(slow);
        span.errors += u64::from(outcome != Outcome::Ok);
        if matches!(outcome, Outcome::Ok | Outcome::Cut) {
            span.latencies.saturating_record(latency);
            span.longest = span.longest.max(latency);
        }
    }
}
