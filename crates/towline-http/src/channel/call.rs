//! A call on its way through the channel.

use http::header::{COOKIE, HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Uri, Version};
use tokio::time::Instant;
use towline_core::{CallContext, HasContext, Replay};

use super::grpc;
use super::outgoing::Outgoing;
use crate::grpc_timeout::{GRPC_TIMEOUT, encode};

/// A request and where it goes.
pub(crate) struct HttpCall<B> {
    pub(super) request: Request<Outgoing<B>>,
    pub(super) route: Route,
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

impl<B> HasContext for HttpCall<B> {
    fn context(&self) -> &CallContext {
        &self.route.context
    }

    fn context_mut(&mut self) -> &mut CallContext {
        &mut self.route.context
    }
}

impl<B> Replay for HttpCall<B> {
    fn replay(&self) -> Option<Self> {
        let body = self.request.body().again()?;
        let mut request = Request::new(body);
        request.method_mut().clone_from(self.request.method());
        request.uri_mut().clone_from(self.request.uri());
        *request.version_mut() = self.request.version();
        request.headers_mut().clone_from(self.request.headers());
        request.extensions_mut().clone_from(self.request.extensions());
        Some(Self { request, route: self.route.clone() })
    }

    fn is_replayable(&self) -> bool {
        self.request.body().is_whole()
    }

    fn reclaim(&self) {
        self.request.body().reclaim();
    }
}

impl<B> HttpCall<B> {
    pub(super) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// As it goes to `server` by HTTP/1 or HTTP/2. Can be done again for another server, when the request has come back.
    pub(super) fn addressed(mut self, server: &Server, version: Version) -> (Request<Outgoing<B>>, Route) {
        self.request.body_mut().begin();
        let path = self.request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let authority = self.route.authority.as_ref().unwrap_or(&server.authority);
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(path);
        if version == Version::HTTP_2 {
            uri.scheme = Some(server.scheme.clone());
            uri.authority = Some(authority.clone());
            self.request.headers_mut().remove(HOST);
        } else {
            if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                self.request.headers_mut().insert(HOST, host);
            }
            join_cookies(self.request.headers_mut());
        }
        if let Ok(uri) = Uri::from_parts(uri) {
            *self.request.uri_mut() = uri;
        }
        *self.request.version_mut() = version;
        self.write_context();
        (self.request, self.route)
    }

    fn write_context(&mut self) {
        let headers = self.request.headers_mut();
        if let Some(deadline) = self.route.deadline.filter(|_| self.route.is_grpc) {
            headers.insert(GRPC_TIMEOUT, encode(deadline.saturating_duration_since(Instant::now())));
        }
        if self.route.is_grpc && self.route.context.attempt() > 0 {
            headers.insert(grpc::PREVIOUS_ATTEMPTS, self.route.context.attempt().into());
        }
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
