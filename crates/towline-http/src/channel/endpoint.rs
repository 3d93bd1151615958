//! Endpoints as users of HTTP write them: by URI.

use http::Uri;
use http::uri::Authority;
use towline_core::{Address, Endpoint, Error, Kind, Phase, Target};

/// Whether calls are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// An endpoint, and the scheme if the text has one.
///
/// The key is the address that is dialled, as it is for the same endpoint without a scheme.
pub(super) fn parse(text: &str) -> Result<(Endpoint, Option<Scheme>), Error> {
    let refused = |why: &str| {
        Error::new(Kind::Config, Phase::Build).with_message(format!(
            "cannot use {text:?} as an endpoint: {why}; write http://host:port, https://host, host:port or unix:/path"
        ))
    };
    let Some((scheme, _)) = text.split_once("://") else {
        return text.parse().map(|endpoint| (endpoint, None));
    };
    let (scheme, port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (Scheme::Http, 80),
        "https" => (Scheme::Https, 443),
        _ => return Err(refused("its scheme is neither http nor https")),
    };
    let uri: Uri = text.parse().map_err(|cause| refused("it is no URI").with_source(cause))?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or_else(|| refused("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(refused("it has a user, and those belong into a header of each request"));
    }
    if uri.path_and_query().is_some_and(|path| path != "/") {
        return Err(refused("it has a path, and an endpoint is a server: requests have paths"));
    }
    let port = match authority.port_u16() {
        Some(port) => port,
        None if has_port(authority) => return Err(refused("its port is no number from 0 to 65535")),
        None => port,
    };
    let endpoint: Endpoint = format!("{}:{port}", authority.host()).parse()?;
    Ok((endpoint, Some(scheme)))
}

/// Whether requests can be for it.
pub(super) fn is_origin(authority: &Authority) -> bool {
    let has_bad_port = has_port(authority) && authority.port_u16().is_none();
    !authority.host().is_empty() && !authority.as_str().contains('@') && !has_bad_port
}

/// Whether it says anything after a colon, be it a port or not.
pub(super) fn has_port(authority: &Authority) -> bool {
    authority.as_str().rsplit_once(authority.host()).is_some_and(|(_, rest)| !rest.is_empty())
}

/// What a server is called by requests that do not say whom they are for.
pub(super) fn authority(target: &Target, scheme: Scheme) -> Authority {
    let port = match target.address() {
        Address::Ip(address) => Some(address.port()),
        Address::Name { port, .. } => Some(*port),
        _ => None,
    };
    let host = match target.server_name() {
        Some(name) if name.contains(':') => format!("[{name}]"),
        Some(name) => name,
        None => "localhost".to_owned(),
    };
    let is_default = matches!((scheme, port), (Scheme::Http, Some(80)) | (Scheme::Https, Some(443)));
    let text = match port {
        Some(port) if !is_default => format!("{host}:{port}"),
        _ => host,
    };
    // A TLS name can be anything; what no URI can have is not called by it.
    text.parse().unwrap_or_else(|_| Authority::from_static("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_written_with_and_without_a_scheme() {
        for (text, key, scheme) in [
            ("http://a.example", "a.example:80", Some(Scheme::Http)),
            ("HTTPS://a.example/", "a.example:443", Some(Scheme::Https)),
            ("http://[::1]:50051", "[::1]:50051", Some(Scheme::Http)),
            ("https://1.2.3.4:5", "1.2.3.4:5", Some(Scheme::Https)),
            ("a.example:7000", "a.example:7000", None),
            ("unix:/run/app", "unix:/run/app", None),
        ] {
            let (endpoint, found) = parse(text).unwrap();
            assert_eq!((endpoint.key().as_str(), found), (key, scheme), "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_what_to_write() {
        for (text, why) in [
            ("ftp://a:1", "neither http nor https"),
            ("http://", "cannot use"),
            ("http://:80", "cannot use"),
            ("https://me:secret@a", "user"),
            ("http://a/api", "path"),
            ("http://a?x=1", "path"),
            ("http://127.0.0.1:80800", "no number"),
            ("http://[::1]:", "no number"),
            ("a.example", "no port"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{text}");
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_server_is_called_as_its_certificate_calls_it() {
        for (target, scheme, expected) in [
            ("a:80", Scheme::Http, "a"),
            ("a:80", Scheme::Https, "a:80"),
            ("a:443", Scheme::Https, "a"),
            ("[::1]:8080", Scheme::Http, "[::1]:8080"),
            ("unix:/run/app", Scheme::Http, "localhost"),
        ] {
            assert_eq!(authority(&target.parse().unwrap(), scheme), expected, "{target}");
        }
        let named = "1.2.3.4:443".parse::<Target>().unwrap().with_tls_name("api.example");
        assert_eq!(authority(&named, Scheme::Https), "api.example");
        let odd = "1.2.3.4:443".parse::<Target>().unwrap().with_tls_name("no host at all");
        assert_eq!(authority(&odd, Scheme::Https), "localhost");
    }
}
