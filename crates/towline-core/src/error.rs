//! One error for the whole stack.
//!
//! Layers decide on three facts, never on text: [`Kind`] says what happened, [`Phase`] where, and [`Sent`]
//! whether a byte of the request can have left the machine. Everything else is for people.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{EndpointId, EndpointKey};

/// Any error, boxed, as tower's layers pass it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A setting or an input that can never work; the message says what to change.
    Config,
    /// Time ran out; the [`Phase`] says whose.
    Timeout,
    /// A bounded queue or limit was full.
    Overloaded,
    /// The endpoint cannot be reached.
    Unavailable,
    /// There is no endpoint to send to.
    NoEndpoints,
    /// The connection, pool or client was closed.
    Closed,
    /// The connection that the call is pinned to is gone; no other will do.
    PinLost,
    /// The endpoint of the call's session cannot take it; no other will do.
    HomeUnavailable,
    /// The stream ended inside a message.
    UnexpectedEof,
    /// The transport failed.
    Io,
    /// The TLS handshake failed; the source says why.
    Tls,
    /// The codec cannot encode the request.
    Unencodable,
    /// The request's body failed while it was sent, by the caller's doing.
    RequestBody,
    /// A message is larger than its limit.
    TooLarge,
    /// The peer sent something that is not a message of the protocol.
    Malformed,
    /// The peer sent something that nobody asked for.
    Unasked,
    /// The server could not serve the call, and said so.
    Server,
    /// There is no runtime to work on, or it is gone.
    Runtime,
    /// An error of a service that towline does not know.
    Other,
}

impl Kind {
    /// Whether the same request can fare better elsewhere or later.
    ///
    /// A request that is too large or misconfigured stays so, as does one whose body fails, and one that is pinned to a connection, or
    /// kept to an endpoint, has no other.
    pub fn is_transient(self) -> bool {
        use Kind::{Config, HomeUnavailable, PinLost, RequestBody, TooLarge, Unencodable};
        !matches!(self, Config | TooLarge | Unencodable | RequestBody | PinLost | HomeUnavailable)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Config => "invalid configuration",
            Self::Timeout => "timed out",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "endpoint unavailable",
            Self::NoEndpoints => "no endpoints",
            Self::Closed => "closed",
            Self::PinLost => "pinned connection lost",
            Self::HomeUnavailable => "the session's endpoint cannot take the call",
            Self::UnexpectedEof => "the stream ended inside a message",
            Self::Io => "transport error",
            Self::Tls => "TLS handshake failed",
            Self::Unencodable => "the request cannot be encoded",
            Self::RequestBody => "the request's body failed",
            Self::TooLarge => "message too large",
            Self::Malformed => "malformed message",
            Self::Unasked => "unasked message",
            Self::Server => "the server failed the call",
            Self::Runtime => "no runtime",
            Self::Other => "error",
        }
    }
}

/// Where it happened: what the call, or the dial, was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Phase {
    /// Somewhere in the call; nobody below said more.
    #[default]
    Call,
    /// Building a client, a layer or a setting.
    Build,
    /// Choosing an endpoint.
    Pick,
    /// Waiting for a connection.
    Queue,
    /// Resolving a name.
    Resolve,
    /// Connecting a socket.
    Dial,
    /// Handshaking over a connected socket.
    Handshake,
    /// Writing the request.
    Write,
    /// Waiting for the response, or reading it.
    Read,
    /// Waiting before another attempt.
    Backoff,
}

impl Phase {
    /// What can be said of the request when nobody knows more: only from [`Phase::Write`] on can it have left.
    fn sent(self) -> Sent {
        match self {
            Self::Build | Self::Pick | Self::Queue | Self::Resolve | Self::Dial | Self::Handshake => Sent::Never,
            Self::Call | Self::Write | Self::Read | Self::Backoff => Sent::Maybe,
        }
    }

    /// The phase in words, as in "while …".
    pub fn text(self) -> &'static str {
        match self {
            Self::Call => "calling",
            Self::Build => "building",
            Self::Pick => "picking an endpoint",
            Self::Queue => "waiting for a connection",
            Self::Resolve => "resolving",
            Self::Dial => "connecting",
            Self::Handshake => "handshaking",
            Self::Write => "writing the request",
            Self::Read => "waiting for the response",
            Self::Backoff => "waiting to retry",
        }
    }
}

/// Whether a byte of the request can have left the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sent {
    /// Certainly not: the call may be repeated whatever it does.
    Never,
    /// Perhaps: only an idempotent call may be repeated.
    Maybe,
}

/// The error of every towline service: small, cheap to clone, and shared by all who waited for the same thing.
///
/// ```
/// use towline_core::{Error, Kind, Phase, Sent};
///
/// let error = Error::new(Kind::Unavailable, Phase::Dial).with_endpoint("10.0.0.7:7000");
/// assert_eq!(error.sent(), Sent::Never);
/// assert_eq!(error.to_string(), "endpoint unavailable while connecting (endpoint 10.0.0.7:7000, request not sent)");
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    phase: Phase,
    sent: Sent,
    endpoint: Option<EndpointKey>,
    endpoint_id: Option<EndpointId>,
    other_id: Option<EndpointId>,
    message: Option<Cow<'static, str>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    spent: Vec<(Phase, Duration)>,
}

impl Error {
    /// An error of this kind in this phase. Phases before [`Phase::Write`] mean [`Sent::Never`].
    pub fn new(kind: Kind, phase: Phase) -> Self {
        Self(Box::new(Inner {
            kind,
            phase,
            sent: phase.sent(),
            endpoint: None,
            endpoint_id: None,
            other_id: None,
            message: None,
            source: None,
            spent: Vec::new(),
        }))
    }

    /// Our own error again when `error` is one, else [`Kind::Other`] with `error` as its source and
    /// [`Sent::Maybe`].
    ///
    /// Layers convert with this before they classify.
    pub fn wrap(error: impl Into<BoxError>) -> Self {
        Self::wrap_as(Kind::Other, Phase::Call, error)
    }

    /// Our own error again when `error` is one, else an error of this kind and phase with `error` as its source.
    pub fn wrap_as(kind: Kind, phase: Phase, error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Self>() {
            Ok(own) => *own,
            Err(foreign) => Self::new(kind, phase).with_source(foreign),
        }
    }

    /// Our own error again when `error` is one, else [`Kind::Unavailable`] in [`Phase::Dial`]: whatever a connector fails
    /// with, there is no connection.
    pub fn unreachable(error: impl Into<BoxError>) -> Self {
        Self::wrap_as(Kind::Unavailable, Phase::Dial, error)
    }

    /// An I/O error in this phase; an early end of the stream keeps its own kind.
    pub fn io(phase: Phase, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Kind::UnexpectedEof,
            _ => Kind::Io,
        };
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) => Self::new(kind, phase).with_source(error),
        }
    }

    /// Sets whether the request can have left.
    #[must_use]
    pub fn with_sent(mut self, sent: Sent) -> Self {
        self.0.sent = sent;
        self
    }

    /// Replaces the kind's text.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.0.message = Some(message.into());
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Names the endpoint.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<EndpointKey>) -> Self {
        self.0.endpoint = Some(endpoint.into());
        self
    }

    /// Names the endpoint unless somebody closer to it already has.
    #[must_use]
    pub fn or_endpoint(mut self, endpoint: &EndpointKey) -> Self {
        self.0.endpoint.get_or_insert_with(|| endpoint.clone());
        self
    }

    /// For balancers: names the endpoint that was picked, and which life of it, unless somebody closer to it already has.
    #[must_use]
    pub fn or_picked(mut self, id: EndpointId, endpoint: &EndpointKey) -> Self {
        self.0.endpoint_id.get_or_insert(id);
        self.or_endpoint(endpoint)
    }

    /// Says how long each phase of the call took.
    #[must_use]
    pub fn with_spent(mut self, spent: Vec<(Phase, Duration)>) -> Self {
        self.0.spent = spent;
        self
    }

    /// What happened.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Where.
    pub fn phase(&self) -> Phase {
        self.0.phase
    }

    /// Whether a byte of the request can have left the machine.
    pub fn sent(&self) -> Sent {
        self.0.sent
    }

    /// The endpoint that was involved, where one was.
    pub fn endpoint(&self) -> Option<&EndpointKey> {
        self.0.endpoint.as_ref()
    }

    /// How long each phase of the call took, where a deadline ended it: in the order of [`Phase`], that of several attempts
    /// added up. Empty otherwise.
    pub fn spent(&self) -> &[(Phase, Duration)] {
        &self.0.spent
    }

    /// Names another endpoint that the call was at, like that of a hedge's second leg.
    #[must_use]
    pub fn with_other_id(mut self, id: EndpointId) -> Self {
        self.0.other_id = Some(id);
        self
    }

    /// Another endpoint that the call was at, to note it as [tried](crate::CallContext::tried).
    pub fn other_id(&self) -> Option<EndpointId> {
        self.0.other_id
    }

    /// The endpoint that a balancer picked, to note it as [tried](crate::CallContext::tried).
    pub fn endpoint_id(&self) -> Option<EndpointId> {
        self.0.endpoint_id
    }

    /// Whether time ran out.
    pub fn is_timeout(&self) -> bool {
        self.kind() == Kind::Timeout
    }

    /// Whether no connection could be made: the failure lies in resolving, dialling or handshaking.
    pub fn is_connect(&self) -> bool {
        matches!(self.phase(), Phase::Resolve | Phase::Dial | Phase::Handshake)
    }

    /// The first error of type `E` among this error's causes.
    pub fn find<E: StdError + 'static>(&self) -> Option<&E> {
        let mut cause = self.source();
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, phase, sent, endpoint, endpoint_id: _, other_id: _, message, source: _, spent } = &*self.0;
        f.write_str(message.as_deref().unwrap_or(kind.text()))?;
        if *phase == Phase::Build {
            return Ok(());
        }
        write!(f, " while {} (", phase.text())?;
        if let Some(endpoint) = endpoint {
            write!(f, "endpoint {endpoint}, ")?;
        }
        f.write_str(match sent {
            Sent::Never => "request not sent)",
            Sent::Maybe => "request may have been sent)",
        })?;
        for (index, (phase, took)) in spent.iter().enumerate() {
            write!(f, "{} {} {took:?}", if index == 0 { ":" } else { "," }, phase.text())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, phase, sent, endpoint, endpoint_id: _, other_id: _, message, source, spent } = &*self.0;
        let mut out = f.debug_struct("Error");
        out.field("kind", kind).field("phase", phase).field("sent", sent);
        if let Some(endpoint) = endpoint {
            out.field("endpoint", endpoint);
        }
        if let Some(message) = message {
            out.field("message", message);
        }
        if !spent.is_empty() {
            out.field("spent", spent);
        }
        if let Some(source) = source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// What tokio_util's codecs need of their error; in a codec, an I/O error is one of reading.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::io(Phase::Read, error)
    }
}

/// An error of a connection that hands back the request it could not take.
///
/// A pool takes it apart. Other layers know [`Error`] only, and take any other error for one that says nothing: over a bare
/// connection put a `map_err(Error::from)` in between.
#[derive(Clone)]
pub struct Rejected<Req> {
    /// What went wrong.
    pub error: Error,
    /// The request, when the connection did not begin to send it.
    pub request: Option<Req>,
}

impl<Req> Rejected<Req> {
    /// A rejection that returns the request unsent.
    pub fn unsent(error: Error, request: Req) -> Self {
        Self { error: error.with_sent(Sent::Never), request: Some(request) }
    }
}

impl<Req> From<Error> for Rejected<Req> {
    fn from(error: Error) -> Self {
        Self { error, request: None }
    }
}

impl<Req> From<Rejected<Req>> for Error {
    fn from(rejected: Rejected<Req>) -> Self {
        rejected.error
    }
}

/// Without the request, which may be long, secret, or not [`Debug`](fmt::Debug) at all.
impl<Req> fmt::Debug for Rejected<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let returned = self.request.is_some();
        f.debug_struct("Rejected").field("error", &self.error).field("returned", &returned).finish()
    }
}

impl<Req> fmt::Display for Rejected<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<Req> StdError for Rejected<Req> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}

/// How a pool takes a connection's error apart: the error itself, and the request where it came back unsent.
///
/// Connections of one's own use [`Rejected`], or [`Error`] when requests never come back. A foreign service is
/// brought in by [`Unwatched`](crate::Unwatched), which wraps its errors.
#[diagnostic::on_unimplemented(
    message = "the pool cannot take the error `{Self}` apart",
    note = "a connection fails with `Rejected<Req>` or `Error`; wrap a foreign service in `Unwatched`"
)]
pub trait GiveBack<Req> {
    /// The error, and the request if not a byte of it was sent.
    fn split(self) -> (Error, Option<Req>);
}

impl<Req> GiveBack<Req> for Rejected<Req> {
    fn split(self) -> (Error, Option<Req>) {
        (self.error, self.request)
    }
}

impl<Req> GiveBack<Req> for Error {
    fn split(self) -> (Error, Option<Req>) {
        (self, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_our_own_error_gives_it_back() {
        let own = Error::new(Kind::Closed, Phase::Queue).with_endpoint("a");
        let boxed: BoxError = Box::new(own);
        let again = Error::wrap(boxed);
        assert_eq!((again.kind(), again.sent()), (Kind::Closed, Sent::Never));
        assert_eq!(again.endpoint().unwrap().as_str(), "a");
    }

    #[test]
    fn a_foreign_error_may_have_been_sent_and_stays_reachable() {
        let wrapped = Error::wrap(std::io::Error::other("boom"));
        assert_eq!((wrapped.kind(), wrapped.sent()), (Kind::Other, Sent::Maybe));
        assert_eq!(wrapped.find::<std::io::Error>().unwrap().to_string(), "boom");
    }

    #[test]
    fn an_io_error_that_carries_ours_is_ours() {
        let ours = Error::new(Kind::TooLarge, Phase::Read);
        assert_eq!(Error::from(std::io::Error::other(ours)).kind(), Kind::TooLarge);
    }

    #[test]
    fn the_innermost_balancer_says_which_endpoint_was_picked() {
        let (inner, outer) = (EndpointId::fresh(), EndpointId::fresh());
        let error = Error::new(Kind::Closed, Phase::Read).with_endpoint("told by its pool");
        let error = error.or_picked(inner, &"a".into()).or_picked(outer, &"b".into());
        assert_eq!(error.endpoint_id(), Some(inner));
        assert_eq!(error.endpoint().unwrap().as_str(), "told by its pool");
    }

    #[test]
    fn an_error_is_one_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<(), Error>>(), size_of::<usize>());
    }
}
