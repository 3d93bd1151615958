//! The picker, with availability in the hands of the test.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use towline_core::{Call, Endpoint, EndpointId, Loads, Weight, stable_hash};

use super::*;
use crate::{HotCold, LeastRequest, P2c, RoundRobin, WeightedRandom};

/// Zone, priority and weight.
type Place = (&'static str, u8, f64);

fn set(places: &[Place]) -> Vec<Member> {
    let member = |(index, (zone, priority, weight)): (usize, &Place)| {
        let endpoint: Endpoint = format!("10.0.0.1:{}", index + 1).parse().unwrap();
        let endpoint = endpoint.with_priority(*priority).with_weight(Weight::new(*weight).unwrap());
        let endpoint = if zone.is_empty() { endpoint } else { endpoint.with_zone(*zone) };
        Member { id: EndpointId::fresh(), endpoint: Arc::new(endpoint) }
    };
    places.iter().enumerate().map(member).collect()
}

/// The same for so many each.
fn even(zones: &[(&'static str, u8, usize)]) -> Vec<Member> {
    let places = zones.iter().flat_map(|(zone, priority, n)| std::iter::repeat_n((*zone, *priority, 1.0), *n));
    set(&places.collect::<Vec<_>>())
}

/// Knows who is away; all others are alike.
#[derive(Default)]
struct Known {
    away: Vec<usize>,
    due: Vec<usize>,
    epoch: u64,
    looks: Cell<usize>,
}

impl Loads for Known {
    fn load(&self, index: usize) -> f64 {
        if self.away.contains(&index) && !self.due.contains(&index) { 1e9 } else { 0.0 }
    }

    fn availability(&self, index: usize) -> f64 {
        self.looks.set(self.looks.get() + 1);
        if self.away.contains(&index) { 0.0 } else { 1.0 }
    }

    fn wants_probe(&self, index: usize) -> bool {
        self.due.contains(&index)
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

type P2cZones = ZonesPicker<crate::P2cPicker>;

/// The first candidates of many calls, by zone and priority, in percent.
fn shares(picker: &P2cZones, set: &Members, known: &Known) -> BTreeMap<(String, u8), f64> {
    const CALLS: usize = 50_000;
    let (mut rng, mut shares) = (Rng::with_seed(11), BTreeMap::new());
    for _ in 0..CALLS {
        let first = picker.order(&(), None, View::new(set, known), &mut rng).next().unwrap();
        let endpoint = &set[first].endpoint;
        let key = (endpoint.zone().unwrap_or_default().to_owned(), endpoint.priority());
        *shares.entry(key).or_default() += 100.0 / CALLS as f64;
    }
    shares
}

fn assert_shares(shares: &BTreeMap<(String, u8), f64>, expected: &[(&str, u8, f64)]) {
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(zone, priority, share)| ((zone.to_string(), *priority), *share)).collect();
    let names = |shares: &BTreeMap<(String, u8), f64>| shares.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(shares), names(&expected), "{shares:?}");
    for (key, share) in &expected {
        assert!((shares[key] - share).abs() < 1.0, "{shares:?}, not {expected:?}");
    }
}

fn here() -> Zones<P2c> {
    Zones::new("here", P2c::new())
}

#[test]
fn calls_stay_in_the_zone_and_what_it_cannot_take_goes_to_all_others_by_who_is_available() {
    let set = even(&[("here", 0, 10), ("b", 0, 10), ("c", 0, 20)]);
    let picker = here().build(&set, None);
    let mut known = Known::default();
    assert_shares(&shares(&picker, &set, &known), &[("here", 0, 100.0)]);
    assert_eq!(picker.draw(1.0), 0, "even at the end");
    known = Known { away: (0..5).collect(), epoch: 1, ..known };
    assert_shares(&shares(&picker, &set, &known), &[("here", 0, 70.0), ("b", 0, 10.0), ("c", 0, 20.0)]);
    // A third of what is elsewhere is gone: ten and ten remain.
    known = Known { away: (0..5).chain(30..40).collect(), epoch: 2, ..known };
    let spilled = shares(&picker, &set, &known);
    assert!((spilled[&("b".to_owned(), 0)] - 15.0).abs() < 2.0, "{spilled:?}");
    known = Known { away: (0..10).collect(), epoch: 3, ..known };
    assert_shares(&shares(&picker, &set, &known), &[("b", 0, 33.3), ("c", 0, 66.7)]);
    known = Known { away: Vec::new(), epoch: 4, ..known };
    assert_shares(&shares(&picker, &set, &known), &[("here", 0, 100.0)]);
}

#[test]
fn weights_decide_how_much_is_available() {
    let set = set(&[("here", 0, 9.0), ("here", 0, 1.0), ("b", 0, 1.0), ("b", 0, 1.0)]);
    let picker = here().build(&set, None);
    let light = Known { away: vec![1], ..Known::default() };
    assert_shares(&shares(&picker, &set, &light), &[("here", 0, 100.0)]);
    // Nobody elsewhere gets more than somebody here, by weight.
    let heavy = Known { away: vec![0], epoch: 1, ..Known::default() };
    assert_shares(&shares(&picker, &set, &heavy), &[("here", 0, 33.3), ("b", 0, 66.7)]);
}

#[test]
fn many_clients_in_a_small_zone_do_not_overload_it() {
    let set = even(&[("here", 0, 10), ("b", 0, 10), ("c", 0, 10)]);
    let picker = here().clients_here(0.5).unwrap().build(&set, None);
    assert_shares(&shares(&picker, &set, &Known::default()), &[("here", 0, 66.7), ("b", 0, 16.7), ("c", 0, 16.7)]);
}

#[test]
fn a_priority_that_is_short_spills_to_the_next_and_there_the_own_zone_goes_first() {
    let set = even(&[("here", 0, 5), ("b", 0, 5), ("here", 1, 4), ("b", 1, 4), ("b", 7, 2)]);
    let picker = here().build(&set, None);
    let mut known = Known { away: (5..10).collect(), ..Known::default() };
    assert_shares(&shares(&picker, &set, &known), &[("here", 0, 70.0), ("here", 1, 30.0)]);
    known = Known { away: (0..18).collect(), epoch: 1, ..known };
    assert_shares(&shares(&picker, &set, &known), &[("b", 7, 100.0)]);
    // Nobody is left: everybody is asked.
    known = Known { away: (0..20).collect(), epoch: 2, ..known };
    let all = shares(&picker, &set, &known);
    assert_shares(&all, &[("here", 0, 25.0), ("b", 0, 25.0), ("here", 1, 20.0), ("b", 1, 20.0), ("b", 7, 10.0)]);
}

#[test]
fn without_a_zone_or_in_one_that_nobody_is_in_all_of_a_priority_are_one_group() {
    let set = even(&[("a", 0, 4), ("b", 0, 4), ("", 0, 4), ("a", 1, 4)]);
    for mut policy in [Zones::by_priority(P2c::new()), Zones::new("nowhere", P2c::new()), Zones::new("", P2c::new())] {
        let picker = policy.build(&set, None);
        assert_eq!(picker.groups.len(), 2);
        assert_shares(&shares(&picker, &set, &Known::default()), &[("a", 0, 33.3), ("b", 0, 33.3), ("", 0, 33.3)]);
    }
}

#[test]
fn endpoints_without_a_zone_are_elsewhere() {
    let set = even(&[("here", 0, 2), ("", 0, 2)]);
    let picker = here().build(&set, None);
    assert_shares(&shares(&picker, &set, &Known::default()), &[("here", 0, 100.0)]);
    let gone = Known { away: vec![0, 1], epoch: 1, ..Known::default() };
    assert_shares(&shares(&picker, &set, &gone), &[("", 0, 100.0)]);
}

#[test]
fn endpoints_of_weight_zero_add_nothing_unless_all_are() {
    let weightless = set(&[("here", 0, 0.0), ("here", 0, 0.0), ("b", 0, 1.0)]);
    let known = Known { away: vec![0, 1], ..Known::default() };
    assert_shares(&shares(&here().build(&weightless, None), &weightless, &known), &[("b", 0, 100.0)]);
    let all = set(&[("here", 0, 0.0), ("here", 0, 0.0), ("b", 0, 0.0)]);
    assert_shares(&shares(&here().build(&all, None), &all, &Known::default()), &[("here", 0, 100.0)]);
}

/// All candidates of a call, without those that come again.
fn order<P: Policy<Picker: Pick<()>>>(policy: P, set: &Members, known: &Known, seed: u64) -> Vec<usize> {
    let picker = Zones::new("here", policy).build(set, None);
    let mut order = Vec::new();
    for index in picker.order(&(), None, View::new(set, known), &mut Rng::with_seed(seed)) {
        if !order.contains(&index) {
            order.push(index);
        }
    }
    order
}

#[test]
fn every_endpoint_is_a_candidate_and_the_rest_of_a_priority_comes_before_the_next() {
    // Interleaved, so that no group is a stretch of the set.
    let places = [("b", 2), ("here", 0), ("b", 0), ("here", 2), ("c", 0), ("here", 0), ("", 1)];
    let set = set(&places.map(|(zone, priority)| (zone, priority, 1.0)));
    let rank = |index: &usize| {
        let (zone, priority) = places[*index];
        (priority, zone != "here")
    };
    for seed in 0..20 {
        let known = Known::default();
        for order in [
            order(P2c::new(), &set, &known, seed),
            order(LeastRequest::new(), &set, &known, seed),
            order(RoundRobin::new(), &set, &known, seed),
            order(WeightedRandom::new(), &set, &known, seed),
            order(HotCold::new(), &set, &known, seed),
        ] {
            assert_eq!(order.len(), places.len(), "{order:?}");
            assert!(order.iter().map(rank).is_sorted(), "{order:?}");
        }
        // A call to elsewhere goes on here, and then from the lowest priority number.
        let known = Known { away: vec![1, 5, 2, 4, 6], ..Known::default() };
        let spilled = order(P2c::new(), &set, &known, seed);
        assert_eq!(spilled.iter().map(|index| places[*index].1).collect::<Vec<_>>(), [2, 2, 0, 0, 0, 0, 1]);
    }
}

#[test]
fn who_is_available_is_looked_at_once_per_epoch() {
    let set = even(&[("here", 0, 10), ("b", 0, 10)]);
    let picker = here().build(&set, None);
    let mut known = Known::default();
    for epoch in 0..5 {
        known.epoch = epoch;
        shares(&picker, &set, &known);
        assert_eq!(known.looks.take(), 20, "epoch {epoch}");
    }
}

#[test]
fn where_nobody_is_available_one_call_an_epoch_goes_to_find_out_who_is_well_again() {
    let set = even(&[("here", 0, 4), ("b", 0, 4), ("c", 1, 2)]);
    let picker = here().build(&set, None);
    let mut known = Known { away: vec![0, 1, 2, 3, 8, 9], due: vec![2, 9], ..Known::default() };
    let (mut rng, mut probed) = (Rng::with_seed(3), BTreeMap::<usize, u32>::new());
    for epoch in 0..100 {
        known.epoch = epoch;
        for call in 0..10 {
            let first = picker.order(&(), None, View::new(&set, &known), &mut rng).next().unwrap();
            assert!(call == 0 || (4..8).contains(&first), "call {call} to {first}");
            *probed.entry(first).or_default() += 1;
        }
    }
    let to = |range: std::ops::Range<usize>| range.filter_map(|index| probed.get(&index)).sum::<u32>();
    assert!(to(0..4) >= 30 && to(8..10) >= 30 && to(0..4) + to(8..10) == 100, "{probed:?}");
    // One of them is there: the policy within asks the others.
    known = Known { away: vec![1, 2, 3, 8, 9], due: vec![2], epoch: 100, ..known };
    assert!(shares(&picker, &set, &known)[&("here".to_owned(), 0)] > 30.0);
    assert_eq!(picker.to_probe.load(Ordering::Relaxed), NOBODY);
}

/// Sends all calls of a session to one place of its group, and remembers what was taken.
struct Homes;

#[derive(Default)]
struct HomesPicker {
    len: usize,
    /// Whether it holds sessions to their place, as a table does from their first call on.
    is_strict: AtomicBool,
    taken: towline_core::sync::Lock<Vec<(usize, usize)>>,
    refused: AtomicUsize,
}

impl Policy for Homes {
    type Picker = HomesPicker;

    fn build(&mut self, set: &Members, _last: Option<&HomesPicker>) -> HomesPicker {
        HomesPicker { len: set.len(), ..HomesPicker::default() }
    }
}

impl Pick<Call<()>> for HomesPicker {
    type Order<'a> = std::ops::Range<usize>;

    fn order<'a>(
        &'a self,
        _request: &'a Call<()>,
        _context: Option<&'a CallContext>,
        _view: View<'a>,
        _rng: &mut Rng,
    ) -> std::ops::Range<usize> {
        // One more than there are.
        0..self.len + 1
    }

    fn terms(&self, _request: &Call<()>, context: Option<&CallContext>) -> Terms {
        let session = context.and_then(CallContext::session);
        let Some(session) = session else { return Terms::BALANCED };
        let terms = Terms::kept(stable_hash(session.as_bytes()));
        if self.is_strict.load(Ordering::Relaxed) { terms.strict() } else { terms }
    }

    fn refused(&self, _: &Call<()>, _: Option<&CallContext>, _: HomeLoss) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn taken(&self, _: &Call<()>, _: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        assert_eq!(view.len(), self.len);
        self.taken.lock().push((index, skipped));
    }
}

#[test]
fn calls_of_a_session_stay_in_one_group_and_few_sessions_move_when_the_shares_do() {
    let set = even(&[("here", 0, 10), ("b", 0, 10)]);
    let picker = Zones::new("here", Homes).build(&set, None);
    let mut rng = Rng::with_seed(5);
    let mut first = |known: &Known, session: u32| {
        let call = Call::new(()).with_session(session.to_string().as_str());
        picker.order(&call, Some(call.context()), View::new(&set, known), &mut rng).next().unwrap()
    };
    let half = Known { away: (0..5).collect(), ..Known::default() };
    let before: Vec<_> = (0..1_000).map(|session| first(&half, session)).collect();
    assert!(before.iter().filter(|index| **index < 10).count().abs_diff(700) < 50);
    assert_eq!((0..1_000).map(|session| first(&half, session)).collect::<Vec<_>>(), before);
    let less = Known { away: (0..6).collect(), epoch: 1, ..Known::default() };
    let after: Vec<_> = (0..1_000).map(|session| first(&less, session)).collect();
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!(moved.abs_diff(140) < 40, "{moved}");
    let call = Call::new(()).with_session("alice");
    assert!(picker.terms(&call, Some(call.context())).key.is_some());
    assert_eq!(picker.terms(&call, None), Terms::BALANCED);
}

#[test]
fn a_session_s_calls_are_strict_where_its_own_group_says_so() {
    let set = even(&[("here", 0, 2), ("b", 0, 2)]);
    let mut policy = Zones::new("here", Homes);
    let picker = policy.build(&set, None);
    picker.groups[1].picker.is_strict.store(true, Ordering::Relaxed);
    let call = Call::new(()).with_session("alice");
    let mut known = Known::default();
    let order = |picker: &ZonesPicker<HomesPicker>, known: &Known| {
        picker.order(&call, Some(call.context()), View::new(&set, known), &mut Rng::with_seed(1)).count()
    };
    let is_strict = |picker: &ZonesPicker<HomesPicker>| picker.terms(&call, Some(call.context())).is_strict;
    assert!(order(&picker, &known) > 1 && !is_strict(&picker));
    // Terms are asked for before anybody has looked who is available: there is nobody else to go to all the same.
    known = Known { away: vec![0, 1], epoch: 1, ..known };
    assert!(!is_strict(&picker));
    assert_eq!(order(&picker, &known), 1);
    assert!(is_strict(&picker));
    picker.refused(&call, Some(call.context()), HomeLoss::Unready);
    let refused = |group: usize| picker.groups[group].picker.refused.load(Ordering::Relaxed);
    assert_eq!((refused(0), refused(1)), (0, 1));
    // And after a change of the set, too.
    let next = policy.build(&set, Some(&picker));
    next.groups[1].picker.is_strict.store(true, Ordering::Relaxed);
    assert!(is_strict(&next));
}

#[test]
fn of_the_calls_of_sessions_those_that_may_go_elsewhere_probe_and_only_where_no_other_call_did_for_a_sweep() {
    let set = even(&[("here", 0, 2), ("b", 0, 2)]);
    let picker = Zones::new("here", Homes).build(&set, None);
    let mut known = Known { away: vec![0, 1], due: vec![0], ..Known::default() };
    let (alice, nobody) = (Call::new(()).with_session("alice"), Call::new(()));
    let mut rng = Rng::with_seed(5);
    let mut is_here = |known: &Known, call: &Call<()>| {
        picker.order(call, Some(call.context()), View::new(&set, known), &mut rng).next().unwrap() < 2
    };
    let hold =
        |group: usize, is_strict: bool| picker.groups[group].picker.is_strict.store(is_strict, Ordering::Relaxed);
    // As long as there are others every sweep, these do it.
    for epoch in 0..10 {
        known.epoch = epoch;
        let probes = [&alice, &alice, &nobody, &nobody, &alice].map(|call| is_here(&known, call));
        assert_eq!(probes, [false, false, true, false, false], "{epoch}");
    }
    // When there are none, one every other sweep does.
    let mut sweep = || {
        known.epoch += 1;
        [&alice, &alice].map(|call| is_here(&known, call))
    };
    for _ in 0..10 {
        assert_eq!(sweep(), [false, false]);
        assert_eq!(sweep(), [true, false]);
    }
    // Not when it may not leave its home, be that where it is or in the group that would be probed.
    for group in [0, 1] {
        hold(group, true);
        for _ in 0..10 {
            assert_eq!(sweep(), [false, false]);
        }
        hold(group, false);
    }
    assert_eq!(sweep(), [true, false]);
}

#[test]
fn a_call_that_may_go_anywhere_does_not_go_past_its_session_s_home_in_another_group() {
    let set = even(&[("here", 0, 2), ("b", 0, 2), ("c", 1, 2)]);
    let picker = Zones::new("here", Homes).build(&set, None);
    picker.groups[1].picker.is_strict.store(true, Ordering::Relaxed);
    let (known, call) = (Known::default(), Call::new(()).with_session("alice"));
    let order = picker.order(&call, Some(call.context()), View::new(&set, &known), &mut Rng::with_seed(1));
    assert_eq!(order.filter(|index| *index < set.len()).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn calls_of_a_session_go_anywhere_when_the_policy_within_does_not_keep_them_together() {
    let set = even(&[("here", 0, 10), ("b", 0, 10)]);
    let picker = here().build(&set, None);
    let half = Known { away: (0..5).collect(), ..Known::default() };
    let (call, mut rng) = (Call::new(()).with_session("alice"), Rng::with_seed(5));
    let mut first = || picker.order(&call, Some(call.context()), View::new(&set, &half), &mut rng).next().unwrap();
    let stay = (0..1_000).filter(|_| first() < 10).count();
    assert!(stay.abs_diff(700) < 50, "{stay}");
}

#[test]
fn the_picker_within_is_told_what_was_taken_by_its_own_indices_and_what_it_names_outside_is_passed_over() {
    let set = set(&[("b", 0, 1.0), ("here", 0, 1.0), ("b", 0, 1.0), ("here", 0, 1.0)]);
    let picker = Zones::new("here", Homes).build(&set, None);
    let (known, call) = (Known::default(), Call::new(()));
    let view = View::new(&set, &known);
    let mut order: Vec<_> = picker.order(&call, None, view, &mut Rng::with_seed(1)).collect();
    let named = order.len();
    order.retain(|index| *index < set.len());
    assert_eq!(order, [1, 3, 0, 2]);
    assert!(named > 4, "what is outside counts as a candidate that was passed over");
    picker.taken(&call, None, view, 3, 1);
    picker.taken(&call, None, view, 0, 2);
    assert_eq!(*picker.groups[0].picker.taken.lock(), [(1, 1)]);
    assert_eq!(*picker.groups[1].picker.taken.lock(), [(0, 2)]);
}

#[test]
fn zones_within_zones_see_the_loads_of_their_own_endpoints() {
    // A rack within a zone; only the endpoint at 5 is idle, and only it is in the rack.
    struct Rising;
    impl Loads for Rising {
        fn load(&self, index: usize) -> f64 {
            if index == 5 { 0.0 } else { 1.0 + index as f64 }
        }
        fn availability(&self, index: usize) -> f64 {
            if index >= 4 { 1.0 } else { 0.0 }
        }
    }
    let set = even(&[("b", 0, 2), ("here", 0, 2), ("here", 1, 2)]);
    let picker = Zones::new("here", Zones::by_priority(P2c::new())).build(&set, None);
    let mut rng = Rng::with_seed(9);
    for _ in 0..100 {
        let first = picker.order(&(), None, View::new(&set, &Rising), &mut rng).next();
        assert_eq!(first, Some(5));
    }
}

#[test]
fn a_change_of_the_set_goes_on_where_each_group_was() {
    let two = even(&[("here", 0, 3), ("b", 0, 2)]);
    let mut policy = Zones::new("here", RoundRobin::new().rng(Rng::with_seed(3)));
    let known = Known::default();
    let (mut rng, mut last) = (Rng::with_seed(1), policy.build(&two, None));
    let mut seen = Vec::new();
    for _ in 0..9 {
        seen.push(last.order(&(), None, View::new(&two, &known), &mut rng).next().unwrap());
        last = policy.build(&two, Some(&last));
    }
    assert!(seen.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 3), "{seen:?}");
}

#[test]
fn shares_and_factors_that_make_no_sense_are_refused() {
    for share in [0.0, -0.5, 1.5, f64::NAN, f64::INFINITY] {
        let error = here().clients_here(share).unwrap_err();
        assert_eq!((error.kind(), error.phase()), (Kind::Config, Phase::Build));
        assert!(error.to_string().contains("above 0 and at most 1"), "{error}");
    }
    for factor in [0.99, -1.0, f64::NAN, f64::INFINITY] {
        let error = here().overprovisioning(factor).unwrap_err();
        assert_eq!((error.kind(), error.phase()), (Kind::Config, Phase::Build));
        assert!(error.to_string().contains("at least 1"), "{error}");
    }
    assert!(here().clients_here(1.0).unwrap().overprovisioning(1.0).is_ok());
}

#[test]
fn a_set_of_nobody_has_no_candidates() {
    let picker = here().build(&[], None);
    assert_eq!(picker.order(&(), None, View::new(&[], &Known::default()), &mut Rng::with_seed(1)).next(), None);
    assert_eq!(Pick::<()>::terms(&picker, &(), None), Terms::BALANCED);
}
