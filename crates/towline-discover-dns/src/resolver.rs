//! One question, and what its answer means.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use towline_core::{Error, Kind, Phase, Sent};
use towline_discover::Failure;

/// Asks servers; clones share their sockets.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<TokioResolver>);

/// Records of one kind, and the shortest of their times. None at all, if the server is sure of that.
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
        let failed = |why: &'static str| {
            move |cause: NetError| Error::new(Kind::Config, Phase::Build).with_message(why).with_source(cause)
        };
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(failed(
                "the system's settings for DNS cannot be read: see /etc/resolv.conf, or name a server",
            ))?
        } else {
            let servers = servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.into())
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        };
        let options = builder.options_mut();
        // Whoever asks here asks because it is time to.
        options.cache_size = 0;
        // An alias has a time, too.
        options.preserve_intermediates = true;
        (options.timeout, options.attempts) = (PATIENCE, 2);
        let resolver = builder.build().map_err(failed("no resolver can be made of the settings for DNS"))?;
        Ok(Self(Arc::new(resolver)))
    }

    /// # Errors
    ///
    /// When nobody knows.
    pub(crate) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Found, Failure> {
        match self.0.lookup(name.clone(), kind).await {
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
                Err(unavailable(format!("DNS does not say what {kind} records {name} has")).with_source(cause).into())
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
    let why = if found.is_no_name {
        format!("there is no name {name} (NXDOMAIN)")
    } else {
        format!("{name} has no {what} records")
    };
    let failure = Failure::from(unavailable(why));
    match found.ttl {
        Some(time) => failure.valid_for(time),
        None => failure,
    }
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
