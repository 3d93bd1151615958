//! The addresses of a name.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, ready, select};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;
use towline_core::{Endpoint, Error};
use towline_discover::{Answer, Failure, Resolve, sorted};

use crate::Family;
use crate::resolver::{Found, Resolver, nothing, parse_name, shorter, tls_name, unavailable};

/// Asks for the addresses of one name, and remembers them by family.
#[derive(Debug)]
pub(crate) struct Addresses {
    resolver: Resolver,
    name: Name,
    family: Family,
    /// What the name meant, and had.
    candidate: Option<Name>,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl Addresses {
    pub(crate) fn new(resolver: Resolver, name: &str, family: Family) -> Result<Self, Error> {
        Ok(Self::of(resolver, parse_name(name)?, family))
    }

    pub(crate) fn of(resolver: Resolver, name: Name, family: Family) -> Self {
        Self { resolver, name, family, candidate: None, v4: Vec::new(), v6: Vec::new() }
    }

    pub(crate) fn at(self, port: u16) -> AtPort {
        let name = tls_name(&self.name);
        AtPort { addresses: self, name, port }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Those that are known.
    pub(crate) fn last(&self) -> Vec<IpAddr> {
        self.v4.iter().chain(&self.v6).copied().collect()
    }

    /// All of them. A family that could not be asked for has what it had.
    ///
    /// # Errors
    ///
    /// When there are none, or no family could be asked for.
    pub(crate) async fn ask(&mut self) -> Result<Known, Failure> {
        let of_hosts = self.of_family(self.resolver.hosts(&self.name));
        if !of_hosts.is_empty() {
            return Ok(Known { addresses: of_hosts, ttl: None, partial: None });
        }
        let mut negative = Found::default();
        for candidate in self.resolver.candidates(&self.name) {
            // When nobody knows what a name has, another is not what was meant.
            let halves = self.ask_for(&candidate).await?;
            if let Some(known) = self.known(candidate, halves, &mut negative) {
                return Ok(known);
            }
        }
        (self.v4, self.v6, self.candidate) = (Vec::new(), Vec::new(), None);
        let what = match self.family {
            Family::Both => "A or AAAA",
            Family::V4 => "A",
            Family::V6 => "AAAA",
        };
        Err(nothing(&self.name, what, &negative))
    }

    fn of_family(&self, records: Vec<RData>) -> Vec<IpAddr> {
        let is_wanted = |address: &IpAddr| match self.family {
            Family::Both => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        };
        records.iter().filter_map(address).filter(is_wanted).collect()
    }

    /// What a name has of A and of AAAA.
    ///
    /// # Errors
    ///
    /// When there is no address and it is not certain that there is none.
    async fn ask_for(&self, name: &Name) -> Result<[Result<Found, Failure>; 2], Failure> {
        let ask = |kind, is_wanted| {
            let asking = || Either::Left(self.resolver.ask(name, kind));
            if is_wanted { asking() } else { Either::Right(ready(Ok(Found::default()))) }
        };
        let v4 = pin!(ask(RecordType::A, self.family != Family::V6));
        let v6 = pin!(ask(RecordType::AAAA, self.family != Family::V4));
        let (v4, v6) = match select(v4, v6).await {
            Either::Left((v4, v6)) => {
                let v6 = other_half(&v4, v6).await;
                (v4, v6)
            }
            Either::Right((v6, v4)) => (other_half(&v6, v4).await, v6),
        };
        match (v4, v6) {
            (Err(failure), Err(_)) => Err(failure),
            (Err(failure), Ok(found)) | (Ok(found), Err(failure)) if found.records.is_empty() => Err(failure),
            (v4, v6) => Ok([v4, v6]),
        }
    }

    /// Takes what a name has; if that is nothing, `negative` learns for how long.
    fn known(&mut self, name: Name, halves: [Result<Found, Failure>; 2], negative: &mut Found) -> Option<Known> {
        if !halves.iter().flatten().any(|found| !found.records.is_empty()) {
            for found in halves.into_iter().flatten() {
                negative.ttl = shorter(negative.ttl, found.ttl);
                negative.is_no_name |= found.is_no_name;
            }
            return None;
        }
        if self.candidate.as_ref() != Some(&name) {
            // What is known is another's.
            (self.v4, self.v6, self.candidate) = (Vec::new(), Vec::new(), Some(name));
        }
        let (mut ttl, mut partial) = (None, None);
        for (found, known) in halves.into_iter().zip([&mut self.v4, &mut self.v6]) {
            match found {
                Ok(found) => {
                    *known = found.records.iter().filter_map(address).collect();
                    // That a family has none has a time as well, and is not to be asked for because of it.
                    if !known.is_empty() {
                        ttl = shorter(ttl, found.ttl);
                    }
                }
                Err(failure) => partial = Some(failure.error),
            }
        }
        // To be asked for again soon.
        let ttl = if partial.is_some() { Some(Duration::ZERO) } else { ttl };
        Some(Known { addresses: self.last(), ttl, partial })
    }
}

/// What is known of a name.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ttl: Option<Duration>,
    /// Why some of it is what was known before.
    pub(crate) partial: Option<Error>,
}

/// Servers there are that answer one of the two questions and are silent to the other: with addresses at hand it is not waited for for
/// long.
async fn other_half(
    first: &Result<Found, Failure>,
    other: impl Future<Output = Result<Found, Failure>>,
) -> Result<Found, Failure> {
    const GRACE: Duration = Duration::from_secs(1);
    if !first.as_ref().is_ok_and(|found| !found.records.is_empty()) {
        return other.await;
    }
    timeout(GRACE, other).await.unwrap_or_else(|_| {
        let why = format!("of A and AAAA records DNS has told one, and not the other within {GRACE:?}");
        Err(unavailable(why).into())
    })
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
        let Known { addresses, ttl, partial } = self.addresses.ask().await?;
        let endpoint = |address| Endpoint::from(SocketAddr::new(address, self.port)).with_tls_name(self.name.clone());
        let mut answer = Answer::new(sorted(addresses.into_iter().map(endpoint).collect()));
        (answer.valid_for, answer.partial) = (ttl, partial);
        Ok(answer)
    }
}
