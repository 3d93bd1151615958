//! What is measured, and how it is shown.

/// A figure of a run, or of one of its spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Latencies in milliseconds, of calls that were answered well or were cut, which count as the deadline.
    P50,
    P99,
    P999,
    /// Calls that were answered well, of all: percent.
    Success,
    /// The same of the calls that came after the fault.
    SuccessAfter,
    /// Calls that were not: a number.
    Errors,
    /// Slow calls, of all: percent, and a number of those that arrived in the fault.
    Slow,
    SlowInFault,
    /// Calls that went to a bad server, of all in the fault: percent.
    BadHit,
    /// The same over the fair share, once the fault has lasted a while.
    SteadyShare,
    /// The most calls that a server had in a second, over the mean of all: the worst second. Of subsets, the most connections:
    /// the worst moment.
    MaxMean,
    /// The most calls that a healthy server had while the fault lasted, over the mean of the healthy: over the whole
    /// fault, because in a second chance alone makes more of a difference than it may.
    HealthyMaxMean,
    /// Seconds from the beginning of the fault until the bad servers have less than a tenth of their fair share, and from
    /// its end until they have more than 80 % of it, over a second.
    Detect,
    Recover,
    /// The largest share of a new server in any of its first ten seconds, over the fair one; the same of all who were bad,
    /// together, in any of the first ten seconds after the fault.
    Overshoot,
    /// Good answers in the fault, from its second second on, over what the healthy servers can do: percent.
    Goodput,
    /// The largest part of the servers that a client kept away from because they did badly: percent.
    Ejected,
    /// Servers that were asked, per call.
    Attempts,
    /// Calls that failed because their server had been replaced.
    LostInDrain,
    /// Requests in flight on a server.
    InFlight99,
    /// Probes per call.
    Overhead,
    /// p99.9 over the oracle's.
    Regret,
    /// Connections of a client.
    PerClient,
    /// Changes after which a server has more connections than it may: percent.
    OverLimit,
    /// Servers without a connection: the worst moment.
    AtZero,
    /// Connections that a client opens because of one change: the mean, and the most.
    Swaps,
    MostSwaps,
    /// Attempts beside others, of the calls: percent.
    Hedges,
    /// Attempts per call while the fault lasts, by tier.
    FirstTier,
    SecondTier,
    ThirdTier,
    /// Seconds from the end of the fault until good answers are as many again as before it, but for a twentieth, over a second.
    GoodAgain,
    /// Calls that were admitted above the bound: a number.
    OverBound,
    /// Of the calls that did not go home, those that filled a server up to the bound: percent.
    Filling,
    /// Of the calls about what is not hot, those that went home: percent.
    Affinity,
    /// What that could be at most, under the bound and with these homes.
    AtMost,
    /// Of those that did not, the ones with the same second choice as before: percent.
    SameSecond,
    /// Servers that have at least a hundredth of the hot key's calls.
    HotServers,
    /// Calls about what their server does not have at hand: percent.
    Missed,
    /// The largest part of the hashes that is an endpoint's, over its due: percent above.
    Imbalance,
    /// The keys that moved, and those that had no need to, of all: percent.
    Moved,
    Excess,
    /// The most dials in ten seconds over the mean, but for the first ten.
    PeakDials,
    /// Calls on connections that had served one before: percent.
    Reuse,
}

impl Metric {
    pub(crate) const ALL: [Self; 44] = [
        Self::P50,
        Self::P99,
        Self::P999,
        Self::Success,
        Self::SuccessAfter,
        Self::Errors,
        Self::Slow,
        Self::SlowInFault,
        Self::BadHit,
        Self::SteadyShare,
        Self::MaxMean,
        Self::HealthyMaxMean,
        Self::Detect,
        Self::Recover,
        Self::Overshoot,
        Self::Goodput,
        Self::Ejected,
        Self::Attempts,
        Self::LostInDrain,
        Self::InFlight99,
        Self::Overhead,
        Self::Regret,
        Self::PerClient,
        Self::OverLimit,
        Self::AtZero,
        Self::Swaps,
        Self::MostSwaps,
        Self::Hedges,
        Self::FirstTier,
        Self::SecondTier,
        Self::ThirdTier,
        Self::GoodAgain,
        Self::OverBound,
        Self::Filling,
        Self::Affinity,
        Self::AtMost,
        Self::SameSecond,
        Self::HotServers,
        Self::Missed,
        Self::Imbalance,
        Self::Moved,
        Self::Excess,
        Self::PeakDials,
        Self::Reuse,
    ];

    /// Its name in lines of JSON and at the head of a column, and the digits that it is shown with.
    fn about(self) -> (&'static str, &'static str, usize) {
        match self {
            Self::P50 => ("p50_ms", "p50 ms", 1),
            Self::P99 => ("p99_ms", "p99 ms", 1),
            Self::P999 => ("p999_ms", "p99.9 ms", 1),
            Self::Success => ("success_percent", "success %", 3),
            Self::SuccessAfter => ("success_after_percent", "success % after", 3),
            Self::Errors => ("errors", "errors", 1),
            Self::Slow => ("slow_percent", "slow %", 3),
            Self::SlowInFault => ("slow_in_fault", "slow in fault", 1),
            Self::BadHit => ("bad_hit_percent", "bad-hit %", 2),
            Self::SteadyShare => ("steady_share", "share of fair", 4),
            Self::MaxMean => ("max_mean", "max/mean", 2),
            Self::HealthyMaxMean => ("healthy_max_mean", "max/mean healthy", 2),
            Self::Detect => ("t_detect_s", "T_detect s", 1),
            Self::Recover => ("t_recover_s", "T_recover s", 1),
            Self::Overshoot => ("overshoot", "overshoot", 2),
            Self::Goodput => ("goodput_percent", "goodput %", 1),
            Self::Ejected => ("ejected_percent", "ejected %", 1),
            Self::Attempts => ("attempts_per_call", "attempts/call", 3),
            Self::LostInDrain => ("lost_in_drain", "failed in drain", 1),
            Self::InFlight99 => ("in_flight_p99", "in flight p99", 1),
            Self::Overhead => ("probes_per_call", "probes/call", 2),
            Self::Regret => ("regret", "regret", 2),
            Self::PerClient => ("connections_per_client", "per client", 1),
            Self::OverLimit => ("over_limit_percent", "over limit %", 1),
            Self::AtZero => ("at_zero", "at zero", 1),
            Self::Swaps => ("swaps", "swaps", 3),
            Self::MostSwaps => ("most_swaps", "most swaps", 1),
            Self::Hedges => ("hedges_percent", "hedges %", 2),
            Self::FirstTier => ("attempts_per_call_tier_1", "tier 1", 3),
            Self::SecondTier => ("attempts_per_call_tier_2", "tier 2", 3),
            Self::ThirdTier => ("attempts_per_call_tier_3", "tier 3", 3),
            Self::GoodAgain => ("t_good_again_s", "T_good again s", 1),
            Self::OverBound => ("over_bound", "over the bound", 1),
            Self::Filling => ("filling_percent", "filling overflow %", 2),
            Self::Affinity => ("affinity_percent", "affinity %", 2),
            Self::AtMost => ("affinity_at_most_percent", "at most %", 2),
            Self::SameSecond => ("same_second_percent", "same second %", 2),
            Self::HotServers => ("hot_servers", "hot servers", 1),
            Self::Missed => ("missed_percent", "missed %", 2),
            Self::Imbalance => ("imbalance_percent", "imbalance %", 2),
            Self::Moved => ("moved_percent", "moved %", 3),
            Self::Excess => ("excess_percent", "excess %", 3),
            Self::PeakDials => ("peak_dials", "peak/mean dials", 2),
            Self::Reuse => ("reuse_percent", "reuse %", 3),
        }
    }

    /// In lines of JSON.
    pub(crate) fn key(self) -> &'static str {
        self.about().0
    }

    /// At the head of a column.
    pub(crate) fn title(self) -> &'static str {
        self.about().1
    }

    pub(crate) fn show(self, value: f64) -> String {
        let digits = self.about().2;
        if value.is_infinite() { "never".to_owned() } else { format!("{value:.digits$}") }
    }

    pub(crate) fn larger_is_better(self) -> bool {
        use Metric::{Affinity, AtMost, Goodput, Reuse, SameSecond, Success, SuccessAfter};
        matches!(self, Success | SuccessAfter | Goodput | Affinity | AtMost | SameSecond | Reuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_place_and_a_name_of_its_own() {
        for (place, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, place);
            assert_eq!(Metric::ALL.iter().filter(|other| other.key() == metric.key()).count(), 1);
        }
    }
}
