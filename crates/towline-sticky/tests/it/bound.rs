//! Bounded load, as calls come and go.

use std::collections::{BTreeMap, VecDeque};

use tower::ServiceExt;
use towline_core::{Pick, Policy, Rng};
use towline_sticky::{Maglev, Rendezvous, StickyStats};

use crate::support::{Desk, Desks, Message, by, endpoints, over, settle};

/// Zipf's law with exponent 1.1 over so many keys, by their cumulative weights.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(keys: usize) -> Self {
        let mut sum = 0.0;
        let add = |rank: usize| {
            sum += (rank as f64).powf(-1.1);
            sum
        };
        Self((1..=keys).map(add).collect())
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let point = rng.unit() * self.0.last().unwrap();
        self.0.partition_point(|sum| *sum <= point)
    }
}

const ENDPOINTS: u8 = 10;

/// Sends calls of many sessions, of which one has a fifth of all, and keeps `level` in flight; looks at every admission.
async fn never_above_the_bound<P>(policy: P, stats: StickyStats)
where
    P: Policy<Picker: Pick<Message>>,
{
    let desks = Desks::default();
    let (balance, _discovery) = over(policy, &desks, endpoints(ENDPOINTS)).await;
    let all: Vec<Desk> = endpoints(ENDPOINTS).iter().map(|endpoint| desks.of(endpoint.key().as_str())).collect();
    all.iter().for_each(|desk| desk.holds(true));
    let (zipf, mut rng) = (Zipf::new(10_000), Rng::with_seed(34));
    let mut calls = VecDeque::new();
    let mut hot = BTreeMap::<usize, u32>::new();
    for turn in 0..3_000 {
        let level = [1, 7, 40, 200, 80][turn / 600];
        while calls.len() >= level {
            // Whichever: calls do not end in the order in which they came.
            let index = rng.below(calls.len());
            calls.swap_remove_back(index);
        }
        let key = if rng.unit() < 0.2 { 0 } else { 1 + zipf.draw(&mut rng) };
        let before: Vec<_> = all.iter().map(Desk::now).collect();
        let mut call = tokio_test::task::spawn(balance.clone().oneshot(by(key.to_le_bytes())));
        assert!(call.poll().is_pending());
        let went = (0..all.len()).find(|index| all[*index].now() > before[*index]).unwrap();
        calls.push_back(call);
        let total: usize = all.iter().map(Desk::now).sum();
        assert_eq!(total, calls.len());
        let bound = (1.25 * total as f64 / f64::from(ENDPOINTS)).ceil() as usize;
        assert!(all[went].now() <= bound, "{} of {total} at one, bound {bound}", all[went].now());
        if key == 0 && (1_800..2_400).contains(&turn) {
            *hot.entry(went).or_default() += 1;
        }
    }
    let counts = stats.counts();
    assert_eq!(counts.followed + counts.spilled.total(), 3_000);
    assert_eq!(counts.spilled.total(), counts.spilled.overloaded, "nobody was down, gone or tried");
    assert!(counts.spilled.overloaded > 100, "a fifth of all calls does not fit on a tenth of the endpoints");
    assert!(counts.followed > 1_500, "most calls go home: {counts:?}");
    assert_eq!((counts.moved.total(), counts.refused.total()), (0, 0));
    assert!(hot.len() < usize::from(ENDPOINTS), "the hot key spreads only as far as it must: {hot:?}");
    drop(calls);
    settle().await;
}

// F34
#[tokio::test(start_paused = true)]
async fn no_endpoint_is_ever_above_the_bound_under_zipf_and_a_hot_key_and_spills_are_counted() {
    let stats = StickyStats::new();
    never_above_the_bound(Rendezvous::new().with_stats(stats.clone()), stats).await;
    let stats = StickyStats::new();
    never_above_the_bound(Maglev::new().slots(65_537).unwrap().with_stats(stats.clone()), stats).await;
}

#[tokio::test(start_paused = true)]
async fn what_overflows_goes_to_the_same_second_choice_every_time() {
    let desks = Desks::default();
    let (balance, _discovery) = over(Rendezvous::new(), &desks, endpoints(ENDPOINTS)).await;
    let all: Vec<Desk> = endpoints(ENDPOINTS).iter().map(|endpoint| desks.of(endpoint.key().as_str())).collect();
    all.iter().for_each(|desk| desk.holds(true));
    let mut calls = Vec::new();
    let mut call = |session: &str| {
        let before: Vec<_> = all.iter().map(Desk::now).collect();
        let mut call = tokio_test::task::spawn(balance.clone().oneshot(by(session)));
        assert!(call.poll().is_pending());
        calls.push(call);
        (0..all.len()).find(|index| all[*index].now() > before[*index]).unwrap()
    };
    let home = call("hot");
    let second = call("hot");
    assert_ne!(home, second, "one call each, with two in flight over ten");
    drop(calls);
    settle().await;
    let mut calls = Vec::new();
    for _ in 0..2 {
        let mut call = tokio_test::task::spawn(balance.clone().oneshot(by("hot")));
        assert!(call.poll().is_pending());
        calls.push(call);
    }
    assert_eq!((all[home].now(), all[second].now()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_a_bound_a_session_stays_at_home_however_busy_that_is() {
    let (desks, stats) = (Desks::default(), StickyStats::new());
    let policy = Rendezvous::new().unbounded().with_stats(stats.clone());
    let (balance, _discovery) = over(policy, &desks, endpoints(4)).await;
    endpoints(4).iter().for_each(|endpoint| desks.of(endpoint.key().as_str()).holds(true));
    let mut calls: Vec<_> = (0..50).map(|_| tokio_test::task::spawn(balance.clone().oneshot(by("hot")))).collect();
    calls.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    let mut now: Vec<_> = desks.all().iter().map(Desk::now).collect();
    now.sort_unstable();
    assert_eq!(now, [0, 0, 0, 50]);
    assert_eq!((stats.counts().followed, stats.counts().spilled.total()), (50, 0));
}
