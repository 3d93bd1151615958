//! Multiplexed connections.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio_test::task::spawn;
use tower::Service;
use towline_codec::{FrameCodec, FrameLimits};
use towline_core::progress::Progress;
use towline_core::{CloseReason, Kind, Phase, Poolable, Sent, State};
use towline_test::{Script, ScriptIo, cancel_at_every_poll, poll_times, settle};
use towline_transport::{Correlate, Shared};

use super::{WRITE_AHEAD, codec, config, frame, messages, said};

type Connection = Shared<Bytes, Bytes>;

/// Messages are `id|body`.
#[derive(Clone)]
pub(crate) struct ById;

impl Correlate<Bytes, Bytes> for ById {
    type Original = Bytes;

    fn tag(&self, request: &mut Bytes, id: u64) -> Bytes {
        let bar = request.iter().position(|byte| *byte == b'|').unwrap();
        let original = request.slice(..bar);
        *request = [id.to_string().as_bytes(), &request[bar..]].concat().into();
        original
    }

    fn id(&self, response: &Bytes) -> Option<u64> {
        std::str::from_utf8(response).ok()?.split_once('|')?.0.parse().ok()
    }

    fn restore(&self, response: &mut Bytes, original: Bytes) {
        let bar = response.iter().position(|byte| *byte == b'|').unwrap();
        *response = [&original[..], &response[bar..]].concat().into();
    }
}

fn connection(limit: usize) -> (Connection, Script) {
    let (io, script) = ScriptIo::new();
    let (connection, driver) = Shared::multiplexed(io, codec(), ById, config(limit));
    tokio::spawn(driver);
    (connection, script)
}

#[tokio::test]
async fn callers_that_use_the_same_id_get_each_its_own_answer_in_any_order() {
    let (mut connection, script) = connection(8);
    let (mut a, mut b) = (spawn(connection.call("1|a".into())), spawn(connection.call("1|b".into())));
    assert!(a.poll().is_pending() && b.poll().is_pending());
    settle().await;
    let mut sent = messages(&script.written());
    assert_eq!(sent.len(), 2);
    assert!(sent[0].ends_with("|a") && sent[1].ends_with("|b"));
    sent.reverse();
    sent.iter().for_each(|message| script.deliver(frame(message)));
    settle().await;
    assert!(matches!(a.poll(), Poll::Ready(Ok(answer)) if answer == "1|a"));
    assert!(matches!(b.poll(), Poll::Ready(Ok(answer)) if answer == "1|b"));
    assert_eq!(connection.in_flight(), 0);
}

// F2
#[tokio::test]
async fn a_late_reply_is_discarded_and_the_connection_goes_on() {
    let (mut connection, script) = connection(8);
    {
        let mut abandoned = std::pin::pin!(connection.call("1|abandoned".into()));
        assert!(poll_times(abandoned.as_mut(), 1).await.is_none());
        settle().await;
    }
    assert_eq!(connection.in_flight(), 0);
    let late = messages(&script.take_written(1).await).remove(0);
    script.deliver(frame(&late));
    script.deliver(frame("999999|unknown"));
    script.deliver(frame("no id at all"));
    for i in 0..10 {
        let mut call = spawn(connection.call(format!("own{i}|{i}").into()));
        assert!(call.poll().is_pending());
        settle().await;
        // The late answer comes again and again, also while its entry is in use by another.
        script.deliver(frame(&late));
        script.deliver(frame(&messages(&script.take_written(1).await)[0]));
        settle().await;
        let Poll::Ready(Ok(answer)) = call.poll() else { panic!("call {i} has no answer") };
        assert_eq!(answer, format!("own{i}|{i}"));
    }
    assert_eq!(connection.discarded(), 13);
    assert_eq!(poll_fn(|cx| connection.poll_change(State::Busy, cx)).await, State::Idle);
}

// F2
#[tokio::test]
async fn dropped_at_any_poll_a_call_leaves_no_entry_and_the_next_gets_its_own_answer() {
    let (connection, script) = connection(8);
    let mut caller = connection.clone();
    let peer = script.clone();
    tokio::spawn(async move {
        loop {
            for message in messages(&peer.take_written(1).await) {
                peer.deliver(frame(&message));
            }
        }
    });
    cancel_at_every_poll(
        || caller.clone().call("x|dropped".into()),
        |n| {
            let mut next = connection.clone();
            async move {
                assert_eq!(next.in_flight(), 0, "after {n} polls");
                assert_eq!(next.call(format!("{n}|own").into()).await.unwrap(), format!("{n}|own"));
            }
        },
    )
    .await;
    assert_eq!(caller.call("1|last".into()).await.unwrap(), "1|last");
}

#[tokio::test]
async fn a_request_still_queued_behind_a_stalled_write_leaves_with_its_caller() {
    let (mut connection, script) = connection(8);
    script.accept(0);
    let big = "x".repeat(WRITE_AHEAD);
    let mut first = spawn(connection.call(format!("1|{big}").into()));
    assert!(first.poll().is_pending());
    settle().await;
    let mut second = spawn(connection.call("2|never".into()));
    assert!(second.poll().is_pending());
    settle().await;
    drop(second);
    script.accept_all();
    settle().await;
    assert_eq!(messages(&script.written()).len(), 1);
}

// F8
#[tokio::test]
async fn when_the_peer_is_lost_every_caller_learns_the_cause_and_unsent_requests_come_back() {
    let (mut connection, script) = connection(8);
    script.accept(0);
    let big = "x".repeat(WRITE_AHEAD);
    let mut sent = spawn(connection.call(format!("1|{big}").into()));
    assert!(sent.poll().is_pending());
    settle().await;
    let mut queued = spawn(connection.call("2|queued".into()));
    assert!(queued.poll().is_pending());
    script.reset();
    settle().await;
    let Poll::Ready(Err(error)) = sent.poll() else { panic!() };
    assert_eq!(said(&error), (Kind::Io, Sent::Maybe, None));
    assert!(error.error.find::<std::io::Error>().is_some());
    let Poll::Ready(Err(error)) = queued.poll() else { panic!() };
    assert_eq!(said(&error), (Kind::Io, Sent::Never, Some(&b"2|queued"[..])));
    assert_eq!(poll_fn(|cx| connection.poll_change(State::Busy, cx)).await, State::Closed);
    assert_eq!(connection.close_reason(), CloseReason::Peer);
}

// F5
#[tokio::test]
async fn an_idle_connection_notices_that_its_peer_is_gone() {
    let (mut connection, script) = connection(8);
    let mut watched = connection.clone();
    let mut watch = spawn(poll_fn(|cx| watched.poll_change(State::Idle, cx)));
    assert!(watch.poll().is_pending());
    settle().await;
    script.end();
    settle().await;
    assert!(watch.is_woken());
    assert_eq!(watch.poll(), Poll::Ready(State::Closed));
    assert_eq!(said(&connection.call("1|x".into()).await.unwrap_err()).2, Some(&b"1|x"[..]));
}

// F36
#[tokio::test]
async fn a_request_over_the_limit_fails_alone() {
    let (io, script) = ScriptIo::new();
    let limits = FrameLimits { encode: 16, ..FrameLimits::default() };
    let (mut connection, driver) = Shared::multiplexed(io, FrameCodec::new(limits), ById, config(8));
    tokio::spawn(driver);
    let mut fine = spawn(connection.call("1|fine".into()));
    assert!(fine.poll().is_pending());
    let error = connection.call("2|much longer than sixteen".into()).await.unwrap_err();
    assert_eq!((error.error.kind(), error.error.sent()), (Kind::TooLarge, Sent::Never));
    script.deliver(frame(&messages(&script.written())[0]));
    settle().await;
    assert!(matches!(fine.poll(), Poll::Ready(Ok(answer)) if answer == "1|fine"));
}

#[tokio::test]
async fn over_its_limit_the_connection_gives_requests_back() {
    let (mut connection, _script) = connection(1);
    let mut first = spawn(connection.call("1|a".into()));
    assert!(first.poll().is_pending());
    let error = connection.call("2|b".into()).await.unwrap_err();
    assert_eq!(said(&error), (Kind::Overloaded, Sent::Never, Some(&b"2|b"[..])));
    drop(first);
    let mut third = spawn(connection.call("3|c".into()));
    assert!(third.poll().is_pending());
}

#[tokio::test]
async fn the_connection_closes_after_its_last_handle_and_its_last_call() {
    let (mut connection, script) = connection(8);
    let mut call = spawn(connection.call("1|a".into()));
    assert!(call.poll().is_pending());
    settle().await;
    drop(connection);
    settle().await;
    assert!(!script.is_closed(), "a call is in flight");
    script.deliver(frame(&messages(&script.written())[0]));
    settle().await;
    assert!(matches!(call.poll(), Poll::Ready(Ok(_))));
    drop(call);
    settle().await;
    assert!(script.is_closed());
}

#[tokio::test]
async fn an_answer_that_came_before_the_stream_broke_reaches_its_caller() {
    let (mut connection, script) = connection(8);
    let mut first = spawn(connection.call("1|first".into()));
    assert!(first.poll().is_pending());
    settle().await;
    // The peer answers and goes away; another caller's write then finds the stream broken.
    script.deliver(script.written());
    script.accept_then_fail(0, std::io::ErrorKind::BrokenPipe);
    let mut second = spawn(connection.call("2|second".into()));
    assert!(second.poll().is_pending());
    settle().await;
    assert!(matches!(first.poll(), Poll::Ready(Ok(_))));
    let Poll::Ready(Err(error)) = second.poll() else { panic!() };
    assert_eq!(said(&error), (Kind::Io, Sent::Never, None), "the stream took nothing of it");
}

#[test]
fn whoever_gives_up_learns_whether_the_request_had_left() {
    for taken in [false, true] {
        let (io, script) = ScriptIo::new();
        let (mut connection, driver) = Shared::multiplexed(io, codec(), ById, config(8));
        let mut driver = spawn(Box::pin(driver));
        let mut progress = Progress::starting(Phase::Queue);
        let mut call = Some(spawn(connection.call("1|pay".into())));
        assert!(progress.scope(|| call.as_mut().unwrap().poll()).is_pending());
        if taken {
            // On another thread, after the caller's last poll.
            assert!(driver.poll().is_pending());
        }
        progress.scope(|| call = None);
        assert!(driver.poll().is_pending());
        assert_eq!(progress.sent(), if taken { Sent::Maybe } else { Sent::Never });
        assert_eq!(script.written().is_empty(), !taken);
    }
}

#[tokio::test]
async fn what_is_written_is_flushed() {
    let (mut connection, script) = connection(8);
    script.hold_until_flushed();
    let mut call = spawn(connection.call("1|a".into()));
    assert!(call.poll().is_pending());
    settle().await;
    assert_eq!(messages(&script.written()).len(), 1);
}

#[tokio::test]
async fn a_long_queue_is_sent_though_the_task_lets_its_siblings_run_in_between() {
    let (connection, script) = connection(1_000);
    let body = "x".repeat(8 * 1024);
    let mut calls: Vec<_> = (0..600).map(|i| spawn(connection.clone().call(format!("{i}|{body}").into()))).collect();
    calls.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    settle().await;
    assert_eq!(messages(&script.written()).len(), 600);
}

/// A waker that looks at the connection.
struct Looking(Connection);

impl std::task::Wake for Looking {
    fn wake(self: Arc<Self>) {
        let _ = self.0.in_flight();
    }
}

#[test]
fn whoever_watches_is_woken_outside_the_lock() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (io, script) = ScriptIo::new();
        let (mut connection, driver) = Shared::multiplexed(io, codec(), ById, config(8));
        let mut driver = spawn(Box::pin(driver));
        let mut call = spawn(connection.call("1|x".into()));
        assert!(call.poll().is_pending());
        assert!(driver.poll().is_pending());
        let waker = Waker::from(Arc::new(Looking(connection.clone())));
        assert!(connection.poll_change(State::Busy, &mut Context::from_waker(&waker)).is_pending());
        script.deliver(script.written());
        assert!(driver.poll().is_pending());
        assert!(call.poll().is_ready());
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(5)).expect("deadlock");
}

// F40
#[tokio::test]
async fn when_the_task_is_gone_callers_are_told() {
    let (io, _script) = ScriptIo::new();
    let (mut connection, driver) = Shared::multiplexed(io, codec(), ById, config(8));
    let task = tokio::spawn(driver);
    let mut call = spawn(connection.call("1|a".into()));
    assert!(call.poll().is_pending());
    settle().await;
    task.abort();
    settle().await;
    let Poll::Ready(Err(error)) = call.poll() else { panic!() };
    assert_eq!((error.error.kind(), error.error.sent()), (Kind::Runtime, Sent::Maybe));
}

// F36
#[tokio::test]
async fn a_hostile_frame_ends_the_connection_with_one_typed_error_for_all() {
    let (connection, script) = connection(8);
    let mut calls: Vec<_> = (0..3).map(|i| spawn(connection.clone().call(format!("{i}|x").into()))).collect();
    calls.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    settle().await;
    script.deliver(u32::MAX.to_be_bytes());
    settle().await;
    for call in &mut calls {
        let Poll::Ready(Err(error)) = call.poll() else { panic!("hangs") };
        assert_eq!(said(&error), (Kind::TooLarge, Sent::Maybe, None));
        assert!(error.error.to_string().contains("4294967295 bytes"), "{}", error.error);
    }
    assert_eq!(connection.close_reason(), CloseReason::Failed);
}
