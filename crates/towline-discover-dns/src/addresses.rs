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
        let ask = |kind, is_wanted| {
            let asking = || Either::Left(self.resolver.ask(&self.name, kind));
            if is_wanted { asking() } else { Either::Right(ready(Ok(none()))) }
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
        let (v4, v6) = match (v4, v6) {
            (Err(failure), Err(_)) => return Err(failure),
            // The other half is not to be waited for until the first one's time is over.
            (Err(failure), Ok(found)) if found.records.is_empty() => return Err(failure),
            (Ok(found), Err(failure)) if found.records.is_empty() => return Err(failure),
            halves => halves,
        };
        let mut partial = None;
        let (mut ttl, mut negative) = (None, Found { records: Vec::new(), ttl: None, is_no_name: false });
        for (found, known) in [(v4, &mut self.v4), (v6, &mut self.v6)] {
            let Found { records, ttl: time, is_no_name: says_so } = match found {
                Ok(found) => found,
                Err(failure) => {
                    partial = Some(failure.error);
                    continue;
                }
            };
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
        // To be asked for again soon.
        let ttl = if partial.is_some() { Some(Duration::ZERO) } else { ttl };
        Ok(Known { addresses: all, ttl, partial })
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
        let Known { addresses, ttl, partial } = self.addresses.ask().await?;
        let endpoint = |address| Endpoint::from(SocketAddr::new(address, self.port)).with_tls_name(self.name.clone());
        let mut answer = Answer::new(sorted(addresses.into_iter().map(endpoint).collect()));
        (answer.valid_for, answer.partial) = (ttl, partial);
        Ok(answer)
    }
}
