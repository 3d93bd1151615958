//! Where endpoints come from, and what becomes of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_test::task::spawn;
use tower::{Service, ServiceExt, service_fn};
use towline_balance::{BalanceBuilder, Change, P2c, P2cPicker, Update, WhenUnavailable, fixed, services};
use towline_core::{
    Call, CallContext, Endpoint, Error, Kind, Lend, Lent, Members, Pick, Policy, Rng, Room, Target, TokioExecutor,
    View, Weight,
};
use towline_pool::PoolBuilder;
use towline_test::{ScriptedMaker, settle};

use crate::support::{Desks, MS, Message, SECOND, Seen, discovery, endpoint, endpoints, insert, refused, remove};

fn keys<L: Lend + Clone, P>(balance: &towline_balance::Balance<L, P>) -> Vec<String> {
    let mut keys: Vec<_> = balance.endpoints().iter().map(|view| view.endpoint.key().to_string()).collect();
    keys.sort();
    keys
}

#[tokio::test(start_paused = true)]
async fn in_a_whole_set_what_is_unchanged_keeps_its_statistics_and_the_rest_comes_and_goes() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let (discover, stream) = discovery::<Vec<Endpoint>>();
    let builder = BalanceBuilder::new(P2c::new()).observers(seen.observers());
    let balance = builder.spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    discover.send(Ok(vec![endpoint("a:1"), endpoint("b:1")])).await.unwrap();
    settle().await;
    for _ in 0..20 {
        balance.clone().oneshot(Call::new(0)).await.unwrap();
    }
    seen.take();
    let heavier = endpoint("b:1").with_weight(Weight::new(2.0).unwrap());
    discover.send(Ok(vec![endpoint("c:1"), heavier])).await.unwrap();
    settle().await;
    assert_eq!(keys(&balance), ["b:1", "c:1"]);
    assert_eq!(seen.take(), ["removed a:1", "added c:1"]);
    let views = balance.endpoints();
    let b = views.iter().find(|view| view.endpoint.key().as_str() == "b:1").unwrap();
    assert_eq!((b.calls as usize, b.endpoint.weight().get()), (desks.of("b:1").calls(), 2.0));
    assert!(b.latency.is_some());
}

// F20
#[tokio::test(start_paused = true)]
async fn answers_that_come_and_go_reconnect_nobody_who_stays() {
    let make = ScriptedMaker::exclusive();
    let pool = PoolBuilder::new().build(make.clone()).unwrap();
    let (discover, stream) = discovery::<Vec<Endpoint>>();
    let balance = BalanceBuilder::new(P2c::new()).spawn(stream, pool, &TokioExecutor::current()).unwrap();
    for round in 0..10 {
        for set in [&["10.0.0.1:1", "10.0.0.2:1"][..], &["10.0.0.1:1"], &[], &["10.0.0.2:1", "10.0.0.1:1"]] {
            discover.send(Ok(set.iter().map(|key| endpoint(key)).collect())).await.unwrap();
            settle().await;
            assert!(keys(&balance).contains(&"10.0.0.1:1".to_owned()), "{round} {set:?}");
            for _ in 0..8 {
                balance.clone().oneshot(Call::new(0)).await.unwrap();
            }
            sleep(SECOND).await;
        }
    }
    let views = balance.endpoints();
    let stays = views.iter().find(|view| view.endpoint.key().as_str() == "10.0.0.1:1").unwrap();
    assert_eq!(stays.lend.stats().opened, 1);
}

// F19
#[tokio::test(start_paused = true)]
async fn an_empty_answer_keeps_the_last_good_set_and_is_visible_until_discovery_is_well_again() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let (discover, stream) = discovery();
    let builder = BalanceBuilder::new(P2c::new()).observers(seen.observers());
    let balance = builder.spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    discover.send(Ok(Update::Set(endpoints(2)))).await.unwrap();
    settle().await;
    assert!(balance.discovery_error().is_none());
    discover.send(Ok(Update::Set(Vec::new()))).await.unwrap();
    settle().await;
    assert_eq!(balance.endpoints().len(), 2);
    assert_eq!(balance.discovery_error().unwrap().kind(), Kind::NoEndpoints);
    assert!(seen.take().last().unwrap().contains("answered with nothing"));
    discover.send(Ok(Update::Set(endpoints(2)))).await.unwrap();
    settle().await;
    assert!(balance.discovery_error().is_none(), "the same set again is good news");
}

// F19
#[tokio::test(start_paused = true)]
async fn an_empty_set_that_is_meant_removes_all() {
    let desks = Desks::default();
    let (discover, stream) = discovery();
    let balance = BalanceBuilder::new(P2c::new()).spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    discover.send(Ok(Update::Set(endpoints(2)))).await.unwrap();
    discover.send(Ok(Update::Empty)).await.unwrap();
    settle().await;
    assert!(balance.endpoints().is_empty());
    assert_eq!(balance.oneshot(Call::new(0)).await.unwrap_err().kind(), Kind::NoEndpoints);
}

// F19
#[tokio::test(start_paused = true)]
async fn discovery_that_fails_at_every_poll_is_asked_with_pauses_and_the_last_good_set_stays() {
    let desks = Desks::default();
    let polls = Arc::new(AtomicUsize::new(0));
    let stream = {
        let polls = polls.clone();
        stream::poll_fn(move |_| {
            let first = polls.fetch_add(1, Ordering::Relaxed) == 0;
            Poll::Ready(Some(if first { Ok(Update::Set(endpoints(2))) } else { Err(refused()) }))
        })
    };
    let builder = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(7));
    let balance = builder.spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    sleep(60 * SECOND).await;
    let polls = polls.load(Ordering::Relaxed);
    // Full jitter of a second at most.
    assert!((60..200).contains(&polls), "{polls}");
    assert_eq!(keys(&balance), ["a:1", "b:1"]);
    assert!(balance.discovery_error().unwrap().to_string().contains("refused"));
    balance.oneshot(Call::new(0)).await.unwrap();
}

/// Builds so many pickers.
struct Tired(usize);

impl Policy for Tired {
    type Picker = P2cPicker;

    fn build(&mut self, set: &Members, _last: Option<&P2cPicker>) -> P2cPicker {
        self.0 = self.0.checked_sub(1).expect("enough for today");
        P2cPicker::new(set)
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_ends_the_driver_and_calls_go_on_with_the_last_good_set() {
    let desks = Desks::default();
    for builds in [0, 1] {
        let (discover, stream) = discovery();
        let balance =
            BalanceBuilder::new(Tired(builds)).spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
        for key in ["a:1", "b:1"] {
            // Nobody hears the second when there was no first picker.
            let _heard = discover.send(Ok(insert(key))).await;
            settle().await;
        }
        let error = balance.discovery_error().unwrap();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains("driver panicked") && text.contains("enough for today"), "{text}");
        let answer = balance.clone().oneshot(Call::new(0)).await;
        match builds {
            0 => assert_eq!(answer.unwrap_err().kind(), Kind::NoEndpoints),
            _ => assert_eq!((answer.unwrap(), keys(&balance)), ("a:1".to_owned(), vec!["a:1".to_owned()])),
        }
    }
}

/// Panics as it is asked.
struct Nervous;

impl Pick<Message> for Nervous {
    type Order<'a> = std::iter::Empty<usize>;

    fn order<'a>(
        &'a self,
        call: &'a Message,
        _: Option<&'a CallContext>,
        _: View<'a>,
        _: &mut Rng,
    ) -> std::iter::Empty<usize> {
        panic!("not {call:?} again");
    }
}

impl Policy for Nervous {
    type Picker = Self;

    fn build(&mut self, _set: &Members, _last: Option<&Self>) -> Self {
        Self
    }
}

#[tokio::test(start_paused = true)]
async fn a_picker_that_panics_fails_the_call_that_asked_it_and_nothing_else() {
    let desks = Desks::default();
    let balance =
        BalanceBuilder::new(Nervous).spawn(fixed(endpoints(2)), desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    for _ in 0..3 {
        assert!(tokio::spawn(balance.clone().oneshot(Call::new(0))).await.unwrap_err().is_panic());
    }
    assert!(balance.endpoints().iter().all(|view| view.in_flight == 0));
    assert!(balance.discovery_error().is_none(), "the driver is well");
}

#[tokio::test(start_paused = true)]
async fn of_two_with_one_key_the_last_counts_and_that_is_reported() {
    let (desks, seen) = (Desks::default(), Seen::default());
    let twice = [("x", "a:1"), ("y", "b:1"), ("x", "c:1")].map(|(key, target)| endpoint(target).with_key(key));
    let builder = BalanceBuilder::new(P2c::new()).observers(seen.observers());
    let balance = builder.spawn(fixed(twice), desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    let targets: BTreeMap<_, _> = balance
        .endpoints()
        .iter()
        .map(|view| (view.endpoint.key().to_string(), view.endpoint.target().to_string()))
        .collect();
    assert_eq!(targets, [("x", "c:1"), ("y", "b:1")].map(|(key, target)| (key.to_owned(), target.to_owned())).into());
    assert!(seen.take()[0].contains("the key x twice"));
}

#[tokio::test(start_paused = true)]
async fn discovery_that_panics_has_ended_and_the_last_good_set_stays() {
    let desks = Desks::default();
    let mut first = Some(Ok::<_, Error>(Update::Set(endpoints(1))));
    let stream = stream::poll_fn(move |_| match first.take() {
        Some(set) => std::task::Poll::Ready(Some(set)),
        None => panic!("out of coffee"),
    });
    let balance = BalanceBuilder::new(P2c::new()).spawn(stream, desks.make(), &TokioExecutor::current()).unwrap();
    assert_eq!(balance.clone().oneshot(Call::new(0)).await.unwrap(), "a:1");
    settle().await;
    let error = balance.discovery_error().unwrap();
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(text.contains("discovery panicked") && text.contains("out of coffee"), "{text}");
    assert_eq!(balance.oneshot(Call::new(0)).await.unwrap(), "a:1");
}

/// What makes endpoints, but fails the first so many times in one of two ways.
fn failing(
    times: usize,
    panics: bool,
    calls: Arc<AtomicUsize>,
) -> impl Service<Target, Response = Lent<Echo>, Error = Error, Future: Send> + Clone + Send {
    service_fn(move |_: Target| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            if call >= times {
                return Ok(Lent::new(Echo));
            }
            assert!(!panics, "no luck");
            Err(refused())
        }
    })
}

#[derive(Clone)]
struct Echo;

impl Service<Message> for Echo {
    type Response = u32;
    type Error = Error;
    type Future = std::future::Ready<Result<u32, Error>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Message) -> Self::Future {
        std::future::ready(Ok(call.into_message()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_made_is_tried_again_and_meanwhile_calls_fail_with_the_cause() {
    for panics in [false, true] {
        let calls = Arc::new(AtomicUsize::new(0));
        let make = failing(5, panics, calls.clone());
        let balance =
            BalanceBuilder::new(P2c::new()).spawn(fixed(endpoints(1)), make, &TokioExecutor::current()).unwrap();
        let error = balance.clone().oneshot(Call::new(0)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoEndpoints);
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(if panics { "panicked" } else { "refused" }), "{cause}");
        sleep(10 * SECOND).await;
        assert_eq!(balance.oneshot(Call::new(7)).await.unwrap(), 7);
        assert_eq!(calls.load(Ordering::Relaxed), 6, "and not again");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_removed_while_it_is_made_is_not_made() {
    let made = Arc::new(AtomicUsize::new(0));
    let make = {
        let made = made.clone();
        service_fn(move |_: Target| {
            let made = made.clone();
            async move {
                sleep(SECOND).await;
                made.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Error>(Lent::new(Echo))
            }
        })
    };
    let (discover, stream) = discovery();
    let balance = BalanceBuilder::new(P2c::new()).spawn(stream, make, &TokioExecutor::current()).unwrap();
    discover.send(Ok(insert("a:1"))).await.unwrap();
    settle().await;
    discover.send(Ok(remove("a:1"))).await.unwrap();
    discover.send(Ok(insert("b:1"))).await.unwrap();
    sleep(5 * SECOND).await;
    assert_eq!((made.load(Ordering::Relaxed), keys(&balance)), (1, vec!["b:1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn calls_see_changes_while_discovery_never_pauses() {
    // Paused time stands still for as long as somebody is busy: endpoints that take none.
    let make = service_fn(|_: Target| std::future::ready(Ok::<_, Error>(Lent::new(Echo))));
    let mut n = 0u32;
    let flood = stream::poll_fn(move |_| {
        n += 1;
        let key = format!("k{}:1", n % 5_000);
        std::task::Poll::Ready(Some(Ok::<_, Error>(insert(&key))))
    });
    let balance = BalanceBuilder::new(P2c::new()).spawn(flood, make, &TokioExecutor::current()).unwrap();
    balance.clone().oneshot(Call::new(0)).await.unwrap();
    while balance.endpoints().len() < 5_000 {
        tokio::task::yield_now().await;
    }
}

// F26
#[tokio::test(start_paused = true)]
async fn a_channel_that_is_always_full_keeps_nothing_else_from_its_turn() {
    let make = service_fn(|_: Target| async {
        sleep(SECOND).await;
        Ok::<_, Error>(Lent::new(Echo))
    });
    let (discover, mut changes) = mpsc::channel::<Result<Update, Error>>(1_024);
    for discover in [discover.clone(), discover] {
        tokio::spawn(async move { while discover.send(Ok(insert("a:1"))).await.is_ok() {} });
    }
    settle().await;
    let stream = stream::poll_fn(move |cx| changes.poll_recv(cx));
    let balance = BalanceBuilder::new(P2c::new()).spawn(stream, make, &TokioExecutor::current()).unwrap();
    // Paused time does not move by itself while somebody is busy.
    for _ in 0..20 {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(SECOND / 10).await;
    }
    assert_eq!(keys(&balance), ["a:1"]);
}

#[tokio::test(start_paused = true)]
async fn more_changes_than_are_taken_at_once_are_all_taken() {
    let changes = (1..=5_000u32).map(|n| {
        let endpoint = endpoint("a:1").with_weight(Weight::new(f64::from(n)).unwrap());
        Ok::<_, Error>(Update::Change(Change::Insert(endpoint.key().clone(), endpoint)))
    });
    let changes = stream::iter(changes.collect::<Vec<_>>()).chain(stream::pending());
    let balance =
        BalanceBuilder::new(P2c::new()).spawn(changes, Desks::default().make(), &TokioExecutor::current()).unwrap();
    settle().await;
    assert_eq!(balance.endpoints()[0].endpoint.weight().get(), 5_000.0);
}

#[tokio::test(start_paused = true)]
async fn a_set_of_a_hundred_thousand_is_taken_changed_and_let_go() {
    let (discover, stream) = discovery();
    let make = service_fn(|_: Target| std::future::ready(Ok::<_, Error>(Lent::new(Echo))));
    let balance = BalanceBuilder::new(P2c::new()).spawn(stream, make, &TokioExecutor::current()).unwrap();
    let set = |from: u32| (from..from + 100_000).map(|n| endpoint("a:1").with_key(n.to_string().as_str())).collect();
    discover.send(Ok(Update::Set(set(0)))).await.unwrap();
    while balance.endpoints().len() < 100_000 {
        tokio::task::yield_now().await;
    }
    balance.clone().oneshot(Call::new(0)).await.unwrap();
    discover.send(Ok(Update::Set(set(50_000)))).await.unwrap();
    discover.send(Ok(Update::Change(Change::Insert("last".into(), endpoint("a:1"))))).await.unwrap();
    while balance.endpoints().len() < 100_001 {
        tokio::task::yield_now().await;
    }
    discover.send(Ok(Update::Empty)).await.unwrap();
    while !balance.endpoints().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn towers_discover_of_clone_services_is_enough() {
    let (discover, changes) = discovery::<Change<&'static str, _>>();
    let named = |name: &'static str| service_fn(move |_: Message| std::future::ready(Ok::<_, Error>(name)));
    let (changes, make) = services(changes, |key: &&str| endpoint(key));
    let balance = BalanceBuilder::new(P2c::new()).spawn(changes, make, &TokioExecutor::current()).unwrap();
    discover.send(Ok(Change::Insert("a:1", named("one")))).await.unwrap();
    assert_eq!(balance.clone().oneshot(Call::new(0)).await.unwrap(), "one");
    discover.send(Ok(Change::Insert("a:1", named("another")))).await.unwrap();
    settle().await;
    assert_eq!(balance.clone().oneshot(Call::new(0)).await.unwrap(), "another", "a service replaces that of its key");
    discover.send(Ok(Change::Remove("a:1"))).await.unwrap();
    settle().await;
    assert_eq!(balance.oneshot(Call::new(0)).await.unwrap_err().kind(), Kind::NoEndpoints);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_replaced_is_there_all_the_time_however_many_changes_come_with_it() {
    let named = |name: &'static str| service_fn(move |_: Message| std::future::ready(Ok::<_, Error>(name)));
    // Before the last there are as many as are taken at once, less one.
    for before in [1, 1_022, 1_023, 1_024] {
        let inserts = (0..before).map(|n| Change::Insert(n, named("one")));
        let replaced = [Change::Insert(0, named("another"))];
        let discovered = stream::iter(inserts.chain(replaced).map(Ok::<_, Error>)).chain(stream::pending());
        let (changes, make) = services(discovered, |key: &usize| endpoint(&format!("k{key}:1")));
        let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(changes, make);
        let mut driver = spawn(driver);
        assert!(driver.poll().is_pending());
        while driver.is_woken() {
            assert!(keys(&balance).contains(&"k0:1".to_owned()), "{before}");
            assert!(driver.poll().is_pending());
        }
        let views = balance.endpoints();
        let replaced = views.iter().find(|view| view.endpoint.key().as_str() == "k0:1").unwrap();
        let answer = replaced.lend.try_lend(None).unwrap().oneshot(Call::new(0)).await.unwrap();
        assert_eq!((views.len(), answer), (before, "another"));
    }
}

#[tokio::test(start_paused = true)]
async fn cold_endpoints_are_connected_ahead_of_calls_so_many_at_a_time_if_asked() {
    let makes = [ScriptedMaker::exclusive(), ScriptedMaker::exclusive()];
    for (warm, dialled) in [(0, 0), (2, 5)] {
        let make = &makes[usize::from(warm > 0)];
        make.hold(true);
        let pool = PoolBuilder::new().build(make.clone()).unwrap();
        let set = (1..=5).map(|n| endpoint(&format!("10.0.0.{n}:1")));
        let balance =
            BalanceBuilder::new(P2c::new()).warm(warm).spawn(fixed(set), pool, &TokioExecutor::current()).unwrap();
        settle().await;
        assert_eq!(make.dials(), warm);
        make.hold(false);
        while let Some(gate) = make.held() {
            gate.open();
        }
        settle().await;
        assert_eq!(make.dials(), dialled);
        assert_eq!(balance.endpoints().iter().filter(|view| view.room == Room::Ready).count(), dialled);
    }
}

/// Nobody can be reached at first.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_out_an_outage_does_not_dial_on_its_own() {
    let make = ScriptedMaker::exclusive();
    make.fail(Some(refused()));
    let pool = PoolBuilder::new().build(make.clone()).unwrap();
    let builder = BalanceBuilder::new(P2c::new()).when_unavailable(WhenUnavailable::Wait);
    let balance = builder.spawn(fixed([endpoint("10.0.0.1:1")]), pool, &TokioExecutor::current()).unwrap();
    let calls: Vec<_> = (0..100).map(|n| tokio::spawn(balance.clone().oneshot(Call::new(n)))).collect();
    sleep(20 * SECOND).await;
    let dials = make.dials();
    // Full jitter between 50 ms and 2 s: about one a second, and not a hundred.
    assert!((5..60).contains(&dials), "{dials}");
    make.fail(None);
    for call in calls {
        timeout(10 * SECOND, call).await.unwrap().unwrap().unwrap();
    }
}

/// A stream that breaks when it is polled after its end.
#[tokio::test(start_paused = true)]
async fn a_stream_that_has_ended_is_not_polled_again() {
    let desks = Desks::default();
    let mut ended = false;
    let once = stream::poll_fn(move |_| {
        assert!(!ended, "polled after its end");
        ended = true;
        std::task::Poll::Ready(None::<Result<Update, Error>>)
    });
    let stream = stream::iter([Ok(Update::Set(endpoints(1)))]).chain(once);
    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(boxed(stream), desks.make());
    let mut driver = spawn(driver);
    for _ in 0..5 {
        assert!(driver.poll().is_pending());
    }
    let error = balance.discovery_error().unwrap();
    assert!(error.to_string().contains("discovery ended"), "{error}");
    assert_eq!(balance.oneshot(Call::new(0)).await.unwrap(), "a:1");
}

fn boxed(
    stream: impl Stream<Item = Result<Update, Error>> + Send + 'static,
) -> std::pin::Pin<Box<dyn Stream<Item = Result<Update, Error>> + Send>> {
    Box::pin(stream)
}

#[tokio::test(start_paused = true)]
async fn without_calls_the_driver_sleeps() {
    let desks = Desks::default();
    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(fixed(endpoints(2)), desks.make());
    let mut driver = spawn(driver);
    assert!(driver.poll().is_pending());
    sleep(10 * SECOND).await;
    assert!(!driver.is_woken());
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    assert!(driver.is_woken(), "there is something to sweep");
    assert!(driver.poll().is_pending());
    sleep(101 * MS).await;
    assert!(driver.is_woken() && driver.poll().is_pending());
    sleep(10 * SECOND).await;
    assert!(!driver.is_woken());
}
