//! What a run comes to, and what several seeds do.

mod metric;

pub(crate) use self::metric::Metric;
use crate::engine::config::{Config, MILLIS, SECONDS};
use crate::engine::keyed::Followed;
use crate::engine::record::{BUCKET, Record, SpanRecord};
use crate::strategy::ServerId;

/// A figure per metric, where there is one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures([Option<f64>; Metric::ALL.len()]);

// By hand: the standard library has it for arrays of up to 32.
impl Default for Figures {
    fn default() -> Self {
        Self([None; Metric::ALL.len()])
    }
}

impl Figures {
    pub(crate) fn get(&self, metric: Metric) -> Option<f64> {
        self.0[metric as usize]
    }

    pub(crate) fn set(&mut self, metric: Metric, value: f64) {
        self.0[metric as usize] = Some(value);
    }

    fn of_span(record: &SpanRecord) -> Self {
        let mut figures = Self::default();
        let of_calls = |count: u64| 100.0 * count as f64 / record.calls.max(1) as f64;
        for (metric, quantile) in [(Metric::P50, 0.5), (Metric::P99, 0.99), (Metric::P999, 0.999)] {
            let latency = record.latencies.value_at_quantile(quantile).min(record.longest);
            figures.set(metric, latency as f64 / MILLIS as f64);
        }
        figures.set(Metric::Success, 100.0 - of_calls(record.errors));
        figures.set(Metric::Errors, record.errors as f64);
        figures.set(Metric::Slow, of_calls(record.slow));
        figures.set(Metric::InFlight99, record.in_flight.value_at_quantile(0.99) as f64);
        figures
    }
}

/// What one run came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    /// Of all spans together.
    pub(crate) whole: Figures,
    pub(crate) spans: Vec<Figures>,
    /// For the picture, per second: the share of the bad servers over their fair one; good answers over what the healthy
    /// servers can do, where there is a deadline; or the share of a new server by its age. Without faults, latencies in
    /// milliseconds by [`NINES`].
    pub(crate) curve: Vec<f64>,
}

/// In buckets.
const SECOND: usize = (SECONDS / BUCKET) as usize;
/// How long after the beginning of a fault its effect is steady: peaks have decayed by then.
const SETTLED: u64 = 10 * SECONDS;
/// How long a new server is watched for overshoot, and for the picture.
const YOUNG: usize = 10 * SECOND;
/// What good answers are compared with: those of so long before the fault.
const BEFORE: usize = 5 * SECOND;
/// Quarters of a power of ten: of so many calls one takes longer, down to one in ten thousand.
pub(crate) const NINES: std::ops::RangeInclusive<u32> = 1..=16;
const TIERS: [Metric; 3] = [Metric::FirstTier, Metric::SecondTier, Metric::ThirdTier];
const GROWING: usize = 45 * SECOND;

impl Run {
    pub(crate) fn new(config: &Config, record: &Record) -> Self {
        let mut spans = record.spans.iter();
        let mut all = spans.next().cloned().expect("something is measured");
        spans.for_each(|span| all.add(span));
        let mut whole = Figures::of_span(&all);
        let shares = Shares { record };
        let (from, to) = (0, (config.length / BUCKET) as usize);
        whole.set(Metric::Attempts, shares.all(from..to) / record.calls.max(1) as f64);
        whole.set(Metric::Ejected, 100.0 * record.most_ejected);
        whole.set(Metric::MaxMean, shares.max_mean(config));
        let per_call = |count: u64| count as f64 / record.calls.max(1) as f64;
        whole.set(Metric::Overhead, per_call(record.probes));
        whole.set(Metric::Hedges, 100.0 * per_call(record.hedges));
        let mut curve = Vec::new();
        if let Some(fault) = config.faults.first() {
            let bad: Vec<_> = fault.servers.iter().map(|server| *server as usize).collect();
            let (from, to) = ((fault.span.from / BUCKET) as usize, (fault.span.to / BUCKET) as usize);
            let end = (config.length / BUCKET) as usize;
            let fair = bad.len() as f64 / f64::from(config.servers);
            let share = |window: std::ops::Range<usize>| shares.of(&bad, window);
            let (calls, errors) = record.after_fault;
            whole.set(Metric::SuccessAfter, 100.0 - 100.0 * errors as f64 / calls.max(1) as f64);
            whole.set(Metric::HealthyMaxMean, shares.most_of(config.healthy(), from..to));
            whole.set(Metric::SlowInFault, record.slow_in_fault as f64);
            whole.set(Metric::BadHit, 100.0 * share(from..to));
            whole.set(Metric::SteadyShare, share(from + (SETTLED / BUCKET) as usize..to) / fair);
            let share_at = |at: usize| share(at..at + SECOND);
            whole.set(Metric::Detect, since_when(from, to, &|at| share_at(at) < 0.1 * fair));
            whole.set(Metric::Recover, since_when(to, end, &|at| share_at(at) > 0.8 * fair));
            let young = (to..=end - SECOND).take(YOUNG - SECOND + 1);
            whole.set(Metric::Overshoot, young.map(|at| share(at..at + SECOND)).fold(0.0, f64::max) / fair);
            curve = (0..end / SECOND).map(|at| share(at * SECOND..(at + 1) * SECOND) / fair).collect();
            for (metric, (calls, attempts)) in TIERS.into_iter().zip(&record.tiers) {
                whole.set(metric, *attempts as f64 / (*calls).max(1) as f64);
            }
            let good = |window: std::ops::Range<usize>| {
                let seconds = window.len() as f64 / SECOND as f64;
                f64::from(record.good[window].iter().sum::<u32>()) / seconds
            };
            let before = good(from.saturating_sub(BEFORE)..from);
            whole.set(Metric::GoodAgain, since_when(to, end, &|at| good(at..at + SECOND) >= 0.95 * before));
            if let Some(capacity) = config.capacity().filter(|_| config.deadline.is_some()) {
                whole.set(Metric::Goodput, 100.0 * good(from + SECOND..to) / capacity);
                curve = (0..end / SECOND).map(|at| good(at * SECOND..(at + 1) * SECOND) / capacity).collect();
            }
        }
        if let Some(followed) = &record.keyed {
            follow(&mut whole, followed);
        }
        if config.faults.is_empty() {
            let at = |nines| all.latencies.value_at_quantile(1.0 - 10f64.powf(-f64::from(nines) / 4.0));
            curve = NINES.map(|nines| at(nines).min(all.longest) as f64 / MILLIS as f64).collect();
        }
        if config.restart.is_some() {
            whole.set(Metric::LostInDrain, record.lost_in_drain as f64);
            whole.set(Metric::Overshoot, shares.overshoot(config));
            curve = shares.growth(config);
        }
        Self { whole, spans: record.spans.iter().map(Figures::of_span).collect(), curve }
    }
}

/// Seconds from `begin` until the first second of which this holds.
fn since_when(begin: usize, end: usize, holds: &dyn Fn(usize) -> bool) -> f64 {
    let found = (begin..=end - SECOND).find(|at| holds(*at));
    found.map_or(f64::INFINITY, |at| (at - begin) as f64 / SECOND as f64)
}

/// Where calls about the same went.
fn follow(figures: &mut Figures, followed: &Followed) {
    let percent = |part: u64, of: u64| (of > 0).then(|| 100.0 * part as f64 / of as f64);
    let hot: u64 = followed.hot.iter().sum();
    let hot_servers = followed.hot.iter().filter(|calls| **calls * 100 >= hot).count();
    for (metric, figure) in [
        (Metric::OverBound, Some(followed.over as f64)),
        (Metric::MaxMean, Some(followed.max_mean)),
        (Metric::Filling, percent(followed.filling, followed.overflow)),
        (Metric::Affinity, percent(followed.at_home, followed.cool)),
        (Metric::AtMost, percent(followed.at_home_at_most(), followed.cool)),
        (Metric::SameSecond, percent(followed.to_second, followed.again)),
        (Metric::HotServers, Some(hot_servers as f64)),
        (Metric::Missed, percent(followed.missed, followed.looked_up)),
    ] {
        figure.into_iter().for_each(|figure| figures.set(metric, figure));
    }
}

/// Who got how many of the calls.
struct Shares<'a> {
    record: &'a Record,
}

impl Shares<'_> {
    fn picks(&self, server: usize, window: std::ops::Range<usize>) -> f64 {
        self.record.picks[server][window].iter().sum::<u32>().into()
    }

    fn all(&self, window: std::ops::Range<usize>) -> f64 {
        (0..self.record.picks.len()).map(|server| self.picks(server, window.clone())).sum()
    }

    fn of(&self, servers: &[usize], window: std::ops::Range<usize>) -> f64 {
        let theirs: f64 = servers.iter().map(|server| self.picks(*server, window.clone())).sum();
        theirs / self.all(window).max(1.0)
    }

    /// The most that one of these had, over the mean.
    fn most_of(&self, servers: impl Iterator<Item = ServerId>, window: std::ops::Range<usize>) -> f64 {
        let picks = servers.map(|server| self.picks(server as usize, window.clone()));
        let (count, sum, max) = picks.fold((0.0, 0.0, 0.0f64), |(n, sum, max), p| (n + 1.0, sum + p, max.max(p)));
        max * count / f64::max(sum, 1.0)
    }

    /// Over the servers that are there for a whole second.
    fn max_mean(&self, config: &Config) -> f64 {
        let mut worst = 0.0f64;
        for second in 0..config.length / SECONDS {
            let (begin, end) = (second * SECONDS, (second + 1) * SECONDS);
            if config.span_of(begin).is_none() {
                continue;
            }
            let there = |server: &usize| {
                let member = self.record.members[*server];
                member.joined <= begin && member.left >= end
            };
            let window = (begin / BUCKET) as usize..(end / BUCKET) as usize;
            let there = (0..self.record.picks.len()).filter(there).map(|server| server as ServerId);
            worst = worst.max(self.most_of(there, window));
        }
        worst
    }

    /// The buckets in which servers that came during the run begin, and whether they are there for `length` buckets.
    fn newcomers(&self, config: &Config, length: usize) -> impl Iterator<Item = (usize, usize)> {
        let end = config.length;
        let members = self.record.members.iter().enumerate().filter(|(_, member)| member.joined > 0);
        let joined = members.map(|(server, member)| (server, (member.joined / BUCKET) as usize));
        joined.filter(move |(_, begin)| begin + length <= (end / BUCKET) as usize)
    }

    fn overshoot(&self, config: &Config) -> f64 {
        let shares = self.newcomers(config, YOUNG).flat_map(|(server, begin)| {
            (begin..=begin + YOUNG - SECOND).map(move |at| self.of(&[server], at..at + SECOND))
        });
        shares.fold(0.0, f64::max) * f64::from(config.servers)
    }

    /// The share of a new server over the fair one, by its age.
    fn growth(&self, config: &Config) -> Vec<f64> {
        let newcomers: Vec<_> = self.newcomers(config, GROWING).collect();
        let at = |age: usize| {
            let shares = newcomers.iter().map(|(server, begin)| {
                let window = begin + age * SECOND..begin + (age + 1) * SECOND;
                self.of(&[*server], window) * f64::from(config.servers)
            });
            shares.sum::<f64>() / newcomers.len().max(1) as f64
        };
        (0..GROWING / SECOND).map(at).collect()
    }
}

/// The same figure under several seeds.
#[derive(Clone, Debug)]
pub(crate) struct Spread(pub(crate) Vec<f64>);

impl Spread {
    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    pub(crate) fn worst(&self, metric: Metric) -> f64 {
        let worse = if metric.larger_is_better() { f64::min } else { f64::max };
        self.0.iter().copied().reduce(worse).unwrap_or(f64::NAN)
    }

    /// How far the mean may be off.
    pub(crate) fn standard_error(&self) -> f64 {
        let (mean, count) = (self.mean(), self.0.len() as f64);
        let squares = self.0.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        if count > 1.0 { (squares / (count - 1.0) / count).sqrt() } else { f64::INFINITY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Dist;
    use crate::engine::config::{Fault, Span};
    use crate::engine::fleet::{Condition, Discipline};
    use crate::engine::record::Membership;
    use crate::strategy::Outcome;

    /// Server 0 of four is bad from 10 s to 20 s of 40 s. The three others can do 300 calls per second.
    fn config() -> Config {
        Config {
            servers: 4,
            discipline: Discipline::Slots { slots: 1, queue: 0 },
            demand: Dist::Normal { mean: 1.0, sd: 0.0 },
            mean_demand: 10.0 * MILLIS as f64,
            clients: 1,
            rates: Vec::new(),
            length: 40 * SECONDS,
            deadline: Some(SECONDS),
            measured: vec![Span::seconds(0, 40)],
            slow_ns: SECONDS,
            faults: vec![Fault { servers: vec![0], span: Span::seconds(10, 20), condition: Condition::default() }],
            ..Config::default()
        }
    }

    /// Calls per second and server, in each second.
    fn run(calls: impl Fn(u64, ServerId) -> u64, outcome: impl Fn(ServerId) -> Outcome) -> Run {
        let config = config();
        let mut record = Record::new(&config);
        for second in 0..40 {
            for server in 0..4 {
                let calls = calls(second, server);
                for call in 0..calls {
                    let now = second * SECONDS + call * SECONDS / calls;
                    record.pick(now, server);
                    record.end(&config, now, config.span_of(now), MILLIS, outcome(server));
                }
            }
        }
        record.members = vec![Membership { joined: 0, left: u64::MAX }; 4];
        Run::new(&config, &record)
    }

    fn is_near(run: &Run, metric: Metric, expected: f64) -> bool {
        run.whole.get(metric).is_some_and(|value| (value - expected).abs() < 0.02 * expected)
    }

    #[test]
    fn who_is_healthy_is_compared_among_themselves_and_while_the_fault_lasts() {
        let during = |second| (10..20).contains(&second);
        let calls = |second, server| match server {
            0 => 500,
            1 if during(second) => 130,
            _ => 100,
        };
        let run = run(calls, |_| Outcome::Ok);
        assert!(is_near(&run, Metric::HealthyMaxMean, 130.0 / 110.0), "{run:?}");
    }

    #[test]
    fn whoever_comes_back_overshoots_by_its_largest_share_of_a_second_within_ten() {
        let calls = |second, server| match (server, second) {
            (0, 10..20) => 1,
            (0, 25) => 200,
            (0, 35) => 900,
            _ => 100,
        };
        let run = run(calls, |_| Outcome::Ok);
        assert!(is_near(&run, Metric::Overshoot, 4.0 * 200.0 / 500.0), "{run:?}");
    }

    #[test]
    fn goodput_is_of_good_answers_and_of_what_the_healthy_can_do() {
        let outcome = |server| if server == 1 { Outcome::Failed } else { Outcome::Ok };
        let run = run(|_, server| if server == 0 { 0 } else { 90 }, outcome);
        assert!(is_near(&run, Metric::Goodput, 60.0), "{run:?}");
        assert!(is_near(&run, Metric::SuccessAfter, 66.7), "{run:?}");
        assert!(run.curve.iter().all(|good| (good - 0.6).abs() < 0.02), "{run:?}");
    }
}
