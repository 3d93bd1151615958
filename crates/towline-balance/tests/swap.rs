//! The swap of snapshots under threads: calls pick while the driver publishes. A stress test, and under Miri
//! (`cargo xtask miri`) a search for what the memory model allows: the models of loom know no `ArcSwap`.
//!
//! Nothing here needs a runtime: calls and driver are polled by hand, without timers.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio_test::task::spawn;
use tower::{Service, ServiceExt, service_fn};
use towline_balance::{Balance, BalanceBuilder, Change, LoadMetric, Outliers, P2c, P2cPicker, SlowStart};
use towline_core::{Blind, CallContext, Endpoint, Error, Lend, Rng, Room, Target};

const CALLERS: u64 = 3;
/// Rounds of the driver, three changes each.
const ROUNDS: usize = if cfg!(miri) { 4 } else { 300 };
/// More than there can be.
const LIVES: usize = 3 * ROUNDS + 8;

/// What has become of each life of an endpoint, by its number.
struct Ledger {
    made: AtomicUsize,
    dropped: Vec<AtomicUsize>,
    /// How many changes had settled when it was gone for certain; 0 while it is there.
    gone: Vec<AtomicU64>,
    settled: AtomicU64,
    is_over: AtomicBool,
}

/// One life, dropped with the last who knows of it.
struct Life {
    number: usize,
    ledger: Arc<Ledger>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.ledger.dropped[self.number].fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Desk(Arc<Life>);

impl Lend for Desk {
    type Checkout = Echo;
    type Lend = Ready<Result<Echo, Error>>;

    fn room(&self) -> Room {
        assert_eq!(self.0.ledger.dropped[self.0.number].load(Ordering::SeqCst), 0, "it is alive");
        Room::Ready
    }

    fn lend(&self, _: Option<&CallContext>) -> Self::Lend {
        ready(Ok(Echo(self.0.number)))
    }

    fn try_lend(&self, _: Option<&CallContext>) -> Option<Echo> {
        Some(Echo(self.0.number))
    }
}

/// Answers with the number of its life, at the second poll: calls outlive snapshots.
struct Echo(usize);

struct Later(usize, bool);

impl Future for Later {
    type Output = Result<usize, Error>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::replace(&mut self.1, true) { Poll::Ready(Ok(self.0)) } else { Poll::Pending }
    }
}

impl Service<()> for Echo {
    type Response = usize;
    type Error = Error;
    type Future = Later;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Later {
        Later(self.0, false)
    }
}

/// Calls until it is over; every third is given up. How many were answered.
fn calls(balance: &Balance<Desk, P2cPicker, Blind>, ledger: &Ledger, caller: u64) -> u64 {
    let mut cx = Context::from_waker(Waker::noop());
    let mut answered = 0;
    for n in caller.. {
        if ledger.is_over.load(Ordering::Acquire) {
            break;
        }
        let settled = ledger.settled.load(Ordering::Acquire);
        let mut call = pin!(balance.clone().oneshot(()));
        assert!(call.as_mut().poll(&mut cx).is_pending(), "nobody answers at once");
        if n % CALLERS == 0 {
            continue;
        }
        let Poll::Ready(Ok(life)) = call.poll(&mut cx) else { panic!("somebody is always there") };
        assert!(life < ledger.made.load(Ordering::SeqCst), "it was in a set");
        let gone = ledger.gone[life].load(Ordering::SeqCst);
        assert!(gone == 0 || gone > settled, "{life} was gone by {gone}, and the call began at {settled}");
        answered += 1;
    }
    answered
}

#[test]
fn whatever_is_published_meanwhile_a_call_goes_to_who_is_there_and_everybody_is_let_go_once() {
    let zeros = || (0..LIVES).map(|_| AtomicU64::new(0)).collect();
    let ledger = Arc::new(Ledger {
        made: AtomicUsize::new(0),
        dropped: (0..LIVES).map(|_| AtomicUsize::new(0)).collect(),
        gone: zeros(),
        settled: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    let make = {
        let ledger = ledger.clone();
        service_fn(move |_: Target| {
            let number = ledger.made.fetch_add(1, Ordering::SeqCst);
            ready(Ok::<_, Error>(Desk(Arc::new(Life { number, ledger: ledger.clone() }))))
        })
    };
    let (discover, mut changes) = mpsc::channel::<Result<Change<_, Endpoint>, Error>>(8);
    // Without anything that would need a timer.
    let builder = BalanceBuilder::new(P2c::new()).with_access(Blind).rng(Rng::with_seed(7));
    let builder = builder.load(LoadMetric::in_flight()).outliers(Outliers::off()).slow_start(SlowStart::off());
    let (balance, driver) = builder.pair(stream::poll_fn(move |cx| changes.poll_recv(cx)), make);
    let mut driver = spawn(driver);

    let mut lives = BTreeMap::<&str, usize>::new();
    // The endpoint of this key has this target from now on, or is not there.
    let mut settle = |key: &'static str, target: Option<usize>| {
        let change = match target {
            Some(target) => Change::Insert(key.into(), format!("t{target}:1").parse().unwrap()),
            None => Change::Remove(key.into()),
        };
        discover.try_send(Ok(change)).unwrap();
        assert!(driver.poll().is_pending());
        while driver.is_woken() {
            assert!(driver.poll().is_pending());
        }
        let views = balance.endpoints();
        let view = views.iter().find(|view| view.endpoint.key().as_str() == key);
        assert_eq!(view.is_some(), target.is_some());
        let before = match view {
            Some(view) => lives.insert(key, view.lend.0.number),
            None => lives.remove(key),
        };
        let settled = ledger.settled.load(Ordering::SeqCst) + 1;
        before.iter().for_each(|life| ledger.gone[*life].store(settled, Ordering::SeqCst));
        ledger.settled.store(settled, Ordering::Release);
    };
    settle("stays", Some(0));
    settle("changes", Some(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (balance, ledger) = (balance.clone(), ledger.clone());
            thread::spawn(move || calls(&balance, &ledger, caller))
        })
        .collect();
    for round in 1..=ROUNDS {
        settle("comes and goes", Some(round));
        settle("changes", Some(round));
        settle("comes and goes", None);
        thread::yield_now();
    }
    // Each has had its chance, on however few cores.
    while !cfg!(miri) && balance.endpoints().iter().map(|view| view.calls).sum::<u64>() < 100 {
        thread::yield_now();
    }
    ledger.is_over.store(true, Ordering::Release);
    let answered: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert!(cfg!(miri) || answered > 0);
    assert!(balance.endpoints().iter().all(|view| view.in_flight == 0));
    let made = ledger.made.load(Ordering::SeqCst);
    assert_eq!(made, 2 + 2 * ROUNDS);
    drop((balance, driver));
    let dropped: Vec<_> = ledger.dropped.iter().map(|dropped| dropped.load(Ordering::SeqCst)).collect();
    assert!(dropped[..made].iter().all(|times| *times == 1), "{dropped:?}");
}
