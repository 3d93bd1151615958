//! Looks over the set and decides: who is ejected, who may be probed, who returns, and who still starts slowly.
//!
//! One look is four steps, each over the whole set: bring the records up to date; say what chance explains; judge; set
//! slow start. It takes `now` and a generator, and reads no clock.

use std::sync::Arc;
use std::time::Duration;

use towline_core::{EjectionRule, Rng};

use super::evidence::{ENOUGH, against_chance};
use super::settings::LONGEST;
use super::slow_start::share;
use super::{Outliers, SlowStart};
use crate::load::{Ejected, Ejection, Levels, Nanos, Record, Stats, nanos};

/// How long idempotent calls go first when a probe is due.
const IDEMPOTENT_FIRST: Duration = Duration::from_secs(1);
/// A probe that has not ended by then leaves the endpoint to the next.
const PROBE_ENDS: Duration = Duration::from_secs(5);
/// The first ejection for failed dials.
const DIAL_BASE: Duration = Duration::from_secs(1);
/// The longest of them: who comes up again shall not wait for minutes.
const LONGEST_OF_DIALS: Duration = Duration::from_secs(30);
/// Jitter, in shares of the time.
const JITTER: f64 = 0.2;
/// The memory of how often the set fails: what is as old counts 37 %.
const MEMORY: f32 = 60e9;
/// Calls without which a success rate is none.
const KNOWN: f32 = 1.0;
/// Looks in a row after which it is no accident that most of the set fails: in a set of two a row of two failures looks like
/// that, beside one that is ejected.
const CERTAIN: u32 = 3;
/// Median absolute deviations that are not exceptional.
const DEVIATIONS: f32 = 6.0;

/// What a look has changed.
#[derive(Clone, Debug)]
pub enum News {
    /// See [`EndpointEjected`](towline_core::Event::EndpointEjected).
    Ejected {
        /// Who.
        stats: Arc<Stats>,
        /// Why.
        rule: EjectionRule,
        /// For how long.
        length: Duration,
        /// The how manieth time.
        ejections: u32,
    },
    /// See [`EndpointReturned`](towline_core::Event::EndpointReturned).
    Returned(Arc<Stats>),
}

/// The judge of a set.
#[derive(Debug)]
pub struct Detector {
    outliers: Outliers,
    slow_start: SlowStart,
    rng: Rng,
    /// How often those have failed that fail now and then.
    base: Base,
    /// For how many looks most of the set has failed.
    most_fail: u32,
    did_most_fail: bool,
    rates: Vec<f32>,
    ages: Vec<Nanos>,
    suspects: Vec<Suspect>,
    news: Vec<News>,
}

/// Sums that decay.
#[derive(Debug, Default)]
struct Base {
    calls: f32,
    failures: f32,
    at: Nanos,
}

#[derive(Debug)]
struct Suspect {
    index: usize,
    rule: EjectionRule,
    evidence: f32,
}

/// What is to be expected of an endpoint.
#[derive(Clone, Copy, Debug)]
struct Expected {
    /// The set's median failure rate.
    median: f32,
    /// The probability of a failure that chance has to explain.
    chance: f32,
    /// For how many looks most of the set has failed.
    most_fail: u32,
}

impl Expected {
    fn most_fail(&self) -> bool {
        self.most_fail > 0
    }
}

/// What a look knows of one endpoint.
struct Look {
    /// Calls and failures that show what chance does.
    chance: (f32, f32),
    /// The rate of failures, if it is known.
    rate: Option<f32>,
    just_now: Option<f32>,
    /// In a row.
    failures: u32,
    dials: u32,
    is_ejected: bool,
    /// Its peers queue as a whole.
    are_overloaded: bool,
}

impl Look {
    fn fails(&self) -> bool {
        self.is_ejected || self.failures + self.dials >= 2 || self.rate.is_some_and(|rate| rate > 0.5)
    }
}

impl Detector {
    /// By these settings; jitter is drawn from `rng`.
    pub fn new(outliers: Outliers, slow_start: SlowStart, rng: Rng) -> Self {
        let (rates, ages, suspects, news) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            outliers,
            slow_start,
            rng,
            base: Base::default(),
            most_fail: 0,
            did_most_fail: false,
            rates,
            ages,
            suspects,
            news,
        }
    }

    /// Whether there is anything to look for.
    pub fn is_on(&self) -> bool {
        self.outliers.is_on || self.slow_start.is_on()
    }

    /// One look at the whole set; what it has changed.
    pub fn run<'a, I>(&mut self, levels: &Levels, endpoints: I, now: Nanos) -> std::vec::Drain<'_, News>
    where
        I: Iterator<Item = &'a Arc<Stats>> + Clone,
    {
        if self.outliers.is_on {
            let looks: Vec<_> = endpoints.clone().map(|stats| self.look(stats, now)).collect();
            let expected = self.expect(&looks, now);
            self.judge(endpoints.clone(), &looks, expected, now);
        }
        self.start_slowly(levels, endpoints, now);
        self.news.drain(..)
    }

    /// Brings an endpoint's record up to date, and its ejection on its way.
    fn look(&mut self, stats: &Arc<Stats>, now: Nanos) -> Look {
        let record = &mut *stats.record().lock();
        let new = record.window.look(stats.ended(), now);
        let seen = stats.seen();
        let open = (record.open.0 + new.0, record.open.1 + new.1);
        let is_well = !seen.fails_at_all() && record.ejected.is_none();
        record.open = if is_well || record.ejected.is_some() { (0.0, 0.0) } else { open };
        if let Some(ejected) = record.ejected {
            self.advance(stats, record, ejected, now);
        } else {
            record.forgive(now, self.outliers.base);
        }
        Look {
            chance: if is_well { open } else { (0.0, 0.0) },
            rate: (record.window.calls >= KNOWN).then(|| record.window.rate()),
            just_now: record.window.just_now(),
            failures: seen.failures(),
            dials: seen.dials(),
            is_ejected: record.ejected.is_some(),
            are_overloaded: stats.measure().is_overloaded(),
        }
    }

    /// What is next for an endpoint that is ejected.
    fn advance(&mut self, stats: &Arc<Stats>, record: &mut Record, ejected: Ejected, now: Nanos) {
        let seen = stats.seen();
        if seen.probe() != record.probe {
            (record.probe, record.probe_since) = (seen.probe(), now);
        }
        let ejection = seen.ejection();
        let waited = |time: Duration| now.saturating_sub(record.probe_since) >= nanos(time);
        let next = match ejection {
            Ejection::None => {
                // A probe went well.
                (record.in_service, record.well_since) = (now, now);
                self.take_back(stats, record);
                return;
            }
            Ejection::Failed => {
                self.eject(stats, record, ejected.rule, now);
                return;
            }
            Ejection::Out if now >= ejected.until => Ejection::DueIfIdempotent,
            Ejection::DueIfIdempotent if waited(IDEMPOTENT_FIRST) => Ejection::Due,
            Ejection::Claimed | Ejection::Probing if waited(PROBE_ENDS) => Ejection::Due,
            Ejection::Out | Ejection::DueIfIdempotent | Ejection::Due | Ejection::Claimed | Ejection::Probing => return,
        };
        record.probe_since = now;
        stats.status().step(ejection, next);
    }

    fn take_back(&mut self, stats: &Arc<Stats>, record: &mut Record) {
        record.ejected = None;
        record.window.clear();
        self.news.push(News::Returned(stats.clone()));
    }

    fn eject(&mut self, stats: &Arc<Stats>, record: &mut Record, rule: EjectionRule, now: Nanos) {
        record.ejections = record.ejections.saturating_add(1);
        let (base, longest) = match rule {
            EjectionRule::DialFailures => (DIAL_BASE.min(self.outliers.base), LONGEST_OF_DIALS),
            _ => (self.outliers.base, LONGEST),
        };
        let length = base.saturating_mul(record.ejections).min(longest).mul_f64(1.0 + JITTER * self.rng.unit());
        let since = record.ejected.map_or(now, |ejected| ejected.since);
        // Whoever asked to be left alone for longer is.
        let until = now.saturating_add(nanos(length)).max(stats.held_until());
        record.ejected = Some(Ejected { rule, since, until });
        record.window.clear();
        if self.slow_start.is_on() {
            // For when it comes back.
            stats.set_share(self.slow_start.least);
        }
        stats.status().set_ejection(Ejection::Out);
        self.news.push(News::Ejected { stats: stats.clone(), rule, length, ejections: record.ejections });
    }

    /// How often an endpoint fails that is as good as the better half.
    fn expect(&mut self, looks: &[Look], now: Nanos) -> Expected {
        self.rates.clear();
        self.rates.extend(looks.iter().filter(|look| !look.is_ejected).filter_map(|look| look.rate));
        let median = lower_median(&mut self.rates).unwrap_or(0.0);
        let keep = (-(now.saturating_sub(self.base.at) as f32) / MEMORY).exp();
        self.base.at = now;
        self.base.calls *= keep;
        self.base.failures *= keep;
        // Who fails most of the time has nothing to say about chance, unless everybody does.
        let counts = |look: &&Look| !look.is_ejected && look.rate.is_some_and(|rate| rate <= median.max(0.5));
        for look in looks.iter().filter(counts) {
            self.base.calls += look.chance.0;
            self.base.failures += look.chance.1;
        }
        let usual = median + DEVIATIONS * self.deviation(median);
        // What has just befallen all of them, before it shows in ten seconds.
        self.rates.clear();
        self.rates.extend(looks.iter().filter(|look| !look.is_ejected).filter_map(|look| look.just_now));
        let median_now = lower_median(&mut self.rates).unwrap_or(0.0);
        let just_now = median_now + DEVIATIONS * self.deviation(median_now);
        // One failure more than was seen: what has never failed in a hundred calls may yet fail in the next.
        let seen = (self.base.failures + 1.0) / (self.base.calls + self.outliers.calls_without_knowledge());
        // Of those without calls nothing is known: the others of a zone, backups. They are no reason to call the rest broken.
        let failing = looks.iter().filter(|look| look.fails()).count();
        self.most_fail = if failing * 2 > looks.len() { self.most_fail.saturating_add(1) } else { 0 };
        Expected { median, chance: seen.max(usual).max(just_now), most_fail: self.most_fail }
    }

    /// The median absolute deviation of the rates.
    fn deviation(&mut self, median: f32) -> f32 {
        self.rates.iter_mut().for_each(|rate| *rate = (*rate - median).abs());
        lower_median(&mut self.rates).unwrap_or(0.0)
    }

    /// Ejects who is an outlier, the clearest cases first, as far as the cap allows; and takes back who was ejected for what
    /// most of the set does.
    fn judge<'a, I>(&mut self, endpoints: I, looks: &[Look], expected: Expected, now: Nanos)
    where
        I: Iterator<Item = &'a Arc<Stats>> + Clone,
    {
        let mut ejected = 0;
        self.suspects.clear();
        // Rows of failures from an outage of most say nothing about those who have had no call since.
        let is_over = std::mem::replace(&mut self.did_most_fail, expected.most_fail()) && !expected.most_fail();
        for (index, (stats, look)) in endpoints.clone().zip(looks).enumerate() {
            let record = &mut *stats.record().lock();
            match record.ejected {
                // Who fails more than the rest stays out: the rest is what it is compared with.
                Some(Ejected { rule, .. }) if expected.most_fail >= CERTAIN && rule != EjectionRule::SuccessRate => {
                    stats.status().set_ejection(Ejection::None);
                    stats.status().is_well();
                    // It was not its own doing.
                    record.ejections = record.ejections.saturating_sub(1);
                    self.take_back(stats, record);
                }
                Some(_) => ejected += 1,
                None if is_over => stats.status().is_well(),
                None => self.suspects.extend(self.outliers.suspect(index, look, record, expected)),
            }
        }
        let room = self.outliers.cap(looks.len()).saturating_sub(ejected);
        if self.suspects.is_empty() || room == 0 {
            return;
        }
        self.suspects.sort_by(|a, b| b.evidence.total_cmp(&a.evidence));
        self.suspects.truncate(room);
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.sort_by_key(|suspect| suspect.index);
        let mut left = suspects.iter().peekable();
        for (index, stats) in endpoints.enumerate() {
            if let Some(suspect) = left.next_if(|suspect| suspect.index == index) {
                self.eject(stats, &mut stats.record().lock(), suspect.rule, now);
            }
        }
        self.suspects = suspects;
    }

    /// Sets the share of everybody who has not been there for long.
    fn start_slowly<'a, I>(&mut self, levels: &Levels, endpoints: I, now: Nanos)
    where
        I: Iterator<Item = &'a Arc<Stats>> + Clone,
    {
        if !self.slow_start.is_on() {
            return;
        }
        self.ages.clear();
        let in_service = |stats: &Arc<Stats>| {
            let record = stats.record().lock();
            record.ejected.is_none().then(|| record.age(now))
        };
        self.ages.extend(endpoints.clone().filter_map(in_service));
        let Some(middle) = self.ages.len().checked_sub(1).map(|last| last / 2) else { return };
        let median = *self.ages.select_nth_unstable(middle).1;
        for stats in endpoints {
            if let Some(age) = in_service(stats) {
                stats.set_share(share(&self.slow_start, age, median));
            }
        }
        levels.set_newborn(share(&self.slow_start, 0, median));
    }
}

impl Outliers {
    /// Before anything is known of the set one call in so many is expected to fail: as many failures in a row as are set are
    /// enough then.
    fn calls_without_knowledge(&self) -> f32 {
        (ENOUGH / self.consecutive as f32).exp()
    }

    /// By which rule an endpoint is to be ejected, if by any.
    fn suspect(&self, index: usize, look: &Look, record: &Record, expected: Expected) -> Option<Suspect> {
        let Expected { median, chance, .. } = expected;
        let (calls, failures) = (record.window.calls, record.window.failures);
        let row = look.failures as f32;
        let of_row = against_chance(row, row, chance);
        let of_all = against_chance(calls, failures, chance);
        let suspect = |rule, evidence: f32| Some(Suspect { index, rule, evidence });
        if !expected.most_fail() && look.dials >= self.dials {
            suspect(EjectionRule::DialFailures, look.dials as f32)
        } else if look.are_overloaded {
            // Who has too much to do refuses calls, or is too late. With fewer to do it there would be more of that.
            None
        } else if !expected.most_fail() && look.failures >= 2 && of_row >= ENOUGH {
            suspect(EjectionRule::ConsecutiveFailures, of_row)
        } else if record.window.rate() >= median + self.success_margin && of_all >= ENOUGH {
            suspect(EjectionRule::SuccessRate, of_all)
        } else if !expected.most_fail()
            && record.window.rate() >= self.failure_share
            && against_chance(calls, failures, 0.5) >= ENOUGH
        {
            suspect(EjectionRule::FailurePercentage, of_all.max(ENOUGH))
        } else {
            None
        }
    }
}

/// Of two endpoints it is the better that sets the measure.
fn lower_median(values: &mut [f32]) -> Option<f32> {
    let middle = values.len().checked_sub(1)? / 2;
    Some(*values.select_nth_unstable_by(middle, f32::total_cmp).1)
}
