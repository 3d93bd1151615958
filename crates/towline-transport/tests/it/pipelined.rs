//! Pipelined connections: answers in the order of requests.

use std::task::Poll;

use bytes::Bytes;
use tokio_test::task::spawn;
use tower::Service;
use towline_core::{CloseReason, Kind, Poolable, Sent};
use towline_test::{Script, ScriptIo, cancel_at_every_poll, settle};
use towline_transport::Shared;

use super::{codec, config, frame, messages, said};

type Connection = Shared<Bytes, Bytes>;

fn connection(limit: usize) -> (Connection, Script) {
    let (io, script) = ScriptIo::new();
    let (connection, driver) = Shared::pipelined(io, codec(), config(limit));
    tokio::spawn(driver);
    (connection, script)
}

#[tokio::test]
async fn many_calls_are_written_before_the_first_answer_and_answered_in_order() {
    let (connection, script) = connection(8);
    let mut calls: Vec<_> = (0..3).map(|i| spawn(connection.clone().call(format!("{i}").into()))).collect();
    calls.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    settle().await;
    assert_eq!(messages(&script.written()), ["0", "1", "2"]);
    script.deliver([frame("a"), frame("b"), frame("c")].concat());
    settle().await;
    let answers: Vec<_> = calls.iter_mut().map(|call| call.poll()).collect();
    for (answer, expected) in answers.into_iter().zip(["a", "b", "c"]) {
        assert!(matches!(answer, Poll::Ready(Ok(answer)) if answer == expected));
    }
}

// F2
#[tokio::test]
async fn the_answer_of_a_dropped_call_is_thrown_away_and_the_next_gets_its_own() {
    let (connection, script) = connection(8);
    let mut calls: Vec<_> = (0..3).map(|i| spawn(connection.clone().call(format!("{i}").into()))).collect();
    calls.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    settle().await;
    drop(calls.remove(1));
    script.deliver([frame("a"), frame("b"), frame("c")].concat());
    settle().await;
    assert!(matches!(calls[0].poll(), Poll::Ready(Ok(answer)) if answer == "a"));
    assert!(matches!(calls[1].poll(), Poll::Ready(Ok(answer)) if answer == "c"));
    assert_eq!((connection.discarded(), connection.in_flight()), (1, 0));
}

// F1
#[tokio::test]
async fn dropped_at_any_poll_a_call_never_leaves_its_answer_to_the_next() {
    let (connection, script) = connection(8);
    let peer = script.clone();
    tokio::spawn(async move {
        loop {
            for message in messages(&peer.take_written(1).await) {
                tokio::task::yield_now().await;
                peer.deliver(frame(&message));
            }
        }
    });
    cancel_at_every_poll(
        || connection.clone().call("dropped".into()),
        |n| {
            let mut next = connection.clone();
            async move { assert_eq!(next.call(format!("own{n}").into()).await.unwrap(), format!("own{n}")) }
        },
    )
    .await;
}

#[tokio::test]
async fn answers_that_nobody_waits_for_stay_within_the_limit_and_later_requests_unsent() {
    let (connection, script) = connection(2);
    for i in 0..2 {
        let mut call = spawn(connection.clone().call(format!("left{i}").into()));
        assert!(call.poll().is_pending());
        settle().await;
    }
    let mut third = spawn(connection.clone().call("third".into()));
    assert!(third.poll().is_pending());
    settle().await;
    assert_eq!(messages(&script.written()), ["left0", "left1"], "two answers are due already");
    script.deliver(frame("late"));
    settle().await;
    assert_eq!(messages(&script.written()).last().unwrap(), "third");
    script.deliver([frame("late"), frame("own")].concat());
    settle().await;
    assert!(matches!(third.poll(), Poll::Ready(Ok(answer)) if answer == "own"));
}

// F7
#[tokio::test]
async fn an_answer_that_nobody_asked_for_closes_the_connection() {
    let (mut connection, script) = connection(8);
    settle().await;
    script.deliver(frame("unasked"));
    // At once: whoever is alone looks at the stream before it writes.
    let refused = connection.call("ping".into()).await.unwrap_err();
    assert_eq!(said(&refused), (Kind::Unasked, Sent::Never, Some(&b"ping"[..])));
    assert_eq!(connection.close_reason(), CloseReason::Stray);
    assert!(script.written().is_empty());
}
