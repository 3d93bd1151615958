//! The addresses of a name.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join, ready};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use towline_core::{Endpoint, Error};
use towline_discover::{Answer, Failure, Resolve, sorted};

use crate::Family;
use crate::resolver::{Found, Resolver, nothing, parse_name, shorter};

/// Asks for the addresses of one name, and remembers them by family.
#[derive(Debug)]
pub(crate) struct Addresses {
    resolver: Resolver,
    name: Name,
    family: Family,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl Addresses {
    pub(crate) fn new(resolver: Resolver, name: &str, family: Family) -> Result<Self, Error> {
        Ok(Self::of(resolver, parse_name(name)?, family))
    }

    pub(crate) fn of(resolver: Resolver, name: Name, family: Family) -> Self {
        Self { resolver, name, family, v4: Vec::new(), v6: Vec::new() }
    }

    pub(crate) fn at(self, port: u16) -> AtPort {
        let name = self.name.to_utf8();
        let name = name.strip_suffix('.').unwrap_or(&name).into();
        AtPort { addresses: self, name, port }
    }

    /// Those that are known.
    pub(crate) fn last(&self) -> Vec<IpAddr> {
        self.v4.iter().chain(&self.v6).copied().collect()
    }

    /// All of them, and for how long. A family that could not be asked for has what it had.
    ///
    /// # Errors
    ///
    /// When there are none, or no family could be asked for.
    pub(crate) async fn ask(&mut self) -> Result<(Vec<IpAddr>, Option<Duration>), Failure> {
        let ask = |kind, is_wanted| {
            let asking = || Either::Left(self.resolver.ask(&self.name, kind));
            if is_wanted { asking() } else { Either::Right(ready(Ok(none()))) }
        };
        let v4 = ask(RecordType::A, self.family != Family::V6);
        let v6 = ask(RecordType::AAAA, self.family != Family::V4);
        let (v4, v6) = match join(v4, v6).await {
            (Err(failure), Err(_)) => return Err(failure),
            // The other half is not to be waited for until the first one's time is over.
            (Err(failure), Ok(found)) if found.records.is_empty() => return Err(failure),
            (Ok(found), Err(failure)) if found.records.is_empty() => return Err(failure),
            halves => halves,
        };
        let is_half = v4.is_err() || v6.is_err();
        let (mut ttl, mut negative) = (None, Found { records: Vec::new(), ttl: None, is_no_name: false });
        for (found, known) in [(v4, &mut self.v4), (v6, &mut self.v6)] {
            let Ok(Found { records, ttl: time, is_no_name: says_so }) = found else { continue };
            // That there is no record has a time as well, which counts when there is none at all.
            if records.is_empty() {
                negative.ttl = shorter(negative.ttl, time);
            } else {
                ttl = shorter(ttl, time);
            }
            negative.is_no_name |= says_so;
            *known = records.iter().filter_map(address).collect();
        }
        let all = self.last();
        if all.is_empty() {
            let what = match self.family {
                Family::Both => "A or AAAA",
                Family::V4 => "A",
                Family::V6 => "AAAA",
            };
            return Err(nothing(&self.name, what, &negative));
        }
        Ok((all, if is_half { Some(Duration::ZERO) } else { ttl }))
    }
}

fn none() -> Found {
    Found { records: Vec::new(), ttl: None, is_no_name: false }
}

fn address(record: &RData) -> Option<IpAddr> {
    match record {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// As endpoints.
#[derive(Debug)]
pub(crate) struct AtPort {
    addresses: Addresses,
    /// What certificates are to say.
    name: Arc<str>,
    port: u16,
}

impl Resolve for AtPort {
    async fn resolve(&mut self) -> Result<Answer, Failure> {
        let (addresses, ttl) = self.addresses.ask().await?;
        let endpoint = |address| Endpoint::from(SocketAddr::new(address, self.port)).with_tls_name(self.name.clone());
        let answer = Answer::new(sorted(addresses.into_iter().map(endpoint).collect()));
        Ok(match ttl {
            Some(time) => answer.valid_for(time),
            None => answer,
        })
    }
}
