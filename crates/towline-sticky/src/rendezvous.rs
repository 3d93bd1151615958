//! Highest random weight.

use towline_balance::{P2cOrder, P2cPicker};
use towline_core::{CallContext, Event, HomeLoss, Members, Observers, Pick, Policy, Rng, Terms, View, stable_hash};

/// Sends every session to the endpoint that scores best for it, and calls without a session by
/// [`P2c`](towline_balance::P2c).
///
/// Rendezvous hashing (Thaler and Ravishankar, 1998) with weights after Schindelhauer and Schomaker (2005): the score
/// of an endpoint of weight `w` is `w / −ln(u)`, where `u` in (0, 1) is drawn by hashing session and endpoint
/// together. Removing an endpoint moves its own sessions only, and those spread over all others.
///
/// The hash is fixed, so that processes and versions agree: with `s = xxh3_64(session)` and `e = xxh3_64(endpoint
/// key)`, both unseeded, `u` is `(mix(s ^ e) >> 11) + 0.5` in units of 2⁻⁵³, and `mix` the finalizer of splitmix64.
///
/// A pick costs one hash and one logarithm per endpoint: right for sets up to about a hundred.
#[derive(Clone, Debug, Default)]
pub struct Rendezvous {
    observers: Observers,
}

impl Rendezvous {
    /// The policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells of sessions that move.
    #[must_use]
    pub fn observers(mut self, observers: Observers) -> Self {
        self.observers = observers;
        self
    }
}

impl Policy for Rendezvous {
    type Picker = RendezvousPicker;

    fn build(&mut self, set: &Members, _last: Option<&RendezvousPicker>) -> RendezvousPicker {
        let hash = |member: &towline_core::Member| {
            let endpoint = &member.endpoint;
            (stable_hash(endpoint.key().as_str().as_bytes()), endpoint.weight().get())
        };
        RendezvousPicker {
            endpoints: set.iter().map(hash).collect(),
            fallback: P2cPicker::new(set),
            observers: self.observers.clone(),
        }
    }
}

/// What [`Rendezvous`] builds for a set.
#[derive(Clone, Debug)]
pub struct RendezvousPicker {
    /// Hash and weight of each endpoint.
    endpoints: Vec<(u64, f64)>,
    /// For calls without a session.
    fallback: P2cPicker,
    observers: Observers,
}

impl RendezvousPicker {
    /// How much the endpoint at `index` costs this session: the inverse of its score. Those of weight 0 cost more than
    /// all others, and differ among themselves by the hash alone.
    fn cost(&self, session: u64, index: usize) -> f64 {
        let (endpoint, weight) = self.endpoints[index];
        let u = ((mix(session ^ endpoint) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        if weight > 0.0 { -u.ln() / weight } else { WEIGHTLESS - u.ln() }
    }
}

/// Above the cost of every endpoint with a weight of at least 1e-10: the logarithm is at most 38.
const WEIGHTLESS: f64 = 1e12;

/// The finalizer of splitmix64 (Steele, Lea and Flood, 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl<Req> Pick<Req> for RendezvousPicker {
    type Order<'a>
        = RendezvousOrder<'a>
    where
        Req: 'a;

    fn order<'a>(
        &'a self,
        _request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> RendezvousOrder<'a> {
        RendezvousOrder(match context.and_then(CallContext::session) {
            Some(session) => Order::Session { picker: self, session: stable_hash(session.as_bytes()), last: None },
            None => Order::Any(self.fallback.draw(view, rng)),
        })
    }

    // A session waits for its home, and stays there.
    fn terms(&self, _request: &Req, context: Option<&CallContext>) -> Terms {
        let session = context.and_then(CallContext::session);
        session.map_or(Terms::BALANCED, |session| Terms::kept(stable_hash(session.as_bytes())))
    }

    fn taken(&self, request: &Req, context: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        let Some(session) = context.and_then(CallContext::session) else { return };
        if skipped == 0 {
            return;
        }
        let home = self.order(request, context, view, &mut Rng::with_seed(0)).next();
        if let Some(home) = home.filter(|home| *home != index) {
            let key = |index: usize| view.members()[index].endpoint.key();
            let why = HomeLoss::Unready;
            self.observers.emit(Event::SessionSpilled { session, home: Some(key(home)), to: key(index), why });
        }
    }
}

/// The candidates of [`Rendezvous`]: for a session, all endpoints from the best score to the worst.
#[derive(Clone, Debug)]
pub struct RendezvousOrder<'a>(Order<'a>);

#[derive(Clone, Debug)]
enum Order<'a> {
    Session { picker: &'a RendezvousPicker, session: u64, last: Option<(f64, usize)> },
    Any(P2cOrder<'a>),
}

impl Iterator for RendezvousOrder<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        match &mut self.0 {
            Order::Any(order) => order.next(),
            // The second choice is rarely wanted: finding it anew is cheaper than sorting every time.
            Order::Session { picker, session, last } => {
                let all = (0..picker.endpoints.len()).map(|index| (picker.cost(*session, index), index));
                let after = |(cost, index): &(f64, usize)| match last {
                    None => true,
                    Some((c, i)) => cost.total_cmp(c).then(index.cmp(i)).is_gt(),
                };
                let best = all.filter(after).min_by(|(a, i), (b, j)| a.total_cmp(b).then(i.cmp(j)))?;
                *last = Some(best);
                Some(best.1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use towline_balance::Zones;
    use towline_core::{Call, Endpoint, EndpointId, Loads, Member, Weight};

    use super::*;

    struct Unloaded;

    impl Loads for Unloaded {
        fn load(&self, _index: usize) -> f64 {
            0.0
        }
    }

    fn set(endpoints: &[(&str, f64)]) -> Vec<Member> {
        let member = |(key, weight): &(&str, f64)| {
            let endpoint: Endpoint = key.parse().unwrap();
            let endpoint = Arc::new(endpoint.with_weight(Weight::new(*weight).unwrap()));
            Member { id: EndpointId::fresh(), endpoint }
        };
        endpoints.iter().map(member).collect()
    }

    /// The keys of a session's candidates, best first.
    fn order(set: &Members, session: &str) -> Vec<String> {
        let picker = Rendezvous::new().build(set, None);
        let call = Call::new(()).with_session(session);
        let view = View::new(set, &Unloaded);
        let order = picker.order(&call, Some(call.context()), view, &mut Rng::with_seed(1));
        order.map(|index| set[index].endpoint.key().to_string()).collect()
    }

    const FIVE: [(&str, f64); 5] = [("a:1", 1.0), ("b:1", 1.0), ("c:1", 1.0), ("d:1", 1.0), ("e:1", 1.0)];

    #[test]
    fn homes_are_the_same_in_every_process_and_version() {
        let homes: Vec<_> = ["alice", "bob", "carol", "dave"].map(|who| order(&set(&FIVE), who).remove(0)).into();
        assert_eq!(homes, ["e:1", "a:1", "b:1", "d:1"]);
    }

    #[test]
    fn the_order_of_discovery_does_not_matter() {
        let mut reversed = FIVE;
        reversed.reverse();
        for session in 0..100 {
            let session = session.to_string();
            assert_eq!(order(&set(&FIVE), &session), order(&set(&reversed), &session));
        }
    }

    #[test]
    fn among_the_weightless_the_order_of_discovery_does_not_matter_either() {
        let (one, other) = ([("a:1", 0.0), ("b:1", 0.0), ("c:1", 0.0)], [("c:1", 0.0), ("b:1", 0.0), ("a:1", 0.0)]);
        let mut homes = std::collections::BTreeSet::new();
        for session in 0..100 {
            let session = session.to_string();
            assert_eq!(order(&set(&one), &session), order(&set(&other), &session));
            homes.insert(order(&set(&one), &session).remove(0));
        }
        assert_eq!(homes.len(), 3);
    }

    #[test]
    fn removing_an_endpoint_moves_only_its_own_sessions_and_to_their_second_choice() {
        let (all, without) = (set(&FIVE), set(&FIVE[1..]));
        for session in 0..1_000 {
            let session = session.to_string();
            let mut before = order(&all, &session);
            before.retain(|key| key != "a:1");
            assert_eq!(order(&without, &session), before);
        }
    }

    #[test]
    fn sessions_spread_by_weight() {
        let set = set(&[("a:1", 1.0), ("b:1", 2.0), ("c:1", 0.0), ("d:1", 1.0)]);
        let mut homes = std::collections::BTreeMap::<String, u32>::new();
        for session in 0..20_000 {
            *homes.entry(order(&set, &session.to_string()).remove(0)).or_default() += 1;
        }
        for (key, share) in [("a:1", 5_000), ("b:1", 10_000), ("d:1", 5_000)] {
            assert!(homes[key].abs_diff(share) < 300, "{homes:?}");
        }
        assert!(!homes.contains_key("c:1"));
    }

    #[test]
    fn within_zones_a_session_has_one_home_in_its_client_s_zone() {
        let mut set = set(&FIVE);
        for (index, member) in set.iter_mut().enumerate() {
            let zone = if index < 3 { "here" } else { "there" };
            member.endpoint = Arc::new((*member.endpoint).clone().with_zone(zone));
        }
        let picker = Zones::new("here", Rendezvous::new()).build(&set, None);
        for session in 0..100 {
            let session = session.to_string();
            let call = Call::new(()).with_session(&*session);
            let view = View::new(&set, &Unloaded);
            let candidates = picker.order(&call, Some(call.context()), view, &mut Rng::with_seed(1));
            let keys: Vec<_> = candidates.map(|index| set[index].endpoint.key().to_string()).collect();
            let mut expected = order(&set[..3], &session);
            expected.extend(order(&set[3..], &session));
            assert_eq!(keys, expected);
        }
    }
}
