//! What is dialled and pooled.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, Kind, Phase};

/// Where to dial, before anything is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An address that needs no resolution.
    Ip(SocketAddr),
    /// A name to resolve at every dial, and a port.
    Name {
        /// The host name, without brackets.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// A Unix domain socket.
    Unix(Arc<Path>),
}

/// What a connection is made to: an address, and the name that its certificate must carry.
///
/// Targets are compared by value and are cheap to clone; a pool keeps one set of connections for each.
/// Parsed from `host:port`, `1.2.3.4:port`, `[::1]:port` or `unix:/path`.
///
/// ```
/// use towline_core::{Address, Target};
///
/// let target: Target = "db.example:7000".parse()?;
/// assert_eq!(target.tls_name(), Some("db.example"));
///
/// let here: Target = "[::1]:7000".parse()?;
/// assert_eq!(here.clone().with_tls_name("db.example").tls_name(), Some("db.example"));
///
/// let wrong = "db.example".parse::<Target>().unwrap_err();
/// assert!(wrong.to_string().contains("no port"));
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    address: Address,
    tls_name: Option<Arc<str>>,
}

impl Target {
    /// A target at `address`.
    pub fn new(address: Address) -> Self {
        Self { address, tls_name: None }
    }

    /// Checks the certificate against `name` (a DNS name or an IP address) instead of the host that is dialled.
    #[must_use]
    pub fn with_tls_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.tls_name = Some(name.into());
        self
    }

    /// Where to dial.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The name that was set by [`with_tls_name`](Self::with_tls_name), else the host name that is dialled.
    ///
    /// `None` for a plain IP address (whose text is the name, see [`server_name`](Self::server_name)) and for a
    /// Unix socket.
    pub fn tls_name(&self) -> Option<&str> {
        match (&self.tls_name, &self.address) {
            (Some(name), _) => Some(name),
            (None, Address::Name { host, .. }) => Some(host),
            (None, _) => None,
        }
    }

    /// The name that a certificate is verified against: brackets and one trailing dot removed, an IP address in
    /// its plain form. `None` for a Unix socket without a name.
    pub fn server_name(&self) -> Option<String> {
        match (self.tls_name(), &self.address) {
            (Some(name), _) => {
                let name = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
                Some(name.strip_suffix('.').unwrap_or(name).to_owned())
            }
            (None, Address::Ip(addr)) => Some(addr.ip().to_string()),
            (None, _) => None,
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self::new(Address::Ip(addr))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::new(Kind::Config, Phase::Build).with_message(format!(
                "cannot parse {text:?} as an endpoint: {why}; write host:port, 1.2.3.4:port, [v6]:port or unix:/path"
            ))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(bad("the path is empty")),
                path => Ok(Self::Unix(PathBuf::from(path).into())),
            };
        }
        if text.contains("://") {
            return Err(bad("a scheme does not belong here"));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
        let port = match port.parse() {
            Ok(0) => return Err(bad("port 0 cannot be dialled")),
            Ok(port) => port,
            Err(_) => return Err(bad(&format!("{port:?} is no port number"))),
        };
        if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            let ip: Ipv6Addr = v6.parse().map_err(|_| bad(&format!("{v6:?} is no IPv6 address")))?;
            return Ok(Self::Ip((ip, port).into()));
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return match ip {
                IpAddr::V4(_) => Ok(Self::Ip((ip, port).into())),
                IpAddr::V6(_) => Err(bad("an IPv6 address needs brackets")),
            };
        }
        let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        match host {
            "" => Err(bad("the host is empty")),
            host if host.contains(':') => Err(bad("an IPv6 address needs brackets")),
            host if !host.chars().all(label) => Err(bad(&format!("{host:?} is no host name"))),
            host => Ok(Self::Name { host: host.into(), port }),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.parse().map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_users_write() {
        for text in ["127.0.0.1:7000", "[::1]:7000", "db.example:7000", "unix:/run/db.sock"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_unparsable_endpoint_is_named_with_what_to_change() {
        for (text, why) in [
            ("", "no port"),
            ("db", "no port"),
            (":80", "host is empty"),
            ("db:http", "\"http\" is no port"),
            ("db:70000", "\"70000\" is no port"),
            ("db:0", "port 0"),
            ("::1:80", "needs brackets"),
            ("[::zz]:80", "no IPv6 address"),
            ("http://db:80", "a scheme"),
            ("d b:80", "no host name"),
            ("unix:", "path is empty"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            let said = error.to_string();
            assert!(said.contains(why) && said.contains("host:port"), "{text:?}: {said}");
        }
    }

    #[test]
    fn server_names_are_normalised() {
        let name = |t: &str| t.parse::<Target>().unwrap().server_name();
        assert_eq!(name("db.example.:1").as_deref(), Some("db.example"));
        assert_eq!(name("[::1]:1").as_deref(), Some("::1"));
        assert_eq!(name("unix:/x"), None);
        let named = Target::from(SocketAddr::from(([127, 0, 0, 1], 1))).with_tls_name("[::1]");
        assert_eq!(named.server_name().as_deref(), Some("::1"));
    }
}
