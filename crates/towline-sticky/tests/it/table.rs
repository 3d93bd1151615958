//! Homes that are remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tower::ServiceExt;
use towline_balance::{Balance, Update, Zones};
use towline_core::{Endpoint, EndpointId, Error, Kind, Loads, Member, Pick, Policy, Rng, View, Weight};
use towline_sticky::{SessionTable, SessionTablePicker, StickyStats, WhenHomeFails};

use crate::support::{Desk, Desks, Discovery, SECOND, Seen, ask, by, endpoints, over, settle};

type Sticky = Balance<Desk, SessionTablePicker>;

/// A table over so many endpoints.
struct Setup {
    desks: Desks,
    seen: Seen,
    stats: StickyStats,
    balance: Sticky,
    discovery: Discovery,
}

async fn setup(policy: SessionTable, n: u8) -> Setup {
    let (desks, seen, stats) = (Desks::default(), Seen::default(), StickyStats::new());
    let policy = policy.observers(seen.observers()).with_stats(stats.clone());
    let (balance, discovery) = over(policy, &desks, endpoints(n)).await;
    Setup { desks, seen, stats, balance, discovery }
}

impl Setup {
    async fn ask(&self, session: &str) -> Result<String, Error> {
        ask(&self.balance, by(session)).await
    }

    /// Where these sessions go, each by one call.
    async fn homes(&self, sessions: std::ops::Range<u32>) -> BTreeMap<u32, String> {
        let mut homes = BTreeMap::new();
        for session in sessions {
            homes.insert(session, self.ask(&session.to_string()).await.unwrap());
        }
        homes
    }

    async fn discover(&self, endpoints: Vec<Endpoint>) {
        self.discovery.send(Ok(Update::Set(endpoints))).await.unwrap();
        settle().await;
    }
}

/// For pickers alone.
struct Idle;

impl Loads for Idle {
    fn load(&self, _index: usize) -> f64 {
        0.0
    }
}

fn members(n: u8) -> Vec<Member> {
    let member = |endpoint: Endpoint| Member { id: EndpointId::fresh(), endpoint: endpoint.into() };
    endpoints(n).into_iter().map(member).collect()
}

fn without(n: u8, gone: &str) -> Vec<Endpoint> {
    endpoints(n).into_iter().filter(|endpoint| endpoint.key().as_str() != gone).collect()
}

#[tokio::test(start_paused = true)]
async fn a_first_call_goes_by_load_and_later_ones_follow_it() {
    let setup = setup(SessionTable::new(), 2).await;
    setup.desks.of("a:1").holds(true);
    let held: Vec<_> = (0..20u8).map(|session| tokio::spawn(setup.balance.clone().oneshot(by([session])))).collect();
    tokio::time::sleep(SECOND / 10).await;
    assert!(setup.desks.of("a:1").now() > 0 && setup.desks.of("b:1").now() == 0);
    for session in 100..120u32 {
        let answer = setup.ask(&session.to_string()).await.unwrap();
        assert_eq!(answer, "b:1", "the other has calls that do not end");
    }
    setup.desks.of("a:1").holds(false);
    setup.desks.of("b:1").holds(true);
    let more: Vec<_> =
        (0..20u8).map(|session| tokio::spawn(setup.balance.clone().oneshot(by([200 + session])))).collect();
    settle().await;
    for session in 100..120u32 {
        let mut call = tokio_test::task::spawn(setup.balance.clone().oneshot(by(session.to_string())));
        assert!(call.poll().is_pending());
    }
    setup.desks.of("b:1").holds(false);
    for call in held.into_iter().chain(more) {
        call.await.unwrap().unwrap();
    }
    let counts = setup.stats.counts();
    assert_eq!((counts.followed, counts.entries), (80, 60));
    assert!(setup.seen.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_joins_moves_nobody() {
    let setup = setup(SessionTable::new(), 3).await;
    let homes = setup.homes(0..50).await;
    setup.discover(endpoints(6)).await;
    assert_eq!(setup.homes(0..50).await, homes);
    let new: BTreeSet<_> = setup.homes(50..150).await.into_values().collect();
    assert_eq!(new.len(), 6, "new sessions go there too");
}

#[tokio::test(start_paused = true)]
async fn two_concurrent_first_calls_of_one_session_get_the_same_home() {
    let setup = setup(SessionTable::new(), 5).await;
    for session in 0..50u8 {
        let (first, second) = tokio::join!(ask(&setup.balance, by([session])), ask(&setup.balance, by([session])));
        assert_eq!(first.unwrap(), second.unwrap());
    }
}

#[test]
fn two_threads_that_ask_for_one_session_first_get_the_same_home() {
    let set = members(20);
    let picker = SessionTable::new().build(&set, None);
    let home = |session: u32, rng: &mut Rng| {
        let call = by(session.to_le_bytes());
        picker.order(&call, Some(call.context()), View::new(&set, &Idle), rng).next().unwrap()
    };
    let barrier = std::sync::Barrier::new(2);
    let homes = || {
        let mut rng = Rng::new();
        let homes = (0..500).map(|session| {
            barrier.wait();
            home(session, &mut rng)
        });
        homes.collect::<Vec<_>>()
    };
    let (first, second) = std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(homes), scope.spawn(homes));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!(first, second);
    assert!(first.iter().collect::<BTreeSet<_>>().len() > 10);
}

#[tokio::test(start_paused = true)]
async fn first_calls_go_past_who_is_not_there() {
    let setup = setup(SessionTable::new(), 3).await;
    setup.desks.of("a:1").down(true);
    for (_, home) in setup.homes(0..30).await {
        assert_ne!(home, "a:1");
    }
    assert_eq!(setup.stats.counts().followed, 30);
}

// F35
#[tokio::test(start_paused = true)]
async fn idle_sessions_are_forgotten_although_nobody_calls() {
    let setup = setup(SessionTable::new().idle(60 * SECOND).unwrap(), 3).await;
    setup.homes(0..500).await;
    assert_eq!(setup.stats.counts().entries, 500);
    tokio::time::sleep(55 * SECOND).await;
    setup.homes(0..100).await;
    tokio::time::sleep(11 * SECOND).await;
    let counts = setup.stats.counts();
    assert_eq!((counts.entries, counts.expired), (100, 400), "those that had a call have another minute");
    tokio::time::sleep(60 * SECOND).await;
    let counts = setup.stats.counts();
    assert_eq!((counts.entries, counts.expired, counts.evicted), (0, 500, 0));
}

// F35
#[tokio::test(start_paused = true)]
async fn keys_that_come_once_push_out_each_other_and_not_who_calls() {
    let setup = setup(SessionTable::new().capacity(100).unwrap(), 3).await;
    let home = setup.ask("alice").await.unwrap();
    for round in 0..40 {
        setup.homes(1_000 * round..1_000 * round + 50).await;
        assert_eq!(setup.ask("alice").await.unwrap(), home);
    }
    let counts = setup.stats.counts();
    assert_eq!((counts.entries, counts.evicted), (100, 2_001 - 100));
}

#[tokio::test(start_paused = true)]
async fn sessions_of_an_endpoint_that_is_gone_move_at_once_to_where_all_of_their_calls_go() {
    for when in [WhenHomeFails::Move, WhenHomeFails::Spill] {
        let setup = setup(SessionTable::new().when_home_fails(when), 4).await;
        let homes = setup.homes(0..240).await;
        setup.discover(without(4, "a:1")).await;
        let mut seen = Vec::new();
        for (session, home) in &homes {
            let key = session.to_string();
            let (first, second) = tokio::join!(setup.ask(&key), setup.ask(&key));
            let new = first.unwrap();
            assert_eq!(new, second.unwrap());
            if home == "a:1" {
                seen.push(format!("{session} moved none {new} gone"));
            } else {
                assert_eq!(new, *home);
            }
        }
        assert!(seen.len() > 20);
        assert_eq!(setup.seen.take(), seen, "once each");
        let counts = setup.stats.counts();
        assert_eq!((counts.moved.gone, counts.moved.total()), (seen.len() as u64, seen.len() as u64));
        // They spread, and stay when it comes back.
        let moved = setup.homes(0..240).await;
        let targets: BTreeSet<_> = homes.keys().filter(|key| homes[key] == "a:1").map(|key| &moved[key]).collect();
        assert_eq!(targets.len(), 3);
        setup.discover(endpoints(4)).await;
        assert_eq!(setup.homes(0..240).await, moved);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_returns_under_its_key_finds_the_sessions_that_did_not_call_meanwhile() {
    let setup = setup(SessionTable::new(), 4).await;
    let homes = setup.homes(0..40).await;
    setup.discover(without(4, "b:1")).await;
    let mut back = endpoints(4);
    back.rotate_left(2);
    setup.discover(back).await;
    assert_eq!(setup.homes(0..40).await, homes);
    assert!(setup.seen.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn sessions_move_at_a_bounded_rate_and_their_calls_spill_to_the_same_endpoint_meanwhile() {
    let setup = setup(SessionTable::new().moves_per_second(10).unwrap(), 2).await;
    let homes = setup.homes(0..80).await;
    let of_a: Vec<_> = homes.iter().filter(|(_, home)| *home == "a:1").map(|(session, _)| *session).collect();
    assert!(of_a.len() > 15);
    setup.desks.of("a:1").down(true);
    // The calls of a second take less than one.
    let start = tokio::time::Instant::now();
    setup.homes(0..80).await;
    assert!(start.elapsed() < SECOND);
    let moved = setup.stats.counts().moved.unready;
    assert!((10..=11).contains(&moved), "{moved}");
    assert_eq!(setup.stats.counts().spilled.unready, of_a.len() as u64 - moved);
    // A short outage: the others have their home still.
    setup.desks.of("a:1").down(false);
    let after = setup.homes(0..80).await;
    let stayed = of_a.iter().filter(|session| after[session] == "a:1").count();
    assert_eq!(stayed as u64, of_a.len() as u64 - moved);
    // A long one moves all.
    setup.desks.of("a:1").down(true);
    for _ in 0..10 {
        setup.homes(0..80).await;
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(setup.stats.counts().moved.unready, of_a.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_home_is_down_moves_or_spills_or_is_refused_as_set() {
    for when in [WhenHomeFails::Move, WhenHomeFails::Spill, WhenHomeFails::Strict] {
        let setup = setup(SessionTable::new().when_home_fails(when), 4).await;
        let home = setup.ask("alice").await.unwrap();
        setup.desks.of(&home).down(true);
        let (first, second) = (setup.ask("alice").await, setup.ask("alice").await);
        setup.desks.of(&home).down(false);
        let after = setup.ask("alice").await.unwrap();
        let counts = setup.stats.counts();
        let counted = (counts.moved.unready, counts.spilled.unready, counts.refused.unready);
        match when {
            WhenHomeFails::Strict => {
                assert_eq!(first.unwrap_err().kind(), Kind::HomeUnavailable);
                assert_eq!((after, counted), (home, (0, 0, 2)));
                assert_eq!(setup.seen.take(), ["alice refused unready"; 2]);
            }
            WhenHomeFails::Spill => {
                let to = first.unwrap();
                assert_eq!(to, second.unwrap());
                assert_eq!(setup.seen.take(), vec![format!("alice spilled {home} {to} unready"); 2]);
                assert_eq!((after, counted), (home, (0, 2, 0)));
            }
            _ => {
                let to = first.unwrap();
                assert_eq!(to, second.unwrap());
                assert_eq!(setup.seen.take(), [format!("alice moved {home} {to} unready")]);
                assert_eq!((after, counted), (to, (1, 0, 0)));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn under_strict_a_session_whose_home_is_gone_is_refused_until_that_returns() {
    let setup = setup(SessionTable::new().when_home_fails(WhenHomeFails::Strict), 3).await;
    let home = setup.ask("alice").await.unwrap();
    setup.discover(without(3, &home)).await;
    let error = setup.ask("alice").await.unwrap_err();
    assert_eq!(error.kind(), Kind::HomeUnavailable);
    assert!(error.to_string().contains("gone"), "{error}");
    assert_ne!(setup.ask("bob").await.unwrap(), home, "a new session begins elsewhere");
    setup.discover(endpoints(3)).await;
    assert_eq!(setup.ask("alice").await.unwrap(), home);
    assert_eq!(setup.stats.counts().refused.gone, 1);
}

#[test]
fn under_strict_only_a_session_that_has_a_home_is_kept_to_it() {
    let (set, call) = (members(3), by("alice"));
    let picker = SessionTable::new().when_home_fails(WhenHomeFails::Strict).build(&set, None);
    let context = Some(call.context());
    assert!(!picker.terms(&call, context).is_strict, "its first call may go past who is full");
    picker.order(&call, context, View::new(&set, &Idle), &mut Rng::new()).next().unwrap();
    assert!(picker.terms(&call, context).is_strict);
}

#[tokio::test(start_paused = true)]
async fn with_a_bound_overloaded_homes_move_spill_or_refuse_and_first_calls_find_room() {
    for when in [WhenHomeFails::Move, WhenHomeFails::Spill, WhenHomeFails::Strict] {
        let setup = setup(SessionTable::new().bounded(1.25).unwrap().when_home_fails(when), 4).await;
        let home = setup.ask("alice").await.unwrap();
        setup.desks.of(&home).holds(true);
        let held = tokio::spawn(setup.balance.clone().oneshot(by("alice")));
        settle().await;
        let next = setup.ask("alice").await;
        let counts = setup.stats.counts();
        let counted = (counts.moved.overloaded, counts.spilled.overloaded, counts.refused.overloaded);
        match when {
            WhenHomeFails::Strict => {
                assert_eq!((next.unwrap_err().kind(), counted), (Kind::HomeUnavailable, (0, 0, 1)));
                for session in 0..20u32 {
                    assert_ne!(setup.ask(&session.to_string()).await.unwrap(), home, "nobody's first call is refused");
                }
                assert_eq!(setup.stats.counts().refused.total(), 1);
            }
            WhenHomeFails::Spill => assert_eq!((next.unwrap() == home, counted), (false, (0, 1, 0))),
            _ => assert_eq!((next.unwrap() == home, counted), (false, (1, 0, 0))),
        }
        setup.desks.of(&home).holds(false);
        held.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn moved_sessions_spread_by_weight() {
    let setup = setup(SessionTable::new(), 3).await;
    let homes = setup.homes(0..1_500).await;
    let heavy = without(3, "a:1").into_iter().map(|endpoint| {
        let weight = if endpoint.key().as_str() == "b:1" { 9.0 } else { 1.0 };
        endpoint.with_weight(Weight::new(weight).unwrap())
    });
    setup.discover(heavy.collect()).await;
    let after = setup.homes(0..1_500).await;
    let of_a: Vec<_> = homes.iter().filter(|(_, home)| *home == "a:1").collect();
    let to_b = of_a.iter().filter(|(session, _)| after[session] == "b:1").count();
    assert!(to_b * 10 > of_a.len() * 8, "{to_b} of {}", of_a.len());
}

#[tokio::test(start_paused = true)]
async fn within_zones_a_session_has_one_home_in_its_client_s_zone_and_one_elsewhere() {
    let (desks, stats) = (Desks::default(), StickyStats::new());
    let policy = SessionTable::new().with_stats(stats.clone());
    let mut set = endpoints(6);
    set.iter_mut().take(3).for_each(|endpoint| *endpoint = endpoint.clone().with_zone("here"));
    let (balance, _discovery) = over(Zones::new("here", policy), &desks, set).await;
    let home = ask(&balance, by("alice")).await.unwrap();
    assert!(["a:1", "b:1", "c:1"].contains(&&*home));
    for name in ["a:1", "b:1", "c:1"] {
        desks.of(name).down(true);
    }
    tokio::time::sleep(SECOND).await;
    let elsewhere = ask(&balance, by("alice")).await.unwrap();
    assert!(["d:1", "e:1", "f:1"].contains(&&*elsewhere));
    for name in ["a:1", "b:1", "c:1"] {
        desks.of(name).down(false);
    }
    for _ in 0..20 {
        tokio::time::sleep(SECOND).await;
        ask(&balance, by("alice")).await.unwrap();
    }
    assert_eq!(ask(&balance, by("alice")).await.unwrap(), home);
    assert!(stats.counts().entries <= 2);
}

#[tokio::test(start_paused = true)]
async fn within_zones_a_session_whose_home_is_gone_moves_or_is_refused_as_set() {
    for when in [WhenHomeFails::Move, WhenHomeFails::Strict] {
        let (desks, stats) = (Desks::default(), StickyStats::new());
        let policy = SessionTable::new().when_home_fails(when).with_stats(stats.clone());
        let mut set = endpoints(6);
        set.iter_mut().take(5).for_each(|endpoint| *endpoint = endpoint.clone().with_zone("here"));
        let (balance, discovery) = over(Zones::new("here", policy), &desks, set.clone()).await;
        let home = ask(&balance, by("alice")).await.unwrap();
        set.retain(|endpoint| endpoint.key().as_str() != home);
        discovery.send(Ok(Update::Set(set))).await.unwrap();
        settle().await;
        let next = ask(&balance, by("alice")).await;
        let counts = stats.counts();
        if when == WhenHomeFails::Strict {
            assert_eq!(next.unwrap_err().kind(), Kind::HomeUnavailable);
            assert_eq!((counts.moved.gone, counts.refused.gone), (0, 1));
        } else {
            assert_eq!(ask(&balance, by("alice")).await.unwrap(), next.unwrap());
            assert_eq!((counts.moved.gone, counts.refused.gone), (1, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_set_that_was_empty_for_a_while_finds_its_sessions() {
    let setup = setup(SessionTable::new(), 4).await;
    let homes = setup.homes(0..20).await;
    setup.discovery.send(Ok(Update::Empty)).await.unwrap();
    settle().await;
    assert_eq!(setup.ask("0").await.unwrap_err().kind(), Kind::NoEndpoints);
    setup.discover(endpoints(4)).await;
    assert_eq!(setup.homes(0..20).await, homes);
}

#[tokio::test(start_paused = true)]
async fn a_session_asks_nothing_of_the_endpoints_it_does_not_use() {
    let setup = setup(SessionTable::new(), 4).await;
    let home = setup.ask("alice").await.unwrap();
    let others: Vec<Desk> = setup.desks.all().into_iter().filter(|desk| desk.calls() == 0).collect();
    others.iter().for_each(|desk| {
        desk.refuses(true);
        desk.holds(true);
    });
    for _ in 0..20 {
        assert_eq!(setup.ask("alice").await.unwrap(), home);
    }
    assert_eq!(others.iter().map(|desk| desk.lends() + desk.calls()).sum::<usize>(), 0);
}

#[test]
fn bad_settings_say_what_to_change() {
    let table = SessionTable::new;
    for (error, word) in [
        (table().capacity(0).unwrap_err(), "capacity"),
        (table().idle(Duration::ZERO).unwrap_err(), "idle"),
        (table().moves_per_second(0).unwrap_err(), "moves"),
        (table().bounded(1.0).unwrap_err(), "1.25"),
    ] {
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(table().load_bound(), None);
    assert_eq!(table().bounded(1.5).unwrap().load_bound(), Some(1.5));
}

#[tokio::test(start_paused = true)]
async fn within_zones_a_strict_session_keeps_to_its_home_outside_of_the_client_s_zone_too() {
    let (desks, stats) = (Desks::default(), StickyStats::new());
    let policy = SessionTable::new().when_home_fails(WhenHomeFails::Strict).with_stats(stats.clone());
    let mut set = endpoints(6);
    set.iter_mut().take(3).for_each(|endpoint| *endpoint = endpoint.clone().with_zone("here"));
    let (balance, discovery) = over(Zones::new("here", policy), &desks, set.clone()).await;
    ["a:1", "b:1", "c:1"].iter().for_each(|name| desks.of(name).down(true));
    // Somebody else's call finds that out.
    ask(&balance, by("alice")).await.unwrap();
    tokio::time::sleep(SECOND).await;
    let home = ask(&balance, by("bob")).await.unwrap();
    assert!(["d:1", "e:1", "f:1"].contains(&&*home));
    desks.of(&home).down(true);
    assert_eq!(ask(&balance, by("bob")).await.unwrap_err().kind(), Kind::HomeUnavailable);
    // Also when it is the first call after a change of the set.
    set.push("g:1".parse().unwrap());
    discovery.send(Ok(Update::Set(set))).await.unwrap();
    settle().await;
    assert_eq!(ask(&balance, by("bob")).await.unwrap_err().kind(), Kind::HomeUnavailable);
    assert_eq!((stats.counts().refused.unready, stats.counts().moved.total()), (2, 0));
    desks.of(&home).down(false);
    assert_eq!(ask(&balance, by("bob")).await.unwrap(), home);
}

#[tokio::test(start_paused = true)]
async fn within_zones_a_client_whose_calls_all_have_sessions_finds_out_that_its_zone_is_well_again() {
    let desks = Desks::default();
    let mut set = endpoints(6);
    set.iter_mut().take(3).for_each(|endpoint| *endpoint = endpoint.clone().with_zone("here"));
    let (balance, _discovery) = over(Zones::new("here", SessionTable::new()), &desks, set).await;
    let here = ["a:1", "b:1", "c:1"];
    let ask_all = |times: usize| {
        let balance = &balance;
        async move {
            let mut there = 0;
            for call in 0..times {
                let at = ask(balance, by((call % 50).to_string())).await;
                there += usize::from(at.is_ok_and(|at| !here.contains(&&*at)));
                tokio::time::sleep(SECOND / 100).await;
            }
            there
        }
    };
    here.iter().for_each(|name| desks.of(name).fails(true));
    ask_all(500).await;
    let there = ask_all(500).await;
    assert!((460..500).contains(&there), "{there}");
    here.iter().for_each(|name| desks.of(name).fails(false));
    ask_all(3_000).await;
    assert_eq!(ask_all(500).await, 0);
}
