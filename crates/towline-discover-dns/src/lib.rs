//! Endpoints by DNS: the addresses of a name, or the servers of a service.
//!
//! | URL | asks for | endpoints |
//! |---|---|---|
//! | `dns:///db.example:7000` | A and AAAA | each address, at this port |
//! | `dns:///db-1.example:7000,db-2.example:7000,[::1]:7000` | of several names | those of all; an address stands for itself |
//! | `dns+srv:///_db._tcp.example` | SRV, and A and AAAA of its targets | each address of each target, at its port, with weight and priority |
//! | `dns://10.0.0.53/db.example:7000` | this server, port 53 or as given | |
//!
//! [`Dns`] makes the same sources by hand, with settings; [`register`] makes the URLs known.
//!
//! ```
//! use towline_discover::Schemes;
//! use towline_discover_dns::Dns;
//!
//! let dns = Dns::new().server("10.0.0.53:53".parse()?);
//! let source = dns.addresses("db.example", 7000)?;
//! let same = dns.register(Schemes::default()).open("dns:///db.example:7000")?;
//! # drop((source, same));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - **TTL.** A name is asked for again when the shortest TTL of its answer is over, between the floor and the ceiling of [`Timing`] and
//!   with its jitter. There is no cache in between.
//! - **Negative answers** (NXDOMAIN, or no record of the kind) are failures for as long as the zone's SOA says; other failures are tried again
//!   after a backoff. A failure empties nothing: the set before stays, in the balancer, for ever or until
//!   [`keep_last_good`](towline_discover::Source::keep_last_good) says so.
//! - **Half an answer** is no smaller answer: where the question for AAAA fails and the one for A does not, IPv6 addresses stay that were
//!   known. The same holds for the targets of SRV, and for several names. It is told by an event: as an
//!   [error](towline_discover::Answer::partial) before the set, once as long as it stays the same. With addresses of one family at hand the other is waited for no longer than a second.
//! - **Order** does not matter: servers turn their answers around, and that is no change.
//! - **Large answers** that do not fit into a datagram are asked for again by TCP.
//! - **Nobody reached**: a failed dial has the name asked for again, not more often than the floor. The builders of towline arrange that;
//!   elsewhere see [`Refresh`](towline_discover::Refresh).
//! - **Search domains, `ndots`, `/etc/hosts`** and servers are the system's, read once when a source is made, unless a [server](Dns::server) is
//!   given: then names are taken as they are. As with `getaddrinfo`, the first of what a name can mean that has an address is it, for both
//!   families. When nobody knows what one of them has, that is a failure, and the next is not it. A name that ends with a dot is never searched for: in
//!   Kubernetes, where names are searched for in four domains before they are taken as they are, write it.
//! - **TLS.** Certificates are verified against the name that was asked for, and for SRV against the service's domain: DNS says where a server is,
//!   and not who it is (RFC 6125). See [`Dns::verify_targets`].

mod addresses;
mod resolver;
mod services;
#[cfg(test)]
mod tests;
mod url;

use std::net::SocketAddr;

use towline_core::Error;
use towline_discover::{Resolving, Scheme, Schemes, Source, Timing};

use self::addresses::Addresses;
use self::resolver::Resolver;
use self::services::Services;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// IPv4 and IPv6.
    #[default]
    Both,
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// What SRV's priorities become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Backups {
    #[default]
    Weightless,
    Tiers,
}

/// How names are asked for; makes [`Source`]s.
///
/// ```
/// use std::time::Duration;
/// use towline_discover::Timing;
/// use towline_discover_dns::{Dns, Family};
///
/// let dns = Dns::new()
///     .server("10.0.0.53:53".parse()?)
///     .family(Family::V4)
///     .timing(Timing::default().floor(Duration::from_secs(1)).ceiling(Duration::from_secs(60)));
/// let service = dns.service("_db._tcp.example")?;
/// # drop(service);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Dns {
    servers: Vec<SocketAddr>,
    family: Family,
    timing: Timing,
    verifies_targets: bool,
    backups: Backups,
}

impl Dns {
    /// By the system's servers, for addresses of both families.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks this server, and others that are given, instead of the system's. A URL's own server takes their place. Names are then complete: there are no search domains, and
    /// `/etc/hosts` is not looked at.
    pub fn server(mut self, server: SocketAddr) -> Self {
        self.servers.push(server);
        self
    }

    /// Asks for these addresses only.
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// When to ask.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Verifies a service's servers against their own names, which SRV says, instead of the service's domain. Whoever can forge an answer of DNS
    /// can then be any server with a certificate: for zones that are signed, or networks that are trusted.
    pub fn verify_targets(mut self) -> Self {
        self.verifies_targets = true;
        self
    }

    /// Keeps the weights of a service's servers of every priority, for `towline_balance::Zones`, which goes by
    /// [priority](towline_core::Endpoint::priority). By default only those of the first priority have a weight, and the others 0: they are called when none of these
    /// can be, by every policy.
    pub fn priorities_as_tiers(mut self) -> Self {
        self.backups = Backups::Tiers;
        self
    }

    /// The addresses of `name`, each with `port`.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](towline_core::Kind::Config): it is no name, the timing cannot work, or the system's settings cannot be read. What DNS says
    /// is an item of the source.
    pub fn addresses(&self, name: &str, port: u16) -> Result<Source, Error> {
        self.addresses_by(self.resolver()?, name, port)
    }

    fn addresses_by(&self, resolver: Resolver, name: &str, port: u16) -> Result<Source, Error> {
        let addresses = Addresses::new(resolver, name, self.family)?;
        Resolving::new(addresses.at(port)).timing(self.timing).source()
    }

    /// The servers of a service (RFC 2782), such as `_db._tcp.example`.
    ///
    /// A weight of 0 is the smallest one where others have more, and all are equal where all are 0; addresses of one target share its weight.
    /// The target `.` says that the service is not there: [none](towline_core::EndpointSet::none) on purpose. A question, within the
    /// [limit](Timing::limit), is that for SRV and those for all its targets.
    ///
    /// # Errors
    ///
    /// Those of [`addresses`](Self::addresses).
    pub fn service(&self, name: &str) -> Result<Source, Error> {
        self.service_by(self.resolver()?, name)
    }

    fn service_by(&self, resolver: Resolver, name: &str) -> Result<Source, Error> {
        Resolving::new(Services::new(resolver, name, self)?).timing(self.timing).source()
    }

    /// Makes `dns:` and `dns+srv:` known, with these settings.
    #[must_use]
    pub fn register(&self, schemes: Schemes) -> Schemes {
        schemes.with(self.scheme()).with(self.service_scheme())
    }

    /// `dns:` with these settings, for a builder's `scheme`.
    pub fn scheme(&self) -> impl Scheme + use<> {
        url::Names(self.clone())
    }

    /// `dns+srv:` with these settings, for a builder's `scheme`.
    pub fn service_scheme(&self) -> impl Scheme + use<> {
        url::OfServices(self.clone())
    }

    fn resolver(&self) -> Result<Resolver, Error> {
        Resolver::new(&self.servers)
    }
}

/// Makes `dns:` and `dns+srv:` known, as [`Dns::new`] has them.
#[must_use]
pub fn register(schemes: Schemes) -> Schemes {
    Dns::new().register(schemes)
}
