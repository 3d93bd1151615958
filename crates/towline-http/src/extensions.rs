//! Where the context of a call is in an HTTP request.

use http::Request;
use towline_core::{Access, CallContext};

/// The [`CallContext`] rides in the request's extensions: layers made `with_access(InExtensions)` find it there, and put one
/// there if they have something to say. It is not sent; what is to be on the wire is for layers like
/// [`GrpcTimeoutLayer`](crate::GrpcTimeoutLayer).
///
/// ```
/// use http::Request;
/// use towline_core::{Access, CallContext};
/// use towline_http::InExtensions;
///
/// let mut request = Request::new(());
/// assert!(InExtensions.get(&request).is_none());
/// InExtensions.edit(&mut request, |context| context.set_idempotent(true));
/// assert!(InExtensions.get(&request).is_some_and(CallContext::is_idempotent));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct InExtensions;

impl<B> Access<Request<B>> for InExtensions {
    fn get<'a>(&self, request: &'a Request<B>) -> Option<&'a CallContext> {
        request.extensions().get()
    }

    fn edit(&self, request: &mut Request<B>, change: impl FnOnce(&mut CallContext)) {
        change(request.extensions_mut().get_or_insert_default());
    }
}
