//! Connectors of others: hyper-rustls, hyper-tls, those that go through a proxy. They dial a URI, and ours a target.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::{Parts, PathAndQuery, Scheme};
use hyper_util::rt::TokioIo;
use tower_service::Service;
use towline_core::{Address, BoxError, Error, Kind, Phase, Target};

/// A connector for hyper's client as one of ours: below a framed connection, a pool, or anything else that dials a
/// [`Target`].
///
/// What is dialled is `https://host:port/` or `http://host:port/`. A connector that does TLS verifies the host of that, so that
/// a target with [another name](Target::with_tls_name) is refused, as is a Unix socket.
///
/// ```
/// use hyper_util::client::legacy::connect::HttpConnector;
/// use towline_http::{Http1Layer, UriConnector};
/// use tower::Layer;
///
/// // Or hyper_rustls::HttpsConnectorBuilder, with `UriConnector::https`.
/// let connect = UriConnector::http(HttpConnector::new());
/// let make = Http1Layer::<String>::new().layer(connect);
/// # drop(make);
/// ```
///
/// # Errors
///
/// [`Kind::Config`] for a target that no URI can name; errors of the connector as they are, in [`Phase::Dial`].
#[derive(Clone, Debug)]
pub struct UriConnector<C> {
    inner: C,
    scheme: Scheme,
}

impl<C> UriConnector<C> {
    /// Has `connector` dial `http` URIs.
    pub fn http(connector: C) -> Self {
        Self { inner: connector, scheme: Scheme::HTTP }
    }

    /// Has `connector` dial `https` URIs.
    pub fn https(connector: C) -> Self {
        Self { inner: connector, scheme: Scheme::HTTPS }
    }
}

fn uri(scheme: Scheme, target: &Target) -> Result<Uri, Error> {
    let refused = |why: String| Error::new(Kind::Config, Phase::Dial).with_message(why);
    let address = target.address();
    let host = match address {
        Address::Name { host, .. } => Some(host.to_string()),
        Address::Ip(ip) => Some(ip.ip().to_string()),
        _ => None,
    };
    let Some(host) = host else {
        return Err(refused(format!("{address} has no host that a URI could name: dial it with a connector of ours")));
    };
    match target.server_name() {
        Some(name)
            if !name.eq_ignore_ascii_case(host.strip_suffix('.').unwrap_or(&host)) && scheme == Scheme::HTTPS =>
        {
            return Err(refused(format!(
                "{address} is to be verified as {name:?}, and a URI names only what is dialled: use TlsLayer, or an endpoint \
                 of that name"
            )));
        }
        _ => {}
    }
    let mut parts = Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(address.to_string().parse().map_err(|cause| refused(format!("{address}: {cause}")))?);
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    Uri::from_parts(parts).map_err(|cause| refused(format!("{address}: {cause}")))
}

impl<C> Service<Target> for UriConnector<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
{
    type Response = TokioIo<C::Response>;
    type Error = Error;
    type Future = UriConnectFuture<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Error::unreachable)
    }

    fn call(&mut self, target: Target) -> Self::Future {
        match uri(self.scheme.clone(), &target) {
            Ok(uri) => UriConnectFuture { connecting: Some(self.inner.call(uri)), refused: None },
            Err(error) => UriConnectFuture { connecting: None, refused: Some(error) },
        }
    }
}

pin_project_lite::pin_project! {
    /// The response of [`UriConnector`]. Dropping it stops the dial, as far as the connector does so.
    pub struct UriConnectFuture<F> {
        #[pin]
        connecting: Option<F>,
        refused: Option<Error>,
    }
}

impl<F, Io, E> Future for UriConnectFuture<F>
where
    F: Future<Output = Result<Io, E>>,
    E: Into<BoxError>,
{
    type Output = Result<TokioIo<Io>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.connecting.as_pin_mut() {
            Some(connecting) => connecting.poll(cx).map_ok(TokioIo::new).map_err(Error::unreachable),
            None => Poll::Ready(Err(this.refused.take().expect("polled after completion"))),
        }
    }
}

impl<F> fmt::Debug for UriConnectFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UriConnectFuture").field("refused", &self.refused).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_become_uris() {
        for (target, expected) in [
            ("db.example:7000", "https://db.example:7000/"),
            ("[::1]:80", "https://[::1]:80/"),
            ("1.2.3.4:5", "https://1.2.3.4:5/"),
        ] {
            assert_eq!(uri(Scheme::HTTPS, &target.parse().unwrap()).unwrap().to_string(), expected);
        }
        assert_eq!(uri(Scheme::HTTP, &"a:1".parse().unwrap()).unwrap().to_string(), "http://a:1/");
    }

    #[test]
    fn a_target_that_no_uri_can_name_is_refused_with_what_to_do() {
        let named = |target: &str, name: &str| target.parse::<Target>().unwrap().with_tls_name(name);
        for (target, why) in [
            ("unix:/run/db".parse().unwrap(), "no host"),
            (named("1.2.3.4:5", "db.example"), "\"db.example\""),
            (named("a:1", "b"), "TlsLayer"),
            (named("[::1]:1", "::2"), "TlsLayer"),
        ] {
            let error = uri(Scheme::HTTPS, &target).unwrap_err();
            assert_eq!((error.kind(), error.phase()), (Kind::Config, Phase::Dial));
            assert!(error.to_string().contains(why), "{error}");
        }
        for (target, same) in [("a:1", "a"), ("a:1", "A."), ("a.:1", "a"), ("[::1]:1", "[::1]"), ("[::1]:1", "::1")] {
            uri(Scheme::HTTPS, &named(target, same)).unwrap();
        }
        uri(Scheme::HTTP, &named("a:1", "b")).unwrap();
    }
}
