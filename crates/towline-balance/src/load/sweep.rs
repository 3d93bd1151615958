//! What is known about the set as a whole: computed by the driver every tenth of a second while there is traffic, so
//! that picks need not.

use std::sync::Arc;
use std::time::Duration;

use super::{Levels, Measure, Nanos, PEERS, Stats};
use crate::sync::Ordering;

/// How often.
pub const PERIOD: Duration = Duration::from_millis(100);

/// An endpoint is on probation above this many times the median …
const TIMES: f32 = 4.0;
/// … and above this many median absolute deviations over it.
const DEVIATIONS: f32 = 6.0;

/// Of the reported requests in flight, the quantile above which a server is hot: 2^−¼, where Prequal's authors found
/// the best tail ("Load is not what you should balance", NSDI 2024).
const HOT_QUANTILE: f64 = 0.84;

/// Medians over the set. Keeps its memory between sweeps.
#[derive(Debug, Default)]
pub struct Sweep {
    peers: [Peers; PEERS],
    in_flight: Vec<u32>,
}

/// Endpoints whose latencies are compared with each other.
#[derive(Debug, Default)]
struct Peers {
    latencies: Vec<f32>,
    /// Of those among them that do not fail.
    well: Vec<f32>,
    members: usize,
    failing: usize,
    /// Sweeps that found any latency.
    looks: u32,
}

impl Peers {
    fn clear(&mut self) {
        self.latencies.clear();
        self.well.clear();
        (self.members, self.failing) = (0, 0);
    }

    fn add(&mut self, stats: &Stats, now: Nanos) {
        let average = stats.average(now);
        self.latencies.extend(average);
        self.members += 1;
        if stats.fails() {
            self.failing += 1;
        } else {
            self.well.extend(average);
        }
    }

    fn measure(&mut self, measure: &Measure) {
        let (median, limit) = match median(&mut self.latencies) {
            None => (0.0, f32::INFINITY),
            Some(median) => {
                self.latencies.iter_mut().for_each(|latency| *latency = (*latency - median).abs());
                let deviation = self::median(&mut self.latencies).unwrap_or(0.0);
                (median, (median * TIMES).max(median + deviation * DEVIATIONS))
            }
        };
        measure.set(median, limit, self.looks);
        self.looks = self.looks.saturating_add(u32::from(median > 0.0));
        measure.set_failing(self.failing * 2 > self.members, self::median(&mut self.well));
    }
}

impl Sweep {
    /// Looks at every endpoint and writes the [`Levels`].
    pub fn run<'a>(&mut self, levels: &Levels, endpoints: impl Iterator<Item = &'a Arc<Stats>>, now: Nanos) {
        self.peers.iter_mut().for_each(Peers::clear);
        self.in_flight.clear();
        for stats in endpoints {
            stats.sweep(now);
            self.peers[stats.peers()].add(stats, now);
            self.in_flight.extend(stats.reported(now).map(|report| report.in_flight));
        }
        self.peers.iter_mut().zip(&levels.measures).for_each(|(peers, measure)| peers.measure(measure));
        levels.hot.store(hot(&mut self.in_flight), Ordering::Relaxed);
        levels.epoch.fetch_add(1, Ordering::Release);
    }
}

/// The lower median: of two endpoints it is the faster that sets the measure.
fn median(values: &mut [f32]) -> Option<f32> {
    let middle = values.len().checked_sub(1)? / 2;
    Some(*values.select_nth_unstable_by(middle, f32::total_cmp).1)
}

fn hot(values: &mut [u32]) -> u32 {
    let Some(last) = values.len().checked_sub(1) else { return u32::MAX };
    let at = (last as f64 * HOT_QUANTILE) as usize;
    // What is at the quantile is cold, what is above it hot.
    values.select_nth_unstable(at).1.saturating_add(1)
}
