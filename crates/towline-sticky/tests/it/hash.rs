//! Homes by hash, and who says who is calling.

use tower::{Layer, ServiceExt, service_fn};
use towline_balance::{Update, Zones};
use towline_core::progress::Progress;
use towline_core::{Call, Error, Kind, Phase, Pick, Policy, SessionKey};
use towline_sticky::{Maglev, Rendezvous, StickyLayer, StickyStats, WhenHomeFails};

use crate::support::{Desks, Message, SECOND, Seen, ask, by, endpoints, over, settle};

// F33
#[tokio::test(start_paused = true)]
async fn a_session_stays_with_its_home_spills_to_one_second_choice_while_that_is_down_and_returns() {
    let (seen, stats) = (Seen::default(), StickyStats::new());
    let rendezvous = Rendezvous::new().observers(seen.observers()).with_stats(stats.clone());
    stays_spills_and_returns(rendezvous, &seen, &stats).await;
    let (seen, stats) = (Seen::default(), StickyStats::new());
    let maglev = Maglev::new().slots(65_537).unwrap().observers(seen.observers()).with_stats(stats.clone());
    stays_spills_and_returns(maglev, &seen, &stats).await;
}

async fn stays_spills_and_returns<P>(policy: P, seen: &Seen, stats: &StickyStats)
where
    P: Policy<Picker: Pick<Message>>,
{
    let desks = Desks::default();
    let (balance, _discovery) = over(policy, &desks, endpoints(3)).await;
    let home = ask(&balance, by("alice")).await.unwrap();
    for _ in 0..50 {
        assert_eq!(ask(&balance, by("alice")).await.unwrap(), home);
    }
    assert!(seen.take().is_empty());
    desks.of(&home).down(true);
    let second = ask(&balance, by("alice")).await.unwrap();
    assert_ne!(second, home);
    for _ in 0..50 {
        assert_eq!(ask(&balance, by("alice")).await.unwrap(), second, "one second choice, not a scatter");
    }
    assert_eq!(seen.take(), vec![format!("alice spilled {home} {second} unready"); 51]);
    desks.of(&home).down(false);
    assert_eq!(ask(&balance, by("alice")).await.unwrap(), home);
    let counts = stats.counts();
    assert_eq!((counts.followed, counts.spilled.unready, counts.spilled.total()), (52, 51, 51));
    assert_eq!((counts.moved.total(), counts.refused.total()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_home_that_says_it_is_there_and_cannot_lend_is_passed_over_too() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let (balance, _discovery) = over(Rendezvous::new().observers(seen.observers()), &desks, endpoints(3)).await;
    let home = ask(&balance, by("alice")).await.unwrap();
    desks.of(&home).refuses(true);
    let second = ask(&balance, by("alice")).await.unwrap();
    assert_ne!(second, home);
    assert_eq!(seen.take().len(), 1);
}

// F33
#[tokio::test(start_paused = true)]
async fn under_strict_a_call_fails_at_once_while_its_home_is_down_and_nobody_else_is_asked() {
    let (desks, seen, stats) = (Desks::default(), Seen::default(), StickyStats::new());
    let policy = Rendezvous::new().when_home_fails(WhenHomeFails::Strict).unwrap();
    let policy = policy.observers(seen.observers()).with_stats(stats.clone());
    let (balance, _discovery) = over(policy, &desks, endpoints(3)).await;
    let home = ask(&balance, by("alice")).await.unwrap();
    desks.of(&home).down(true);
    let error = ask(&balance, by("alice")).await.unwrap_err();
    assert_eq!((error.kind(), error.phase()), (Kind::HomeUnavailable, Phase::Pick));
    assert!(!error.kind().is_transient(), "a retry has no other");
    assert_eq!(seen.take(), ["alice refused unready"]);
    // It says that it is there, and cannot lend: its own error, and still nobody else.
    desks.of(&home).down(false);
    desks.of(&home).refuses(true);
    let error = ask(&balance, by("alice")).await.unwrap_err();
    assert_eq!((error.kind(), error.endpoint().unwrap().as_str()), (Kind::Unavailable, &*home));
    let others: usize = desks.all().iter().map(|desk| desk.calls()).sum();
    assert_eq!(others, 1, "the first call, at home");
    assert_eq!(stats.counts().refused.total(), 2);
}

/// A call that has failed where `first` ends, as a retry layer would send it again.
async fn again(first: impl Future<Output = Result<String, Error>>, mut call: Message) -> Message {
    let mut progress = Progress::default();
    let mut first = std::pin::pin!(first);
    let failed = std::future::poll_fn(|cx| progress.scope(|| first.as_mut().poll(cx))).await;
    failed.unwrap_err();
    let (id, _) = progress.endpoint().unwrap();
    towline_core::HasContext::context_mut(&mut call).tried_mut().add(id);
    call
}

// F33
#[tokio::test(start_paused = true)]
async fn a_retry_goes_elsewhere_when_calls_may_spill_and_stays_under_strict() {
    for when in [WhenHomeFails::Spill, WhenHomeFails::Strict] {
        let (desks, seen) = (Desks::default(), Seen::default());
        let policy = Rendezvous::new().when_home_fails(when).unwrap().observers(seen.observers());
        let (balance, _discovery) = over(policy, &desks, endpoints(2)).await;
        let home = ask(&balance, by("alice")).await.unwrap();
        desks.of(&home).fails(true);
        let retry = again(ask(&balance, by("alice")), by("alice")).await;
        let answer = ask(&balance, retry).await;
        if when == WhenHomeFails::Spill {
            let second = answer.unwrap();
            assert_ne!(second, home);
            assert_eq!(seen.take(), [format!("alice spilled {home} {second} tried")]);
        } else {
            assert_eq!(answer.unwrap_err().endpoint().unwrap().as_str(), home);
            assert_eq!(desks.of(&home).calls(), 3);
            assert!(seen.take().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_asks_nothing_of_the_endpoints_it_does_not_use() {
    let desks = Desks::default();
    let (balance, _discovery) = over(Maglev::new().slots(65_537).unwrap(), &desks, endpoints(4)).await;
    let home = ask(&balance, by("alice")).await.unwrap();
    for desk in ["a:1", "b:1", "c:1", "d:1"].into_iter().filter(|name| *name != home) {
        desks.of(desk).refuses(true);
        desks.of(desk).holds(true);
    }
    for _ in 0..20 {
        assert_eq!(ask(&balance, by("alice")).await.unwrap(), home);
    }
    for desk in ["a:1", "b:1", "c:1", "d:1"].into_iter().filter(|name| *name != home) {
        assert_eq!((desks.of(desk).calls(), desks.of(desk).lends()), (0, 0), "{desk}");
    }
}

#[tokio::test(start_paused = true)]
async fn removing_an_endpoint_moves_its_own_sessions_only_and_to_their_second_choice() {
    let desks = Desks::default();
    let (balance, discovery) = over(Rendezvous::new(), &desks, endpoints(4)).await;
    let mut homes = Vec::new();
    for session in 0..40u8 {
        homes.push(ask(&balance, by([session])).await.unwrap());
    }
    desks.of("a:1").down(true);
    let mut seconds = Vec::new();
    for session in 0..40u8 {
        seconds.push(ask(&balance, by([session])).await.unwrap());
    }
    let without = endpoints(4).into_iter().filter(|endpoint| endpoint.key().as_str() != "a:1").collect();
    discovery.send(Ok(Update::Set(without))).await.unwrap();
    settle().await;
    for session in 0..40u8 {
        let home = ask(&balance, by([session])).await.unwrap();
        assert_eq!(home, seconds[usize::from(session)]);
        assert!(homes[usize::from(session)] == "a:1" || homes[usize::from(session)] == home);
    }
}

#[tokio::test(start_paused = true)]
async fn under_strict_zones_keep_to_the_home_in_the_call_s_own_group() {
    let (desks, stats) = (Desks::default(), StickyStats::new());
    let policy = Rendezvous::new().when_home_fails(WhenHomeFails::Strict).unwrap().with_stats(stats.clone());
    let mut set = endpoints(4);
    set.iter_mut().take(2).for_each(|endpoint| *endpoint = endpoint.clone().with_zone("here"));
    let (balance, _discovery) = over(Zones::new("here", policy), &desks, set).await;
    let home = ask(&balance, by("alice")).await.unwrap();
    assert!(home == "a:1" || home == "b:1");
    desks.of(&home).refuses(true);
    ask(&balance, by("alice")).await.unwrap_err();
    let elsewhere: usize = ["c:1", "d:1"].iter().map(|name| desks.of(name).lends()).sum();
    assert_eq!(elsewhere, 0);
    assert_eq!(stats.counts().refused.total(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_key_is_no_session_and_is_counted() {
    let (desks, stats) = (Desks::default(), StickyStats::new());
    let policy = Rendezvous::new().with_stats(stats.clone());
    let (balance, _discovery) = over(policy, &desks, endpoints(4)).await;
    let who = StickyLayer::by(|_: &Message| Some(SessionKey::new(""))).with_stats(stats.clone());
    for _ in 0..100 {
        who.layer(balance.clone()).oneshot(Call::new(0)).await.unwrap();
    }
    assert!(desks.all().iter().all(|desk| desk.calls() > 10), "spread as calls without a session");
    assert_eq!((stats.counts().empty_keys, stats.counts().followed), (100, 0));
    // The caller's own, too.
    ask(&balance, by("")).await.unwrap();
    assert_eq!(stats.counts().empty_keys, 101);
}

#[tokio::test]
async fn a_layer_lets_no_empty_key_through() {
    let stats = StickyStats::new();
    let echo = service_fn(|call: Message| async move { Ok::<_, Error>(call) });
    let layer = StickyLayer::by(|_: &Message| Some(SessionKey::new(""))).with_stats(stats.clone());
    let call = layer.layer(echo).oneshot(Call::new(0)).await.unwrap();
    assert_eq!((call.context().session(), stats.counts().empty_keys), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn a_key_of_a_mebibyte_is_a_key() {
    let desks = Desks::default();
    let (balance, _discovery) = over(Rendezvous::new(), &desks, endpoints(4)).await;
    let mut key = vec![7; 1 << 20];
    let home = ask(&balance, by(&key)).await.unwrap();
    for _ in 0..5 {
        assert_eq!(ask(&balance, by(&key)).await.unwrap(), home);
    }
    let mut homes = std::collections::BTreeSet::new();
    for last in 0..20 {
        *key.last_mut().unwrap() = last;
        homes.insert(ask(&balance, by(&key)).await.unwrap());
    }
    assert!(homes.len() > 1, "all of it counts");
}

#[tokio::test]
async fn a_session_that_the_caller_has_set_stays() {
    let seen =
        service_fn(
            |call: Call<&'static str>| async move { Ok::<_, Error>(call.context().session().unwrap().to_string()) },
        );
    let layer = StickyLayer::by(|call: &Call<&'static str>| Some(SessionKey::new(call.message())));
    assert_eq!(layer.layer(seen).oneshot(Call::new("by request")).await.unwrap(), "by request");
    let call = Call::new("by request").with_session("by caller");
    assert_eq!(layer.layer(seen).oneshot(call).await.unwrap(), "by caller");
}

#[tokio::test(start_paused = true)]
async fn calls_without_a_session_go_by_load() {
    let desks = Desks::default();
    let (balance, _discovery) = over(Maglev::new().slots(251).unwrap().unbounded(), &desks, endpoints(2)).await;
    desks.of("a:1").holds(true);
    let held: Vec<_> = (0..40).map(|_| tokio::spawn(balance.clone().oneshot(Call::new(0)))).collect();
    tokio::time::sleep(SECOND / 10).await;
    let mut to_b = 0;
    for _ in 0..40 {
        to_b += usize::from(ask(&balance, Call::new(0)).await.unwrap() == "b:1");
    }
    assert_eq!(to_b, 40, "the other has calls that do not end");
    desks.of("a:1").holds(false);
    for call in held {
        call.await.unwrap().unwrap();
    }
}
