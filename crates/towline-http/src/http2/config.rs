//! Settings of an HTTP/2 connection.

use std::time::Duration;

use hyper::client::conn::http2::Builder;
use towline_core::{Error, Kind, Phase};

/// Durations beyond it mean "never", which hyper cannot add to its clock.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What no peer announces (its limits are 32 bits, and no limit is the largest number): the limit until its first SETTINGS.
pub(super) const NOT_YET: usize = usize::MAX - 1;

/// Settings of an [`Http2`](crate::Http2) connection. Cheap to copy; every setting has a default.
///
/// ```
/// use std::time::Duration;
/// use towline_http::Http2Config;
///
/// let config = Http2Config::default().max_streams(250)?.ping(Duration::from_secs(30), Duration::from_secs(10));
/// assert!(Http2Config::default().max_streams(0).is_err());
/// # drop(config);
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Http2Config {
    pub(super) max_streams: usize,
    pub(super) handshake_timeout: Duration,
    ping: Option<Ping>,
    ping_while_idle: bool,
    stream_window: Option<u32>,
    connection_window: Option<u32>,
    adaptive_window: bool,
    max_header_list: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    every: Duration,
    timeout: Duration,
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            max_streams: 1_024,
            handshake_timeout: Duration::from_secs(5),
            ping: None,
            ping_while_idle: false,
            stream_window: None,
            connection_window: None,
            adaptive_window: false,
            max_header_list: None,
        }
    }
}

impl Http2Config {
    /// The most calls in flight, 1,024 by default: for peers that allow more, or do not say. A peer that allows fewer
    /// decides; many allow 100 to 250.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`] for 0.
    pub fn max_streams(mut self, limit: usize) -> Result<Self, Error> {
        if limit == 0 {
            let why = "max_streams is 0: no call could ever be served; use at least 1";
            return Err(Error::new(Kind::Config, Phase::Build).with_message(why));
        }
        self.max_streams = limit;
        Ok(self)
    }

    /// How long the peer may take to send its first SETTINGS, which say how many calls it allows and that it speaks
    /// HTTP/2 at all; 5 seconds by default.
    #[must_use]
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.handshake_timeout = limit.min(A_YEAR);
        self
    }

    /// Asks the peer for a sign of life when nothing has come for `every` while calls are in flight, and ends the
    /// connection when none comes within `timeout`. Never by default, because gRPC's servers turn those away who ask more
    /// often than every five minutes; 30 s and 10 s are a start where they do not.
    #[must_use]
    pub fn ping(mut self, every: Duration, timeout: Duration) -> Self {
        self.ping = Some(Ping { every: every.min(A_YEAR), timeout: timeout.min(A_YEAR) });
        self
    }

    /// Pings also while no call is in flight, or not, which is the default: a pool closes idle connections before long.
    #[must_use]
    pub fn ping_while_idle(mut self, ping: bool) -> Self {
        self.ping_while_idle = ping;
        self
    }

    /// How many bytes a peer may send ahead on one stream; hyper's default, 2 MiB, unless set.
    #[must_use]
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.stream_window = Some(bytes);
        self
    }

    /// How many bytes a peer may send ahead on the connection; hyper's default, 5 MiB, unless set.
    #[must_use]
    pub fn connection_window(mut self, bytes: u32) -> Self {
        self.connection_window = Some(bytes);
        self
    }

    /// Has hyper find both windows from measured bandwidth and delay, or not, which is the default.
    #[must_use]
    pub fn adaptive_window(mut self, adaptive: bool) -> Self {
        self.adaptive_window = adaptive;
        self
    }

    /// How long the head of a response may be; hyper's default, 16 KiB, unless set.
    #[must_use]
    pub fn max_header_list(mut self, bytes: u32) -> Self {
        self.max_header_list = Some(bytes);
        self
    }

    pub(super) fn apply<Ex: Clone>(&self, builder: &mut Builder<Ex>) {
        builder
            .initial_max_send_streams(NOT_YET)
            .initial_stream_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window);
        if self.adaptive_window {
            builder.adaptive_window(true);
        }
        if let Some(bytes) = self.max_header_list {
            builder.max_header_list_size(bytes);
        }
        if let Some(Ping { every, timeout }) = self.ping {
            builder.keep_alive_interval(every).keep_alive_timeout(timeout).keep_alive_while_idle(self.ping_while_idle);
        }
    }
}
