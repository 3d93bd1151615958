//! What is promised, and whether it is held.

use crate::figures::Metric;
use crate::results::CaseResults;
use crate::strategies::TOWLINE;

pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) held: bool,
    /// The figures that say so.
    pub(crate) seen: String,
}

impl Goal {
    pub(crate) fn new(what: impl Into<String>, held: bool, seen: impl Into<String>) -> Self {
        Self { what: what.into(), held, seen: seen.into() }
    }

    /// A goal about our own figures: without them, it is missed.
    pub(crate) fn of_ours(what: impl Into<String>, judged: Option<(bool, String)>) -> Self {
        let (held, seen) = judged.unwrap_or_else(|| (false, format!("{TOWLINE} was not run")));
        Self::new(what, held, seen)
    }

    /// Our mean over the seeds is at most this.
    pub(crate) fn mean(what: impl Into<String>, case: &CaseResults, metric: Metric, limit: f64) -> Self {
        let mean = case.whole(TOWLINE, metric).map(|spread| spread.mean());
        Self::of_ours(what, mean.map(|mean| (mean <= limit, format!("mean {}", metric.show(mean)))))
    }

    /// Our worst seed is at most this, or at least where more is better.
    pub(crate) fn worst(what: impl Into<String>, case: &CaseResults, metric: Metric, limit: f64) -> Self {
        Self::worst_of(TOWLINE, what, case, metric, limit)
    }

    /// As above, for us in another setting.
    pub(crate) fn worst_of(
        ours: &str,
        what: impl Into<String>,
        case: &CaseResults,
        metric: Metric,
        limit: f64,
    ) -> Self {
        let worst = case.whole(ours, metric).map(|spread| spread.worst(metric));
        let held = |worst| if metric.larger_is_better() { worst >= limit } else { worst <= limit };
        Self::of_ours(what, worst.map(|worst| (held(worst), format!("worst seed {}", metric.show(worst)))))
    }

    pub(crate) fn line(&self) -> String {
        format!("{}  {}: {}", if self.held { "held  " } else { "missed" }, self.what, self.seen)
    }
}

/// The line that ends a check.
pub(crate) fn count(goals: &[Goal]) -> String {
    let held = goals.iter().filter(|goal| goal.held).count();
    format!("goals: {held} held, {} missed", goals.len() - held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_about_us_is_missed_where_we_were_not_run() {
        let goals =
            [Goal::new("one", true, "1"), Goal::of_ours("two", None), Goal::of_ours("three", Some((true, "3".into())))];
        assert_eq!(count(&goals), "goals: 2 held, 1 missed");
        assert_eq!(goals[1].line(), "missed  two: towline was not run");
    }
}
