//! What can be set about endpoints that fail.

use std::time::Duration;

use towline_core::{Error, Kind, Phase};

/// Who is an outlier, and for how long it gets no calls. On by default.
///
/// | rule | an endpoint is ejected when | default |
/// |---|---|---|
/// | consecutive failures | so many calls in a row failed; or fewer, but at least two, when chance does not explain it | 5 |
/// | success rate | it fails more often than the set by so much, and chance does not explain it | 10 points |
/// | failure percentage | it fails so often, whatever the others do, and chance does not explain more than half | 85 % |
/// | dial failures | so many attempts in a row could not reach it | 2 |
///
/// Chance is how often endpoints fail that do well again afterwards: where that is one call in a thousand, two in a row are one
/// in a million, and that is enough. The time is [`base`](Self::base) times the number of ejections, up to five minutes, and a fifth more at random;
/// for dials, a second instead of the base. Each base in service without another ejection is forgiven one. Then a single call
/// finds out whether the endpoint is back, an idempotent one if there is any within a second; and it [starts
/// slowly](SlowStart).
///
/// While most of the set fails nobody is ejected but by comparison with the others, and who was is taken back: an outage of
/// everything is not one endpoint's fault.
///
/// Looked at ten times a second, so a row that begins and ends in between is not seen. What is a failure,
/// [`Track`](crate::Track) and its classifier say.
///
/// ```
/// use std::time::Duration;
/// use towline_balance::Outliers;
///
/// let outliers = Outliers::new().base(Duration::from_secs(10))?.max_ejected(30)?;
/// assert!(Outliers::new().max_ejected(100).is_err());
/// # let _ = outliers;
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct Outliers {
    pub(super) is_on: bool,
    pub(super) consecutive: u32,
    /// A share of 1.
    pub(super) success_margin: f32,
    /// A share of 1.
    pub(super) failure_share: f32,
    pub(super) dials: u32,
    pub(super) base: Duration,
    pub(super) max_ejected: usize,
}

impl Outliers {
    /// The defaults: see the table; a base of 30 s, and at most half of the set.
    pub const fn new() -> Self {
        Self {
            is_on: true,
            consecutive: 5,
            success_margin: 0.1,
            failure_share: 0.85,
            dials: 2,
            base: Duration::from_secs(30),
            max_ejected: 50,
        }
    }

    /// Ejects nobody. Endpoints that fail twice in a row are still left to single calls, if the
    /// [metric](crate::LoadMetric) measures latency.
    pub const fn off() -> Self {
        Self { is_on: false, ..Self::new() }
    }

    /// Failures in a row for which nobody asks about chance; 5 by default.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is below 2: one failure says nothing.
    pub fn consecutive(self, failures: u32) -> Result<Self, Error> {
        at_least_two("consecutive failures", failures)?;
        Ok(Self { consecutive: failures, ..self })
    }

    /// How many percentage points more than the median of the set an endpoint has to fail; 10 by default.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is not from 1 to 99.
    pub fn success_rate(self, points: u32) -> Result<Self, Error> {
        Ok(Self { success_margin: percent("the margin of the success rate", points)? / 100.0, ..self })
    }

    /// The percentage of calls that an endpoint has to fail to be ejected whatever the others do; 85 by default.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is not from 51 to 100.
    pub fn failure_percentage(self, percent: u32) -> Result<Self, Error> {
        if !(51..=100).contains(&percent) {
            let message = format!("the failure percentage of an outlier is from 51 to 100, not {percent}");
            return Err(config(message));
        }
        Ok(Self { failure_share: percent as f32 / 100.0, ..self })
    }

    /// Attempts in a row that could not reach an endpoint; 2 by default. A pool dials in the background meanwhile, and its
    /// endpoint is passed over while it is [down](towline_core::Room::Down).
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is below 2, or above 15.
    pub fn dial_failures(self, dials: u32) -> Result<Self, Error> {
        at_least_two("dial failures", dials)?;
        if dials > 15 {
            return Err(config(format!("dial failures in a row are counted up to 15, not {dials}")));
        }
        Ok(Self { dials, ..self })
    }

    /// How long the first ejection takes; 30 s by default.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is less than 100 ms, or more than five minutes.
    pub fn base(self, base: Duration) -> Result<Self, Error> {
        if !(Duration::from_millis(100)..=LONGEST).contains(&base) {
            let message = format!("the base of an ejection is from 100 ms to 5 min, not {base:?}");
            return Err(config(message));
        }
        Ok(Self { base, ..self })
    }

    /// The most endpoints that are ejected at a time, in percent of the set; 50 by default. Rounded down, but one of two or
    /// three may be; and one at least is always left.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is not from 1 to 99: to eject nobody there is [`off`](Self::off), and with everybody ejected
    /// there would be nobody to call.
    pub fn max_ejected(self, percent: u32) -> Result<Self, Error> {
        let checked = self::percent("the most that are ejected, in percent of the set", percent)?;
        Ok(Self { max_ejected: checked as usize, ..self })
    }

    /// How many of so many may be ejected at a time.
    pub(super) fn cap(&self, endpoints: usize) -> usize {
        (endpoints * self.max_ejected / 100).max(1).min(endpoints.saturating_sub(1))
    }
}

/// The longest ejection, without jitter.
pub(super) const LONGEST: Duration = Duration::from_secs(300);

impl Default for Outliers {
    fn default() -> Self {
        Self::new()
    }
}

/// How an endpoint that has joined, or returned from an ejection, comes to its full share: over 10 s by default, from a tenth
/// on. Whatever a policy gives it, that share of it is what it gets; the rest goes to the policy's next candidate.
///
/// An endpoint is as old as it is in comparison with the set: with half of the others younger than the window, theirs is the
/// window, and where all are new there is none. A session goes to its home however new that is.
///
/// ```
/// use std::time::Duration;
/// use towline_balance::SlowStart;
///
/// let minute = SlowStart::over(Duration::from_secs(60))?;
/// assert!(SlowStart::over(Duration::ZERO).is_err());
/// # let _ = minute;
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    pub(super) window: Duration,
    /// A share of 1.
    pub(super) least: f32,
}

impl SlowStart {
    /// Over this time.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is less than a second: the share is set ten times a second.
    pub fn over(window: Duration) -> Result<Self, Error> {
        if window < Duration::from_secs(1) {
            let message = format!("slow start takes at least 1 s, not {window:?}; `SlowStart::off()` is none");
            return Err(config(message));
        }
        Ok(Self { window, ..Self::default() })
    }

    /// The full share at once.
    pub const fn off() -> Self {
        Self { window: Duration::ZERO, least: 1.0 }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.window.is_zero()
    }
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { window: Duration::from_secs(10), least: 0.1 }
    }
}

/// What calls do when too few endpoints are eligible, that is neither ejected nor down.
///
/// By default, when nobody is, calls go to those that are ejected: it is as likely that the rule is wrong. A threshold above that is for sets
/// that cannot carry the load with the endpoints that are left: then all are used as if nobody was ejected, on probation or
/// new. It is looked at ten times a second, and counts endpoints, not weights.
///
/// ```
/// use towline_balance::PanicMode;
///
/// let mode = PanicMode::use_all_below(50)?;
/// assert!(PanicMode::use_all_below(101).is_err());
/// # let _ = mode;
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PanicMode {
    /// In percent of the set.
    pub(crate) below: u32,
    pub(crate) fails_fast: bool,
}

impl PanicMode {
    /// Uses all that are not down when fewer than this percentage of the set is eligible; 0, the default, means when nobody
    /// is.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is above 100.
    pub fn use_all_below(percent: u32) -> Result<Self, Error> {
        Self::new(percent, false)
    }

    /// Fails calls at once, with [`Kind::Unavailable`] and before anything is sent, when fewer than this percentage of the set
    /// is eligible; 0 means when nobody is. Only probes go through.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is above 100.
    pub fn fail_fast_below(percent: u32) -> Result<Self, Error> {
        Self::new(percent, true)
    }

    fn new(below: u32, fails_fast: bool) -> Result<Self, Error> {
        if below > 100 {
            return Err(config(format!("the panic threshold is a percentage of the set, not {below}")));
        }
        Ok(Self { below, fails_fast })
    }

    /// Whether so many of so many are too few.
    pub(crate) fn panics(&self, eligible: usize, endpoints: usize) -> bool {
        endpoints > 0 && (eligible == 0 || eligible * 100 < endpoints * self.below as usize)
    }
}

fn at_least_two(what: &str, number: u32) -> Result<(), Error> {
    if number < 2 {
        return Err(config(format!(
            "{what}: at least 2 in a row make an outlier, not {number}; `Outliers::off()` is none"
        )));
    }
    Ok(())
}

fn percent(what: &str, number: u32) -> Result<f32, Error> {
    if !(1..=99).contains(&number) {
        return Err(config(format!("{what}: from 1 to 99, not {number}; `Outliers::off()` ejects nobody")));
    }
    Ok(number as f32)
}

fn config(message: String) -> Error {
    Error::new(Kind::Config, Phase::Build).with_message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    // F23
    #[test]
    fn one_endpoint_is_always_left_and_small_sets_work() {
        let caps = |percent| {
            let outliers = Outliers::new().max_ejected(percent).unwrap();
            [1, 2, 3, 4, 5, 10, 100].map(|endpoints| outliers.cap(endpoints))
        };
        assert_eq!(caps(50), [0, 1, 1, 2, 2, 5, 50]);
        assert_eq!(caps(10), [0, 1, 1, 1, 1, 1, 10]);
        assert_eq!(caps(67), [0, 1, 2, 2, 3, 6, 67]);
        assert_eq!(caps(99), [0, 1, 2, 3, 4, 9, 99]);
        assert_eq!(caps(1), [0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(Outliers::new().cap(0), 0);
    }

    #[test]
    fn settings_outside_of_their_range_say_what_to_change() {
        let outliers = Outliers::new();
        let wrong = [
            outliers.consecutive(1),
            outliers.success_rate(0),
            outliers.success_rate(100),
            outliers.failure_percentage(50),
            outliers.failure_percentage(101),
            outliers.dial_failures(1),
            outliers.dial_failures(16),
            outliers.base(Duration::from_millis(99)),
            outliers.base(Duration::from_secs(301)),
            outliers.max_ejected(0),
            outliers.max_ejected(100),
        ];
        for result in wrong {
            let error = result.unwrap_err();
            assert!(error.kind() == Kind::Config && error.to_string().contains(" not "), "{error}");
        }
        assert_eq!(SlowStart::over(Duration::from_millis(999)).unwrap_err().kind(), Kind::Config);
        assert_eq!(PanicMode::use_all_below(101).unwrap_err().kind(), Kind::Config);
        assert_eq!(PanicMode::fail_fast_below(101).unwrap_err().kind(), Kind::Config);
    }

    #[test]
    fn panic_begins_below_the_threshold_or_when_nobody_is_eligible() {
        let half = PanicMode::use_all_below(50).unwrap();
        assert_eq!([5, 4, 0].map(|eligible| half.panics(eligible, 10)), [false, true, true]);
        let none = PanicMode::default();
        assert_eq!([1, 0].map(|eligible| none.panics(eligible, 10)), [false, true]);
        assert!(!none.panics(0, 0), "nobody to panic about");
    }
}
