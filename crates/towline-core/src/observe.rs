//! What happened, for metrics and logs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{CloseReason, ConnectionId, EndpointKey, Error, HomeLoss, SessionKey};

/// Something that happened in one of towline's crates.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A connection was made.
    Dialled {
        /// To which endpoint.
        endpoint: &'a EndpointKey,
        /// Which connection.
        connection: ConnectionId,
        /// How long it took, handshake included.
        took: Duration,
    },
    /// A connection could not be made.
    DialFailed {
        /// To which endpoint.
        endpoint: &'a EndpointKey,
        /// Why.
        error: &'a Error,
        /// The next dial comes no earlier than this.
        next_in: Duration,
    },
    /// A call got a connection that had been used before.
    Reused {
        /// Of which endpoint.
        endpoint: &'a EndpointKey,
        /// Which connection.
        connection: ConnectionId,
    },
    /// A call had to wait for a connection, and got one.
    Waited {
        /// Of which endpoint.
        endpoint: &'a EndpointKey,
        /// Which connection.
        connection: ConnectionId,
        /// How long it waited.
        took: Duration,
    },
    /// A connection was closed.
    Closed {
        /// Of which endpoint.
        endpoint: &'a EndpointKey,
        /// Which connection.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
    /// A call goes again.
    Retrying {
        /// Where it failed, if it reached an endpoint.
        endpoint: Option<&'a EndpointKey>,
        /// Which attempt failed, from 0.
        attempt: u32,
        /// Why; `None` when the response itself was classified as a failure.
        error: Option<&'a Error>,
        /// How long it waits first.
        after: Duration,
    },
    /// A call that has failed, or takes long, and may be sent again cannot be: its request cannot be replayed.
    NotReplayable {
        /// Where it failed or still is, if it reached an endpoint.
        endpoint: Option<&'a EndpointKey>,
    },
    /// A failed call that may go again does not: the retry budget is spent.
    BudgetExhausted {
        /// Where it failed, if it reached an endpoint.
        endpoint: Option<&'a EndpointKey>,
    },
    /// A session has another home from now on.
    SessionMoved {
        /// Whose.
        session: &'a SessionKey,
        /// Its home until now; `None` when that is gone and its name is not known any more.
        from: Option<&'a EndpointKey>,
        /// Its home from now on.
        to: &'a EndpointKey,
        /// Why.
        why: HomeLoss,
    },
    /// A session's call went elsewhere than its home, to which the next goes again.
    SessionSpilled {
        /// Whose.
        session: &'a SessionKey,
        /// Its home; `None` when it has none at present.
        home: Option<&'a EndpointKey>,
        /// Where the call went.
        to: &'a EndpointKey,
        /// Why.
        why: HomeLoss,
    },
    /// A session's call failed because its home could not take it, and nobody else may.
    SessionRefused {
        /// Whose.
        session: &'a SessionKey,
        /// Why.
        why: HomeLoss,
    },
    /// A token that says where a session's calls go was forged, is from another key, or has expired. It was ignored.
    TokenIgnored {
        /// Whether it was a good one once.
        is_stale: bool,
    },
    /// A second attempt was sent beside the first, which took long.
    Hedged {
        /// Where the first is.
        endpoint: Option<&'a EndpointKey>,
        /// How long it had been under way.
        after: Duration,
    },
    /// A retry layer found itself inside another one, and left it to that.
    NestedRetry,
    /// Discovery added an endpoint.
    EndpointAdded {
        /// Which.
        endpoint: &'a EndpointKey,
    },
    /// Discovery removed an endpoint.
    EndpointRemoved {
        /// Which.
        endpoint: &'a EndpointKey,
    },
    /// An endpoint is far slower than the others: it gets one call at a time until one is answered in time.
    ProbationBegan {
        /// Which.
        endpoint: &'a EndpointKey,
        /// Its latency, failures included.
        latency: Duration,
        /// The median of the set.
        median: Duration,
    },
    /// An endpoint does as well as the others again.
    ProbationEnded {
        /// Which.
        endpoint: &'a EndpointKey,
    },
    /// An endpoint gets no calls for a while: it is an outlier by this rule.
    EndpointEjected {
        /// Which.
        endpoint: &'a EndpointKey,
        /// By which rule.
        rule: EjectionRule,
        /// For how long, jitter included; then a single call finds out.
        length: Duration,
        /// How many times it was ejected before it had done well for long enough, this time included.
        ejections: u32,
    },
    /// An endpoint that was ejected gets calls again: a probe went well, or most of the set fails and it is as good as the
    /// others.
    EndpointReturned {
        /// Which.
        endpoint: &'a EndpointKey,
    },
    /// Fewer endpoints are eligible than the balancer's panic threshold asks for.
    PanicBegan {
        /// Endpoints that are neither ejected nor down.
        eligible: usize,
        /// Of so many.
        endpoints: usize,
    },
    /// Enough endpoints are eligible again.
    PanicEnded,
    /// New certificates, keys or roots are used for handshakes from now on.
    TlsReloaded,
    /// New certificates, keys or roots are no good; handshakes use those from before.
    TlsReloadFailed {
        /// What is wrong with them.
        error: &'a Error,
    },
    /// A TLS configuration was built that protects from less than it should.
    TlsWeakened {
        /// In which way.
        what: &'a str,
    },
    /// Discovery failed; the last good set stays.
    DiscoveryFailed {
        /// Why.
        error: &'a Error,
    },
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EjectionRule {
    /// It failed several times in a row.
    ConsecutiveFailures,
    /// It fails more often than the rest of the set, and not by chance.
    SuccessRate,
    /// It fails nearly always.
    FailurePercentage,
    /// It could not be reached several times in a row.
    DialFailures,
}

impl fmt::Display for EjectionRule {
    /// As in metrics and logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::DialFailures => "dial_failures",
        })
    }
}

/// Receives events. Called on the path of calls: count, do not block.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use towline_core::{Event, Observer, Observers};
///
/// #[derive(Debug, Default)]
/// struct Retries(AtomicU64);
///
/// impl Observer for Retries {
///     fn on(&self, event: &Event<'_>) {
///         if let Event::Retrying { .. } = event {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let observers = Observers::new(Retries::default());
/// # drop(observers);
/// ```
pub trait Observer: Send + Sync + 'static {
    /// `event` happened.
    fn on(&self, event: &Event<'_>);
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn on(&self, event: &Event<'_>) {
        (**self).on(event);
    }
}

/// Where a crate sends its events: to the observer, if one is set, and to `tracing` (feature `tracing`).
///
/// Clones share the observer. Without an observer and without a subscriber an event costs two branches.
#[derive(Clone, Default)]
pub struct Observers(Option<Arc<dyn Observer>>);

impl Observers {
    /// Sends events to `observer`.
    pub fn new(observer: impl Observer) -> Self {
        Self(Some(Arc::new(observer)))
    }

    /// Sends events to `observer` as well, after those who are told already.
    #[must_use]
    pub fn and(self, observer: impl Observer) -> Self {
        match self.0 {
            Some(first) => Self::new(Both(first, observer)),
            None => Self::new(observer),
        }
    }

    /// Passes `event` on.
    #[inline]
    pub fn emit(&self, event: Event<'_>) {
        if let Some(observer) = &self.0 {
            observer.on(&event);
        }
        #[cfg(feature = "tracing")]
        if tracing::level_filters::LevelFilter::current() != tracing::level_filters::LevelFilter::OFF {
            trace(&event);
        }
    }
}

struct Both<O>(Arc<dyn Observer>, O);

impl<O: Observer> Observer for Both<O> {
    fn on(&self, event: &Event<'_>) {
        self.0.on(event);
        self.1.on(event);
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Observers(1)" } else { "Observers(0)" })
    }
}

#[cfg(feature = "tracing")]
fn trace(event: &Event<'_>) {
    use tracing::{debug, trace, warn};
    /// An endpoint that may not be known.
    fn name(endpoint: Option<&EndpointKey>) -> &str {
        endpoint.map_or("none", EndpointKey::as_str)
    }
    match event {
        Event::Dialled { endpoint, connection, took } => {
            debug!(target: "towline", %endpoint, %connection, ?took, "connection opened");
        }
        Event::DialFailed { endpoint, error, next_in } => {
            warn!(target: "towline", %endpoint, error = %Chain(error), ?next_in, "dial failed");
        }
        Event::Reused { endpoint, connection } => {
            trace!(target: "towline", %endpoint, %connection, "connection reused");
        }
        Event::Waited { endpoint, connection, took } => {
            trace!(target: "towline", %endpoint, %connection, ?took, "waited for a connection");
        }
        Event::Closed { endpoint, connection, reason } => {
            debug!(target: "towline", %endpoint, %connection, %reason, "connection closed");
        }
        Event::Retrying { endpoint, attempt, error, after } => {
            let error = error.map(|error| tracing::field::display(Chain(error)));
            debug!(target: "towline", endpoint = name(*endpoint), attempt, error, ?after, "retrying");
        }
        Event::NotReplayable { endpoint } => {
            warn!(target: "towline", endpoint = name(*endpoint), "not sent again: the request cannot be replayed");
        }
        Event::BudgetExhausted { endpoint } => {
            warn!(target: "towline", endpoint = name(*endpoint), "not retried: the retry budget is spent");
        }
        Event::SessionMoved { session, from, to, why } => {
            debug!(target: "towline", %session, from = name(*from), %to, %why, "session moved");
        }
        Event::SessionSpilled { session, home, to, why } => {
            debug!(target: "towline", %session, home = name(*home), %to, %why, "session's call went elsewhere");
        }
        Event::SessionRefused { session, why } => {
            debug!(target: "towline", %session, %why, "session's call refused");
        }
        Event::TokenIgnored { is_stale } => debug!(target: "towline", is_stale, "token ignored"),
        Event::Hedged { endpoint, after } => {
            debug!(target: "towline", endpoint = name(*endpoint), ?after, "second attempt sent");
        }
        Event::NestedRetry => warn!(target: "towline", "a retry layer inside another: the inner one does not retry"),
        Event::EndpointAdded { endpoint } => debug!(target: "towline", %endpoint, "endpoint added"),
        Event::EndpointRemoved { endpoint } => debug!(target: "towline", %endpoint, "endpoint removed"),
        Event::ProbationBegan { endpoint, latency, median } => {
            warn!(target: "towline", %endpoint, ?latency, ?median, "endpoint on probation");
        }
        Event::ProbationEnded { endpoint } => debug!(target: "towline", %endpoint, "endpoint off probation"),
        Event::EndpointEjected { endpoint, rule, length, ejections } => {
            warn!(target: "towline", %endpoint, %rule, ?length, ejections, "endpoint ejected");
        }
        Event::EndpointReturned { endpoint } => debug!(target: "towline", %endpoint, "endpoint back from ejection"),
        Event::PanicBegan { eligible, endpoints } => {
            warn!(target: "towline", eligible, endpoints, "too few endpoints are eligible");
        }
        Event::PanicEnded => debug!(target: "towline", "enough endpoints are eligible again"),
        Event::TlsReloaded => debug!(target: "towline", "TLS reloaded"),
        Event::TlsReloadFailed { error } => {
            warn!(target: "towline", error = %Chain(error), "TLS not reloaded, keeping what was there");
        }
        Event::TlsWeakened { what } => warn!(target: "towline", what, "TLS is weakened"),
        Event::DiscoveryFailed { error } => {
            warn!(target: "towline", error = %Chain(error), "discovery failed, keeping the last set");
        }
    }
}

/// An error with its causes, on one line.
#[cfg(feature = "tracing")]
struct Chain<'a>(&'a Error);

#[cfg(feature = "tracing")]
impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
