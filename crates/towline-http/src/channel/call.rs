//! A call on its way through the channel.

use http::header::{COOKIE, HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Uri, Version};
use http_body::Body;
use tokio::time::Instant;
use towline_core::{BoxError, CallContext, HasContext, Replay};

use super::grpc;
use super::outgoing::Outgoing;
use crate::grpc_timeout::{GRPC_TIMEOUT, encode};

/// A request and where it goes. In a box, since every layer moves it.
pub(crate) struct HttpCall<B>(Box<Inner<B>>);

struct Inner<B> {
    /// `None` while a connection has it.
    request: Option<Request<Outgoing<B>>>,
    route: Route,
}

/// What travels with a request, and is not sent.
#[derive(Clone)]
pub(crate) struct Route {
    pub(super) context: CallContext,
    /// What the caller has said, in whatever way; the channel's own limit is for the head of the response only, and the server's
    /// business is the whole call.
    pub(super) deadline: Option<Instant>,
    /// Whom the request is for; the endpoint itself if nobody says.
    pub(super) authority: Option<Authority>,
    pub(super) is_grpc: bool,
}

/// What a connection says of the server at its end.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
}

impl Route {
    fn write_into(&self, headers: &mut HeaderMap) {
        if !self.is_grpc {
            return;
        }
        if let Some(deadline) = self.deadline {
            headers.insert(GRPC_TIMEOUT, encode(deadline.saturating_duration_since(Instant::now())));
        }
        if self.context.attempt() > 0 {
            headers.insert(grpc::PREVIOUS_ATTEMPTS, self.context.attempt().into());
        }
    }
}

impl<B> HasContext for HttpCall<B> {
    fn context(&self) -> &CallContext {
        &self.0.route.context
    }

    fn context_mut(&mut self) -> &mut CallContext {
        &mut self.0.route.context
    }
}

impl<B> Replay for HttpCall<B> {
    fn replay(&self) -> Option<Self> {
        let from = self.request()?;
        let mut request = Request::new(from.body().again()?);
        request.method_mut().clone_from(from.method());
        request.uri_mut().clone_from(from.uri());
        *request.version_mut() = from.version();
        request.headers_mut().clone_from(from.headers());
        request.extensions_mut().clone_from(from.extensions());
        Some(Self::new(request, self.0.route.clone()))
    }

    fn is_replayable(&self) -> bool {
        self.request().is_some_and(|request| request.body().is_whole())
    }

    fn reclaim(&self) {
        self.request().iter().for_each(|request| request.body().reclaim());
    }
}

impl<B> HttpCall<B> {
    pub(super) fn new(request: Request<Outgoing<B>>, route: Route) -> Self {
        Self(Box::new(Inner { request: Some(request), route }))
    }

    fn request(&self) -> Option<&Request<Outgoing<B>>> {
        self.0.request.as_ref()
    }

    pub(super) fn route(&self) -> &Route {
        &self.0.route
    }

    pub(super) fn headers(&self) -> Option<&HeaderMap> {
        self.request().map(Request::headers)
    }

    /// The connection that had its request has not sent it.
    pub(super) fn with_request(mut self, request: Request<Outgoing<B>>) -> Self {
        self.0.request = Some(request);
        self
    }
}

impl<B> HttpCall<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// The request, as it goes to `server` by HTTP/1 or HTTP/2. Can be had again for another server, when it has come back.
    pub(super) fn take_request(&mut self, server: &Server, version: Version) -> Request<Outgoing<B>> {
        let Inner { request, route } = &mut *self.0;
        let request = request.as_mut().expect("no connection has it");
        request.body_mut().begin(version);
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let authority = route.authority.as_ref().unwrap_or(&server.authority);
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(path);
        if version == Version::HTTP_2 {
            uri.scheme = Some(server.scheme.clone());
            uri.authority = Some(authority.clone());
            request.headers_mut().remove(HOST);
        } else {
            if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                request.headers_mut().insert(HOST, host);
            }
            join_cookies(request.headers_mut());
        }
        if let Ok(uri) = Uri::from_parts(uri) {
            *request.uri_mut() = uri;
        }
        *request.version_mut() = version;
        route.write_into(request.headers_mut());
        self.0.request.take().expect("seen above")
    }
}

/// A user and a password are no part of what a server is called, and not to be sent there.
pub(super) fn without_user(authority: &Authority) -> Authority {
    match authority.as_str().rsplit_once('@') {
        None => authority.clone(),
        // It is what is left of one that was parsed.
        Some((_, host)) => host.parse().unwrap_or_else(|_| Authority::from_static("localhost")),
    }
}

/// HTTP/2 may have them in several fields, HTTP/1 in one. (RFC 9113, 8.2.3.)
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}
