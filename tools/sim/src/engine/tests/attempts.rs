//! Calls of which more than one attempt is made, servers that call others, and servers that pause.

use super::*;
use crate::engine::config::Pauses;
use crate::engine::run_repeating;
use crate::repeats::budgets::{Retries, Unlimited};
use crate::repeats::{Attempt, Failed, Once, Repeats};
use crate::strategy::{Key, Wanted};

/// Goes to the last server that it was told of, unless a call has been there.
#[derive(Clone, Default)]
struct Elsewhere {
    servers: Vec<ServerId>,
    ends: Rc<RefCell<Vec<(u64, Outcome)>>>,
    keys: Rc<RefCell<Vec<Key>>>,
}

impl Strategy for Elsewhere {
    fn pick(&mut self, _: u64, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        None
    }

    fn pick_for(&mut self, now: u64, wanted: Wanted<'_>, _: &mut Rng, _: &Fleet) -> Option<Pick> {
        self.keys.borrow_mut().extend(wanted.key);
        let server = self.servers.iter().rev().find(|server| !wanted.tried.contains(server));
        server.map(|server| Pick { server: *server, token: now })
    }

    fn end(&mut self, begun: Token, now: u64, outcome: Outcome, _: Option<LoadReport>) {
        self.ends.borrow_mut().push((now - begun, outcome));
    }

    fn change(&mut self, _: u64, change: Change) {
        if let Change::Added(id) = change {
            self.servers.push(id);
        }
    }
}

/// Two attempts, with these pauses: after a failure, and until the first is late.
#[derive(Clone, Copy, Default)]
struct Twice {
    pause: Option<u64>,
    late: Option<u64>,
}

impl Repeats for Twice {
    fn begun(&mut self, _: u64) -> Option<u64> {
        self.late
    }

    fn may_hedge(&mut self, _: u64) -> bool {
        true
    }

    fn ended(&mut self, _: u64, attempt: Attempt) {
        assert_eq!(attempt.number > 0, attempt.is_hedge || attempt.after.is_some(), "{attempt:?}");
        assert_eq!(attempt.hedge_after, self.late);
    }

    fn again(&mut self, _: u64, failed: Failed, _: &mut Rng) -> Option<u64> {
        self.pause.filter(|_| failed.attempts < 2)
    }
}

/// Server 1 of two is like this all the time.
fn faulty(condition: Condition) -> Config {
    let span = Span { from: 0, to: 10 * SECONDS };
    Config { faults: vec![Fault { servers: vec![1], span, condition }], ..config() }
}

/// How long attempts took and how they ended.
type Ends = Vec<(u64, Outcome)>;

fn ran(config: &Config, twice: Twice) -> (Ends, Record) {
    let elsewhere = Elsewhere::default();
    let record = run_repeating(config, 1, |_| Box::new(elsewhere.clone()), |_| Box::new(twice));
    (elsewhere.ends.take(), record)
}

fn count(ends: &Ends, outcome: Outcome) -> u64 {
    ends.iter().filter(|(_, ended)| *ended == outcome).count() as u64
}

const FAILS: Condition = Condition {
    fixed_ns: None,
    fails: Some((1.0, MILLIS)),
    fails_late: 0.0,
    cold: None,
    slower: None,
    loss: None,
    reach: crate::engine::fleet::Reach::Open,
};

#[test]
fn a_call_that_failed_goes_elsewhere_after_its_pause_and_is_one_call() {
    let pause = 10 * MILLIS;
    let (ends, record) = ran(&faulty(FAILS), Twice { pause: Some(pause), late: None });
    let calls = record.calls;
    assert!(calls > 60);
    assert_eq!((count(&ends, Outcome::Failed), count(&ends, Outcome::Ok)), (calls, calls));
    assert_eq!(record.tiers, [(calls, 2 * calls)]);
    assert_eq!(record.spans[0].errors, 0);
    let (least, most) = (record.spans[0].latencies.min(), record.spans[0].longest);
    // A millisecond and a round trip each, and the pause.
    assert!(least > pause + 2_700 * MICROS && most < pause + 6 * MILLIS, "{least} {most}");
}

#[test]
fn a_call_of_which_all_attempts_failed_has_failed_once() {
    let alone = Config {
        servers: 2,
        faults: vec![Fault { servers: vec![0, 1], ..faulty(FAILS).faults[0].clone() }],
        ..config()
    };
    let (ends, record) = ran(&alone, Twice { pause: Some(MILLIS), late: None });
    assert_eq!((record.spans[0].errors, ends.len() as u64), (record.calls, 2 * record.calls));
}

#[test]
fn attempts_are_as_many_as_theory_says() {
    let condition = Condition { fails: Some((0.3, MILLIS)), ..FAILS };
    let span = Span { from: 0, to: 100 * SECONDS };
    let faults = vec![Fault { servers: vec![0, 1], span, condition }];
    let config = Config { faults, length: 100 * SECONDS, measured: vec![span], ..config() };
    let random = strategies::named(&["random"])[0];
    let record = run_repeating(&config, 1, random.make, |_| Box::new(Retries(Unlimited)));
    let (calls, attempts) = record.tiers[0];
    // 1 + p + p² of them, and p³ of the calls fail.
    let (per_call, failed) = (attempts as f64 / calls as f64, record.spans[0].errors as f64 / calls as f64);
    assert!((per_call - 1.39).abs() < 0.02 && (failed - 0.027).abs() < 0.005, "{per_call} {failed}");
}

#[test]
fn a_late_call_has_a_second_attempt_elsewhere_and_the_loser_is_given_up() {
    let late = 5 * MILLIS;
    let slow = Condition { fixed_ns: Some(100 * MILLIS), ..Condition::default() };
    let (ends, record) = ran(&faulty(slow), Twice { pause: None, late: Some(late) });
    let calls = record.calls;
    assert_eq!((count(&ends, Outcome::Ok), count(&ends, Outcome::Superseded), record.hedges), (calls, calls, calls));
    let longest = record.spans[0].longest;
    assert!((late + 1_400 * MICROS..late + 5 * MILLIS).contains(&longest), "{longest}");
    let lost = ends.iter().filter(|(_, outcome)| *outcome == Outcome::Superseded);
    assert!(lost.clone().all(|(took, _)| *took > late && *took < 10 * MILLIS));
}

#[test]
fn who_is_answered_in_time_has_no_second_attempt() {
    let (ends, record) = ran(&config(), Twice { pause: None, late: Some(100 * MILLIS) });
    assert_eq!((record.hedges, ends.len() as u64), (0, record.calls));
}

#[test]
fn a_failed_attempt_waits_for_the_one_beside_it() {
    let late = 5 * MILLIS;
    let fails = Condition { fails: Some((1.0, 20 * MILLIS)), ..FAILS };
    let demand = Dist::LogNormal { mean: 50.0 * MILLIS as f64, sigma: 0.0 };
    let config = Config { demand, discipline: Discipline::Slots { slots: 100, queue: 0 }, ..faulty(fails) };
    let (ends, record) = ran(&config, Twice { pause: None, late: Some(late) });
    assert_eq!((count(&ends, Outcome::Failed), count(&ends, Outcome::Ok)), (record.calls, record.calls));
    assert_eq!(record.spans[0].errors, 0);
    assert!(record.spans[0].latencies.min() > 55 * MILLIS);
}

#[test]
fn a_loser_keeps_its_slot_and_where_servers_stop_work_it_does_not() {
    let slow = Condition { fixed_ns: Some(100 * MILLIS), ..Condition::default() };
    // Ten times what server 1 can do in its one slot.
    let most = |stops_work| {
        let config = Config { stops_work, ..faulty(slow) };
        let (ends, record) = ran(&config, Twice { pause: None, late: Some(5 * MILLIS) });
        assert_eq!(count(&ends, Outcome::Ok), record.calls);
        record.spans[0].in_flight.max()
    };
    let (works_on, stops) = (most(false), most(true));
    assert!(works_on > 50 && stops < 5, "{works_on} {stops}");
}

#[test]
fn a_stopped_call_frees_its_slot_for_who_waits() {
    // Calls take 30 ms and are given up after 20 ms, at a third more than one server can do of the latter.
    let demand = Dist::LogNormal { mean: 30.0 * MILLIS as f64, sigma: 0.0 };
    let begun = |stops_work| {
        let config =
            Config { servers: 1, demand, deadline: Some(20 * MILLIS), rates: vec![(0, 60.0)], stops_work, ..config() };
        ran(&config, Twice::default()).1.spans[0].in_flight.max()
    };
    assert!(begun(false) > 10 && begun(true) <= 6, "{} {}", begun(false), begun(true));
}

#[test]
fn servers_call_the_next_tier_and_answer_with_its_outcome() {
    let config = Config { tiers: 3, ..config() };
    let (ends, record) = ran(&config, Twice::default());
    assert_eq!(ends.len() as u64, 3 * record.calls);
    let (least, most) = (record.spans[0].latencies.min(), record.spans[0].longest);
    assert!(least > 4_200 * MICROS && most < 12 * MILLIS, "{least} {most}");
    // Server 5 is the one of the last tier that is called.
    let faults = vec![Fault { servers: vec![5], ..faulty(FAILS).faults[0].clone() }];
    let (ends, record) = ran(&Config { faults, ..config }, Twice::default());
    assert_eq!((count(&ends, Outcome::Failed), record.spans[0].errors), (3 * record.calls, record.calls));
    assert_eq!(record.tiers, [(record.calls, record.calls); 3]);
}

#[test]
fn each_tier_that_calls_three_times_triples_the_load_of_the_next() {
    let faults = vec![Fault { servers: vec![4, 5], ..faulty(FAILS).faults[0].clone() }];
    let config = Config { tiers: 3, faults, ..config() };
    let random = strategies::named(&["random"])[0];
    let record = run_repeating(&config, 1, random.make, |_| Box::new(Retries(Unlimited)));
    let [(calls, first), (second_calls, second), (third_calls, third)] = record.tiers[..] else {
        panic!("three tiers")
    };
    assert_eq!((first, second_calls), (3 * calls, first));
    assert_eq!((second, third_calls, third), (9 * calls, second, 27 * calls));
}

#[test]
fn the_time_that_is_left_travels_along() {
    let slow = Condition { fixed_ns: Some(100 * MILLIS), ..Condition::default() };
    let faults = vec![Fault { servers: vec![5], ..faulty(slow).faults[0].clone() }];
    let deadline = 20 * MILLIS;
    let discipline = Discipline::Slots { slots: 100, queue: 0 };
    let config = Config { tiers: 3, faults, deadline: Some(deadline), discipline, ..config() };
    let (ends, record) = ran(&config, Twice::default());
    // Every tier's client gives up at the same time, the last having begun last.
    assert_eq!(count(&ends, Outcome::Cut), 3 * record.calls);
    let mut took: Vec<_> = ends.iter().map(|(took, _)| *took).collect();
    took.sort_unstable();
    assert_eq!(took[took.len() - 1], deadline);
    assert!(took[0] > deadline - 4 * MILLIS && took[0] < deadline - 2 * MILLIS, "{}", took[0]);
}

#[test]
fn a_server_that_pauses_does_nothing_meanwhile_and_then_goes_on() {
    let pauses = Pauses { length: 200 * MILLIS, mean_gap: 2 * SECONDS };
    let span = Span { from: 0, to: 400 * SECONDS };
    let config = Config {
        servers: 1,
        discipline: Discipline::Slots { slots: u32::MAX, queue: 0 },
        length: span.to,
        measured: vec![span],
        slow_ns: 2 * MILLIS,
        pauses: Some(pauses),
        ..config()
    };
    let record = run(&config, 1, strategies::named(&["random"])[0].make);
    let span = &record.spans[0];
    // Who comes in a pause, or is there when it begins: 201 of 2,200 ms.
    let slow = span.slow as f64 / span.calls as f64;
    assert!((slow / (201.0 / 2_200.0) - 1.0).abs() < 0.1, "{slow}");
    // From the middle of a pause it takes half of it.
    let middle = span.latencies.value_at_quantile(1.0 - slow / 2.0);
    assert!((90 * MILLIS..115 * MILLIS).contains(&middle), "{middle}");
    assert!(span.longest < 204 * MILLIS);
}

#[test]
fn who_comes_in_a_pause_waits_until_it_is_over() {
    // One pause, and some ninety calls that come in it: the first of them waits for nearly all of it.
    let pauses = Pauses { length: 900 * MILLIS, mean_gap: MILLIS };
    let config = Config { servers: 1, pauses: Some(pauses), length: 895 * MILLIS, ..config() };
    let record = run(&config, 1, strategies::named(&["random"])[0].make);
    let (calls, last) = (record.calls, record.spans[0].longest);
    assert!(record.spans[0].errors == 0 && last > 850 * MILLIS && last < 905 * MILLIS, "{calls} {last}");
}

#[test]
fn calls_are_about_keys_and_a_miss_takes_longer() {
    let keys = Keys { count: 10, exponent: 1.0, hot: (0, 0.5), cached: 100, miss: 5.0 };
    let span = Span { from: 0, to: 20 * SECONDS };
    let discipline = Discipline::Slots { slots: 100, queue: 0 };
    let config = Config { keys: Some(keys), length: span.to, measured: vec![span], discipline, ..config() };
    let elsewhere = Elsewhere::default();
    let record = run_repeating(&config, 1, |_| Box::new(elsewhere.clone()), |_| Box::new(Once));
    let asked = elsewhere.keys.take();
    let hot = asked.iter().filter(|key| **key == 10).count() as f64 / asked.len() as f64;
    assert!((hot - 0.5).abs() < 0.05 && asked.iter().all(|key| *key <= 10), "{hot}");
    // All go to one server, which has whatever it was asked for first.
    assert!(record.spans[0].longest < 2 * MILLIS);
    let round_robin = strategies::named(&["round-robin"])[0];
    let record = run(&Config { keys: Some(Keys { cached: 0, ..keys }), ..config }, 1, |rng| {
        /// Round robin, with keys.
        struct Any(Box<dyn Strategy>);
        impl Strategy for Any {
            fn pick(&mut self, now: u64, rng: &mut Rng, fleet: &Fleet) -> Option<Pick> {
                self.0.pick(now, rng, fleet)
            }
            fn end(&mut self, token: Token, now: u64, outcome: Outcome, report: Option<LoadReport>) {
                self.0.end(token, now, outcome, report);
            }
            fn change(&mut self, now: u64, change: Change) {
                self.0.change(now, change);
            }
        }
        Box::new(Any((round_robin.make)(rng)))
    });
    let slow = record.spans[0].latencies.value_at_quantile(0.5);
    assert!((5_300 * MICROS..5_700 * MICROS).contains(&slow), "{slow}");
}
