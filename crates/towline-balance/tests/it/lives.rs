//! The set against a model of it, whatever discovery says and however calls end.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream;
use proptest::prelude::*;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_test::task::{Spawn, spawn};
use tower::{Service, ServiceExt, service_fn};
use towline_balance::{Balance, BalanceBuilder, Change, Outliers, P2c, P2cPicker, SlowStart, Update};
use towline_core::sync::Lock;
use towline_core::{Call, Endpoint, EndpointKey, Error, Lent, Phase, Target, TokioExecutor};

use crate::support::{Message, SECOND, endpoint, refused};

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u8),
    Remove(u8),
    Set(Vec<(u8, u8)>),
    Empty,
    Fail,
    /// The driver takes all that was said since the last time.
    Settle,
    Call,
    /// Between readiness and call this one is removed.
    ReadyThenCall(u8),
    /// One of the calls that are held ends.
    End(usize, End),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Ok,
    Fail,
    Drop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![Just(End::Ok), Just(End::Fail), Just(End::Drop)];
    let step = prop_oneof![
        6 => (0u8..6, 0u8..3).prop_map(|(key, target)| Step::Insert(key, target)),
        4 => (0u8..6).prop_map(Step::Remove),
        2 => prop::collection::vec((0u8..6, 0u8..3), 0..6).prop_map(Step::Set),
        1 => Just(Step::Empty),
        1 => Just(Step::Fail),
        5 => Just(Step::Settle),
        6 => Just(Step::Call),
        2 => (0u8..6).prop_map(Step::ReadyThenCall),
        5 => (0usize..40, end).prop_map(|(call, end)| Step::End(call, end)),
    ];
    prop::collection::vec(step, 0..60)
}

/// What is known of one life of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Life {
    target: u8,
    in_flight: usize,
    calls: u64,
    /// Whether it has a latency.
    has_answered: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Its number.
    life: Option<usize>,
    /// The target that it is to have instead.
    wanted: Option<u8>,
}

#[derive(Default)]
struct Model {
    lives: Vec<Life>,
    slots: BTreeMap<u8, Slot>,
    /// What calls see, by key.
    published: BTreeMap<u8, usize>,
}

impl Model {
    fn insert(&mut self, key: u8, target: u8) {
        let slot = self.slots.entry(key).or_default();
        let is_there = slot.life.is_some_and(|life| self.lives[life].target == target);
        slot.wanted = if is_there { None } else { Some(target) };
    }

    /// What is wanted begins a life, and ends another under its key.
    fn make(&mut self) {
        for slot in self.slots.values_mut() {
            if let Some(target) = slot.wanted.take() {
                slot.life = Some(self.lives.len());
                self.lives.push(Life { target, ..Life::default() });
            }
        }
    }

    fn settle(&mut self) {
        self.make();
        self.published = self.slots.iter().map(|(key, slot)| (*key, slot.life.unwrap())).collect();
    }

    fn seen(&self) -> BTreeMap<u8, Life> {
        self.published.iter().map(|(key, life)| (*key, self.lives[*life])).collect()
    }
}

type Answer = oneshot::Sender<Result<(), Error>>;

/// Each call is answered by the test.
#[derive(Clone, Default)]
struct Gate(Arc<Lock<Option<Answer>>>);

impl Service<Message> for Gate {
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _call: Message) -> Self::Future {
        let (sender, answer) = oneshot::channel();
        *self.0.lock() = Some(sender);
        Box::pin(async move { answer.await.expect("the test answers") })
    }
}

struct Held {
    call: Spawn<<Balance<Lent<Gate>, P2cPicker> as Service<Message>>::Future>,
    answer: Answer,
    life: usize,
}

struct Run {
    balance: Balance<Lent<Gate>, P2cPicker>,
    discover: mpsc::Sender<Result<Update, Error>>,
    gate: Gate,
    model: Model,
    held: Vec<Held>,
}

impl Run {
    fn new() -> Self {
        let gate = Gate::default();
        let make = {
            let gate = gate.clone();
            service_fn(move |_: Target| std::future::ready(Ok::<_, Error>(Lent::new(gate.clone()))))
        };
        let (discover, mut changes) = mpsc::channel(64);
        let stream = stream::poll_fn(move |cx| changes.poll_recv(cx));
        let builder = BalanceBuilder::new(P2c::new()).outliers(Outliers::off()).slow_start(SlowStart::off());
        let balance = builder.spawn(stream, make, &TokioExecutor::current()).unwrap();
        Self { balance, discover, gate, model: Model::default(), held: Vec::new() }
    }

    /// Without giving the driver a turn.
    fn say(&self, update: impl Into<Update>) {
        self.discover.try_send(Ok(update.into())).unwrap();
    }

    async fn settle(&mut self) {
        // After each failure discovery is asked again after up to a second.
        sleep(60 * SECOND).await;
        self.model.settle();
    }

    fn seen(&self) -> BTreeMap<u8, Life> {
        let life = |view: &towline_balance::EndpointView<_>| Life {
            target: digit(&view.endpoint.target().to_string()),
            in_flight: view.in_flight,
            calls: view.calls,
            has_answered: view.latency.is_some(),
        };
        self.balance.endpoints().iter().map(|view| (digit(view.endpoint.key().as_str()), life(view))).collect()
    }

    fn call(&mut self, mut ready: Balance<Lent<Gate>, P2cPicker>) {
        if self.model.published.is_empty() {
            return;
        }
        let before = self.seen();
        let mut call = spawn(ready.call(Call::new(0)));
        assert!(call.poll().is_pending());
        let after = self.seen();
        let key = after.keys().find(|key| after[key].calls != before[key].calls).unwrap();
        let life = self.model.published[key];
        self.model.lives[life].calls += 1;
        self.model.lives[life].in_flight += 1;
        self.held.push(Held { call, answer: self.gate.0.lock().take().unwrap(), life });
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Insert(key, target) => {
                let endpoint = update(key, target);
                self.say(Change::Insert(endpoint.key().clone(), endpoint));
                self.model.insert(key, target);
            }
            Step::Remove(key) => {
                self.say(Change::Remove(key_of(key)));
                self.model.slots.remove(&key);
            }
            Step::Set(set) => {
                self.say(set.iter().map(|(key, target)| update(*key, *target)).collect::<Vec<_>>());
                let last: BTreeMap<_, _> = set.into_iter().collect();
                if !last.is_empty() {
                    self.model.slots.retain(|key, _| last.contains_key(key));
                    last.into_iter().for_each(|(key, target)| self.model.insert(key, target));
                }
            }
            Step::Empty => {
                self.say(Update::Empty);
                self.model.slots.clear();
            }
            Step::Fail => {
                self.discover.try_send(Err(refused())).unwrap();
                // What follows is taken after a pause.
                self.model.make();
            }
            Step::Settle => self.settle().await,
            Step::Call => self.call(self.balance.clone()),
            Step::ReadyThenCall(key) => {
                let mut ready = self.balance.clone();
                ready.ready().await.unwrap();
                self.say(Change::Remove(key_of(key)));
                self.model.slots.remove(&key);
                self.settle().await;
                self.call(ready);
            }
            Step::End(_, _) if self.held.is_empty() => {}
            Step::End(call, end) => {
                let Held { mut call, answer, life } = self.held.swap_remove(call % self.held.len());
                let life = &mut self.model.lives[life];
                life.in_flight -= 1;
                match end {
                    End::Ok => {
                        answer.send(Ok(())).unwrap();
                        assert!(matches!(call.poll(), Poll::Ready(Ok(()))));
                        life.has_answered = true;
                    }
                    End::Fail => {
                        answer.send(Err(Error::new(refused().kind(), Phase::Read))).unwrap();
                        assert!(matches!(call.poll(), Poll::Ready(Err(_))));
                    }
                    End::Drop => drop(call),
                }
            }
        }
        assert_eq!(self.seen(), self.model.seen());
    }
}

fn update(key: u8, target: u8) -> Endpoint {
    endpoint(&format!("t{target}:1")).with_key(key_of(key))
}

fn key_of(key: u8) -> EndpointKey {
    EndpointKey::new(format!("k{key}"))
}

/// Of `k3` and `t3:1`.
fn digit(text: &str) -> u8 {
    text.as_bytes()[1] - b'0'
}

fn replay(steps: impl IntoIterator<Item = Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async move {
        let mut run = Run::new();
        for step in steps {
            run.step(step).await;
        }
        // Whatever they were called on, and whether it is still there.
        run.held.clear();
        assert!(run.seen().values().all(|life| life.in_flight == 0));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    // F17: every life that ends or changes its target begins anew, and no other.
    #[test]
    fn after_any_changes_the_set_is_what_discovery_last_said_and_late_ends_touch_nobody_else(steps in steps()) {
        replay(steps);
    }
}

// F16, F17: the case of tower#856, once with a successor under the key that was removed.
#[test]
fn of_three_the_one_that_is_removed_between_readiness_and_call_has_no_more_calls() {
    let three = (0..3).map(|key| Step::Insert(key, key)).chain([Step::Settle]);
    let calls = (0..11).map(|_| Step::Call);
    let ends = [Step::End(0, End::Ok), Step::End(1, End::Fail), Step::End(2, End::Drop)];
    let removed = [Step::ReadyThenCall(1), Step::Insert(1, 1), Step::Settle, Step::Call];
    let late = (0..12).map(|_| Step::End(0, End::Ok));
    replay(three.chain(calls).chain(ends).chain(removed).chain(late));
}

// F17
#[test]
fn one_that_is_removed_and_inserted_again_at_once_is_another_life_and_one_that_is_said_again_is_not() {
    let insert = || Step::Insert(0, 0);
    let end = || Step::End(0, End::Ok);
    replay([insert(), Step::Settle, Step::Call, Step::Remove(0), insert(), Step::Settle, end(), Step::Call, end()]);
    replay([insert(), Step::Settle, Step::Call, Step::Insert(0, 1), insert(), Step::Settle, end(), Step::Call]);
}
