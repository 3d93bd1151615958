//! Calls that say where they want to go.

use towline_balance::{P2c, Update, Zones};
use towline_core::{Call, EndpointKey, Home, Kind};
use towline_sticky::{HomeFirst, Rendezvous, StickyStats, WhenHomeFails};

use crate::support::{Desks, Message, Seen, ask, by, endpoints, over, settle};

fn home(key: &str) -> Home {
    Home::from(&EndpointKey::new(key))
}

fn to(key: &str) -> Message {
    Call::new(0).with_home(home(key))
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_where_it_asks_to_and_others_by_the_policy_within() {
    let (desks, stats) = (Desks::default(), StickyStats::new());
    let (balance, _discovery) = over(HomeFirst::new(P2c::new()).with_stats(stats.clone()), &desks, endpoints(4)).await;
    for key in ["c:1", "a:1", "d:1", "b:1"] {
        for _ in 0..10 {
            assert_eq!(ask(&balance, to(key)).await.unwrap(), key);
        }
    }
    for _ in 0..400 {
        ask(&balance, Call::new(0)).await.unwrap();
    }
    assert!(desks.all().iter().all(|desk| desk.calls() > 60));
    assert_eq!(stats.counts().followed, 40);
}

#[tokio::test(start_paused = true)]
async fn when_its_endpoint_is_gone_or_down_it_goes_by_the_policy_within_or_fails_as_set() {
    for when in [WhenHomeFails::Spill, WhenHomeFails::Strict] {
        let (desks, seen, stats, within) = (Desks::default(), Seen::default(), StickyStats::new(), StickyStats::new());
        let policy = HomeFirst::new(Rendezvous::new().unbounded().with_stats(within.clone()));
        let policy = policy.when_home_fails(when).unwrap().observers(seen.observers()).with_stats(stats.clone());
        let (balance, discovery) = over(policy, &desks, endpoints(4)).await;
        let by_hash = ask(&balance, by("alice")).await.unwrap();
        let other = ["a:1", "b:1"].into_iter().find(|key| *key != by_hash).unwrap();
        desks.of(other).down(true);
        let down = ask(&balance, by("alice").with_home(home(other))).await;
        let left = endpoints(4).into_iter().filter(|endpoint| endpoint.key().as_str() != other).collect();
        discovery.send(Ok(Update::Set(left))).await.unwrap();
        settle().await;
        let gone = ask(&balance, by("alice").with_home(home(other))).await;
        let counts = stats.counts();
        if when == WhenHomeFails::Spill {
            assert_eq!((down.unwrap(), gone.unwrap()), (by_hash.clone(), by_hash.clone()));
            let spilled = |home, why| format!("alice spilled {home} {by_hash} {why}");
            assert_eq!(seen.take(), [spilled(other, "unready"), spilled("none", "gone")]);
            assert_eq!((counts.spilled.unready, counts.spilled.gone), (1, 1));
            assert_eq!((within.counts().followed, within.counts().spilled.total()), (3, 0));
        } else {
            assert_eq!(down.unwrap_err().kind(), Kind::HomeUnavailable);
            assert_eq!(gone.unwrap_err().kind(), Kind::HomeUnavailable);
            assert_eq!(seen.take(), ["alice refused unready", "alice refused gone"]);
            assert_eq!((counts.refused.unready, counts.refused.gone), (1, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_asks_for_somebody_outside_of_the_set_gets_nobody_from_there() {
    let desks = Desks::default();
    let (balance, _discovery) = over(HomeFirst::new(P2c::new()), &desks, endpoints(2)).await;
    for key in ["169.254.169.254:80", "c:1", ""] {
        let answer = ask(&balance, to(key)).await.unwrap();
        assert!(answer == "a:1" || answer == "b:1");
    }
    assert_eq!(desks.all().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn around_zones_it_reaches_all_of_them() {
    let desks = Desks::default();
    let mut set = endpoints(4);
    set.iter_mut().take(2).for_each(|endpoint| *endpoint = endpoint.clone().with_zone("here"));
    let (balance, _discovery) = over(HomeFirst::new(Zones::new("here", P2c::new())), &desks, set).await;
    assert_eq!(ask(&balance, to("d:1")).await.unwrap(), "d:1");
    assert!(["a:1", "b:1"].contains(&&*ask(&balance, Call::new(0)).await.unwrap()));
}

#[test]
fn it_remembers_nothing_that_could_move() {
    let error = HomeFirst::new(P2c::new()).when_home_fails(WhenHomeFails::Move).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
}
