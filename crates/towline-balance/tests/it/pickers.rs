//! The policies, through the balancer.

use std::collections::BTreeMap;

use tokio_test::task::spawn;
use tower::ServiceExt;
use towline_balance::{
    Balance, BalanceBuilder, HotCold, LeastRequest, LoadMetric, P2c, RoundRobin, WeightedRandom, fixed,
};
use towline_core::{Call, Endpoint, Pick, Policy, Rng, Room, TokioExecutor, Weight};

use crate::support::{Desk, Desks, MS, Message, SECOND, endpoint, endpoints};

async fn over<P>(policy: P, set: Vec<Endpoint>, desks: &Desks) -> Balance<Desk, P::Picker>
where
    P: Policy<Picker: Pick<Message>> + Send,
{
    let builder = BalanceBuilder::new(policy).rng(Rng::with_seed(7)).load(LoadMetric::in_flight()).reports(true);
    let balance = builder.spawn(fixed(set), desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    balance
}

/// Calls per endpoint, one after the other.
async fn shares<P: Pick<Message>>(balance: &Balance<Desk, P>, calls: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..calls {
        *shares.entry(balance.clone().oneshot(Call::new(0)).await.unwrap()).or_default() += 1;
    }
    shares
}

fn weighted() -> Vec<Endpoint> {
    [("a:1", 1.0), ("b:1", 3.0), ("c:1", 0.0)]
        .map(|(target, weight)| endpoint(target).with_weight(Weight::new(weight).unwrap()))
        .into()
}

#[tokio::test(start_paused = true)]
async fn idle_endpoints_share_by_weight_and_weight_zero_gets_none() {
    let desks = Desks::default();
    for shares in [
        shares(&over(P2c::new(), weighted(), &desks).await, 4_000).await,
        shares(&over(WeightedRandom::new(), weighted(), &desks).await, 4_000).await,
        shares(&over(RoundRobin::new(), weighted(), &desks).await, 4_000).await,
    ] {
        assert!(shares["b:1"].abs_diff(3_000) < 100 && !shares.contains_key("c:1"), "{shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn busy_endpoints_share_by_weight() {
    let desks = Desks::default();
    for name in ["a:1", "b:1"] {
        desks.of(name).answers(SECOND, false);
    }
    let two = over(P2c::new(), weighted(), &desks).await;
    let all = over(LeastRequest::new(), weighted(), &desks).await;
    let mut held: Vec<_> = (0..400).map(|_| spawn(two.clone().oneshot(Call::new(0)))).collect();
    held.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    let in_flight: Vec<_> = two.endpoints().iter().map(|view| view.in_flight).collect();
    assert!(in_flight[0].abs_diff(100) < 12 && in_flight[2] == 0, "{in_flight:?}");
    let mut held: Vec<_> = (0..400).map(|_| spawn(all.clone().oneshot(Call::new(0)))).collect();
    held.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    let in_flight: Vec<_> = all.endpoints().iter().map(|view| view.in_flight).collect();
    assert!(in_flight[0].abs_diff(100) < 3 && in_flight[2] == 0, "{in_flight:?}");
}

#[tokio::test(start_paused = true)]
async fn weight_zero_gets_calls_when_no_other_can_take_them() {
    let desks = Desks::default();
    let balance = over(P2c::new(), weighted(), &desks).await;
    desks.of("a:1").room(Room::Down);
    desks.of("b:1").room(Room::Down);
    assert_eq!(balance.oneshot(Call::new(0)).await.unwrap(), "c:1");
}

/// Calls in flight on each, after so many that take long have begun.
async fn held<P: Policy<Picker: Pick<Message>> + Send>(policy: P, set: Vec<Endpoint>, desks: &Desks) -> Vec<usize> {
    let balance = over(policy, set, desks).await;
    // Everybody has reported.
    shares(&balance, 20).await;
    let mut held: Vec<_> = (0..400).map(|_| spawn(balance.clone().oneshot(Call::new(0)))).collect();
    held.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    balance.endpoints().iter().map(|view| view.in_flight).collect()
}

#[tokio::test(start_paused = true)]
async fn when_all_weights_are_zero_every_policy_takes_them_for_equal() {
    let desks = Desks::default();
    for desk in ["a:1", "b:1"].map(|name| desks.of(name)) {
        desk.reports(0, MS);
    }
    let zero = || endpoints(2).into_iter().map(|e| e.with_weight(Weight::new(0.0).unwrap())).collect::<Vec<_>>();
    for (policy, held) in [
        ("P2C", held(P2c::new(), zero(), &desks).await),
        ("least request", held(LeastRequest::new(), zero(), &desks).await),
        ("round robin", held(RoundRobin::new(), zero(), &desks).await),
        ("weighted random", held(WeightedRandom::new(), zero(), &desks).await),
        ("hot and cold", held(HotCold::new(), zero(), &desks).await),
    ] {
        assert!(held.len() == 2 && held.iter().all(|calls| calls.abs_diff(200) < 40), "{policy}: {held:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_least_loaded_of_all_is_called() {
    let desks = Desks::default();
    for name in ["a:1", "b:1", "c:1"] {
        desks.of(name).answers(SECOND, false);
    }
    let balance = over(LeastRequest::new(), endpoints(3), &desks).await;
    let mut held: Vec<_> = (0..30).map(|_| spawn(balance.clone().oneshot(Call::new(0)))).collect();
    for (n, call) in held.iter_mut().enumerate() {
        assert!(call.poll().is_pending());
        let in_flight: Vec<_> = balance.endpoints().iter().map(|view| view.in_flight).collect();
        assert!(in_flight.iter().max().unwrap() - in_flight.iter().min().unwrap() <= 1, "{n}: {in_flight:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_down_endpoint_is_passed_over_by_every_policy() {
    let desks = Desks::default();
    desks.of("b:1").room(Room::Down);
    let set = endpoints(3);
    for shares in [
        shares(&over(RoundRobin::new(), set.clone(), &desks).await, 300).await,
        shares(&over(LeastRequest::new(), set.clone(), &desks).await, 300).await,
        shares(&over(WeightedRandom::new(), set.clone(), &desks).await, 300).await,
        shares(&over(HotCold::new(), set.clone(), &desks).await, 300).await,
    ] {
        assert!(!shares.contains_key("b:1") && shares.values().sum::<usize>() == 300, "{shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn by_reports_the_one_that_should_answer_first_is_called_but_for_one_call_in_ten() {
    let desks = Desks::default();
    for (name, in_flight, latency) in [("a:1", 3, 10 * MS), ("b:1", 1, 10 * MS), ("c:1", 0, 100 * MS)] {
        desks.of(name).reports(in_flight, latency);
    }
    let balance = over(HotCold::new(), endpoints(3), &desks).await;
    let first = shares(&balance, 1_000).await;
    assert!(first["b:1"] > 900, "{first:?}");
    let views = balance.endpoints();
    let reported = views.iter().map(|view| view.reported.unwrap().in_flight).collect::<Vec<_>>();
    assert_eq!(reported, [3, 1, 0]);

    desks.of("b:1").reports(50, 10 * MS);
    let then = shares(&balance, 1_000).await;
    assert!(then["b:1"] < 100 && then["a:1"] > 800, "{then:?}");
}

#[tokio::test(start_paused = true)]
async fn without_reports_the_hot_and_cold_rule_is_that_of_two_choices() {
    let desks = Desks::default();
    let shares = shares(&over(HotCold::new(), endpoints(4), &desks).await, 2_000).await;
    assert!(shares.values().all(|share| share.abs_diff(500) < 80), "{shares:?}");
}
