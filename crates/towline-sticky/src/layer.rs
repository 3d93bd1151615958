//! Who is calling.

use std::fmt;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;
use towline_core::{Access, CallContext, Carried, SessionKey};

/// Puts a session key into the context of every call that has none. See [`Sticky`].
#[derive(Clone, Copy)]
pub struct StickyLayer<F, A = Carried> {
    who: F,
    access: A,
}

impl<F> StickyLayer<F> {
    /// Asks `who` for the session of a request; `None` means that any endpoint will do.
    pub const fn by<Req>(who: F) -> Self
    where
        F: Fn(&Req) -> Option<SessionKey>,
    {
        Self { who, access: Carried }
    }
}

impl<F, A> StickyLayer<F, A> {
    /// Reaches the context through `access`.
    pub fn with_access<B>(self, access: B) -> StickyLayer<F, B> {
        StickyLayer { who: self.who, access }
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
        Sticky { inner, who: self.who.clone(), access: self.access.clone() }
    }
}

/// A service whose calls say whose they are. A session that the caller has set stays.
///
/// Readiness, errors and cancellation are those of the inner service.
// Holds no readiness of its own, so a derived Clone is right: the clone is as ready as the inner one's.
#[derive(Clone, Copy)]
pub struct Sticky<S, F, A = Carried> {
    inner: S,
    who: F,
    access: A,
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
        if self.access.get(&request).and_then(CallContext::session).is_none() {
            if let Some(session) = (self.who)(&request) {
                self.access.edit(&mut request, |context| context.set_session(Some(session)));
            }
        }
        self.inner.call(request)
    }
}
