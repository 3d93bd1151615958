//! A span for every call; nothing without the feature `tracing`.

use towline_core::{CallContext, Error};

#[cfg(feature = "tracing")]
pub(crate) struct CallSpan(tracing::Span);

#[cfg(feature = "tracing")]
impl CallSpan {
    pub(crate) fn new(context: &CallContext) -> Self {
        let session = context.session().map(tracing::field::display);
        Self(tracing::debug_span!(target: "towline", "call", session, error = tracing::field::Empty))
    }

    pub(crate) fn enter<R>(&self, poll: impl FnOnce() -> R) -> R {
        self.0.in_scope(poll)
    }

    pub(crate) fn failed(&self, error: &Error) {
        self.0.record("error", tracing::field::display(error));
    }
}

#[cfg(not(feature = "tracing"))]
pub(crate) struct CallSpan;

#[cfg(not(feature = "tracing"))]
impl CallSpan {
    pub(crate) fn new(_context: &CallContext) -> Self {
        Self
    }

    pub(crate) fn enter<R>(&self, poll: impl FnOnce() -> R) -> R {
        poll()
    }

    pub(crate) fn failed(&self, _error: &Error) {}
}
