//! Probes, call by call, on a clock of its own.

use std::future::{Ready, ready};
use std::sync::Arc;

use towline_core::{CallContext, Endpoint, Error, Lend, Members, Outcome, Pick, Policy, Rng, Room, View};

use super::{Choice, Snapshot};
use crate::load::{Admission, Clock, Ejection, Levels, LoadMetric, Nanos, Settings, Stats};
use crate::members::Set;
use crate::sync::AtomicU64;

const SECOND: Nanos = 1_000_000_000;

/// Everybody in the order of the set.
struct InOrder;

impl Policy for InOrder {
    type Picker = Self;

    fn build(&mut self, _set: &Members, _last: Option<&Self>) -> Self {
        Self
    }
}

impl Pick<()> for InOrder {
    type Order<'a> = std::ops::Range<usize>;

    fn order<'a>(&'a self, (): &'a (), _: Option<&'a CallContext>, view: View<'a>, _: &mut Rng) -> Self::Order<'a> {
        0..view.len()
    }
}

struct Desk(Room);

impl Lend for Desk {
    type Checkout = ();
    type Lend = Ready<Result<(), Error>>;

    fn room(&self) -> Room {
        self.0
    }

    fn lend(&self, _: Option<&CallContext>) -> Self::Lend {
        ready(Ok(()))
    }
}

fn over<const N: usize>(metric: LoadMetric, rooms: [Room; N]) -> (Snapshot<Desk, InOrder>, [Arc<Stats>; N]) {
    let levels = Levels::new(Settings { metric, ..Settings::default() }, Clock::Manual(AtomicU64::new(0)));
    let mut set = Set::default();
    for (index, room) in rooms.into_iter().enumerate() {
        let endpoint: Endpoint = format!("{index}:1").parse().unwrap();
        set.put(endpoint, Desk(room), &levels);
    }
    let snapshot = set.snapshot(&levels, &mut InOrder, None);
    let stats = std::array::from_fn(|index| snapshot.nodes()[index].stats().clone());
    (snapshot, stats)
}

fn pick(snapshot: &Snapshot<Desk, InOrder>, now: Nanos) -> Choice {
    snapshot.pick(&(), None, None, &mut Rng::with_seed(1), now).unwrap()
}

/// Fails until it is on probation.
fn fails(stats: &Stats) {
    (0..2).for_each(|_| stats.status().failed(false));
}

#[test]
fn one_on_probation_that_is_passed_over_in_slow_start_keeps_its_probe() {
    let (snapshot, [first, _]) = over(LoadMetric::default(), [Room::Ready; 2]);
    fails(&first);
    first.set_share(0.0);
    assert_eq!(pick(&snapshot, SECOND).index, 1);
    assert_eq!(first.admits(SECOND), Admission::Probe);
}

#[test]
fn one_on_probation_whose_probe_is_not_due_is_passed_over_by_the_call_in_the_share_of_another() {
    let (snapshot, [first, second]) = over(LoadMetric::default(), [Room::Ready; 2]);
    fails(&first);
    assert_eq!(first.admits(SECOND), Admission::Probe);
    [&first, &second].iter().for_each(|stats| stats.set_share(0.0));
    assert_eq!(pick(&snapshot, SECOND).index, 1, "rather slowly than too often");
}

// F24
#[test]
fn whoever_is_not_sent_leaves_its_probes_to_the_next() {
    let (snapshot, [first, second]) = over(LoadMetric::default(), [Room::Full; 2]);
    fails(&first);
    second.status().set_ejection(Ejection::Due);
    let choice = pick(&snapshot, SECOND);
    assert_eq!((choice.index, choice.other), (0, Some(1)));
    assert_eq!((first.admits(SECOND), second.admits_probe(false)), (Admission::No, false), "claimed");
    snapshot.leave(choice, Some(0), SECOND);
    assert_eq!((first.admits(SECOND), second.seen().ejection()), (Admission::No, Ejection::Due));
    snapshot.leave(choice, None, SECOND);
    assert_eq!(first.admits(SECOND), Admission::Probe);
}

// F24
#[test]
fn whoever_leaves_takes_no_probe_away_from_another() {
    let (snapshot, [first, second]) = over(LoadMetric::default(), [Room::Ready; 2]);
    let ordinary = pick(&snapshot, SECOND);
    fails(&first);
    let probe = pick(&snapshot, SECOND);
    assert_eq!((ordinary.index, probe.index), (0, 0));
    snapshot.leave(ordinary, None, SECOND);
    assert_eq!(first.admits(SECOND), Admission::No, "the probe is another's");
    second.status().set_ejection(Ejection::Due);
    assert!(second.admits_probe(false));
    assert_eq!(pick(&snapshot, SECOND).index, 0, "for want of others");
    assert_eq!(second.seen().ejection(), Ejection::Claimed);
}

// F24
#[test]
fn a_call_that_was_only_asked_for_ends_nobody_elses_probe() {
    for metric in [LoadMetric::default(), LoadMetric::in_flight()] {
        let (snapshot, [stats]) = over(metric, [Room::Ready]);
        let now = |seconds| {
            snapshot.levels.clock.set(seconds * SECOND);
            if metric == LoadMetric::in_flight() { 0 } else { seconds * SECOND }
        };
        let loser = snapshot.ask(pick(&snapshot, now(1)), 0, now(1), false).unwrap();
        let fails = snapshot.begin(pick(&snapshot, now(1)), now(1)).unwrap();
        fails.end_at(now(1), Some(Outcome::Pushback(None)));
        assert_eq!(stats.admits(now(1)), Admission::No);
        let choice = pick(&snapshot, now(3));
        let probe = snapshot.ask(choice, 0, now(3), false).unwrap();
        drop(loser);
        assert_eq!(stats.admits(now(3)), Admission::No, "the probe is under way");
        drop(probe);
        assert_eq!(stats.admits(now(3)), Admission::Probe, "and now it is not");
    }
}
