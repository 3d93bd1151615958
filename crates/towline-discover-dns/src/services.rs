//! The servers of a service.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;
use towline_core::{Endpoint, EndpointSet, Error, Weight};
use towline_discover::{Answer, Failure, Resolve, sorted};

use crate::addresses::{Addresses, Known};
use crate::resolver::{Found, Resolver, nothing, parse_name, plain, shorter, tls_name, unavailable};
use crate::{Backups, Dns, Family};

/// Targets of one service that are asked for at a time.
const AT_ONCE: usize = 64;
/// One of them may take so long; those that have been asked keep their answers, also when the question as a whole takes too long.
const PATIENCE: Duration = Duration::from_secs(4);
/// More targets than one answer of DNS can have; nobody is to make us ask for more.
const MOST_TARGETS: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Services {
    resolver: Resolver,
    name: Name,
    family: Family,
    verifies_targets: bool,
    backups: Backups,
    /// The targets of the last answer, which know their addresses.
    targets: HashMap<Name, Addresses>,
}

impl Services {
    pub(crate) fn new(resolver: Resolver, name: &str, dns: &Dns) -> Result<Self, Error> {
        let name = parse_name(name)?;
        let Dns { family, verifies_targets, backups, .. } = *dns;
        Ok(Self { resolver, name, family, verifies_targets, backups, targets: HashMap::new() })
    }

    /// What the name meant, and its records.
    ///
    /// # Errors
    ///
    /// When there are none, or nobody knows.
    async fn ask(&self) -> Result<(Name, Found), Failure> {
        let mut negative = Found::default();
        for candidate in self.resolver.candidates(&self.name) {
            let found = self.resolver.ask(&candidate, RecordType::SRV).await?;
            if found.records.iter().any(|record| srv(record).is_some()) {
                return Ok((candidate, found));
            }
            negative.ttl = shorter(negative.ttl, found.ttl);
            negative.is_no_name |= found.is_no_name;
        }
        Err(nothing(&self.name, "SRV", &negative))
    }

    /// Asks for the addresses of these targets, which are sorted. Those that cannot be asked for keep what they had.
    async fn ask_targets(&mut self, names: Vec<Name>) -> Asked {
        self.targets.retain(|name, _| names.binary_search(name).is_ok());
        for name in names {
            let new = || Addresses::of(self.resolver.clone(), name.clone(), self.family);
            self.targets.entry(name.clone()).or_insert_with(new);
        }
        let asking: Vec<_> = self.targets.values_mut().map(ask_target).collect();
        let mut answers: Vec<_> = stream::iter(asking).buffer_unordered(AT_ONCE).collect().await;
        // Of several failures the same one is said each time.
        answers.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut asked = Asked::default();
        for (_, answer) in answers {
            let (ttl, partial) = match answer {
                Ok(Known { ttl, partial, .. }) => (ttl, partial),
                // When nobody says for how long, it is to be asked for again soon.
                Err(failure) => (Some(failure.valid_for.unwrap_or_default()), Some(failure.error)),
            };
            asked.ttl = shorter(asked.ttl, ttl);
            asked.partial = asked.partial.or(partial);
        }
        asked
    }
}

async fn ask_target(addresses: &mut Addresses) -> (Name, Result<Known, Failure>) {
    let name = addresses.name().clone();
    let late = |_| {
        Err(unavailable(format!("DNS does not say within {PATIENCE:?} what addresses {} has", plain(&name))).into())
    };
    let answer = timeout(PATIENCE, addresses.ask()).await.unwrap_or_else(late);
    (name, answer)
}

/// What certificates are to say: the name without `_service._protocol`.
fn domain(name: &Name) -> Arc<str> {
    let is_of_service = |label: &&[u8]| label.starts_with(b"_");
    let labels: Vec<_> = name.iter().collect();
    let domain = labels.iter().skip_while(|label| is_of_service(label)).copied();
    Name::from_labels(domain).map(|domain| tls_name(&domain)).unwrap_or_default()
}

/// What asking for targets has come to.
#[derive(Default)]
struct Asked {
    ttl: Option<Duration>,
    /// Why some have what they had, or nothing.
    partial: Option<Error>,
}

impl Resolve for Services {
    async fn resolve(&mut self) -> Result<Answer, Failure> {
        let (name, found) = self.ask().await?;
        let records: Vec<_> = found.records.iter().filter_map(srv).take(MOST_TARGETS).collect();
        if records.iter().all(|record| record.target.is_root()) {
            let answer = Answer::new(EndpointSet::none());
            return Ok(answer.valid_for(found.ttl.unwrap_or_default()));
        }
        let records: Vec<_> = records.into_iter().filter(|record| !record.target.is_root()).collect();
        let mut names: Vec<_> = records.iter().map(|record| record.target.clone()).collect();
        names.sort();
        names.dedup();
        let Asked { ttl, partial } = self.ask_targets(names).await;
        let domain = domain(&name);
        let ranks = ranks(&records);
        let mut endpoints = Vec::new();
        for record in records {
            let list = self.targets.get(&record.target).map(Addresses::last).unwrap_or_default();
            if list.is_empty() {
                continue;
            }
            let rank = ranks[&record.priority];
            let weight = match (rank.number, self.backups) {
                (0, _) | (_, Backups::Tiers) => rank.weight(record.weight, list.len()),
                _ => 0.0,
            };
            let weight = Weight::new(weight)?;
            let name = if self.verifies_targets { tls_name(&record.target) } else { domain.clone() };
            endpoints.extend(list.iter().map(|address| {
                let endpoint = Endpoint::from(SocketAddr::new(*address, record.port));
                let endpoint = endpoint.with_weight(weight).with_priority(rank.number);
                // A service of the root has no domain; its servers are verified by their addresses.
                if name.is_empty() { endpoint } else { endpoint.with_tls_name(name.clone()) }
            }));
        }
        if endpoints.is_empty() {
            let none = || unavailable(format!("no server of the service {} has an address", plain(&self.name)));
            let failure = Failure::from(partial.unwrap_or_else(none));
            return Err(match ttl {
                Some(time) if !time.is_zero() => failure.valid_for(time),
                _ => failure,
            });
        }
        let mut answer = Answer::new(once_each(endpoints));
        (answer.valid_for, answer.partial) = (shorter(found.ttl, ttl), partial);
        Ok(answer)
    }
}

fn srv(record: &RData) -> Option<&SRV> {
    match record {
        RData::SRV(record) => Some(record),
        _ => None,
    }
}

/// One address may be said by several records: the one that is preferred counts.
fn once_each(mut endpoints: Vec<Endpoint>) -> EndpointSet {
    endpoints.sort_by(|one, other| {
        let by_weight = other.weight().get().total_cmp(&one.weight().get());
        one.key().cmp(other.key()).then(one.priority().cmp(&other.priority())).then(by_weight)
    });
    endpoints.dedup_by(|one, other| one.key() == other.key());
    sorted(endpoints)
}

/// One of SRV's priorities.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rank {
    /// From 0, the first to be called.
    number: u8,
    all_are_zero: bool,
}

impl Rank {
    /// A weight of 0 has "a very small chance" beside others: the smallest that SRV has otherwise.
    fn weight(self, weight: u16, addresses: usize) -> f64 {
        let weight = if self.all_are_zero { 1 } else { weight.max(1) };
        f64::from(weight) / addresses as f64
    }
}

fn ranks(records: &[&SRV]) -> HashMap<u16, Rank> {
    let mut most = BTreeMap::<u16, u16>::new();
    for record in records {
        let most = most.entry(record.priority).or_default();
        *most = (*most).max(record.weight);
    }
    let rank = |(number, (priority, most)): (usize, (u16, u16))| {
        (priority, Rank { number: number.min(u8::MAX.into()) as u8, all_are_zero: most == 0 })
    };
    most.into_iter().enumerate().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(priority: u16, weight: u16) -> SRV {
        SRV::new(priority, weight, 1, Name::root())
    }

    #[test]
    fn priorities_are_ranked_and_weights_are_shares() {
        let records = [record(30, 0), record(10, 60), record(10, 0), record(30, 0)];
        let ranks = ranks(&records.iter().collect::<Vec<_>>());
        let (first, second) = (ranks[&10], ranks[&30]);
        assert_eq!((first.number, second.number), (0, 1));
        assert_eq!((first.weight(60, 1), first.weight(60, 3), first.weight(0, 1)), (60.0, 20.0, 1.0));
        assert_eq!((second.weight(0, 1), second.weight(0, 2)), (1.0, 0.5));
    }

    #[test]
    fn more_priorities_than_we_have_share_the_last() {
        let records: Vec<_> = (0..300).map(|priority| record(priority, 1)).collect();
        let ranks = ranks(&records.iter().collect::<Vec<_>>());
        assert_eq!((ranks[&0].number, ranks[&255].number, ranks[&299].number), (0, 255, 255));
    }
}
