//! Finagle's failure accrual: dead after five failures in a row, or when the success rate over 30 s is below 0.8; then one
//! call after a pause, and longer pauses while that fails.

use std::collections::VecDeque;

use crate::chance::Rng;
use crate::engine::config::SECONDS;

const CONSECUTIVE: u32 = 5;
const LEAST_RATE: f64 = 0.8;
const WINDOW: u64 = 30 * SECONDS;
/// The rate counts with so many calls in the window.
const LEAST_CALLS: usize = 5;
const FIRST_PAUSE: u64 = 5 * SECONDS;
const LONGEST_PAUSE: u64 = 300 * SECONDS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Alive,
    Dead {
        until: u64,
    },
    /// One call may go there.
    ProbeOpen,
    /// It is under way.
    ProbeClosed,
}

pub(super) struct Accrual {
    state: State,
    /// Failures in a row.
    failures: u32,
    /// Of successes, by time.
    rate: f64,
    updated: Option<u64>,
    /// Since when; a window has to be full before its rate counts.
    since: Option<u64>,
    /// The last calls.
    calls: VecDeque<u64>,
    deaths: u32,
}

impl Accrual {
    /// `since` is when it joined; whoever was there when the run began has been for long.
    pub(super) fn new(since: Option<u64>) -> Self {
        let calls = VecDeque::with_capacity(LEAST_CALLS);
        Self { state: State::Alive, failures: 0, rate: 1.0, updated: None, since, calls, deaths: 0 }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state == State::Alive
    }

    pub(super) fn is_open(&mut self, now: u64) -> bool {
        if matches!(self.state, State::Dead { until } if now >= until) {
            self.state = State::ProbeOpen;
        }
        matches!(self.state, State::Alive | State::ProbeOpen)
    }

    pub(super) fn begin(&mut self) {
        if self.state == State::ProbeOpen {
            self.state = State::ProbeClosed;
        }
    }

    pub(super) fn end(&mut self, now: u64, is_good: bool, rng: &mut Rng) {
        self.count(now, is_good);
        match (self.state, is_good) {
            (State::ProbeClosed, true) => *self = Self::new(Some(now)),
            (State::ProbeClosed, false) => self.die(now, rng),
            (State::Alive, false) if self.failures >= CONSECUTIVE || self.is_too_low(now) => self.die(now, rng),
            _ => {}
        }
    }

    fn count(&mut self, now: u64, is_good: bool) {
        self.failures = if is_good { 0 } else { self.failures + 1 };
        let value = if is_good { 1.0 } else { 0.0 };
        let weight = self.updated.map_or(0.0, |updated| (-((now - updated) as f64) / WINDOW as f64).exp());
        self.rate = self.rate * weight + value * (1.0 - weight);
        self.updated = Some(now);
        if self.calls.len() == LEAST_CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back(now);
    }

    fn is_too_low(&self, now: u64) -> bool {
        let is_full = self.since.is_none_or(|since| now >= since + WINDOW);
        let is_busy = self.calls.len() == LEAST_CALLS && self.calls.front().is_some_and(|first| now - first <= WINDOW);
        self.rate < LEAST_RATE && is_full && is_busy
    }

    /// The first pause is as it is, later ones are drawn from their upper half, and the longest is as it is again.
    fn die(&mut self, now: u64, rng: &mut Rng) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.deaths.min(16));
        let pause = match pause {
            FIRST_PAUSE => FIRST_PAUSE,
            LONGEST_PAUSE.. => LONGEST_PAUSE,
            pause => rng.u64(pause / 2..=pause),
        };
        self.deaths += 1;
        self.state = State::Dead { until: now + pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::MILLIS;

    fn rng() -> Rng {
        Rng::with_seed(1)
    }

    #[test]
    fn five_failures_in_a_row_are_its_death() {
        let mut accrual = Accrual::new(Some(0));
        for (call, is_good) in [false, false, false, false, true, false, false, false, false].into_iter().enumerate() {
            accrual.end(call as u64, is_good, &mut rng());
        }
        assert!(accrual.is_alive());
        accrual.end(9, false, &mut rng());
        assert!(!accrual.is_alive() && !accrual.is_open(9));
        assert!(accrual.is_open(9 + FIRST_PAUSE));
    }

    #[test]
    fn one_call_decides_after_a_pause_that_doubles_up_to_five_minutes() {
        let (mut accrual, mut rng) = (Accrual::new(None), rng());
        (0..5).for_each(|_| accrual.end(0, false, &mut rng));
        let mut now = 0;
        for longest in [5, 10, 20, 40, 80, 160, 300, 300].map(|seconds| seconds * SECONDS) {
            let State::Dead { until } = accrual.state else { panic!("{:?}", accrual.state) };
            let pause = until - now;
            let is_drawn = longest != FIRST_PAUSE && longest != LONGEST_PAUSE;
            assert!(pause <= longest && pause >= if is_drawn { longest / 2 } else { longest }, "{pause} {longest}");
            now = until;
            assert!(accrual.is_open(now));
            accrual.begin();
            assert!(!accrual.is_open(now));
            accrual.end(now, false, &mut rng);
        }
        now += LONGEST_PAUSE;
        assert!(accrual.is_open(now));
        accrual.begin();
        accrual.end(now, true, &mut rng);
        assert!(accrual.is_alive() && accrual.deaths == 0);
    }

    /// When an endpoint is dead of which every fourth call is good from now on, in seconds.
    fn dies_after(since: Option<u64>) -> u64 {
        let mut accrual = Accrual::new(since);
        for call in 0..10_000u64 {
            let now = call * 100 * MILLIS;
            // Good for a second, so that there is an average.
            accrual.end(now, call < 10 || call % 4 == 0, &mut rng());
            if !accrual.is_alive() {
                return now / SECONDS;
            }
        }
        u64::MAX
    }

    #[test]
    fn a_low_rate_is_noticed_late_and_not_before_a_window_is_full() {
        // 30 s × ln(1 / (1 − 0.2 / 0.75)) after the first second.
        assert!((9..=11).contains(&dies_after(None)), "{}", dies_after(None));
        assert_eq!(dies_after(Some(0)), 30);
    }

    #[test]
    fn few_calls_have_no_rate() {
        let mut accrual = Accrual::new(None);
        for call in 0..20u64 {
            accrual.end(call * 8 * SECONDS, call % 4 == 0, &mut rng());
        }
        assert!(accrual.is_alive());
    }
}
