//! Limits of what one endpoint is given at a time: the settings.

use towline_core::{Error, Kind, Phase};

/// Limits of the calls that this client gives to one endpoint at a time. An endpoint at its limit is passed over like one
/// that is down; when all are, calls fail at once with [`Kind::Overloaded`], before anything is sent. Off by default: a
/// pool has limits of its own, of connections and of waiters.
///
/// Clones of the balancer share the counts. The limits are exact, however many calls come at once.
///
/// ```
/// use towline_balance::Circuit;
///
/// let circuit = Circuit::new().in_flight(100)?.pending(10)?.adaptive(2, 100)?;
/// assert!(Circuit::new().in_flight(0).is_err());
/// # let _ = circuit;
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Circuit {
    pub(crate) in_flight: u32,
    pub(crate) pending: u32,
    pub(crate) adaptive: Option<Adaptive>,
}

/// Bounds of a limit that is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adaptive {
    pub(crate) initial: u32,
    pub(crate) least: u32,
    pub(crate) most: u32,
}

/// Where a learned limit begins, if that is within its bounds.
const INITIAL: u32 = 20;

impl Circuit {
    /// No limits.
    pub const fn new() -> Self {
        Self { in_flight: u32::MAX, pending: u32::MAX, adaptive: None }
    }

    /// At most so many calls per endpoint that wait for it or are in flight on it.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is 0.
    pub fn in_flight(self, calls: u32) -> Result<Self, Error> {
        Ok(Self { in_flight: at_least_one("calls in flight per endpoint", calls)?, ..self })
    }

    /// At most so many calls per endpoint that wait for it to lend: for a connection, usually.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when it is 0.
    pub fn pending(self, calls: u32) -> Result<Self, Error> {
        Ok(Self { pending: at_least_one("calls that wait for an endpoint", calls)?, ..self })
    }

    /// Learns how many calls at a time each endpoint takes, from `least` to `most`, beginning with 20: additive increase,
    /// multiplicative decrease. For every limit's worth of answers in time, while half of it is used, there is one more; when a
    /// call is pushed back, or most calls are late, 30 % less, once for all that were under way together. Late is what takes more than
    /// four times the median latency that the set has without queues, the least of the last minute or so. With
    /// [`LoadMetric::in_flight`](crate::LoadMetric::in_flight), which measures no latency, calls that are given up are
    /// late.
    ///
    /// Other failures say nothing about load, and are for [`Outliers`](crate::Outliers).
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] when `least` is 0 or more than `most`.
    pub fn adaptive(self, least: u32, most: u32) -> Result<Self, Error> {
        let least = at_least_one("the least number of calls in flight", least)?;
        if least > most {
            return Err(config(format!(
                "the limit of calls in flight is to be learned between {least} and {most}: exchange them"
            )));
        }
        Ok(Self { adaptive: Some(Adaptive { initial: INITIAL.clamp(least, most), least, most }), ..self })
    }

    /// Whether there is any limit at all.
    pub(crate) fn is_limited(&self) -> bool {
        *self != Self::new()
    }
}

impl Default for Circuit {
    fn default() -> Self {
        Self::new()
    }
}

fn at_least_one(what: &str, number: u32) -> Result<u32, Error> {
    if number == 0 {
        return Err(config(format!("{what}: at least 1, not 0; without a limit leave the setting out")));
    }
    Ok(number)
}

fn config(message: String) -> Error {
    Error::new(Kind::Config, Phase::Build).with_message(message)
}
