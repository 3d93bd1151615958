//! A span for every call; nothing without the feature `tracing`, and next to nothing while nobody listens.

use towline_core::{CallContext, Error};

#[cfg(feature = "tracing")]
pub(crate) struct CallSpan(Option<tracing::Span>);

#[cfg(feature = "tracing")]
impl CallSpan {
    #[inline]
    pub(crate) fn new(context: &CallContext) -> Self {
        // A disabled span is not free: it is made, entered and left.
        let is_heard = tracing::level_filters::LevelFilter::current() >= tracing::Level::DEBUG;
        Self(is_heard.then(|| Self::span(context)))
    }

    fn span(context: &CallContext) -> tracing::Span {
        let session = context.session().map(tracing::field::display);
        tracing::debug_span!(target: "towline", "call", session, error = tracing::field::Empty)
    }

    #[inline]
    pub(crate) fn enter<R>(&self, poll: impl FnOnce() -> R) -> R {
        match &self.0 {
            Some(span) => span.in_scope(poll),
            None => poll(),
        }
    }

    pub(crate) fn failed(&self, error: &Error) {
        if let Some(span) = &self.0 {
            span.record("error", tracing::field::display(error));
        }
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
