//! Whether a call goes again, and when. No clock, no budget, no I/O: what is known of an attempt in, a verdict out.

use std::time::Duration;

use towline_core::{Backoff, Outcome, Rng, Sent};

/// The longest that a server can have a call wait; one that asks for more gets none. It is far more than a caller usually
/// waits, and keeps a server from parking its clients' calls.
pub(crate) const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);

/// What a policy says of all calls.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The most attempts, the first included.
    pub attempts: u32,
    /// The pauses between them.
    pub backoff: Backoff,
    /// Every call may be repeated, marked or not.
    pub all_idempotent: bool,
}

/// What is known of an attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Which attempt it was, from 0.
    pub attempt: u32,
    /// What its result means.
    pub outcome: Outcome,
    /// Whether it can have been sent.
    pub sent: Sent,
    /// The caller has marked it.
    pub is_idempotent: bool,
    /// There is a copy of the request.
    pub is_replayable: bool,
    /// How long the caller still waits; without end if `None`.
    pub left: Option<Duration>,
    /// The pause before it; zero before the first attempt.
    pub last_pause: Duration,
}

/// A further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// After this pause.
    pub after: Duration,
    /// It costs a token, since the work may have been done.
    pub costs: bool,
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The call succeeded, or its failure is the caller's own.
    Done,
    /// There have been as many as there may be.
    Attempts,
    /// It may have been executed, and nobody says that it may be twice.
    Unsafe,
    /// There is no copy of the request.
    NotReplayable,
    /// The pause would reach the deadline.
    TooLate,
    /// The server asks for a longer pause than anybody should wait.
    PushedBack,
}

impl Rules {
    /// # Errors
    ///
    /// Why not.
    pub fn decide(&self, ended: &Ended, rng: &mut Rng) -> Result<Again, Stop> {
        let Ended { attempt, outcome, sent, is_idempotent, is_replayable, left, last_pause } = *ended;
        let hint = match outcome {
            Outcome::Failure => Duration::ZERO,
            Outcome::Pushback(hint) => hint.unwrap_or_default(),
            _ => return Err(Stop::Done),
        };
        if attempt.saturating_add(1) >= self.attempts {
            return Err(Stop::Attempts);
        }
        if sent == Sent::Maybe && !is_idempotent && !self.all_idempotent {
            return Err(Stop::Unsafe);
        }
        if !is_replayable {
            return Err(Stop::NotReplayable);
        }
        if hint > LONGEST_PUSHBACK {
            return Err(Stop::PushedBack);
        }
        // Added, not the longer of both: who were told the same time must not all come back at it.
        let after = hint + self.backoff.delay_after(attempt, last_pause, rng);
        if left.is_some_and(|left| after >= left) {
            return Err(Stop::TooLate);
        }
        Ok(Again { after, costs: sent == Sent::Maybe })
    }
}

#[cfg(test)]
mod tests {
    use towline_core::Jitter;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RULES: Rules = Rules { attempts: 3, backoff: Backoff::new(SECOND, SECOND), all_idempotent: false };

    fn failed(sent: Sent, is_idempotent: bool) -> Ended {
        let (outcome, last_pause) = (Outcome::Failure, Duration::ZERO);
        Ended { attempt: 0, outcome, sent, is_idempotent, is_replayable: true, left: None, last_pause }
    }

    fn decide(ended: Ended) -> Result<bool, Stop> {
        RULES.decide(&ended, &mut Rng::with_seed(1)).map(|again| again.costs)
    }

    #[test]
    fn the_table_of_sent_idempotent_and_outcome() {
        assert_eq!(decide(failed(Sent::Never, false)), Ok(false));
        assert_eq!(decide(failed(Sent::Never, true)), Ok(false));
        assert_eq!(decide(failed(Sent::Maybe, false)), Err(Stop::Unsafe));
        assert_eq!(decide(failed(Sent::Maybe, true)), Ok(true));
        for outcome in [Outcome::Success, Outcome::Ignore] {
            assert_eq!(decide(Ended { outcome, ..failed(Sent::Never, true) }), Err(Stop::Done));
        }
        let all = Rules { all_idempotent: true, ..RULES };
        assert!(all.decide(&failed(Sent::Maybe, false), &mut Rng::with_seed(1)).unwrap().costs);
    }

    #[test]
    fn attempts_are_capped_also_when_they_are_free() {
        for sent in [Sent::Never, Sent::Maybe] {
            assert!(decide(Ended { attempt: 1, ..failed(sent, true) }).is_ok());
            for attempt in [2, 3, u32::MAX] {
                assert_eq!(decide(Ended { attempt, ..failed(sent, true) }), Err(Stop::Attempts));
            }
        }
    }

    #[test]
    fn only_what_could_go_again_is_said_not_to_be_replayable() {
        let once = |ended| decide(Ended { is_replayable: false, ..ended });
        assert_eq!(once(failed(Sent::Never, false)), Err(Stop::NotReplayable));
        assert_eq!(once(failed(Sent::Maybe, false)), Err(Stop::Unsafe));
        assert_eq!(once(Ended { attempt: 2, ..failed(Sent::Never, false) }), Err(Stop::Attempts));
    }

    #[test]
    fn a_pause_never_reaches_the_deadline() {
        let mut rng = Rng::with_seed(7);
        let (mut begun, mut refused) = (0, 0);
        for _ in 0..1_000 {
            let left = SECOND / 2;
            match RULES.decide(&Ended { left: Some(left), ..failed(Sent::Never, false) }, &mut rng) {
                Ok(again) => {
                    assert!(again.after < left);
                    begun += 1;
                }
                Err(stop) => {
                    assert_eq!(stop, Stop::TooLate);
                    refused += 1;
                }
            }
        }
        assert!(begun > 400 && refused > 400, "{begun} {refused}");
        assert_eq!(decide(Ended { left: Some(Duration::ZERO), ..failed(Sent::Never, false) }), Err(Stop::TooLate));
    }

    #[test]
    fn pushback_waits_at_least_as_long_as_was_asked_and_is_spread() {
        let mut rng = Rng::with_seed(7);
        let ended = |hint| Ended { outcome: Outcome::Pushback(hint), ..failed(Sent::Never, false) };
        let pauses: Vec<_> =
            (0..100).map(|_| RULES.decide(&ended(Some(7 * SECOND)), &mut rng).unwrap().after).collect();
        assert!(pauses.iter().all(|pause| (7 * SECOND..8 * SECOND).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause > 7 * SECOND + SECOND / 2));
        assert!(decide(ended(None)).is_ok());
        assert_eq!(decide(ended(Some(LONGEST_PUSHBACK + SECOND))), Err(Stop::PushedBack));
        assert_eq!(decide(ended(Some(Duration::MAX))), Err(Stop::PushedBack));
    }

    #[test]
    fn decorrelated_pauses_follow_the_last_one() {
        let backoff = Backoff::new(SECOND, 100 * SECOND).with_jitter(Jitter::Decorrelated);
        let rules = Rules { backoff, ..RULES };
        let mut rng = Rng::with_seed(7);
        for _ in 0..100 {
            let ended = Ended { last_pause: 4 * SECOND, ..failed(Sent::Never, false) };
            let after = rules.decide(&ended, &mut rng).unwrap().after;
            assert!((SECOND..12 * SECOND).contains(&after), "{after:?}");
        }
    }
}
