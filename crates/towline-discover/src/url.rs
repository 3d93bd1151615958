//! A source written as text: `scheme:rest`.

use std::fmt;
use std::str::FromStr;

use towline_core::{Endpoint, Error, Kind, Phase};

/// Where endpoints come from, as text: `dns:///db.example:7000`, `file:/etc/towline/endpoints`, `static:10.0.0.1:7000,10.0.0.2:7000`.
///
/// What comes after the scheme is the scheme's own business. Those that name something on a server have two forms for it, as gRPC's have:
/// `scheme:name`, and `scheme://server/name`, in which the server may be left out.
///
/// ```
/// use towline_discover::SourceUrl;
///
/// let url: SourceUrl = "dns://10.0.0.53/db.example:7000".parse()?;
/// assert_eq!((url.scheme(), url.server(), url.name()), ("dns", Some("10.0.0.53"), "db.example:7000"));
/// assert!("10.0.0.1:7000".parse::<SourceUrl>().is_err());
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceUrl {
    scheme: String,
    rest: String,
}

impl SourceUrl {
    /// The scheme, in small letters.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Everything after the scheme's colon.
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// Who is asked, of `scheme://server/name`.
    pub fn server(&self) -> Option<&str> {
        let (server, _) = self.rest.strip_prefix("//")?.split_once('/')?;
        (!server.is_empty()).then_some(server)
    }

    /// What is asked for. Of `scheme://name`, which has no slash after it, that is the name as well.
    pub fn name(&self) -> &str {
        let Some(rest) = self.rest.strip_prefix("//") else { return &self.rest };
        rest.split_once('/').map_or(rest, |(_, name)| name)
    }

    /// An error about it.
    pub fn refused(&self, why: impl fmt::Display) -> Error {
        refused(&self.to_string(), why)
    }
}

fn refused(text: &str, why: impl fmt::Display) -> Error {
    Error::new(Kind::Config, Phase::Build).with_message(format!("cannot use {text:?} as a source of endpoints: {why}"))
}

/// Whoever writes an endpoint means it.
pub(crate) fn is_endpoint(text: &str) -> String {
    format!("it is an endpoint; write static:{text}, or use endpoints()")
}

impl FromStr for SourceUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let form = "write scheme:rest, such as dns:///name:port or file:path";
        let (scheme, rest) = text.split_once(':').ok_or_else(|| refused(text, format!("it has no scheme; {form}")))?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        if !is_scheme && text.parse::<Endpoint>().is_ok() {
            return Err(refused(text, is_endpoint(text)));
        }
        if !is_scheme {
            return Err(refused(text, format!("{scheme:?} is no scheme; {form}")));
        }
        if rest.is_empty() || rest.bytes().all(|byte| byte == b'/') {
            return Err(refused(text, format!("there is nothing after the scheme; {form}")));
        }
        Ok(Self { scheme: scheme.to_ascii_lowercase(), rest: rest.to_owned() })
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme, self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_with_and_without_a_server() {
        for (text, server, name) in [
            ("dns:a:1", None, "a:1"),
            ("dns:///a:1", None, "a:1"),
            ("DNS://10.0.0.53:5353/a:1,b:2", Some("10.0.0.53:5353"), "a:1,b:2"),
            ("dns://[::1]:53/[::2]:1", Some("[::1]:53"), "[::2]:1"),
            ("dns+srv://_x._tcp.a", None, "_x._tcp.a"),
        ] {
            let url: SourceUrl = text.parse().unwrap();
            assert_eq!((url.server(), url.name()), (server, name), "{text}");
            assert!(url.scheme().starts_with("dns"));
        }
    }

    #[test]
    fn what_is_no_source_is_refused_with_what_to_write() {
        for (text, why) in [
            ("", "no scheme"),
            ("endpoints.json", "no scheme"),
            ("10.0.0.1:7000", "write static:10.0.0.1:7000"),
            ("[::1]:7000", "write static:"),
            ("/etc/x:y", "no scheme; write"),
            ("dns:", "nothing after the scheme"),
            ("dns:///", "nothing after the scheme"),
            ("1x:y", "no scheme; write"),
        ] {
            let error = text.parse::<SourceUrl>().unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{text}");
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }
}
