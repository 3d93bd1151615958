//! Zones and priorities, through the balancer.

use std::ops::Range;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use towline_balance::{
    Balance, BalanceBuilder, LoadMetric, Outliers, P2c, RoundRobin, SlowStart, Zones, ZonesPicker, fixed,
};
use towline_core::{Call, Endpoint, Pick, Policy, Rng, Room, TokioExecutor};
use towline_retry::{RetryLayer, RetryPolicy};

use crate::support::{Desk, Desks, MS, Message, SECOND, discovery, endpoint};

/// The endpoints `zone:1`, `zone:2` and so on.
#[derive(Clone)]
struct Zone {
    name: &'static str,
    priority: u8,
    size: usize,
    desks: Desks,
}

impl Zone {
    fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let Self { name, priority, size, .. } = self.clone();
        (1..=size).map(move |n| endpoint(&format!("{name}:{n}")).with_zone(name).with_priority(priority))
    }

    fn some(&self, which: Range<usize>) -> impl Iterator<Item = Desk> {
        which.map(|n| self.desks.of(&format!("{}:{}", self.name, n + 1)))
    }

    fn all(&self) -> impl Iterator<Item = Desk> {
        self.some(0..self.size)
    }

    fn answers(&self, which: Range<usize>, takes: Duration, fails: bool) {
        self.some(which).for_each(|desk| desk.answers(takes, fails));
    }

    fn calls(&self) -> usize {
        self.all().map(|desk| desk.calls()).sum()
    }
}

/// Ten here, and twenty elsewhere, each call 10 ms.
fn three_zones() -> [Zone; 3] {
    let desks = Desks::default();
    ["here", "b", "c"].map(|name| {
        let zone = Zone { name, priority: 0, size: 10, desks: desks.clone() };
        zone.answers(0..10, 10 * MS, false);
        zone
    })
}

async fn over<P>(policy: P, metric: LoadMetric, zones: &[Zone]) -> Balance<Desk, ZonesPicker<P::Picker>>
where
    P: Policy<Picker: Pick<Message>> + Send,
{
    // Probation alone, which ends soon.
    let builder =
        BalanceBuilder::new(Zones::new("here", policy)).outliers(Outliers::off()).slow_start(SlowStart::off());
    spawned(builder.load(metric), zones).await
}

async fn spawned<P>(builder: BalanceBuilder<Zones<P>>, zones: &[Zone]) -> Balance<Desk, ZonesPicker<P::Picker>>
where
    P: Policy<Picker: Pick<Message>> + Send,
{
    let builder = builder.rng(Rng::with_seed(7));
    let set: Vec<_> = zones.iter().flat_map(Zone::endpoints).collect();
    let balance = builder.spawn(fixed(set), zones[0].desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    balance
}

/// 500 calls per second for as long; how many of them failed, and the part of them that went to each zone.
async fn run<P: Pick<Message>>(
    balance: &Balance<Desk, ZonesPicker<P>>,
    zones: &[Zone],
    length: Duration,
) -> (usize, Vec<f64>) {
    let before: Vec<_> = zones.iter().map(Zone::calls).collect();
    let end = Instant::now() + length;
    let calls = stream::unfold((), |()| async {
        sleep(2 * MS).await;
        (Instant::now() < end).then(|| (balance.clone().oneshot(Call::new(0)), ()))
    });
    let failed = calls.buffer_unordered(10_000).filter(|result| std::future::ready(result.is_err())).count().await;
    let calls: Vec<_> = zones.iter().zip(before).map(|(zone, before)| (zone.calls() - before) as f64).collect();
    let total: f64 = calls.iter().sum();
    (failed, calls.into_iter().map(|calls| calls / total).collect())
}

fn assert_near(shares: &[f64], expected: &[f64]) {
    let near = |(share, expected): (&f64, &f64)| (share - expected).abs() < 0.03;
    assert!(shares.iter().zip(expected).all(near), "{shares:?}, not {expected:?}");
}

// F21
#[tokio::test(start_paused = true)]
async fn a_zone_that_fails_spills_what_it_cannot_take_and_has_its_calls_again_when_its_endpoints_are_well() {
    let zones = three_zones();
    let balance = over(P2c::new(), LoadMetric::default(), &zones).await;
    let (failed, shares) = run(&balance, &zones, 5 * SECOND).await;
    assert_eq!((failed, &*shares), (0, &[1.0, 0.0, 0.0][..]));

    zones[0].answers(0..5, MS, true);
    run(&balance, &zones, SECOND).await;
    let (_, shares) = run(&balance, &zones, 10 * SECOND).await;
    assert_near(&shares, &[0.7, 0.15, 0.15]);

    zones[0].answers(5..10, MS, true);
    run(&balance, &zones, SECOND).await;
    let (failed, shares) = run(&balance, &zones, 10 * SECOND).await;
    assert!(failed < 50, "{failed} of 5000");
    assert_near(&shares, &[0.0, 0.5, 0.5]);

    zones[0].answers(0..10, 10 * MS, false);
    run(&balance, &zones, 5 * SECOND).await;
    let (failed, shares) = run(&balance, &zones, 5 * SECOND).await;
    assert_eq!((failed, &*shares), (0, &[1.0, 0.0, 0.0][..]));
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_is_ejected_spills_and_comes_back_slowly() {
    let zones = three_zones();
    let balance = spawned(BalanceBuilder::new(Zones::new("here", P2c::new())), &zones).await;
    run(&balance, &zones, 20 * SECOND).await;
    zones[0].answers(0..10, MS, true);
    run(&balance, &zones, 6 * SECOND).await;
    let ejected = balance.endpoints().iter().filter(|view| view.ejection.is_some()).count();
    assert_eq!(ejected, 10);
    let (failed, shares) = run(&balance, &zones, 5 * SECOND).await;
    assert_eq!((failed, shares[0]), (0, 0.0));

    zones[0].answers(0..10, 10 * MS, false);
    let mut last = 0.0;
    for _ in 0..60 {
        let (failed, shares) = run(&balance, &zones, SECOND).await;
        assert!(failed == 0 && shares[0] >= last - 0.1, "{failed}, {shares:?} after {last}");
        last = shares[0];
    }
    assert_eq!(last, 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_comes_back_does_not_overload_those_of_it_that_are_there_first() {
    let zones = three_zones();
    let balance = over(P2c::new(), LoadMetric::default(), &zones).await;
    run(&balance, &zones, 5 * SECOND).await;
    zones[0].answers(0..10, MS, true);
    run(&balance, &zones, 20 * SECOND).await;
    // Two come back at first. Their own are a fifth of 500 calls per second.
    zones[0].answers(0..2, 10 * MS, false);
    run(&balance, &zones, 6 * SECOND).await;
    let before: usize = zones[0].some(0..2).map(|desk| desk.calls()).sum();
    let (failed, shares) = run(&balance, &zones, 10 * SECOND).await;
    let per_second = (zones[0].some(0..2).map(|desk| desk.calls()).sum::<usize>() - before) / 10;
    assert!((120..=155).contains(&per_second), "{per_second}");
    assert!(failed < 50, "{failed} of 5000");
    assert_near(&shares, &[0.28, 0.36, 0.36]);
}

#[tokio::test(start_paused = true)]
async fn policies_that_do_not_heed_probation_find_out_too_that_a_zone_is_well_again() {
    let zones = three_zones();
    let balance = over(RoundRobin::new(), LoadMetric::default(), &zones).await;
    run(&balance, &zones, 2 * SECOND).await;
    zones[0].answers(0..10, MS, true);
    run(&balance, &zones, SECOND).await;
    let (_, shares) = run(&balance, &zones, 5 * SECOND).await;
    assert_near(&shares, &[0.0, 0.5, 0.5]);
    zones[0].answers(0..10, 10 * MS, false);
    run(&balance, &zones, 10 * SECOND).await;
    let (failed, shares) = run(&balance, &zones, SECOND).await;
    assert_eq!((failed, &*shares), (0, &[1.0, 0.0, 0.0][..]));
}

#[tokio::test(start_paused = true)]
async fn calls_leave_a_zone_whose_endpoints_are_down_and_come_back_also_without_a_measure_of_latency() {
    let zones = three_zones();
    let balance = over(P2c::new(), LoadMetric::in_flight(), &zones).await;
    let (_, shares) = run(&balance, &zones, SECOND).await;
    assert_near(&shares, &[1.0, 0.0, 0.0]);
    for (down, expected) in [(5, [0.7, 0.15, 0.15]), (10, [0.0, 0.5, 0.5]), (2, [1.0, 0.0, 0.0])] {
        zones[0].some(0..down).for_each(|desk| desk.room(Room::Down));
        zones[0].some(down..10).for_each(|desk| desk.room(Room::Ready));
        run(&balance, &zones, 200 * MS).await;
        let (failed, shares) = run(&balance, &zones, 5 * SECOND).await;
        assert_eq!(failed, 0);
        assert_near(&shares, &expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_priority_takes_over_and_gives_back() {
    let desks = Desks::default();
    let zone = |name, priority| Zone { name, priority, size: 4, desks: desks.clone() };
    let zones = [zone("b", 0), zone("here", 1), zone("far", 2)];
    zones.iter().for_each(|zone| zone.answers(0..4, 10 * MS, false));
    let balance = over(P2c::new(), LoadMetric::default(), &zones).await;
    let (_, shares) = run(&balance, &zones, 2 * SECOND).await;
    assert_near(&shares, &[1.0, 0.0, 0.0]);
    zones[0].answers(0..2, MS, true);
    run(&balance, &zones, SECOND).await;
    assert_near(&run(&balance, &zones, 10 * SECOND).await.1, &[0.7, 0.3, 0.0]);
    zones[0].answers(0..4, MS, true);
    zones[1].answers(0..3, MS, true);
    run(&balance, &zones, SECOND).await;
    assert_near(&run(&balance, &zones, 10 * SECOND).await.1, &[0.0, 0.35, 0.65]);
    zones[0].answers(0..4, 10 * MS, false);
    run(&balance, &zones, 6 * SECOND).await;
    assert_near(&run(&balance, &zones, 2 * SECOND).await.1, &[1.0, 0.0, 0.0]);
}

// F23
#[tokio::test(start_paused = true)]
async fn when_nobody_is_available_everybody_is_asked_and_the_first_to_be_well_is_found() {
    let zones = three_zones();
    let balance = over(P2c::new(), LoadMetric::default(), &zones).await;
    run(&balance, &zones, SECOND).await;
    zones.iter().for_each(|zone| zone.answers(0..10, MS, true));
    run(&balance, &zones, 5 * SECOND).await;
    let (_, shares) = run(&balance, &zones, 5 * SECOND).await;
    assert!(shares.iter().all(|share| (share - 1.0 / 3.0).abs() < 0.1), "{shares:?}");
    zones[1].answers(0..10, 10 * MS, false);
    run(&balance, &zones, 5 * SECOND).await;
    let (failed, shares) = run(&balance, &zones, 5 * SECOND).await;
    assert!(failed < 50 && shares[1] > 0.98, "{failed} {shares:?}");
}

#[tokio::test(start_paused = true)]
async fn new_and_busy_endpoints_do_not_send_calls_out_of_their_zone() {
    let zones = three_zones();
    zones[0].answers(0..2, 100 * MS, false);
    let (discover, stream) = discovery::<Vec<Endpoint>>();
    let builder = BalanceBuilder::new(Zones::new("here", P2c::new())).rng(Rng::with_seed(7));
    let balance = builder.spawn(stream, zones[0].desks.make(), &TokioExecutor::current()).unwrap();
    let all: Vec<_> = zones.iter().flat_map(Zone::endpoints).collect();
    // Of the ten here, eight are to come.
    discover.send(Ok([&all[..2], &all[10..]].concat())).await.unwrap();
    run(&balance, &zones, 2 * SECOND).await;
    // Each has one call in flight for as long as the others take: most of the zone may not be called.
    zones[0].answers(2..10, 500 * MS, false);
    discover.send(Ok(all)).await.unwrap();
    let (failed, shares) = run(&balance, &zones, SECOND).await;
    assert_eq!((failed, &*shares), (0, &[1.0, 0.0, 0.0][..]));
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_another_endpoint_here_and_then_elsewhere() {
    let desks = Desks::default();
    let zone = |name, priority, size| Zone { name, priority, size, desks: desks.clone() };
    let zones = [zone("here", 0, 2), zone("b", 0, 1), zone("far", 1, 1)];
    let balance = over(P2c::new(), LoadMetric::in_flight(), &zones).await;
    zones[0].answers(0..2, MS, true);
    for (attempts, expected) in [(2, [1, 1, 0, 0]), (3, [1, 1, 1, 0])] {
        let retry = RetryLayer::with_policy(RetryPolicy::default().attempts(attempts).unwrap());
        let before: Vec<_> = zones.iter().flat_map(Zone::all).map(|desk| desk.calls()).collect();
        let answer = retry.layer(balance.clone()).oneshot(Call::new(0).idempotent()).await;
        assert_eq!(answer.is_ok(), attempts == 3);
        let calls: Vec<_> =
            zones.iter().flat_map(Zone::all).zip(before).map(|(desk, before)| desk.calls() - before).collect();
        assert_eq!(calls, expected);
    }
    zones[1].answers(0..1, MS, true);
    let retry = RetryLayer::with_policy(RetryPolicy::default().attempts(4).unwrap());
    assert_eq!(retry.layer(balance).oneshot(Call::new(0).idempotent()).await.unwrap(), "far:1");
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_is_far_away_takes_over_although_it_is_slower_than_what_was_near() {
    for (near, far) in [(10, 10), (20, 10)] {
        let desks = Desks::default();
        let zone = |name, priority, size| Zone { name, priority, size, desks: desks.clone() };
        let zones = [zone("here", 0, near), zone("far", 1, far)];
        zones[0].answers(0..near, 5 * MS, false);
        zones[1].answers(0..far, 60 * MS, false);
        let balance = over(P2c::new(), LoadMetric::default(), &zones).await;
        run(&balance, &zones, 5 * SECOND).await;
        zones[0].answers(0..near, MS, true);
        run(&balance, &zones, SECOND).await;
        let (failed, shares) = run(&balance, &zones, 10 * SECOND).await;
        assert!(failed < 100, "{failed} of 5000");
        assert_near(&shares, &[0.0, 1.0]);
        // Some that are near come back, and do not get everything at once.
        zones[0].answers(0..near / 5, 5 * MS, false);
        run(&balance, &zones, 10 * SECOND).await;
        let (_, shares) = run(&balance, &zones, 10 * SECOND).await;
        assert_near(&shares, &[0.28, 0.72]);
    }
}

#[tokio::test(start_paused = true)]
async fn zone_and_priority_change_in_place() {
    let zones = three_zones();
    let (discover, stream) = discovery::<Vec<Endpoint>>();
    let builder = BalanceBuilder::new(Zones::new("here", P2c::new())).rng(Rng::with_seed(7));
    let balance = builder.spawn(stream, zones[0].desks.make(), &TokioExecutor::current()).unwrap();
    let mut all: Vec<_> = zones.iter().flat_map(Zone::endpoints).collect();
    discover.send(Ok(all.clone())).await.unwrap();
    assert_near(&run(&balance, &zones, SECOND).await.1, &[1.0, 0.0, 0.0]);
    for endpoint in &mut all[..10] {
        *endpoint = endpoint.clone().with_priority(1);
    }
    for endpoint in &mut all[10..20] {
        *endpoint = endpoint.clone().with_zone("here");
    }
    discover.send(Ok(all)).await.unwrap();
    assert_near(&run(&balance, &zones, SECOND).await.1, &[0.0, 1.0, 0.0]);
}
