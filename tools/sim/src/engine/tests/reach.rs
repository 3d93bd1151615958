//! Servers that cannot be reached, and packets that are lost.

use super::*;
use crate::engine::fleet::Reach;
use crate::engine::links::{DIAL_DEADLINE, USER_TIMEOUT};

/// The server that calls go to cannot be reached between 0.3 s and `until`.
fn unreachable(reach: Reach, until: u64) -> Config {
    let span = Span { from: 300 * MILLIS, to: until };
    let faults = vec![Fault { servers: vec![1], span, condition: Condition { reach, ..Condition::default() } }];
    Config { length: until + 5 * SECONDS, faults, ..config() }
}

/// When calls began, how long they took and how they ended.
fn calls(told: &[Told]) -> Vec<(u64, u64, Outcome)> {
    let call = |told: &Told| match told {
        Told::Ended { at, begun, outcome, .. } => Some((*begun, at - begun, *outcome)),
        _ => None,
    };
    told.iter().filter_map(call).collect()
}

fn connections(told: &[Told]) -> Vec<(u64, Connection)> {
    let connection = |told: &Told| match told {
        Told::Connected { at, server: 1, connection } => Some((*at, *connection)),
        _ => None,
    };
    told.iter().filter_map(connection).collect()
}

#[test]
fn a_refused_call_fails_after_a_round_trip_and_the_next_at_once_until_a_dial_of_the_pools_succeeds() {
    let until = 2 * SECONDS;
    let (told, record) = noted(&unreachable(Reach::Refuses, until), &[], false);
    let refused: Vec<_> = calls(&told).into_iter().filter(|call| call.2 == Outcome::Unreachable).collect();
    assert!(refused[0].0 > 300 * MILLIS && (400 * MICROS..=600 * MICROS).contains(&refused[0].1), "{:?}", refused[0]);
    assert!(refused[1..].iter().all(|(_, latency, _)| *latency == 0));
    let connections = connections(&told);
    assert_eq!(connections[0], (300 * MILLIS, Connection::Lost));
    assert_eq!(connections[1].1, Connection::Down);
    let (up, connection) = connections[connections.len() - 1];
    assert_eq!(connection, Connection::Up);
    assert!((until..until + 2 * SECONDS + MILLIS).contains(&up), "{up}");
    let last = refused[refused.len() - 1].0;
    assert!(last < up && up - last < 100 * MILLIS, "{last} {up}");
    assert_eq!(record.picks[1].iter().sum::<u32>() as usize, calls(&told).len());
}

#[test]
fn calls_in_flight_fail_when_their_connection_is_reset() {
    let config = unreachable(Reach::Refuses, SECONDS);
    let slow = Dist::LogNormal { mean: 50.0 * MILLIS as f64, sigma: 0.0 };
    let config = Config { demand: slow, discipline: Discipline::Slots { slots: 100, queue: 0 }, ..config };
    let failed: Vec<_> =
        calls(&noted(&config, &[], false).0).into_iter().filter(|call| call.2 == Outcome::Failed).collect();
    assert!(!failed.is_empty() && failed.iter().all(|(begun, latency, _)| begun + latency == 300 * MILLIS));
}

#[test]
fn a_dial_without_an_answer_fails_at_its_deadline_and_so_do_those_who_wait_for_it() {
    let (told, _) = noted(&unreachable(Reach::IgnoresDials, 7 * SECONDS), &[], false);
    let refused: Vec<_> = calls(&told).into_iter().filter(|call| call.2 == Outcome::Unreachable).collect();
    let first = refused[0];
    assert_eq!(first.1, DIAL_DEADLINE);
    let (waited, later): (Vec<_>, Vec<_>) = refused.into_iter().partition(|call| call.0 <= first.0 + DIAL_DEADLINE);
    assert!(waited.len() > 400 && waited.iter().all(|(begun, latency, _)| begun + latency == first.0 + DIAL_DEADLINE));
    assert!(!later.is_empty() && later.iter().all(|(_, latency, _)| *latency == 0));
}

#[test]
fn who_waits_for_a_connection_is_cut_at_its_deadline_like_anybody() {
    let config = Config { deadline: Some(SECONDS), ..unreachable(Reach::IgnoresDials, 7 * SECONDS) };
    let calls = calls(&noted(&config, &[], false).0);
    let cut: Vec<_> = calls.iter().filter(|call| call.2 == Outcome::Cut).collect();
    assert!(cut.len() > 300 && cut.iter().all(|(_, latency, _)| *latency == SECONDS));
}

#[test]
fn silence_keeps_connections_until_nobody_has_answered_for_too_long() {
    let until = 22 * SECONDS;
    let config = Config { deadline: Some(SECONDS), ..unreachable(Reach::Silent, until) };
    let (told, _) = noted(&config, &[], false);
    let (lost, connection) = connections(&told)[0];
    assert_eq!(connection, Connection::Lost);
    assert!((USER_TIMEOUT..USER_TIMEOUT + 200 * MILLIS).contains(&(lost - 300 * MILLIS)), "{lost}");
    for (begun, latency, outcome) in calls(&told) {
        let expected = match begun {
            // Those that are on their way when silence begins may go either way.
            begun if begun.abs_diff(300 * MILLIS) < 5 * MILLIS || begun > lost => continue,
            begun if begun < 300 * MILLIS => outcome == Outcome::Ok,
            begun if begun + SECONDS < lost => outcome == Outcome::Cut && latency == SECONDS,
            _ => outcome == Outcome::Failed && begun + latency == lost,
        };
        assert!(expected, "{begun} {latency} {outcome:?}");
    }
}

#[test]
fn without_a_deadline_a_call_into_silence_fails_with_its_connection() {
    for until in [5, 25] {
        let config = unreachable(Reach::Silent, until * SECONDS);
        let calls = calls(&noted(&config, &[], false).0);
        assert!(calls.iter().all(|(_, latency, _)| *latency <= USER_TIMEOUT + MILLIS), "{until}");
        assert!(calls.iter().any(|(_, latency, outcome)| *latency > 10 * SECONDS && *outcome == Outcome::Failed));
        assert!(calls.iter().any(|(begun, _, outcome)| *begun > until * SECONDS && *outcome == Outcome::Ok));
    }
}

#[test]
fn a_call_that_cannot_be_sent_may_go_elsewhere_and_is_one_call() {
    let config = unreachable(Reach::Refuses, 2 * SECONDS);
    let (told, record) = noted_asking(&config, &[], false, 2);
    let attempts = calls(&told);
    assert!(attempts.iter().any(|call| call.2 == Outcome::Unreachable));
    let elsewhere = u64::from(record.picks[0].iter().sum::<u32>());
    assert!(elsewhere > 100 && record.calls + elsewhere == attempts.len() as u64);
    // All but those that were under way when their connection was reset.
    assert!(record.spans[0].errors <= 1, "{}", record.spans[0].errors);
}

#[test]
fn the_time_that_was_lost_elsewhere_is_part_of_a_calls_latency() {
    let config = Config { slow_ns: 4 * SECONDS, ..unreachable(Reach::IgnoresDials, 7 * SECONDS) };
    let (_, record) = noted_asking(&config, &[], false, 2);
    // Whoever came in the first second of the dial waited for the other four.
    assert!((60..140).contains(&record.slow_in_fault), "{}", record.slow_in_fault);
    assert!(record.spans[0].longest > DIAL_DEADLINE && record.spans[0].errors <= 1);
}

#[test]
fn a_lost_packet_comes_a_fifth_of_a_second_late() {
    let span = Span { from: 0, to: 20 * SECONDS };
    let condition = Condition { loss: Some(0.1), ..Condition::default() };
    let faults = vec![Fault { servers: vec![1], span, condition }];
    let discipline = Discipline::Slots { slots: 100, queue: 0 };
    let calls = calls(&noted(&Config { faults, discipline, length: 20 * SECONDS, ..config() }, &[], false).0);
    let waits = |(_, latency, _): &(u64, u64, Outcome)| ((latency - MILLIS) as f64 / (200 * MILLIS) as f64) as u32;
    let part = |wait| calls.iter().filter(|call| waits(call) == wait).count() as f64 / calls.len() as f64;
    // None of the two, one of them once, both once, one twice.
    assert!((part(0) - 0.81).abs() < 0.03, "{}", part(0));
    assert!((part(1) - 0.162).abs() < 0.03, "{}", part(1));
    assert!((part(2) - 0.0081).abs() < 0.006, "{}", part(2));
    assert!((part(3) - 0.0162).abs() < 0.01, "{}", part(3));
}
