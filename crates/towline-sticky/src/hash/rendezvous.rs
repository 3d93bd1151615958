//! Highest random weight.

use towline_balance::{P2cOrder, P2cPicker};
use towline_core::{CallContext, Home, HomeLoss, Member, Members, Pick, Policy, Rng, Terms, View};

use crate::sessions::{Sessions, bound_settings, hash, mix, session, session_settings, stateless_settings};

/// Sends every session to the endpoint that scores best for it, and calls without a session by
/// [`P2c`](towline_balance::P2c).
///
/// Rendezvous hashing (Thaler and Ravishankar, 1998) with weights after Schindelhauer and Schomaker (2005): the score
/// of an endpoint of weight `w` is `w / −ln(u)`, where `u` in (0, 1) is drawn by hashing session and endpoint
/// together. Removing an endpoint moves its own sessions only, and those spread over all others; the second choice of a
/// session is where it goes when its home is removed.
///
/// The hash is fixed, so that processes and versions agree: with `s = xxh3_64(session)` and `e = xxh3_64(endpoint
/// key)`, both unseeded, `u` is `(mix(s ^ e) >> 11) + 0.5` in units of 2⁻⁵³, and `mix` the finalizer of splitmix64. Where
/// all weights are equal, that is the order of `mix(s ^ e)`, and no logarithm is taken.
///
/// A pick costs two nanoseconds per endpoint, with unequal weights ten: right for sets up to about a hundred, and
/// twenty. [`Maglev`](crate::Maglev) costs the same however large the set is, but has other homes.
///
/// ```
/// use towline_balance::BalanceBuilder;
/// use towline_sticky::{Rendezvous, WhenHomeFails};
///
/// let policy = Rendezvous::new().bounded(1.5)?.when_home_fails(WhenHomeFails::Strict)?;
/// let balance = BalanceBuilder::new(policy);
/// # let _ = balance;
/// # Ok::<(), towline_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rendezvous {
    sessions: Sessions,
}

impl Rendezvous {
    /// The policy, with loads bounded at 1.25 times the mean.
    pub fn new() -> Self {
        Self { sessions: Sessions::bounded() }
    }
}

impl Default for Rendezvous {
    fn default() -> Self {
        Self::new()
    }
}

session_settings!(Rendezvous);
bound_settings!(Rendezvous, "By default `factor` is 1.25, or none with [`Strict`](crate::WhenHomeFails::Strict).");
stateless_settings!(Rendezvous);

impl Policy for Rendezvous {
    type Picker = RendezvousPicker;

    fn build(&mut self, set: &Members, _last: Option<&RendezvousPicker>) -> RendezvousPicker {
        let weight = |member: &Member| member.endpoint.weight().get();
        let weights: Vec<_> = set.iter().map(weight).collect();
        let are_equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        RendezvousPicker {
            endpoints: set.iter().map(|member| Home::from(member.endpoint.key()).to_u64()).collect(),
            weights: (!are_equal).then_some(weights),
            fallback: P2cPicker::new(set),
            sessions: self.sessions.clone(),
        }
    }

    fn load_bound(&self) -> Option<f64> {
        self.sessions.load_bound()
    }
}

/// What [`Rendezvous`] builds for a set.
#[derive(Clone, Debug)]
pub struct RendezvousPicker {
    /// Hashes of the endpoints' keys.
    endpoints: Vec<u64>,
    /// In parallel; `None` when they are equal.
    weights: Option<Vec<f64>>,
    /// For calls without a session.
    fallback: P2cPicker,
    sessions: Sessions,
}

/// What an endpoint is worth to a session, and its hash, so that no two are equal.
type Score = (u64, u64);

impl RendezvousPicker {
    /// The best endpoint for a session of those below `last`. The next choice is rarely wanted: finding it anew is cheaper
    /// than sorting every time.
    #[inline]
    fn best(&self, session: u64, last: Option<Score>) -> Option<(Score, usize)> {
        let Some(weights) = &self.weights else {
            return best(&self.endpoints, last, |_, endpoint| mix(session ^ endpoint));
        };
        best(&self.endpoints, last, |index, endpoint| score(mix(session ^ endpoint), weights[index]))
    }

    fn home(&self, session: u64) -> usize {
        self.best(session, None).map_or(0, |(_, index)| index)
    }
}

#[inline]
fn best(endpoints: &[u64], last: Option<Score>, score: impl Fn(usize, u64) -> u64) -> Option<(Score, usize)> {
    let all = endpoints.iter().enumerate().map(|(index, endpoint)| ((score(index, *endpoint), *endpoint), index));
    match last {
        None => all.max_by_key(|(score, _)| *score),
        Some(last) => all.filter(|(score, _)| *score < last).max_by_key(|(score, _)| *score),
    }
}

/// By weight. The cost, `-ln(u) / weight`, is positive, so that its bits order as it does. Those of weight 0 come after all
/// others, and differ among themselves by the hash alone.
fn score(mixed: u64, weight: f64) -> u64 {
    if weight == 0.0 {
        return mixed >> 1;
    }
    let u = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    !(-u.ln() / weight).to_bits()
}

impl<Req> Pick<Req> for RendezvousPicker {
    type Order<'a>
        = RendezvousOrder<'a>
    where
        Req: 'a;

    #[inline]
    fn order<'a>(
        &'a self,
        _request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> RendezvousOrder<'a> {
        RendezvousOrder(match session(context) {
            Some(session) => Order::Session { picker: self, session: hash(session), last: None },
            None => Order::Any(self.fallback.draw(view, rng)),
        })
    }

    #[inline]
    fn terms(&self, _request: &Req, context: Option<&CallContext>) -> Terms {
        session(context).map_or(Terms::BALANCED, |session| self.sessions.terms(hash(session)))
    }

    #[inline]
    fn taken(&self, _request: &Req, context: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        self.sessions.went(context, view, index, skipped, |session| self.home(hash(session)));
    }

    fn refused(&self, _request: &Req, context: Option<&CallContext>, why: HomeLoss) {
        self.sessions.refused(context, why);
    }
}

/// The candidates of [`Rendezvous`]: for a session, all endpoints from the best score to the worst.
#[derive(Clone, Debug)]
pub struct RendezvousOrder<'a>(Order<'a>);

#[derive(Clone, Debug)]
enum Order<'a> {
    Session { picker: &'a RendezvousPicker, session: u64, last: Option<Score> },
    Any(P2cOrder<'a>),
}

impl Iterator for RendezvousOrder<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        match &mut self.0 {
            Order::Any(order) => order.next(),
            Order::Session { picker, session, last } => {
                let (score, index) = picker.best(*session, *last)?;
                *last = Some(score);
                Some(index)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use towline_balance::Zones;
    use towline_core::Call;

    use super::*;
    use crate::WhenHomeFails;
    use crate::testing::{Unloaded, set};

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

    #[test]
    fn equal_weights_have_the_homes_that_the_logarithm_gives() {
        // One of weight 0 makes it take the logarithm, and is nobody's home.
        let mut six = FIVE.map(|(key, _)| (key, 3.0)).to_vec();
        six.push(("f:1", 0.0));
        for session in 0..1_000 {
            let session = session.to_string();
            let mut slowly = order(&set(&six), &session);
            assert_eq!(slowly.pop().as_deref(), Some("f:1"));
            assert_eq!(order(&set(&FIVE), &session), slowly);
        }
    }

    #[test]
    fn bad_bounds_and_moves_say_what_to_change() {
        for factor in [f64::NAN, f64::INFINITY, 1.0, 0.0] {
            let error = Rendezvous::new().bounded(factor).unwrap_err();
            assert!(error.kind() == towline_core::Kind::Config && error.to_string().contains("1.25"), "{error}");
        }
        assert_eq!(Rendezvous::new().load_bound(), Some(1.25));
        assert_eq!(Rendezvous::new().unbounded().load_bound(), None);
        let strict = Rendezvous::new().when_home_fails(WhenHomeFails::Strict).unwrap();
        assert_eq!(strict.load_bound(), None, "where a call cannot overflow, a bound has to be asked for");
        assert_eq!(strict.bounded(1.5).unwrap().load_bound(), Some(1.5));
        let error = Rendezvous::new().when_home_fails(crate::WhenHomeFails::Move).unwrap_err();
        assert!(error.kind() == towline_core::Kind::Config && error.to_string().contains("table"), "{error}");
    }
}
