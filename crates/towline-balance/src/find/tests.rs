//! Probes that a pick has claimed for calls that cannot be sent.

use std::future::{Ready, pending, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use tokio_test::task::{Spawn, spawn};
use tower::{Service, ServiceExt, service_fn};
use towline_core::sync::Lock;
use towline_core::{
    Blind, CallContext, Endpoint, Error, Kind, Lend, Members, Phase, Pick, Policy, Rng, Room, Target, View,
};

use crate::load::{Admission, Ejection, Nanos, Stats};
use crate::{Balance, BalanceBuilder, Circuit, fixed};

const SECOND: Nanos = 1_000_000_000;

/// Everybody in the order of the set.
struct InOrder;

impl Policy for InOrder {
    type Picker = Self;

    fn build(&mut self, _set: &Members, _last: Option<&Self>) -> Self {
        Self
    }
}

impl<Req> Pick<Req> for InOrder {
    type Order<'a>
        = std::ops::Range<usize>
    where
        Req: 'a;

    fn order<'a>(&'a self, _: &'a Req, _: Option<&'a CallContext>, view: View<'a>, _: &mut Rng) -> Self::Order<'a> {
        0..view.len()
    }
}

/// Refuses when it is full, and else never answers who asks it to lend.
#[derive(Clone)]
struct Desk(Arc<Lock<Room>>);

impl Lend for Desk {
    type Checkout = Nothing;
    type Lend = BoxFuture<'static, Result<Nothing, Error>>;

    fn room(&self) -> Room {
        *self.0.lock()
    }

    fn lend(&self, _: Option<&CallContext>) -> Self::Lend {
        match self.room() {
            Room::Full => ready(Err(Error::new(Kind::Unavailable, Phase::Dial))).boxed(),
            _ => pending().boxed(),
        }
    }
}

/// Nobody gets so far.
struct Nothing;

impl Service<()> for Nothing {
    type Response = ();
    type Error = Error;
    type Future = Ready<Result<(), Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

type Call = Spawn<tower::util::Oneshot<Balance<Desk, InOrder, Blind>, ()>>;

/// A balancer over three, at each of which one call may wait to be lent to.
struct Three {
    balance: Balance<Desk, InOrder, Blind>,
    _driver: Box<dyn std::any::Any>,
}

impl Three {
    fn new() -> Self {
        let set = ["a:1", "b:1", "c:1"].map(|key| key.parse::<Endpoint>().unwrap());
        let make = service_fn(|_: Target| ready(Ok::<_, Error>(Desk(Arc::new(Lock::new(Room::Ready))))));
        let circuit = Circuit::new().pending(1).unwrap();
        let (balance, driver) = BalanceBuilder::new(InOrder).with_access(Blind).circuit(circuit).pair(fixed(set), make);
        let mut driver = spawn(driver);
        assert!(driver.poll().is_pending());
        Self { balance, _driver: Box::new(driver) }
    }

    fn stats(&self, index: usize) -> Arc<Stats> {
        self.balance.shared.snapshot.load().as_ref().unwrap().nodes()[index].stats().clone()
    }

    fn rooms(&self, rooms: [Room; 3]) {
        let snapshot = self.balance.shared.snapshot.load_full().unwrap();
        snapshot.nodes().iter().zip(rooms).for_each(|(node, room)| *node.lend.0.lock() = room);
    }

    /// A call that has asked whom it asks.
    fn call(&self) -> Call {
        let mut call = spawn(self.balance.clone().oneshot(()));
        assert!(call.poll().is_pending());
        call
    }

    /// A call that waits for this one alone, which has room for no other.
    fn waits_for(&self, index: usize) -> Call {
        let mut rooms = [Room::Down; 3];
        rooms[index] = Room::Ready;
        self.rooms(rooms);
        let call = self.call();
        assert_eq!(self.stats(index).in_flight(), 1);
        call
    }
}

// F24
#[tokio::test(start_paused = true)]
async fn the_second_of_two_that_is_at_a_limit_keeps_no_probe() {
    let three = Three::new();
    let _waits = three.waits_for(1);
    three.rooms([Room::Full, Room::Ready, Room::Down]);
    three.stats(1).status().set_ejection(Ejection::Due);
    let mut call = spawn(three.balance.clone().oneshot(()));
    let _refused_by_the_first = call.poll();
    assert_eq!(three.stats(1).in_flight(), 1, "it was not asked");
    assert_eq!(three.stats(1).seen().ejection(), Ejection::Due);
}

// F24
#[tokio::test(start_paused = true)]
async fn one_more_that_is_at_a_limit_keeps_no_probe() {
    let three = Three::new();
    let _waits = three.waits_for(2);
    three.stats(2).status().set_ejection(Ejection::Due);
    // Two are asked; the first refuses, and the third is to take its place.
    three.rooms([Room::Full, Room::Cold, Room::Ready]);
    let _call = three.call();
    assert_eq!([0, 1, 2].map(|index| three.stats(index).in_flight()), [0, 1, 1]);
    assert_eq!(three.stats(2).seen().ejection(), Ejection::Due);
}

// F24
#[tokio::test(start_paused = true)]
async fn a_first_choice_on_probation_that_is_at_a_limit_keeps_no_probe() {
    let three = Three::new();
    let _waits = three.waits_for(0);
    let stats = three.stats(0);
    (0..2).for_each(|_| stats.status().failed(false));
    three.rooms([Room::Ready; 3]);
    let _call = three.call();
    assert_eq!([0, 1].map(|index| three.stats(index).in_flight()), [1, 1], "the next has it");
    assert_eq!(stats.admits(SECOND), Admission::Probe);
}

// F24
#[tokio::test(start_paused = true)]
async fn who_finds_every_one_of_few_at_a_limit_is_told_that_all_are_full() {
    let three = Three::new();
    let _waits = [0, 1, 2].map(|index| three.waits_for(index));
    three.rooms([Room::Ready; 3]);
    let mut call = spawn(three.balance.clone().oneshot(()));
    let Poll::Ready(Err(error)) = call.poll() else { panic!("nobody has a place for it") };
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
    assert_eq!([0, 1, 2].map(|index| three.stats(index).in_flight()), [1; 3]);
}
