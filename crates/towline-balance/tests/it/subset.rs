//! A part of the endpoints for each client.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, Stream, StreamExt, stream};
use proptest::prelude::*;
use tokio::time::sleep;
use tokio_test::task::spawn;
use tower::ServiceExt;
use towline_balance::{BalanceBuilder, Change, P2c, Subset, Update, fixed};
use towline_core::{Call, Endpoint, EndpointKey, Error, Kind, Phase, TokioExecutor, Weight};
use towline_pool::PoolBuilder;
use towline_test::{ScriptedMaker, settle};

use crate::support::{Desks, SECOND, Seen, discovery, endpoint, insert, remove};

type Names = BTreeSet<String>;

/// So many endpoints, from this one on.
fn servers(from: usize, count: usize) -> Vec<Endpoint> {
    (from..from + count).map(|n| endpoint(&format!("s{n}:1"))).collect()
}

fn names<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Names {
    endpoints.into_iter().map(|endpoint| endpoint.key().to_string()).collect()
}

/// Who of these is in the subset.
fn of(subset: &Subset, all: Vec<Endpoint>) -> Names {
    match next(&mut subset.build(fixed(all)).unwrap()) {
        Some(Ok(Update::Set(endpoints))) => names(&endpoints),
        other => panic!("{other:?}"),
    }
}

/// What a stream has to say at once.
fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    stream.next().now_or_never().expect("it has something to say")
}

/// What comes of these changes, after a set: one line each.
fn after(subset: &Subset, set: Vec<Endpoint>, then: impl IntoIterator<Item = Update>) -> Vec<String> {
    let said = [Update::Set(set)].into_iter().chain(then).map(Ok::<_, Error>).collect::<Vec<_>>();
    let mut mine = subset.build(stream::iter(said)).unwrap();
    next(&mut mine).unwrap().unwrap();
    std::iter::from_fn(|| next(&mut mine)).map(|item| line(&item)).collect()
}

fn line(item: &Result<Update, Error>) -> String {
    match item {
        Ok(Update::Change(Change::Insert(key, _))) => format!("insert {key}"),
        Ok(Update::Change(Change::Remove(key))) => format!("remove {key}"),
        Ok(Update::Set(endpoints)) => format!("set of {}", endpoints.len()),
        Ok(Update::Empty) => "empty".to_owned(),
        Ok(Update::Renew(endpoint)) => format!("renew {}", endpoint.key()),
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("error {:?}", error.kind()),
    }
}

#[test]
fn with_an_index_all_endpoints_have_as_many_clients_give_or_take_one() {
    for (endpoints, clients) in [(10, 100), (100, 10), (100, 100), (97, 31), (20, 7), (21, 50), (333, 17), (200, 10)] {
        let mut count: BTreeMap<_, usize> = names(&servers(0, endpoints)).into_iter().map(|name| (name, 0)).collect();
        for index in 0..clients {
            for name in of(&Subset::nth(index, clients), servers(0, endpoints)) {
                *count.get_mut(&name).unwrap() += 1;
            }
        }
        let all = clients * endpoints.min(20);
        let (least, most) = (all / endpoints, all.div_ceil(endpoints));
        assert!(count.values().all(|count| (least..=most).contains(count)), "{endpoints} {clients} {count:?}");
    }
}

#[test]
fn an_endpoint_is_renewed_in_the_subset_and_nothing_is_said_of_others() {
    let subset = Subset::named("me").size(5);
    let mine = of(&subset, servers(0, 20));
    let renewed = after(&subset, servers(0, 20), servers(0, 20).into_iter().map(Update::Renew));
    let expected: Vec<_> = names(&servers(0, 20)).intersection(&mine).map(|name| format!("renew {name}")).collect();
    assert_eq!(renewed.iter().cloned().collect::<Names>(), expected.into_iter().collect());
    assert_eq!(renewed.len(), 5);
    // One that is new is as good as inserted, or there is an answer at least.
    let all: Vec<_> = servers(0, 3).into_iter().map(Update::Renew).map(Ok::<_, Error>).collect();
    let mut few = Subset::named("me").size(1).build(stream::iter(all)).unwrap();
    let said: Vec<_> = std::iter::from_fn(|| next(&mut few)).map(|item| line(&item)).collect();
    assert_eq!(said[0], "renew s0:1");
    let inserts = said.iter().filter(|line| !line.starts_with("remove")).count();
    assert_eq!(inserts, 1 + said.iter().filter(|line| line.starts_with("remove")).count());
}

#[test]
fn a_change_exchanges_a_third_of_an_endpoint_on_average_and_two_at_most() {
    const CLIENTS: usize = 25;
    for endpoints in [30, 60, 150] {
        let mut swaps = 0;
        for index in 0..CLIENTS {
            let subset = Subset::nth(index, CLIENTS);
            let before = of(&subset, servers(0, endpoints));
            for gone in 0..endpoints {
                let mut set = servers(0, endpoints);
                set.remove(gone);
                let entered = of(&subset, set).difference(&before).count();
                assert!(entered <= 2, "{endpoints} {index} {gone}");
                swaps += entered;
            }
        }
        let mean = swaps as f64 / (CLIENTS * endpoints) as f64;
        // And the one that is gone, for as large a part of the clients.
        let part = 20.0 / endpoints as f64;
        assert!(mean <= 1.0 / 3.0 + part, "{endpoints} {mean}");
    }
}

#[test]
fn by_name_a_change_exchanges_an_endpoint_only_where_it_was_or_comes_to_be() {
    for client in 0..100 {
        let subset = Subset::named(&format!("host-{client}"));
        let before = of(&subset, servers(0, 70));
        for gone in 0..70 {
            let mut set = servers(0, 70);
            let gone = set.remove(gone);
            let now = of(&subset, set);
            assert_eq!(now.difference(&before).count(), usize::from(before.contains(gone.key().as_str())));
        }
    }
}

#[test]
fn the_order_of_discovery_makes_no_difference() {
    for subset in [Subset::nth(3, 10), Subset::named("me")] {
        let mut backwards = servers(0, 100);
        backwards.reverse();
        assert_eq!(of(&subset, backwards), of(&subset, servers(0, 100)));
    }
}

#[test]
fn clients_of_one_name_agree_and_others_differ() {
    let set = || servers(0, 1_000);
    assert_eq!(of(&Subset::named("me"), set()), of(&Subset::named("me"), set()));
    assert!(of(&Subset::named("me"), set()).intersection(&of(&Subset::named("you"), set())).count() < 10);
    let random = Subset::random();
    assert_eq!(of(&random, set()), of(&random.clone(), set()));
    assert_ne!(of(&random, set()), of(&Subset::random(), set()));
    assert!(of(&Subset::nth(0, 9), set()).is_disjoint(&of(&Subset::nth(1, 9), set())));
}

#[test]
fn kinds_of_clients_with_different_salts_meet_different_servers() {
    let subset = |salt| of(&Subset::nth(0, 10).salt(salt), servers(0, 1_000));
    assert_eq!(subset("shop"), subset("shop"));
    assert!(subset("shop").intersection(&subset("search")).count() < 10);
}

#[test]
fn more_clients_move_the_others_a_little_and_twice_a_power_of_two_nobody() {
    let set = || servers(0, 200);
    for index in 0..16 {
        assert_eq!(of(&Subset::nth(index, 16), set()), of(&Subset::nth(index, 32), set()));
        // By less than 1/16 of the ring: twelve of its endpoints, and one for rounding.
        let (before, now) = (of(&Subset::nth(index, 16), set()), of(&Subset::nth(index, 17), set()));
        assert!(now.difference(&before).count() <= 13, "{index}");
    }
}

#[test]
fn a_subset_at_least_as_large_as_the_set_is_all_of_it() {
    for subset in [Subset::nth(7, 9), Subset::named("me")] {
        for count in [1, 4, 5] {
            assert_eq!(of(&subset.clone().size(5), servers(0, count)), names(&servers(0, count)));
        }
        assert_eq!(of(&subset.clone().size(5), servers(0, 6)).len(), 5);
        assert_eq!(of(&subset, servers(0, 300)).len(), 20, "the default");
    }
}

#[test]
fn what_cannot_be_is_a_config_error_that_says_what_to_change() {
    for (subset, says) in [
        (Subset::nth(0, 1).size(0), "set `size` to 1"),
        (Subset::random().size(0), "set `size` to 1"),
        (Subset::nth(0, 0), "set `clients`"),
        (Subset::nth(5, 5), "indices go from 0 to 4"),
    ] {
        let error = subset.build(fixed([])).unwrap_err();
        assert_eq!((error.kind(), error.phase()), (Kind::Config, Phase::Build));
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn attributes_pass_through_and_a_change_of_them_is_an_insertion_for_those_in_the_subset_only() {
    let subset = Subset::named("me").size(3);
    let heavy = |endpoint: Endpoint| endpoint.with_weight(Weight::new(3.0).unwrap()).with_zone("here").with_priority(7);
    let mine = of(&subset, servers(0, 10));
    for server in servers(0, 10) {
        let change = Change::Insert(server.key().clone(), heavy(server.clone())).into();
        let lines = after(&subset, servers(0, 10), [change]);
        let key = server.key().to_string();
        assert_eq!(lines, if mine.contains(&key) { vec![format!("insert {key}")] } else { Vec::new() });
    }
    // Also of those who come later, and in a whole set.
    let set: Vec<_> = servers(0, 10).into_iter().map(heavy).collect();
    let gone = mine.first().unwrap().clone();
    let mut mine = subset.build(stream::iter([Update::Set(set.clone()), remove(&gone)].map(Ok::<_, Error>))).unwrap();
    let Some(Ok(Update::Set(chosen))) = next(&mut mine) else { panic!("a set") };
    assert!(chosen.iter().all(|endpoint| set.contains(endpoint)));
    let Some(Ok(Update::Change(Change::Insert(_, follower)))) = next(&mut mine) else { panic!("a follower") };
    assert!(set.contains(&follower));
}

#[test]
fn an_endpoint_is_known_by_the_key_of_its_change() {
    let change = Change::Insert(EndpointKey::new("named"), endpoint("a:1")).into();
    let lines = after(&Subset::nth(0, 1), servers(0, 1), [change, remove("a:1"), remove("named")]);
    assert_eq!(lines, ["insert named", "remove named"]);
}

#[test]
fn who_follows_is_inserted_before_who_leaves_is_removed() {
    for subset in [Subset::nth(1, 3).size(4), Subset::named("me").size(4)] {
        let all = servers(0, 20);
        let mine = of(&subset, all.clone());
        for key in &mine {
            let lines = after(&subset, all.clone(), [remove(key)]);
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert!(lines[0].starts_with("insert") && lines[1] == format!("remove {key}"), "{lines:?}");
        }
        // And back.
        let gone = mine.first().unwrap();
        let lines = after(&subset, all, [remove(gone), insert(gone)]);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[2] == format!("insert {gone}") && lines[3].starts_with("remove"), "{lines:?}");
    }
}

#[test]
fn errors_empty_answers_and_the_end_pass_through_and_the_subset_stays() {
    let failed = || Err(Error::new(Kind::Unavailable, Phase::Resolve));
    let said = vec![
        Ok(Update::Set(servers(0, 50))),
        failed(),
        Ok(Update::Set(Vec::new())),
        Ok(Update::Set(servers(0, 50))),
        Ok(Update::Empty),
        Ok(insert("a:1")),
    ];
    let mut mine = Subset::nth(0, 1).build(stream::iter(said)).unwrap();
    let lines: Vec<_> = std::iter::from_fn(|| next(&mut mine)).map(|item| line(&item)).collect();
    assert_eq!(lines, ["set of 20", "error Unavailable", "set of 0", "set of 20", "empty", "insert a:1"]);
    // Neither an error nor an empty answer forgets anybody.
    let subset = Subset::nth(0, 1);
    let leaver = of(&subset, servers(0, 50)).first().unwrap().clone();
    let lines = after(&subset, servers(0, 50), [Update::Set(Vec::new()), remove(&leaver)]);
    assert_eq!((lines.len(), lines[0].as_str(), &lines[2]), (3, "set of 0", &format!("remove {leaver}")));
    assert!(lines[1].starts_with("insert"));
}

/// An outsider is removed: the balancer has heard that discovery is well again.
#[test]
fn a_change_outside_of_the_subset_is_heard_first_and_after_trouble_only() {
    let subset = Subset::named("me").size(3);
    let all = servers(0, 10);
    let mine = of(&subset, all.clone());
    let other = names(&all).difference(&mine).next().unwrap().clone();
    assert!(after(&subset, all.clone(), [remove(&other), insert(&other)]).is_empty());
    let removed = format!("remove {other}");
    let troubled = [Update::Set(Vec::new()), remove(&other), insert(&other)];
    assert_eq!(after(&subset, all.clone(), troubled), ["set of 0", &removed]);
    let troubled = [Update::Set(Vec::new()), insert(&other), remove(&other)];
    assert_eq!(after(&subset, all, troubled), ["set of 0", &removed]);
    let mut first = subset.build(stream::iter([Ok::<_, Error>(remove("nobody:1"))])).unwrap();
    assert_eq!(line(&next(&mut first).unwrap()), "remove nobody:1");
}

#[tokio::test(start_paused = true)]
async fn a_change_outside_of_the_subset_ends_a_failure_of_discovery() {
    let desks = Desks::default();
    let (discover, stream) = discovery();
    let subset = Subset::named("me").size(2);
    let mine = subset.build(stream).unwrap();
    let balance = BalanceBuilder::new(P2c::new()).spawn(mine, desks.make(), &TokioExecutor::current()).unwrap();
    discover.send(Ok(Update::Set(servers(0, 9)))).await.unwrap();
    discover.send(Err(Error::new(Kind::Unavailable, Phase::Resolve))).await.unwrap();
    settle().await;
    assert!(balance.discovery_error().is_some());
    let other = names(&servers(0, 9)).difference(&of(&subset, servers(0, 9))).next().unwrap().clone();
    discover.send(Ok(remove(&other))).await.unwrap();
    sleep(2 * SECOND).await;
    assert!(balance.discovery_error().is_none());
    assert_eq!(balance.endpoints().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn of_two_with_one_key_the_last_counts_and_that_is_reported_from_a_subset_too() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let twice = [("x", "a:1"), ("y", "b:1"), ("x", "c:1")].map(|(key, target)| endpoint(target).with_key(key));
    let mine = Subset::nth(0, 1).size(5).build(fixed(twice)).unwrap();
    let builder = BalanceBuilder::new(P2c::new()).observers(seen.observers());
    let balance = builder.spawn(mine, desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    let mut targets: Vec<_> = balance.endpoints().iter().map(|view| view.endpoint.target().to_string()).collect();
    targets.sort();
    assert_eq!(targets, ["b:1", "c:1"]);
    assert!(seen.take()[0].contains("the key x twice"));
}

#[test]
fn a_flood_of_changes_outside_of_the_subset_lets_others_have_their_turn() {
    let mut polls = 0;
    let mut first = Some(Update::Set(servers(0, 9)));
    let subset = Subset::named("me").size(1);
    let other = names(&servers(0, 9)).difference(&of(&subset, servers(0, 9))).next().unwrap().clone();
    let flood = stream::poll_fn(move |_| {
        polls += 1;
        assert!(polls < 5_000, "somebody else wants to run");
        std::task::Poll::Ready(Some(Ok::<_, Error>(first.take().unwrap_or_else(|| insert(&other)))))
    });
    let mut mine = spawn(subset.build(flood).unwrap());
    assert!(mine.poll_next().is_ready());
    assert!(mine.poll_next().is_pending());
    assert!(mine.is_woken());
}

// F20: connections of those who stay are kept, and no call goes anywhere else.
#[tokio::test(start_paused = true)]
async fn a_balancer_over_a_subset_connects_to_it_alone_and_keeps_what_stays() {
    let make = ScriptedMaker::exclusive();
    let pool = PoolBuilder::new().build(make.clone()).unwrap();
    let (discover, stream) = discovery();
    let builder = BalanceBuilder::new(P2c::new()).warm(100);
    let mine = Subset::nth(2, 10).size(5).build(stream).unwrap();
    let balance = builder.spawn(mine, pool, &TokioExecutor::current()).unwrap();
    let servers: Vec<_> = (0..100).map(|n| endpoint(&format!("10.0.0.{n}:1"))).collect();
    for server in &servers {
        discover.send(Ok(Change::Insert(server.key().clone(), server.clone()).into())).await.unwrap();
    }
    discover.send(Ok(Update::Set(servers.clone()))).await.unwrap();
    settle().await;
    let there = || names(balance.endpoints().iter().map(|view| &view.endpoint).map(AsRef::as_ref));
    let mut now = there();
    assert_eq!(now.len(), 5);
    for server in &servers {
        let dials = make.dials();
        discover.send(Ok(Change::<_, Endpoint>::Remove(server.key().clone()).into())).await.unwrap();
        settle().await;
        let before = std::mem::replace(&mut now, there());
        assert_eq!(now.len(), 5);
        assert!(now.difference(&before).count() <= 2);
        assert_eq!(make.dials() - dials, now.difference(&before).count(), "who stays is not dialled again");
        discover.send(Ok(Change::Insert(server.key().clone(), server.clone()).into())).await.unwrap();
        settle().await;
        now = there();
        balance.clone().oneshot(Call::new(0)).await.unwrap();
    }
}

/// Discovery says of somebody unknown that he is gone: it has been heard, and there is nobody.
#[tokio::test(start_paused = true)]
async fn a_call_does_not_wait_for_endpoints_that_discovery_has_denied() {
    let desks = Desks::default();
    let (discover, stream) = discovery();
    let mine = Subset::random().build(stream).unwrap();
    let balance = BalanceBuilder::new(P2c::new()).spawn(mine, desks.make(), &TokioExecutor::current()).unwrap();
    let mut call = spawn(balance.oneshot(Call::new(0)));
    settle().await;
    assert!(call.poll().is_pending(), "nothing has been said yet");
    discover.send(Ok(remove("nobody:1"))).await.unwrap();
    settle().await;
    assert!(call.is_woken());
    assert_eq!(call.await.unwrap_err().kind(), Kind::NoEndpoints);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u8),
    Remove(u8),
    Set(Vec<(u8, u8)>),
    Nothing,
    Empty,
    Fail,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..24, 0u8..3).prop_map(|(key, weight)| Step::Insert(key, weight)),
        6 => (0u8..24).prop_map(Step::Remove),
        1 => prop::collection::vec((0u8..24, 0u8..3), 1..30).prop_map(Step::Set),
        1 => Just(Step::Nothing),
        1 => Just(Step::Empty),
        1 => Just(Step::Fail),
    ];
    prop::collection::vec(step, 0..80)
}

fn subsets() -> impl Strategy<Value = Subset> {
    let nth = (1usize..40).prop_flat_map(|clients| (0..clients, Just(clients)));
    let subset = prop_oneof![nth.prop_map(|(index, clients)| Subset::nth(index, clients)), Just(Subset::named("me"))];
    (subset, 1usize..10, "[a-c]{0,2}").prop_map(|(subset, size, salt)| subset.size(size).salt(salt))
}

fn keyed(key: u8, weight: u8) -> Endpoint {
    endpoint("a:1").with_key(format!("k{key}").as_str()).with_weight(Weight::new(f64::from(weight)).unwrap())
}

/// Those there are, as a set to choose from.
fn chosen(subset: &Subset, model: &BTreeMap<u8, u8>) -> BTreeMap<EndpointKey, Endpoint> {
    let mine = of(subset, model.iter().map(|(key, weight)| keyed(*key, *weight)).collect());
    let all = model.iter().map(|(key, weight)| keyed(*key, *weight));
    all.filter(|endpoint| mine.contains(endpoint.key().as_str())).map(|it| (it.key().clone(), it)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_changes_the_subset_is_that_of_the_last_set_and_no_step_does_more_than_is_needed(
        subset in subsets(),
        steps in steps(),
    ) {
        let said = std::rc::Rc::new(std::cell::RefCell::new(std::collections::VecDeque::new()));
        let queue = said.clone();
        let mut mine = subset.build(stream::poll_fn(move |_| match queue.borrow_mut().pop_front() {
            Some(item) => std::task::Poll::Ready(Some(item)),
            None => std::task::Poll::Pending,
        })).unwrap();
        let (mut model, mut held) = (BTreeMap::<u8, u8>::new(), BTreeMap::<EndpointKey, Endpoint>::new());
        // After these, there has to be an answer to the next change.
        let mut silent = true;
        for step in steps {
            let change = matches!(&step, Step::Insert(..) | Step::Remove(_));
            let (mut inserted, before) = (None, held.clone());
            said.borrow_mut().push_back(match step {
                Step::Insert(key, weight) => {
                    model.insert(key, weight);
                    inserted = Some(keyed(key, weight));
                    Ok(Change::Insert(keyed(key, weight).key().clone(), keyed(key, weight)).into())
                }
                Step::Remove(key) => {
                    model.remove(&key);
                    Ok(remove(&format!("k{key}")))
                }
                Step::Set(set) => {
                    model = set.iter().copied().collect();
                    Ok(Update::Set(set.into_iter().map(|(key, weight)| keyed(key, weight)).collect()))
                }
                Step::Nothing => Ok(Update::Set(Vec::new())),
                Step::Empty => {
                    model.clear();
                    Ok(Update::Empty)
                }
                Step::Fail => Err(Error::new(Kind::Unavailable, Phase::Resolve)),
            });
            let expected = if model.is_empty() { BTreeMap::new() } else { chosen(&subset, &model) };
            let (mut lines, mut good) = (0, false);
            let floor = before.len().min(expected.len());
            while let Some(item) = mine.next().now_or_never() {
                lines += 1;
                match item.unwrap() {
                    Ok(Update::Change(Change::Insert(key, endpoint))) => drop(held.insert(key, endpoint)),
                    Ok(Update::Change(Change::Remove(key))) => drop(held.remove(&key)),
                    Ok(Update::Set(set)) if set.is_empty() => {
                        prop_assert!(lines == 1);
                        silent = true;
                        continue;
                    }
                    Ok(Update::Set(set)) => held = set.into_iter().map(|it| (it.key().clone(), it)).collect(),
                    Ok(Update::Empty) => held.clear(),
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => {
                        silent = true;
                        continue;
                    }
                }
                good = true;
                prop_assert!(held.len() >= floor, "never short of one");
            }
            prop_assert_eq!(&held, &expected);
            if change {
                let entered = expected.keys().filter(|key| !before.contains_key(*key)).count();
                let left = before.keys().filter(|key| !expected.contains_key(*key)).count();
                let again = inserted.is_some_and(|it| before.contains_key(it.key()) && expected.contains_key(it.key()));
                let needed = entered + left + usize::from(again);
                prop_assert!(entered <= 2 && left <= 2);
                prop_assert_eq!(lines, if silent { needed.max(1) } else { needed });
            }
            if good {
                silent = false;
            }
        }
    }
}
