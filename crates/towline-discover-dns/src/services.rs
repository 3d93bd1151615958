//! The servers of a service.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use towline_core::{Endpoint, EndpointSet, Error, Weight};
use towline_discover::{Answer, Failure, Resolve, sorted};

use crate::addresses::Addresses;
use crate::resolver::{Resolver, nothing, parse_name, shorter, unavailable};
use crate::{Backups, Dns, Family};

/// Targets of one service that are asked for at a time.
const AT_ONCE: usize = 16;
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

    /// What certificates are to say: the name without `_service._protocol`.
    fn domain(&self) -> Arc<str> {
        let labels: Vec<_> = self.name.iter().map(String::from_utf8_lossy).collect();
        let domain: Vec<_> = labels.iter().skip_while(|label| label.starts_with('_')).map(AsRef::as_ref).collect();
        domain.join(".").into()
    }

    /// The addresses of all targets that have some, and for how long. Those that cannot be asked for keep what they had.
    async fn targets(
        &mut self,
        names: Vec<Name>,
    ) -> (HashMap<Name, Vec<std::net::IpAddr>>, Option<Duration>, Option<Failure>) {
        let mut known = std::mem::take(&mut self.targets);
        let asked = names.into_iter().map(|name| {
            let addresses = known.remove(&name);
            let mut addresses =
                addresses.unwrap_or_else(|| Addresses::of(self.resolver.clone(), name.clone(), self.family));
            async move {
                let answer = addresses.ask().await;
                (name, addresses, answer)
            }
        });
        let mut asked = stream::iter(asked).buffer_unordered(AT_ONCE);
        let (mut found, mut ttl, mut failure) = (HashMap::new(), None, None);
        while let Some((name, addresses, answer)) = asked.next().await {
            match answer {
                Ok((list, time)) => {
                    ttl = shorter(ttl, time);
                    found.insert(name.clone(), list);
                }
                Err(why) => {
                    // To be asked for again soon, and meanwhile what it had.
                    ttl = Some(Duration::ZERO);
                    let last = addresses.last();
                    if !last.is_empty() {
                        found.insert(name.clone(), last);
                    }
                    failure = Some(why);
                }
            }
            self.targets.insert(name, addresses);
        }
        (found, ttl, failure)
    }
}

impl Resolve for Services {
    async fn resolve(&mut self) -> Result<Answer, Failure> {
        let found = self.resolver.ask(&self.name, RecordType::SRV).await?;
        let records: Vec<_> = found.records.iter().filter_map(srv).take(MOST_TARGETS).collect();
        if records.is_empty() {
            return Err(nothing(&self.name, "SRV", &found));
        }
        if records.iter().all(|record| record.target.is_root()) {
            let answer = Answer::new(EndpointSet::none());
            return Ok(answer.valid_for(found.ttl.unwrap_or_default()));
        }
        let mut names: Vec<_> = records.iter().map(|record| record.target.clone()).collect();
        names.sort();
        names.dedup();
        let (addresses, ttl, failure) = self.targets(names).await;
        let domain = self.domain();
        let ranks = ranks(&records);
        let mut endpoints = Vec::new();
        for record in records {
            let Some(list) = addresses.get(&record.target) else { continue };
            let rank = ranks[&record.priority];
            let weight = match (rank.number, self.backups) {
                (0, _) | (_, Backups::Tiers) => rank.weight(record.weight, list.len()),
                _ => 0.0,
            };
            let weight = Weight::new(weight)?;
            let name: Arc<str> = if self.verifies_targets {
                record.target.to_utf8().trim_end_matches('.').into()
            } else {
                domain.clone()
            };
            endpoints.extend(list.iter().map(|address| {
                let endpoint = Endpoint::from(SocketAddr::new(*address, record.port));
                endpoint.with_tls_name(name.clone()).with_weight(weight).with_priority(rank.number)
            }));
        }
        if endpoints.is_empty() {
            let none = || unavailable(format!("no server of the service {} has an address", self.name)).into();
            return Err(failure.unwrap_or_else(none));
        }
        let answer = Answer::new(once_each(endpoints));
        Ok(match shorter(found.ttl, ttl) {
            Some(time) => answer.valid_for(time),
            None => answer,
        })
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
