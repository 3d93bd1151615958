//! One question, and what its answer means.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};
use towline_core::{Error, Kind, Phase, Sent};
use towline_discover::Failure;

/// Asks servers; clones share their sockets.
#[derive(Clone)]
pub(crate) struct Resolver {
    dns: Arc<TokioResolver>,
    system: Arc<System>,
}

/// What the system adds to DNS. It is kept from hickory, which would go on to the next search domain for each kind of record by itself: the
/// addresses of one name would then be those of two.
pub(crate) struct System {
    /// In this order.
    pub(crate) search: Vec<Name>,
    /// A name with more labels than this is taken as it is first.
    pub(crate) ndots: usize,
    pub(crate) hosts: Hosts,
}

/// Records of one kind, and the shortest of their times. None at all, if the server is sure of that.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<RData>,
    pub(crate) ttl: Option<Duration>,
    /// There is not even such a name.
    pub(crate) is_no_name: bool,
}

/// A question is sent again after this, twice; [`Timing`](towline_discover::Timing) limits all of it.
const PATIENCE: Duration = Duration::from_secs(2);

impl Resolver {
    pub(crate) fn new(servers: &[SocketAddr]) -> Result<Self, Error> {
        if !servers.is_empty() {
            let servers = servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.into())
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            let system = System { search: Vec::new(), ndots: 1, hosts: Hosts::default() };
            return Self::of(config, ResolverOpts::default(), system);
        }
        let unread = |why: &'static str| Error::new(Kind::Config, Phase::Build).with_message(why);
        let (config, options) = read_system_conf().map_err(|cause| {
            unread("the system's settings for DNS cannot be read: see /etc/resolv.conf, or name a server")
                .with_source(cause)
        })?;
        let hosts = Hosts::from_system().map_err(|cause| {
            unread("the system's file of hosts cannot be read: see /etc/hosts, or name a server of DNS")
                .with_source(cause)
        })?;
        let search = config.search().iter().chain(config.domain()).cloned().collect();
        let system = System { search, ndots: options.ndots, hosts };
        Self::of(config, options, system)
    }

    pub(crate) fn of(config: ResolverConfig, options: ResolverOpts, system: System) -> Result<Self, Error> {
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        let options = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Never;
        // Whoever asks here asks because it is time to.
        options.cache_size = 0;
        // An alias has a time, too.
        options.preserve_intermediates = true;
        (options.timeout, options.attempts) = (PATIENCE, 2);
        let dns = builder.build().map_err(|cause| {
            let why = "no resolver can be made of the settings for DNS";
            Error::new(Kind::Config, Phase::Build).with_message(why).with_source(cause)
        })?;
        Ok(Self { dns: Arc::new(dns), system: Arc::new(system) })
    }

    /// What this name can mean, in order: the first that has what is asked for is it.
    pub(crate) fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut whole = name.clone();
        whole.set_fqdn(true);
        let System { search, ndots, .. } = &*self.system;
        if name.is_fqdn() {
            return vec![whole];
        }
        // One that is too long with a domain cannot be there.
        let searched = search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut candidates: Vec<Name> = Vec::new();
        let is_whole_first = usize::from(name.num_labels()) > *ndots || name.is_localhost();
        let first = is_whole_first.then(|| whole.clone());
        for candidate in first.into_iter().chain(searched).chain([whole]) {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }

    /// What the system's file of hosts has, of both kinds.
    pub(crate) fn hosts(&self, name: &Name) -> Vec<RData> {
        let of = |kind| self.system.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [RecordType::A, RecordType::AAAA].map(of);
        found.iter().flatten().flat_map(|found| found.answers().iter().map(|record| record.data.clone())).collect()
    }

    /// # Errors
    ///
    /// When nobody knows.
    pub(crate) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Found, Failure> {
        match self.dns.lookup(name.clone(), kind).await {
            Ok(answer) => {
                let ttl = answer.answers().iter().map(|record| Duration::from_secs(record.ttl.into())).min();
                let records = answer.answers().iter().filter(|record| record.record_type() == kind);
                let records = records.map(|record| record.data.clone()).collect();
                Ok(Found { records, ttl, is_no_name: false })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
            {
                Ok(Found {
                    records: Vec::new(),
                    ttl: none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into())),
                    is_no_name: none.response_code == ResponseCode::NXDomain,
                })
            }
            Err(cause) => {
                let why = format!("DNS does not say what {kind} records {} has", plain(name));
                Err(unavailable(why).with_source(cause).into())
            }
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// # Errors
///
/// [`Kind::Config`].
pub(crate) fn parse_name(text: &str) -> Result<Name, Error> {
    let refused = |why: String| {
        let why = format!("{text:?} cannot be asked for by DNS: {why}");
        Error::new(Kind::Config, Phase::Build).with_message(why)
    };
    if text.trim_matches('.').is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    // Names of hosts have no underscores by the rules of IDNA, and do in practice.
    let name = if text.is_ascii() { Name::from_ascii(text) } else { Name::from_utf8(text) };
    name.map_err(|cause| refused("it is no name".to_owned()).with_source(cause))
}

pub(crate) fn unavailable(why: String) -> Error {
    Error::new(Kind::Unavailable, Phase::Resolve).with_sent(Sent::Never).with_message(why)
}

/// The server is sure that there is nothing, for a while.
pub(crate) fn nothing(name: &Name, what: &str, found: &Found) -> Failure {
    let name = plain(name);
    let why = if found.is_no_name {
        format!("there is no name {name} (NXDOMAIN)")
    } else {
        format!("{name} has no {what} records")
    };
    let mut failure = Failure::from(unavailable(why));
    failure.valid_for = found.ttl;
    failure
}

/// For people, without the last dot.
pub(crate) fn plain(name: &Name) -> String {
    let name = name.to_utf8();
    if name == "." { name } else { name.trim_end_matches('.').to_owned() }
}

/// As certificates have it: without the last dot, and in letters of ASCII.
pub(crate) fn tls_name(name: &Name) -> Arc<str> {
    let name = name.to_ascii();
    name.strip_suffix('.').unwrap_or(&name).into()
}

/// The shorter of two times, where there is one.
pub(crate) fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
