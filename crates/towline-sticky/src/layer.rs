//! Who is calling.

use std::fmt;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;
use towline_core::{Access, Carried, SessionKey};

use crate::StickyStats;
use crate::sessions::session;

/// Puts a session key into the context of every call that has none. See [`Sticky`].
#[derive(Clone)]
pub struct StickyLayer<F, A = Carried> {
    who: F,
    access: A,
    stats: StickyStats,
}

impl<F> StickyLayer<F> {
    /// Asks `who` for the session of a request; `None` means that any endpoint will do. So does an empty key, which is
    /// counted: whoever yields one had no name to give, and all of these are not one session.
    pub fn by<Req>(who: F) -> Self
    where
        F: Fn(&Req) -> Option<SessionKey>,
    {
        Self { who, access: Carried, stats: StickyStats::new() }
    }
}

impl<F, A> StickyLayer<F, A> {
    /// Reaches the context through `access`.
    pub fn with_access<B>(self, access: B) -> StickyLayer<F, B> {
        StickyLayer { who: self.who, access, stats: self.stats }
    }

    /// Counts [empty keys](crate::StickyCounts::empty_keys) into `stats`.
    #[must_use]
    pub fn with_stats(self, stats: StickyStats) -> Self {
        Self { stats, ..self }
    }
}

impl<F, A> fmt::Debug for StickyLayer<F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickyLayer").finish_non_exhaustive()
    }
}

impl<S, F: Clone, A: Clone> Layer<S> for StickyLayer<F, A> {
    type Service = Sticky<S, F, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Sticky { inner, who: self.who.clone(), access: self.access.clone(), stats: self.stats.clone() }
    }
}

/// A service whose calls say whose they are. A session that the caller has set stays.
///
/// Readiness, errors and cancellation are those of the inner service. Clones count together, and share nothing else.
// Holds no readiness of its own, so a derived Clone is right: the clone is as ready as the inner one's.
#[derive(Clone)]
pub struct Sticky<S, F, A = Carried> {
    inner: S,
    who: F,
    access: A,
    stats: StickyStats,
}

impl<S: fmt::Debug, F, A> fmt::Debug for Sticky<S, F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sticky").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, F, A, Req> Service<Req> for Sticky<S, F, A>
where
    S: Service<Req>,
    F: Fn(&Req) -> Option<SessionKey>,
    A: Access<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> S::Future {
        if session(self.access.get(&request)).is_none() {
            match (self.who)(&request) {
                Some(session) if session.as_bytes().is_empty() => self.stats.empty_key(),
                None => {}
                session => self.access.edit(&mut request, |context| context.set_session(session)),
            }
        }
        self.inner.call(request)
    }
}
