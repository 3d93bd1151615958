//! What travels with a call, and how layers find it in a request of any type.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::after;
use crate::{ConnectionPin, EndpointId, EndpointKey, Report, stable_hash};

/// Who is calling, for stickiness: any bytes. Short keys (up to 38 bytes, a UUID's text for one) are kept in place.
///
/// ```
/// use towline_core::SessionKey;
///
/// assert_eq!(SessionKey::new("alice"), SessionKey::new(b"alice"));
/// ```
#[derive(Clone)]
pub struct SessionKey(Repr);

const INLINE: usize = 38;

#[derive(Clone)]
enum Repr {
    Inline(u8, [u8; INLINE]),
    Shared(Arc<[u8]>),
}

impl SessionKey {
    /// A key of these bytes.
    pub fn new(key: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        if key.len() > INLINE {
            return Self(Repr::Shared(key.into()));
        }
        let mut bytes = [0; INLINE];
        bytes[..key.len()].copy_from_slice(key);
        Self(Repr::Inline(key.len() as u8, bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl PartialEq for SessionKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for SessionKey {}

impl Hash for SessionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

/// The endpoints that this call has already been to, so that a retry goes elsewhere. Remembers the last four.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    ids: [Option<EndpointId>; 4],
    next: u8,
}

impl Tried {
    const NOBODY: Self = Self { ids: [None; 4], next: 0 };

    /// Adds an endpoint; beyond four the oldest is forgotten. One that is there already was tried again because there was
    /// no other: the round starts again with it.
    pub fn add(&mut self, id: EndpointId) {
        if self.contains(id) {
            *self = Self::default();
        }
        self.ids[usize::from(self.next) % self.ids.len()] = Some(id);
        self.next = self.next.wrapping_add(1);
    }

    /// Whether the call has been to this endpoint.
    #[inline]
    pub fn contains(&self, id: EndpointId) -> bool {
        self.ids.contains(&Some(id))
    }

    /// Whether the call has been nowhere yet.
    pub fn is_empty(&self) -> bool {
        self.ids.iter().all(Option::is_none)
    }
}

/// The endpoint that a call asks for, by the [hash](stable_hash) of its key: what a signed token of a session says, or a
/// caller who knows. It is heeded by policies that say so, and names nobody outside of their set.
///
/// ```
/// use towline_core::{Call, EndpointKey, Home};
///
/// let home = Home::from(&EndpointKey::new("10.0.0.7:7000"));
/// assert_eq!(Call::new("ping").with_home(home).context().home(), Some(home));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Home(u64);

impl Home {
    /// What [`to_u64`](Self::to_u64) has said.
    pub const fn from_u64(hash: u64) -> Self {
        Self(hash)
    }

    /// To be carried elsewhere.
    pub const fn to_u64(self) -> u64 {
        self.0
    }
}

impl From<&EndpointKey> for Home {
    fn from(key: &EndpointKey) -> Self {
        Self(stable_hash(key.as_str().as_bytes()))
    }
}

/// What travels with a call: its deadline, its session, whether it may be repeated, and where it has been.
///
/// A call is moved many times on its way, so what few calls have (attempts before this one, a pin, a report, an endpoint that
/// they ask for) is in a box of its own, made when it is first set.
#[derive(Clone, Debug, Default)]
pub struct CallContext {
    deadline: Option<Instant>,
    session: Option<SessionKey>,
    idempotent: bool,
    is_retried: bool,
    is_hedge: bool,
    attempt: u32,
    rare: Option<Box<Rare>>,
}

/// What few calls have.
#[derive(Clone, Debug, Default)]
struct Rare {
    tried: Tried,
    home: Option<Home>,
    pin: Option<ConnectionPin>,
    report: Option<Arc<Report>>,
}

impl CallContext {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// When the caller stops waiting.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Moves the deadline forward to `at`; a later deadline than the present one changes nothing.
    #[inline]
    pub fn limit_deadline(&mut self, at: Instant) {
        self.deadline = Some(self.deadline.map_or(at, |old| old.min(at)));
    }

    /// Who is calling.
    #[inline]
    pub fn session(&self) -> Option<&SessionKey> {
        self.session.as_ref()
    }

    /// Sets who is calling.
    pub fn set_session(&mut self, session: Option<SessionKey>) {
        self.session = session;
    }

    /// Whether the call may be repeated although it may have been executed. False by default.
    #[inline]
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Marks whether the call may be repeated although it may have been executed.
    pub fn set_idempotent(&mut self, idempotent: bool) {
        self.idempotent = idempotent;
    }

    /// Which attempt this is, from 0.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Sets which attempt this is.
    pub fn set_attempt(&mut self, attempt: u32) {
        self.attempt = attempt;
    }

    /// Whether a retry layer further out sends this call again when it fails: a second one inside would multiply attempts.
    #[inline]
    pub fn is_retried(&self) -> bool {
        self.is_retried
    }

    /// For retry layers: whoever is inside need not.
    pub fn set_retried(&mut self) {
        self.is_retried = true;
    }

    /// Whether this is a second leg beside a first one, which has not failed: nothing may be concluded of the first one's
    /// endpoint from its having been tried.
    pub fn is_hedge(&self) -> bool {
        self.is_hedge
    }

    /// For hedging layers, of the second leg.
    pub fn set_hedge(&mut self) {
        self.is_hedge = true;
    }

    /// The endpoint that the call asks for.
    pub fn home(&self) -> Option<Home> {
        self.rare.as_ref().and_then(|rare| rare.home)
    }

    /// Asks for an endpoint.
    pub fn set_home(&mut self, home: Option<Home>) {
        self.rare().home = home;
    }

    /// The endpoints that earlier attempts went to.
    #[inline]
    pub fn tried(&self) -> &Tried {
        const NOBODY: &Tried = &Tried::NOBODY;
        self.rare.as_ref().map_or(NOBODY, |rare| &rare.tried)
    }

    /// The endpoints that earlier attempts went to, to add to.
    pub fn tried_mut(&mut self) -> &mut Tried {
        &mut self.rare().tried
    }

    /// The connection that the call has to use, if it is pinned.
    #[inline]
    pub fn pin(&self) -> Option<&ConnectionPin> {
        self.rare.as_ref().and_then(|rare| rare.pin.as_ref())
    }

    /// Pins the call to one connection.
    pub fn set_pin(&mut self, pin: Option<ConnectionPin>) {
        self.rare().pin = pin;
    }

    /// Where the stack notes who served the call, if the caller asked.
    #[inline]
    pub fn report(&self) -> Option<&Arc<Report>> {
        self.rare.as_ref().and_then(|rare| rare.report.as_ref())
    }

    /// Asks for a report.
    pub fn set_report(&mut self, report: Arc<Report>) {
        self.rare().report = Some(report);
    }
}

/// A message together with its context: what a towline stack carries by default.
///
/// ```
/// use towline_core::Call;
///
/// let call = Call::new("ping").with_session("alice").idempotent();
/// assert!(call.context().is_idempotent());
/// assert_eq!(call.into_message(), "ping");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Call<M> {
    message: M,
    context: CallContext,
}

impl<M> Call<M> {
    /// A call with an empty context.
    pub fn new(message: M) -> Self {
        Self::from_parts(message, CallContext::default())
    }

    /// A call from its parts.
    pub fn from_parts(message: M, context: CallContext) -> Self {
        Self { message, context }
    }

    /// Sets who is calling.
    #[must_use]
    pub fn with_session(mut self, session: impl AsRef<[u8]>) -> Self {
        self.context.session = Some(SessionKey::new(session));
        self
    }

    /// Says that the call may be repeated although it may have been executed.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.context.idempotent = true;
        self
    }

    /// Sets how long the caller waits, from now.
    #[must_use]
    pub fn with_timeout(self, limit: Duration) -> Self {
        self.with_deadline(after(Instant::now(), limit))
    }

    /// Sets when the caller stops waiting, on tokio's clock.
    #[must_use]
    pub fn with_deadline(mut self, at: Instant) -> Self {
        self.context.limit_deadline(at);
        self
    }

    /// Asks for an endpoint, of policies that heed it.
    #[must_use]
    pub fn with_home(mut self, home: Home) -> Self {
        self.context.set_home(Some(home));
        self
    }

    /// Pins the call to the connection of the calls before it that carried this pin.
    #[must_use]
    pub fn with_pin(mut self, pin: &ConnectionPin) -> Self {
        self.context.set_pin(Some(pin.clone()));
        self
    }

    /// Asks who serves the call; read it from [`CallContext::report`], cloned before the call is sent.
    #[must_use]
    pub fn with_report(mut self) -> Self {
        self.context.set_report(Arc::default());
        self
    }

    /// The message.
    pub fn message(&self) -> &M {
        &self.message
    }

    /// The context.
    pub fn context(&self) -> &CallContext {
        &self.context
    }

    /// The message, without its context.
    pub fn into_message(self) -> M {
        self.message
    }

    /// Message and context.
    pub fn into_parts(self) -> (M, CallContext) {
        (self.message, self.context)
    }
}

impl<M> From<M> for Call<M> {
    fn from(message: M) -> Self {
        Self::new(message)
    }
}

/// A request that carries a [`CallContext`]: [`Call`], or a type of one's own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` carries no `CallContext`",
    note = "wrap the message in `Call`, implement `HasContext`, or use the access `Blind`"
)]
pub trait HasContext {
    /// The context.
    fn context(&self) -> &CallContext;
    /// The context, to change.
    fn context_mut(&mut self) -> &mut CallContext;
}

impl<M> HasContext for Call<M> {
    fn context(&self) -> &CallContext {
        &self.context
    }

    fn context_mut(&mut self) -> &mut CallContext {
        &mut self.context
    }
}

/// How a layer reaches the [`CallContext`] of a request of any type.
///
/// ```
/// use towline_core::{Access, Blind, Call, Carried};
///
/// assert!(Carried.get(&Call::new("ping")).is_some());
/// assert!(Blind.get(&"ping").is_none());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not reach into the request `{Req}`",
    note = "`Carried` needs `{Req}: HasContext`; `Blind` works with every request"
)]
pub trait Access<Req>: Clone {
    /// The context, if the request has one.
    fn get<'a>(&self, request: &'a Req) -> Option<&'a CallContext>;
    /// Changes the context; does nothing if the request has none.
    fn edit(&self, request: &mut Req, change: impl FnOnce(&mut CallContext));
}

/// Requests without a context: everything works but what needs one. There are no sessions, no call counts as
/// idempotent, a retry may go where it failed, the pool does not see the deadline, and nobody reports who served.
///
/// To be set on every layer and on the balancer of a stack, with `with_access(Blind)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blind;

impl<Req> Access<Req> for Blind {
    fn get<'a>(&self, _request: &'a Req) -> Option<&'a CallContext> {
        None
    }

    fn edit(&self, _request: &mut Req, _change: impl FnOnce(&mut CallContext)) {}
}

/// Requests that carry their context: [`Call`] and everything else that is [`HasContext`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried;

impl<Req: HasContext> Access<Req> for Carried {
    fn get<'a>(&self, request: &'a Req) -> Option<&'a CallContext> {
        Some(request.context())
    }

    fn edit(&self, request: &mut Req, change: impl FnOnce(&mut CallContext)) {
        change(request.context_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_session_keys_compare_by_bytes() {
        let long = "x".repeat(100);
        assert_eq!(SessionKey::new(&long), SessionKey::new(long.as_bytes()));
        assert_ne!(SessionKey::new("a"), SessionKey::new("a\0"));
        assert_eq!(SessionKey::new("").as_bytes(), b"");
        assert_eq!(SessionKey::new("a\n").to_string(), "a\\n");
    }

    #[test]
    fn tried_remembers_the_last_four() {
        let ids: Vec<_> = (0..5).map(|_| EndpointId::fresh()).collect();
        let mut tried = Tried::default();
        assert!(tried.is_empty());
        ids.iter().for_each(|id| tried.add(*id));
        assert!(!tried.contains(ids[0]));
        assert!(ids[1..].iter().all(|id| tried.contains(*id)));
    }

    #[test]
    fn when_one_is_tried_again_the_round_starts_again() {
        let ids: Vec<_> = (0..3).map(|_| EndpointId::fresh()).collect();
        let mut tried = Tried::default();
        ids.iter().chain(&ids[..1]).for_each(|id| tried.add(*id));
        assert_eq!(ids.iter().map(|id| tried.contains(*id)).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn a_deadline_only_moves_forward() {
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(1);
        let mut context = CallContext::default();
        context.limit_deadline(now);
        context.limit_deadline(later);
        assert_eq!(context.deadline(), Some(now));
    }
}
