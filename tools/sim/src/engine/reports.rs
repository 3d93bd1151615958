//! What a server knows about its own latency: the estimate that Prequal's servers report.

use std::collections::VecDeque;

use crate::strategy::LoadReport;

/// Requests that are remembered.
const KEPT: usize = 64;
/// Older ones say nothing about now.
const FRESH_NS: u64 = 1_000_000_000;
/// The estimate is the median over so many.
const NEAREST: usize = 9;

struct Sample {
    ended: u64,
    /// How many were in flight when it arrived.
    found: u32,
    latency: u64,
}

/// The last requests of a server.
#[derive(Default)]
pub(crate) struct Recent(VecDeque<Sample>);

impl Recent {
    pub(crate) fn record(&mut self, ended: u64, found: u32, latency: u64) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Sample { ended, found, latency });
    }

    /// The median of those which arrived when about `in_flight` were there, the most recent first where as near.
    pub(crate) fn report(&self, now: u64, in_flight: u32) -> LoadReport {
        let fresh = self.0.iter().rev().enumerate().take_while(|(_, sample)| now - sample.ended <= FRESH_NS);
        let mut near = [0u64; KEPT];
        let mut count = 0;
        for (age, sample) in fresh {
            near[count] = u64::from(sample.found.abs_diff(in_flight)) << 32 | age as u64;
            count += 1;
        }
        let mut near = &mut near[..count];
        if count > NEAREST {
            near.select_nth_unstable(NEAREST - 1);
            near = &mut near[..NEAREST];
        }
        for entry in &mut *near {
            let age = (*entry & u64::from(u32::MAX)) as usize;
            *entry = self.0[self.0.len() - 1 - age].latency;
        }
        near.sort_unstable();
        LoadReport { in_flight, latency_ns: near.get(near.len() / 2).copied().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_of_recent_requests_that_met_about_as_many() {
        let mut recent = Recent::default();
        assert_eq!(recent.report(0, 3).latency_ns, 0);
        for _ in 0..20 {
            recent.record(1_000, 2, 10);
            recent.record(1_000, 9, 90);
        }
        assert_eq!(recent.report(2_000, 1).latency_ns, 10);
        assert_eq!(recent.report(2_000, 12).latency_ns, 90);
        assert_eq!(recent.report(FRESH_NS + 1_001, 1).latency_ns, 0);
    }
}
