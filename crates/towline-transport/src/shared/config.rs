//! Settings of a connection that many calls share.

use std::time::Duration;

use towline_core::{Error, Kind, Phase};

use super::id::MAX_ENTRIES;
use super::table::WAITED;

/// Settings of a [`Shared`](crate::Shared) connection. Cheap to clone; every setting has a default.
///
/// ```
/// use std::time::Duration;
/// use towline_transport::SharedConfig;
///
/// let config = SharedConfig::default().in_flight(256)?.write_timeout(Duration::from_secs(5));
/// assert!(SharedConfig::default().in_flight(0).is_err());
/// # drop(config);
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SharedConfig {
    pub(super) in_flight: usize,
    pub(super) write_timeout: Duration,
    pub(super) shutdown_timeout: Duration,
    pub(super) retire: Option<Retire>,
    pub(super) ping: Option<Ping>,
}

/// When calls that are given up retire their connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retire {
    pub(super) after: u32,
    pub(super) waited: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ping {
    pub(super) every: Duration,
    pub(super) timeout: Duration,
}

impl Default for SharedConfig {
    fn default() -> Self {
        Self {
            in_flight: 1_024,
            write_timeout: crate::DEFAULT_WRITE_TIMEOUT,
            shutdown_timeout: Duration::from_secs(1),
            retire: Some(Retire { after: 3, waited: WAITED }),
            ping: None,
        }
    }
}

impl SharedConfig {
    /// The highest limit of calls in flight.
    pub const MAX_IN_FLIGHT: usize = MAX_ENTRIES;

    /// The most calls in flight; 1,024 by default. One more comes back unsent. On a pipelined connection answers that
    /// nobody waits for any more count as well once this many are due: what was not sent yet then stays queued.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] for 0, and above [`MAX_IN_FLIGHT`](Self::MAX_IN_FLIGHT).
    pub fn in_flight(mut self, limit: usize) -> Result<Self, Error> {
        if !(1..=Self::MAX_IN_FLIGHT).contains(&limit) {
            return Err(Error::new(Kind::Config, Phase::Build).with_message(format!(
                "a shared connection carries from 1 to {} calls at once, not {limit}",
                Self::MAX_IN_FLIGHT
            )));
        }
        self.in_flight = limit;
        Ok(self)
    }

    /// How long the peer may take to accept the next byte; 20 seconds by default. Then the connection ends with
    /// [`Kind::Timeout`], and what was not sent comes back.
    #[must_use]
    pub fn write_timeout(mut self, limit: Duration) -> Self {
        self.write_timeout = limit;
        self
    }

    /// The [write timeout](Self::write_timeout) that is set.
    pub fn write_timeout_limit(&self) -> Duration {
        self.write_timeout
    }

    /// How long the goodbye may take after the last handle is dropped; 1 second by default.
    #[must_use]
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.shutdown_timeout = limit;
        self
    }

    /// Retires the connection after so many calls in a row were given up, 3 by default, each of which was sent after the
    /// one before had been given up, had waited for 100 ms at least, and while no answer to any call came in between.
    /// So a burst of timeouts counts once, and a peer that is slow but alive is kept. A retired connection takes no
    /// new calls and finishes old ones. `None` never retires.
    #[must_use]
    pub fn retire_after(mut self, timeouts: Option<u32>) -> Self {
        self.retire = timeouts.map(|after| Retire { after: after.max(1), waited: WAITED });
        self
    }

    /// Asks the peer for a sign of life when it has said nothing for `every`, and ends the connection with
    /// [`Kind::Timeout`] when nothing comes for `timeout` after that. Never by default. Works on connections with a
    /// [frame header](crate::HeaderLayer), and with a [`Correlate`](crate::Correlate) that has a ping.
    #[must_use]
    pub fn ping(mut self, every: Duration, timeout: Duration) -> Self {
        self.ping = Some(Ping { every, timeout });
        self
    }
}
