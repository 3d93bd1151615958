use proptest::prelude::*;

use super::*;

/// Everything that can be withdrawn now.
fn drain(budget: &Budget, now: Instant) -> u32 {
    (0..).map_while(|_| budget.withdraw_at(now)).map(Permit::spend).count() as u32
}

#[test]
fn a_ratio_is_honoured_exactly() {
    let now = Instant::now();
    for (ratio, of_a_million) in
        [(0.1, 100_000), (0.3, 300_000), (0.6, 600_000), (1.0, 1_000_000), (0.123_456, 123_456)]
    {
        let budget = Budget::new(ratio, 0).unwrap();
        assert_eq!(drain(&budget, now), 0);
        let mut taken = 0;
        for _ in 0..1_000_000 {
            budget.deposit();
            taken += drain(&budget, now);
        }
        assert_eq!(taken, of_a_million, "{ratio}");
    }
}

#[test]
fn time_earns_the_floor_and_the_reserve_is_bounded() {
    let now = Instant::now();
    let budget = Budget::new(0.0, 10).unwrap();
    assert_eq!(drain(&budget, now), 100, "ten seconds' worth to begin with");
    assert_eq!(drain(&budget, now + Duration::from_secs(1)), 10);
    assert_eq!(drain(&budget, now + Duration::from_secs(3_600)), 100);
    (0..1_000_000).for_each(|_| budget.deposit());
    assert_eq!(drain(&budget, now + Duration::from_secs(3_600)), 0);
}

#[test]
fn time_that_comes_out_of_order_earns_nothing_twice() {
    let budget = Budget::new(0.0, 10).unwrap();
    let now = Instant::now();
    drain(&budget, now);
    let later = now + Duration::from_millis(100);
    let taken: u32 = (0..100).map(|i| drain(&budget, if i % 2 == 0 { later } else { now })).sum();
    assert_eq!(taken, 1);
}

#[test]
fn successes_fill_no_more_than_the_reserve() {
    let budget = Budget::new(1.0, 0).unwrap();
    (0..1_000).for_each(|_| budget.deposit());
    assert_eq!(drain(&budget, Instant::now()), 100);
}

#[test]
fn a_token_that_is_not_spent_goes_back() {
    let budget = Budget::new(1.0, 0).unwrap();
    budget.deposit();
    let permit = budget.withdraw().unwrap();
    assert!(budget.withdraw().is_none());
    drop(permit);
    budget.withdraw().unwrap().spend();
    assert!(budget.withdraw().is_none());
}

#[test]
fn ratios_and_floors_out_of_range_are_refused() {
    for ratio in [-0.1, f64::NAN, f64::INFINITY, 1_001.0] {
        let error = Budget::new(ratio, 10).unwrap_err();
        assert_eq!((error.kind(), error.phase()), (Kind::Config, Phase::Build));
        assert!(error.to_string().contains("from 0 to 1000"), "{error}");
    }
    let error = Budget::new(0.1, 1_000_001).unwrap_err();
    assert!(error.to_string().contains("1000000 per second at most"), "{error}");
}

/// What a budget is, in integers that never round: whoever has it does one thing after the other.
struct Model {
    earn: u128,
    per_second: u128,
    most: u128,
    tokens: u128,
    refilled: u128,
}

impl Model {
    fn add(&mut self, amount: u128) {
        self.tokens = (self.tokens + amount).min(self.most);
    }

    fn withdraw(&mut self, now: u128) -> bool {
        let since = now.saturating_sub(self.refilled);
        self.refilled = self.refilled.max(now);
        self.add(since * self.per_second);
        let pays = self.tokens >= 1_000_000_000;
        self.tokens -= if pays { 1_000_000_000 } else { 0 };
        pays
    }
}

#[derive(Clone, Debug)]
enum Step {
    Deposit(u32),
    Withdraw,
    Refund,
    Spend,
    Pass(u64),
    /// A withdrawal whose caller has read the time so long ago.
    Late(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..200u32).prop_map(Step::Deposit),
        6 => Just(Step::Withdraw),
        2 => Just(Step::Refund),
        1 => Just(Step::Spend),
        3 => (0..2_000_000_000u64).prop_map(Step::Pass),
        1 => (0..3_000_000_000u64).prop_map(Step::Late),
        1 => Just(Step::Pass(u64::MAX / 1_000)),
    ]
}

proptest! {
    #[test]
    fn it_is_exactly_an_integer_model(
        millionths in 0..2_000_000u64,
        per_second in 0..50u32,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let earn = millionths * 1_000;
        let reserve = Reserve::new(earn, per_second);
        let begin = u128::from(per_second) * 10;
        let mut model = Model {
            earn: u128::from(earn),
            per_second: u128::from(per_second),
            most: begin.max(100) * 1_000_000_000,
            tokens: begin * 1_000_000_000,
            refilled: 0,
        };
        let (mut now, mut held) = (0u64, 0u32);
        for step in steps {
            match step {
                Step::Deposit(times) => for _ in 0..times {
                    reserve.deposit();
                    model.add(model.earn);
                },
                Step::Withdraw => {
                    let pays = reserve.withdraw(now);
                    prop_assert_eq!(pays, model.withdraw(u128::from(now)));
                    held += u32::from(pays);
                }
                Step::Late(by) => {
                    let then = now.saturating_sub(by);
                    let pays = reserve.withdraw(then);
                    prop_assert_eq!(pays, model.withdraw(u128::from(then)));
                    held += u32::from(pays);
                }
                Step::Refund if held > 0 => {
                    held -= 1;
                    reserve.refund();
                    model.add(1_000_000_000);
                }
                Step::Spend => held = held.saturating_sub(1),
                Step::Refund => {}
                Step::Pass(by) => now = now.saturating_add(by),
            }
            prop_assert_eq!(u128::from(reserve.tokens.load(Ordering::Relaxed)), model.tokens);
        }
    }
}

#[test]
fn clones_share_the_tokens_and_never_overdraw() {
    let budget = Budget::new(0.0, 10).unwrap();
    let now = Instant::now();
    let taken: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| budget.clone()).map(|b| scope.spawn(move || drain(&b, now))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 100);
}

/// Threads that earn, spend, give back and race for what time has earned: in the end every token is accounted for.
#[test]
fn whatever_threads_do_at_once_every_token_is_accounted_for() {
    const ROUNDS: u64 = 20_000;
    // Half a token per success, so that it is never full, and one per second of made-up time.
    let reserve = Reserve::new(TOKEN / 2, 1);
    let spent: u64 = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let reserve = &reserve;
            move || {
                let mut spent = 0;
                for round in 0..ROUNDS {
                    reserve.deposit();
                    // All threads come by the same seconds, and only one of them may earn each.
                    let now = round / 100 * TOKEN;
                    match reserve.withdraw(now) {
                        true if (round + thread) % 3 == 0 => reserve.refund(),
                        pays => spent += u64::from(pays),
                    }
                }
                spent
            }
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let earned = 10 * TOKEN + 4 * ROUNDS * TOKEN / 2 + (ROUNDS - 1) / 100 * TOKEN;
    let left = reserve.tokens.load(Ordering::Relaxed);
    assert!(spent * TOKEN + left <= earned, "{spent} spent and {left} left of {earned}");
    // Nothing was lost either, but for what did not fit: it was never full.
    assert!(left < reserve.most);
    assert_eq!(spent * TOKEN + left, earned);
}
