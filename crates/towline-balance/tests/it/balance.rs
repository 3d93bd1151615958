//! What the balancer guarantees, on the paused clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::discover::Change;
use tower::{Layer, Service, ServiceExt, service_fn};
use towline_balance::{Balance, BalanceBuilder, P2c, P2cPicker, Update, fixed};
use towline_core::sync::Lock;
use towline_core::{
    Call, CallContext, Endpoint, EndpointKey, Error, Kind, Lend, Lent, Members, Phase, Pick, Policy, Rng, Room, Sent,
    Target, TokioExecutor, View, Weight,
};
use towline_pool::{Handle, PoolBuilder};
use towline_retry::{RetryLayer, RetryPolicy};
use towline_test::{ScriptedConnection, ScriptedMaker, cancel_at_every_poll, settle};

type Message = Call<u32>;
type Discovery = mpsc::Sender<Result<Change<EndpointKey, Endpoint>, Error>>;

fn endpoints(n: usize) -> Vec<Endpoint> {
    (0..n).map(|i| format!("10.0.0.{i}:1").parse().unwrap()).collect()
}

fn insert(key: &str) -> Result<Change<EndpointKey, Endpoint>, Error> {
    let endpoint: Endpoint = key.parse().unwrap();
    Ok(Change::Insert(endpoint.key().clone(), endpoint))
}

fn remove(key: &str) -> Result<Change<EndpointKey, Endpoint>, Error> {
    Ok(Change::Remove(key.into()))
}

fn discovery() -> (Discovery, impl Stream<Item = Result<Change<EndpointKey, Endpoint>, Error>>) {
    let (sender, mut receiver) = mpsc::channel(64);
    (sender, stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

/// An endpoint that answers with its own target after a while.
#[derive(Clone)]
struct Named {
    target: Target,
    takes: Duration,
}

impl Service<Message> for Named {
    type Response = String;
    type Error = Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<String, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _call: Message) -> Self::Future {
        let Self { target, takes } = self.clone();
        Box::pin(async move {
            sleep(takes).await;
            Ok(target.to_string())
        })
    }
}

/// Makes [`Named`] endpoints; those with port 9 are slow.
fn named() -> impl Service<Target, Response = Lent<Named>, Error = Error, Future: Send> + Clone + Send {
    service_fn(|target: Target| async move {
        let takes = Duration::from_millis(if target.to_string().ends_with(":9") { 100 } else { 1 });
        Ok(Lent::new(Named { target, takes }))
    })
}

/// Over pools of scripted connections, one maker per target.
#[derive(Clone, Default)]
struct Makers(Arc<Lock<BTreeMap<String, ScriptedMaker>>>);

impl Makers {
    fn of(&self, target: &str) -> ScriptedMaker {
        self.0.lock().entry(target.to_owned()).or_insert_with(ScriptedMaker::exclusive).clone()
    }

    fn dials(&self) -> usize {
        self.0.lock().values().map(ScriptedMaker::dials).sum()
    }

    fn balance<D, U>(&self, discover: D) -> Balance<Handle<ScriptedConnection>, P2cPicker>
    where
        D: Stream<Item = Result<U, Error>> + Send + 'static,
        U: Into<Update>,
    {
        let makers = self.clone();
        let make = service_fn(move |target: Target| {
            let make = makers.of(&target.to_string());
            async move { PoolBuilder::new().max_connections(4).build(make)?.call(target).await }
        });
        BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(7)).spawn(discover, make, &TokioExecutor::current()).unwrap()
    }
}

fn refused() -> Error {
    Error::new(Kind::Unavailable, Phase::Dial).with_message("refused")
}

#[tokio::test(start_paused = true)]
async fn clones_spread_calls_over_all_endpoints() {
    let (balance, driver) = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(1)).pair(fixed(endpoints(4)), named());
    tokio::spawn(driver);
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..400 {
        *counts.entry(balance.clone().oneshot(Call::new(0)).await.unwrap()).or_default() += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|count| (60..140).contains(count)), "{counts:?}");
    let calls: u64 = balance.endpoints().iter().map(|view| view.calls).sum();
    assert_eq!(calls, 400);
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_gets_fewer_calls_because_more_of_them_are_in_flight() {
    let set = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:9"].map(|text| text.parse().unwrap());
    let (balance, driver) = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(1)).pair(fixed(set), named());
    tokio::spawn(driver);
    let answers = stream::iter(0..3_000).map(|_| balance.clone().oneshot(Call::new(0))).buffer_unordered(16);
    let slow = answers.filter(|answer| std::future::ready(answer.as_ref().unwrap().ends_with(":9"))).count().await;
    assert!(slow < 300, "{slow} of 3000 went to the slow one, 1000 is its fair share");
}

// F19
#[tokio::test(start_paused = true)]
async fn before_discovery_has_yielded_anything_a_call_waits_for_it() {
    let (discover, stream) = discovery();
    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(stream, named());
    tokio::spawn(driver);
    let mut call = spawn(balance.clone().oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    settle().await;
    discover.send(insert("10.0.0.1:1")).await.unwrap();
    settle().await;
    assert!(call.is_woken());
    assert_eq!(call.await.unwrap(), "10.0.0.1:1");
}

// F19
#[tokio::test(start_paused = true)]
async fn an_error_or_the_end_of_discovery_leaves_the_last_good_set() {
    let (discover, stream) = discovery();
    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(stream, named());
    tokio::spawn(driver);
    discover.send(insert("10.0.0.1:1")).await.unwrap();
    discover.send(Err(Error::new(Kind::Unavailable, Phase::Resolve))).await.unwrap();
    drop(discover);
    settle().await;
    assert_eq!(balance.clone().oneshot(Call::new(0)).await.unwrap(), "10.0.0.1:1");
}

// F19
#[tokio::test(start_paused = true)]
async fn an_empty_set_and_a_discovery_that_ends_with_nothing_fail_at_once() {
    let (discover, stream) = discovery();
    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(stream, named());
    tokio::spawn(driver);
    discover.send(insert("10.0.0.1:1")).await.unwrap();
    settle().await;
    discover.send(remove("10.0.0.1:1")).await.unwrap();
    settle().await;
    let error = balance.clone().oneshot(Call::new(0)).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::NoEndpoints, Sent::Never));

    let (balance, driver) =
        BalanceBuilder::new(P2c::new()).pair(stream::empty::<Result<Change<EndpointKey, Endpoint>, Error>>(), named());
    tokio::spawn(driver);
    assert_eq!(balance.oneshot(Call::new(0)).await.unwrap_err().kind(), Kind::NoEndpoints);

    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(fixed([]), named());
    let mut call = spawn(balance.oneshot(Call::new(0)));
    assert!(call.poll().is_pending());
    drop(driver);
    assert!(call.is_woken());
    assert_eq!(call.await.unwrap_err().kind(), Kind::NoEndpoints);
}

// F16: the case of tower#856, where a stale index sent calls to another endpoint after a removal.
#[tokio::test(start_paused = true)]
async fn after_a_removal_between_readiness_and_call_the_least_loaded_of_the_rest_is_called() {
    for seed in 0..300 {
        let (discover, stream) = discovery();
        let (mut balance, driver) = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(seed)).pair(stream, named());
        tokio::spawn(driver);
        for key in ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:9"] {
            discover.send(insert(key)).await.unwrap();
        }
        settle().await;
        // Load the third.
        let mut held = Vec::new();
        while balance.endpoints()[2].in_flight < 10 {
            let mut call = spawn(balance.clone().oneshot(Call::new(0)));
            assert!(call.poll().is_pending());
            held.push(call);
            if balance.endpoints()[2].in_flight == 0 {
                continue;
            }
        }
        drop(held.split_off(0));
        balance.ready().await.unwrap();
        discover.send(remove("10.0.0.2:1")).await.unwrap();
        settle().await;
        let answer = balance.call(Call::new(0)).await.unwrap();
        assert_ne!(answer, "10.0.0.2:1");
    }
}

// F16
#[tokio::test(start_paused = true)]
async fn a_removed_endpoint_gets_no_new_calls_and_those_in_flight_finish() {
    let makers = Makers::default();
    let (discover, stream) = discovery();
    let balance = makers.balance(stream);
    discover.send(insert("10.0.0.1:1")).await.unwrap();
    settle().await;
    balance.clone().oneshot(Call::new(0)).await.unwrap();
    let wire = makers.of("10.0.0.1:1").wires()[0].clone();
    wire.hold(true);
    let mut call = spawn(balance.clone().oneshot(Call::new(1)));
    assert!(call.poll().is_pending());
    discover.send(insert("10.0.0.2:1")).await.unwrap();
    discover.send(remove("10.0.0.1:1")).await.unwrap();
    settle().await;
    for _ in 0..20 {
        balance.clone().oneshot(Call::new(2)).await.unwrap();
    }
    assert_eq!((wire.calls(), makers.of("10.0.0.1:1").open()), (2, 1));
    wire.hold(false);
    assert_eq!(call.await.unwrap().1.into_message(), 1);
    settle().await;
    assert_eq!(makers.of("10.0.0.1:1").open(), 0, "its connection closes after the last call");
}

// F17
#[tokio::test(start_paused = true)]
async fn attributes_change_in_place_and_a_new_target_or_a_new_life_starts_afresh() {
    let makers = Makers::default();
    let (discover, stream) = discovery();
    let balance = makers.balance(stream);
    let key = EndpointKey::new("a");
    let endpoint = |target: &str| Endpoint::new(key.clone(), target.parse().unwrap());
    discover.send(Ok(Change::Insert(key.clone(), endpoint("10.0.0.1:1")))).await.unwrap();
    settle().await;
    balance.clone().oneshot(Call::new(0)).await.unwrap();
    let heavier = endpoint("10.0.0.1:1").with_weight(Weight::new(3.0).unwrap());
    discover.send(Ok(Change::Insert(key.clone(), heavier))).await.unwrap();
    settle().await;
    balance.clone().oneshot(Call::new(0)).await.unwrap();
    let view = balance.endpoints().remove(0);
    assert_eq!((view.endpoint.weight().get(), view.calls, view.lend.stats().opened), (3.0, 2, 1));

    discover.send(Ok(Change::Insert(key.clone(), endpoint("10.0.0.2:1")))).await.unwrap();
    settle().await;
    assert_eq!(balance.endpoints()[0].calls, 0, "another target");
    balance.clone().oneshot(Call::new(0)).await.unwrap();
    assert_eq!((makers.of("10.0.0.1:1").open(), makers.of("10.0.0.2:1").open()), (1, 1));
    drop(view);
    settle().await;
    assert_eq!(makers.of("10.0.0.1:1").open(), 0);

    discover.send(Ok(Change::Remove(key.clone()))).await.unwrap();
    discover.send(Ok(Change::Insert(key.clone(), endpoint("10.0.0.2:1")))).await.unwrap();
    settle().await;
    assert_eq!((balance.endpoints().len(), balance.endpoints()[0].calls), (1, 0), "a new life");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_known_by_the_key_of_its_change() {
    let (discover, stream) = discovery();
    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(stream, named());
    tokio::spawn(driver);
    discover.send(Ok(Change::Insert("pod-7".into(), "10.0.0.1:1".parse().unwrap()))).await.unwrap();
    settle().await;
    assert_eq!(balance.endpoints()[0].endpoint.key().as_str(), "pod-7");
    discover.send(Ok(Change::Remove("pod-7".into()))).await.unwrap();
    settle().await;
    assert!(balance.endpoints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn why_discovery_failed_is_the_cause_of_having_no_endpoints() {
    let failing = stream::iter([Err::<Change<EndpointKey, Endpoint>, _>(std::io::Error::other("consul is down"))]);
    let (balance, driver) = BalanceBuilder::new(P2c::new()).pair(failing, named());
    tokio::spawn(driver);
    let error = balance.oneshot(Call::new(0)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoEndpoints);
    assert_eq!(error.find::<std::io::Error>().unwrap().to_string(), "consul is down");
}

/// Names whatever it is told to.
#[derive(Clone)]
struct Picky(Vec<usize>);

impl Policy for Picky {
    type Picker = Self;

    fn build(&mut self, _set: &Members, _last: Option<&Self>) -> Self {
        self.clone()
    }
}

impl<Req> Pick<Req> for Picky {
    type Order<'a>
        = std::vec::IntoIter<usize>
    where
        Req: 'a;

    fn order<'a>(
        &'a self,
        _request: &'a Req,
        _context: Option<&'a CallContext>,
        _view: View<'a>,
        _rng: &mut Rng,
    ) -> Self::Order<'a> {
        self.0.clone().into_iter()
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_decides_alone_who_is_called_and_may_name_nobody() {
    for (named_by_policy, answer) in [(vec![1], Some("10.0.0.1:1")), (vec![7, 0], Some("10.0.0.0:1")), (vec![], None)] {
        let (balance, driver) = BalanceBuilder::new(Picky(named_by_policy)).pair(fixed(endpoints(2)), named());
        tokio::spawn(driver);
        match (balance.oneshot(Call::new(0)).await, answer) {
            (Ok(answered), Some(expected)) => assert_eq!(answered, expected),
            (Err(error), None) => assert_eq!((error.kind(), error.sent()), (Kind::NoEndpoints, Sent::Never)),
            (result, _) => panic!("{result:?}"),
        }
    }
}

// F18
#[tokio::test(start_paused = true)]
async fn when_all_are_down_calls_fail_fast_with_the_cause_and_the_first_to_heal_is_used_without_traffic() {
    let makers = Makers::default();
    for endpoint in endpoints(3) {
        makers.of(endpoint.key().as_str()).fail(Some(refused()));
    }
    let balance = makers.balance(fixed(endpoints(3)));
    let start = Instant::now();
    for _ in 0..500 {
        let error = balance.clone().oneshot(Call::new(0)).await.unwrap_err();
        assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Unavailable, Phase::Dial, Sent::Never));
        assert!(error.to_string().contains("refused"), "{error}");
    }
    assert_eq!((makers.dials(), start.elapsed()), (3, Duration::ZERO), "calls do not dial what is down");
    sleep(Duration::from_secs(60)).await;
    assert!((90..400).contains(&makers.dials()), "{} dials in a minute", makers.dials());
    makers.of("10.0.0.1:1").fail(None);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(balance.endpoints().iter().filter(|view| view.room == Room::Ready).count(), 1);
    assert!(balance.clone().oneshot(Call::new(0)).await.is_ok());
}

// F11
#[tokio::test(start_paused = true)]
async fn one_dead_endpoint_fails_no_call_and_blocks_none() {
    for dead in [refused(), Error::new(Kind::Timeout, Phase::Handshake), Error::new(Kind::Tls, Phase::Handshake)] {
        let makers = Makers::default();
        makers.of("10.0.0.0:1").fail(Some(dead));
        let balance = makers.balance(fixed(endpoints(3)));
        for i in 0..100 {
            assert_eq!(balance.clone().oneshot(Call::new(i)).await.unwrap().1.into_message(), i);
        }
        assert_eq!(makers.of("10.0.0.0:1").dials(), 1, "without a retry layer: no request was consumed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_avoids_the_endpoint_that_failed_while_another_is_there() {
    let failing = Arc::new(AtomicUsize::new(0));
    let make = {
        let failing = failing.clone();
        service_fn(move |target: Target| {
            let failing = failing.clone();
            async move {
                Ok::<_, Error>(Lent::new(service_fn(move |_: Message| {
                    let bad = target.to_string() == "10.0.0.0:1";
                    failing.fetch_add(usize::from(bad), Ordering::Relaxed);
                    async move { if bad { Err(Error::new(Kind::Closed, Phase::Read)) } else { Ok(()) } }
                })))
            }
        })
    };
    let balance = BalanceBuilder::new(P2c::new()).rng(Rng::with_seed(3));
    let balance = balance.spawn(fixed(endpoints(2)), make.clone(), &TokioExecutor::current()).unwrap();
    let retry = RetryLayer::with_policy(RetryPolicy::default().attempts(2).unwrap());
    for _ in 0..100 {
        retry.layer(balance.clone()).oneshot(Call::new(0).idempotent()).await.unwrap();
    }
    assert!(failing.load(Ordering::Relaxed) > 1);
    // Alone, it is tried again: there is nobody else.
    failing.store(0, Ordering::Relaxed);
    let alone = BalanceBuilder::new(P2c::new()).spawn(fixed(endpoints(1)), make, &TokioExecutor::current()).unwrap();
    retry.layer(alone).oneshot(Call::new(0).idempotent()).await.unwrap_err();
    assert_eq!(failing.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_ran_out_is_not_begun_anew_at_the_next_endpoint() {
    let makers = Makers::default();
    let make = {
        let makers = makers.clone();
        service_fn(move |target: Target| {
            let make = makers.of(&target.to_string());
            let builder = PoolBuilder::new().max_connections(1).wait_deadline(Duration::from_secs(1));
            async move { builder.build(make)?.call(target).await }
        })
    };
    let executor = TokioExecutor::current();
    let balance = BalanceBuilder::new(P2c::new()).spawn(fixed(endpoints(3)), make, &executor).unwrap();
    balance.discovered().await;
    let held = balance.endpoints().into_iter().map(|view| async move { view.lend.lend(None).await.unwrap() });
    let _held = futures_util::future::join_all(held).await;
    let start = Instant::now();
    let error = balance.oneshot(Call::new(0)).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (Kind::Timeout, Duration::from_secs(1)));
}

// F25
#[tokio::test(start_paused = true)]
async fn readiness_holds_nothing() {
    let makers = Makers::default();
    let balance = makers.balance(fixed(endpoints(1)));
    let mut clones: Vec<_> = (0..512).map(|_| balance.clone()).collect();
    for clone in &mut clones {
        ServiceExt::<Message>::ready(clone).await.unwrap();
    }
    assert!(timeout(Duration::from_secs(1), clones[511].call(Call::new(1))).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_a_call_counts_on_no_endpoint_any_more() {
    let makers = Makers::default();
    let balance = makers.balance(fixed(endpoints(2)));
    cancel_at_every_poll(
        || balance.clone().oneshot(Call::new(0)),
        |polls| {
            let balance = balance.clone();
            async move {
                let in_flight: usize = balance.endpoints().iter().map(|view| view.in_flight).sum();
                assert_eq!(in_flight, 0, "after {polls} polls");
                assert!(balance.oneshot(Call::new(1)).await.is_ok());
            }
        },
    )
    .await;
}

// F26: tokio makes whoever has done much in one turn wait, which must not be taken for an endpoint without room.
#[tokio::test(start_paused = true)]
async fn many_calls_in_one_turn_of_a_task_all_find_an_endpoint() {
    let makers = Makers::default();
    let balance = makers.balance(fixed(endpoints(2)));
    for i in 0..500 {
        assert_eq!(balance.clone().oneshot(Call::new(i)).await.unwrap().1.into_message(), i);
    }
    assert_eq!(makers.dials(), 2);
}

// F30
#[tokio::test(start_paused = true)]
async fn a_storm_of_calls_on_cold_endpoints_dials_as_often_as_the_pools_may_and_serves_all() {
    let makers = Makers::default();
    let balance = makers.balance(fixed(endpoints(2)));
    let calls = (0..1_000).map(|i| tokio::spawn(balance.clone().oneshot(Call::new(i))));
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert!(makers.dials() <= 2 * 4, "{} dials, four connections per endpoint", makers.dials());
}

#[tokio::test(start_paused = true)]
async fn after_the_last_clone_no_task_is_left() {
    let makers = Makers::default();
    let balance = makers.balance(fixed(endpoints(3)));
    for _ in 0..20 {
        balance.clone().oneshot(Call::new(0)).await.unwrap();
    }
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(alive(), 1 + 3);
    drop(balance);
    settle().await;
    assert_eq!(alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_error_names_the_endpoint_that_was_called() {
    let fails = service_fn(|_: Target| async {
        Ok::<_, Error>(Lent::new(service_fn(|_: Message| async { Err::<(), _>(std::io::Error::other("boom")) })))
    });
    let balance = BalanceBuilder::new(P2c::new()).spawn(fixed(endpoints(1)), fails, &TokioExecutor::current()).unwrap();
    let error = balance.oneshot(Call::new(0)).await.unwrap_err();
    assert_eq!((error.endpoint().unwrap().as_str(), error.sent()), ("10.0.0.0:1", Sent::Maybe));
    assert!(error.find::<std::io::Error>().is_some());
}

const _: fn() = || {
    fn shared<T: Clone + Send + Sync + std::fmt::Debug + 'static>() {}
    fn lend<L: Lend>() {}
    shared::<Balance<Handle<ScriptedConnection>, P2cPicker>>();
    lend::<Handle<ScriptedConnection>>();
};
