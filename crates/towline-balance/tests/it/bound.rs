//! What policies that keep calls together ask of the balancer: a bound of load, and terms that are strict.

use std::sync::Arc;

use tokio_test::task::{Spawn, spawn};
use tower::ServiceExt;
use tower::util::Oneshot;
use towline_balance::{Balance, BalanceBuilder, Circuit, LoadMetric, fixed};
use towline_core::sync::Lock;
use towline_core::{
    Call, CallContext, Error, HomeLoss, Kind, Members, Phase, Pick, Policy, Rng, Room, Sent, Terms, TokioExecutor, View,
};

use crate::support::{Desk, Desks, MS, Message, SECOND, endpoints};

/// Sends a call's message, a number, to the endpoint of that number and then to all that follow it.
#[derive(Clone, Default)]
struct ByNumber {
    is_strict: bool,
    bound: Option<f64>,
    refused: Arc<Lock<Vec<HomeLoss>>>,
}

impl Policy for ByNumber {
    type Picker = Self;

    fn build(&mut self, _set: &Members, _last: Option<&Self>) -> Self {
        self.clone()
    }

    fn load_bound(&self) -> Option<f64> {
        self.bound
    }
}

impl Pick<Message> for ByNumber {
    type Order<'a> = Box<dyn Iterator<Item = usize>>;

    fn order<'a>(
        &'a self,
        call: &'a Message,
        _context: Option<&'a CallContext>,
        view: View<'a>,
        _rng: &mut Rng,
    ) -> Self::Order<'a> {
        let (home, len) = (*call.message() as usize, view.len());
        // Nobody has a number as high as 100: its home is gone.
        let candidates = if home >= 100 && self.is_strict { 0 } else { len };
        Box::new((home..home + candidates).map(move |index| index % len))
    }

    fn terms(&self, call: &Message, _context: Option<&CallContext>) -> Terms {
        let terms = Terms::kept(u64::from(*call.message()));
        if self.is_strict { terms.strict() } else { terms }
    }

    fn refused(&self, _call: &Message, _context: Option<&CallContext>, why: HomeLoss) {
        self.refused.lock().push(why);
    }
}

type Balanced = Balance<Desk, ByNumber>;
type Held = Spawn<Oneshot<Balanced, Message>>;

async fn over(desks: &Desks, n: u8, policy: ByNumber, circuit: Circuit) -> Balanced {
    let builder = BalanceBuilder::new(policy).load(LoadMetric::in_flight()).circuit(circuit);
    let balance = builder.spawn(fixed(endpoints(n)), desks.make(), &TokioExecutor::current()).unwrap();
    balance.discovered().await;
    balance
}

fn bounded() -> ByNumber {
    ByNumber { bound: Some(1.25), ..ByNumber::default() }
}

fn strict() -> ByNumber {
    ByNumber { is_strict: true, ..ByNumber::default() }
}

/// A call that has begun and goes on.
fn hold(balance: &Balanced, home: u32) -> Held {
    let mut call = spawn(balance.clone().oneshot(Call::new(home)));
    assert!(call.poll().is_pending());
    call
}

fn in_flight(balance: &Balanced) -> Vec<usize> {
    balance.endpoints().iter().map(|view| view.in_flight).collect()
}

// F34
#[tokio::test(start_paused = true)]
async fn no_endpoint_is_above_the_bound_when_a_call_is_let_in() {
    for seed in 0..20 {
        let (desks, mut rng) = (Desks::default(), Rng::with_seed(seed));
        let balance = over(&desks, 5, bounded(), Circuit::new()).await;
        let mut held: Vec<Held> = Vec::new();
        for _ in 0..2_000 {
            if !held.is_empty() && rng.below(100) < 45 {
                drop(held.swap_remove(rng.below(held.len())));
                continue;
            }
            let before = in_flight(&balance);
            // Half of the calls are of one key.
            let home = if rng.below(2) == 0 { 3 } else { rng.below(5) };
            held.push(hold(&balance, home as u32));
            let after = in_flight(&balance);
            let to = (0..5).find(|index| after[*index] > before[*index]).unwrap();
            let bound = (1.25 * held.len() as f64 / 5.0).ceil();
            assert!(after[to] as f64 <= bound, "{after:?}: more than {bound}");
        }
    }
}

// F34
#[tokio::test(start_paused = true)]
async fn a_hot_key_leaves_room_for_the_others_wherever_it_goes() {
    let desks = Desks::default();
    let balance = over(&desks, 5, bounded(), Circuit::new()).await;
    let spread: Vec<_> = (0..200).map(|n| hold(&balance, n % 90)).collect();
    let hot: Vec<_> = (0..100).map(|_| hold(&balance, 3)).collect();
    // 300 calls: 60 each in the mean, 75 at most. What overflows stops at 67.5, rounded up.
    assert!(in_flight(&balance).iter().all(|calls| *calls <= 68), "{:?}", in_flight(&balance));
    let before = in_flight(&balance);
    let at_home: Vec<_> = (90..95).map(|home| hold(&balance, home)).collect();
    assert_eq!(in_flight(&balance), before.iter().map(|calls| calls + 1).collect::<Vec<_>>());
    drop(at_home);
    drop((spread, hot));
    assert_eq!(in_flight(&balance), [0; 5]);
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_for_sharing_calls_and_never_refuses_one() {
    let desks = Desks::default();
    let balance = over(&desks, 5, bounded(), Circuit::new()).await;
    ["b:1", "c:1", "d:1", "e:1"].into_iter().for_each(|name| desks.of(name).room(Room::Down));
    let held: Vec<_> = (0..50).map(|n| hold(&balance, n % 5)).collect();
    assert_eq!(in_flight(&balance), [50, 0, 0, 0, 0]);
    drop(held);
    assert!(balance.oneshot(Call::new(3)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_mean_is_of_those_that_can_take_calls() {
    let desks = Desks::default();
    let balance = over(&desks, 5, bounded(), Circuit::new()).await;
    ["a:1", "b:1", "c:1"].into_iter().for_each(|name| desks.of(name).room(Room::Down));
    // The driver looks over the set while there are calls.
    drop(hold(&balance, 3));
    tokio::time::sleep(SECOND).await;
    let held: Vec<_> = (0..16).map(|_| hold(&balance, 3)).collect();
    let (home, other) = (in_flight(&balance)[3], in_flight(&balance)[4]);
    assert_eq!(home + other, 16);
    // Of two, eight each in the mean.
    assert!(home <= 10 && other <= 10, "{home} and {other}");
    drop(held);
}

// In real time, on two threads and more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_come_at_once_keep_the_bound_and_leave_nothing_behind() {
    let desks = Desks::default();
    (0..5).for_each(|i| desks.of(&format!("{}:1", char::from(b'a' + i))).answers(MS, false));
    let balance = over(&desks, 5, bounded(), Circuit::new()).await;
    let callers: Vec<_> = (0..64)
        .map(|n| {
            let balance = balance.clone();
            tokio::spawn(async move {
                for round in 0..50_u32 {
                    let home = if round % 2 == 0 { 3 } else { n % 5 };
                    balance.clone().oneshot(Call::new(home)).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    // There were never more than 64 calls: 16 each at most.
    let most: Vec<_> = (0..5).map(|i| desks.of(&format!("{}:1", char::from(b'a' + i))).most()).collect();
    assert!(most.iter().all(|most| *most <= 16), "{most:?}");
    assert_eq!(in_flight(&balance), [0; 5]);
    let held: Vec<_> = (0..5).map(|_| hold(&balance, 3)).collect();
    assert_eq!(in_flight(&balance).iter().max(), Some(&2), "what has ended does not count");
    drop(held);
}

fn assert_refused(error: &Error, why: &str) {
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::HomeUnavailable, Phase::Pick, Sent::Never));
    assert!(error.to_string().contains(&format!("session is {why}")), "{error}");
    assert!(!error.kind().is_transient(), "it is not retried");
}

// F33
#[tokio::test(start_paused = true)]
async fn strict_calls_fail_at_once_when_their_home_is_gone_down_or_full_and_go_nowhere_else() {
    let (desks, policy) = (Desks::default(), strict());
    let balance = over(&desks, 3, policy.clone(), Circuit::new().in_flight(2).unwrap()).await;
    assert_eq!(balance.clone().oneshot(Call::new(1)).await.unwrap(), "b:1");

    desks.of("b:1").room(Room::Down);
    assert_refused(&balance.clone().oneshot(Call::new(1)).await.unwrap_err(), "unready");
    desks.of("b:1").room(Room::Ready);

    let held = [hold(&balance, 1), hold(&balance, 1)];
    assert_refused(&balance.clone().oneshot(Call::new(1)).await.unwrap_err(), "overloaded");
    drop(held);

    assert_refused(&balance.clone().oneshot(Call::new(100)).await.unwrap_err(), "gone");
    assert_eq!(*policy.refused.lock(), [HomeLoss::Unready, HomeLoss::Overloaded, HomeLoss::Gone]);
    assert_eq!((desks.of("a:1").calls(), desks.of("c:1").calls()), (0, 0));
    assert_eq!(balance.oneshot(Call::new(1)).await.unwrap(), "b:1");
}

#[tokio::test(start_paused = true)]
async fn a_strict_call_whose_home_does_not_lend_says_why() {
    let (desks, policy) = (Desks::default(), strict());
    let balance = over(&desks, 3, policy.clone(), Circuit::new()).await;
    desks.of("b:1").hold(true);
    desks.of("b:1").room(Room::Full);
    let mut call = hold(&balance, 1);
    desks.of("b:1").grant(Err(Error::new(Kind::Overloaded, Phase::Queue).with_message("the queue is full")));
    let std::task::Poll::Ready(Err(error)) = call.poll() else { panic!("it waits") };
    assert_eq!((error.kind(), error.endpoint().unwrap().as_str()), (Kind::Overloaded, "b:1"));
    assert_eq!(*policy.refused.lock(), [HomeLoss::Overloaded]);
}
