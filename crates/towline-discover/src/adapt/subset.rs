//! A few of many, the same ones as long as they are there.

use towline_core::{EndpointSet, stable_hash};

/// The `size` endpoints whose keys rank highest for this client.
pub(crate) fn subset(set: EndpointSet, size: usize, client: &[u8]) -> EndpointSet {
    if set.len() <= size {
        return set;
    }
    let mut named = client.to_vec();
    // So that a client's name and a key do not run into each other.
    named.push(0);
    let prefix = named.len();
    let mut ranked: Vec<_> = set
        .into_vec()
        .into_iter()
        .enumerate()
        .map(|(index, endpoint)| {
            named.truncate(prefix);
            named.extend_from_slice(endpoint.key().as_str().as_bytes());
            (stable_hash(&named), index, endpoint)
        })
        .collect();
    ranked.select_nth_unstable_by(size - 1, |one, other| other.0.cmp(&one.0));
    ranked.truncate(size);
    ranked.sort_unstable_by_key(|(_, index, _)| *index);
    ranked.into_iter().map(|(_, _, endpoint)| endpoint).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use towline_core::{Endpoint, EndpointKey};

    use super::*;

    fn numbered(count: usize) -> Vec<Endpoint> {
        (0..count).map(|n| format!("10.0.{}.{}:1", n / 256, n % 256).parse().unwrap()).collect()
    }

    fn chosen(set: &[Endpoint], client: usize) -> HashSet<EndpointKey> {
        let set = subset(set.to_vec().into(), 10, format!("client-{client}").as_bytes());
        set.iter().map(|endpoint| endpoint.key().clone()).collect()
    }

    #[test]
    fn one_that_goes_is_replaced_and_the_others_stay() {
        let all = numbered(100);
        let before = chosen(&all, 1);
        let gone = before.iter().next().unwrap().clone();
        let rest: Vec<_> = all.into_iter().filter(|endpoint| *endpoint.key() != gone).collect();
        let after = chosen(&rest, 1);
        assert_eq!(after.len(), 10);
        assert_eq!(before.intersection(&after).count(), 9);
    }

    #[test]
    fn clients_are_spread_over_all_endpoints() {
        let all = numbered(100);
        let mut clients = HashMap::<_, usize>::new();
        for client in 0..1_000 {
            chosen(&all, client).into_iter().for_each(|key| *clients.entry(key).or_default() += 1);
        }
        assert_eq!(clients.len(), 100);
        // 100 each, give or take 9.5; five times that is nobody's luck.
        assert!(clients.values().all(|count| (52..148).contains(count)), "{clients:?}");
    }

    #[test]
    fn a_small_set_is_taken_as_it_is() {
        assert_eq!(chosen(&numbered(7), 1).len(), 7);
    }
}
