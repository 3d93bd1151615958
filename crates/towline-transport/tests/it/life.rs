//! How shared connections live, and how they end.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tokio_util::codec::{Decoder, Encoder};
use tower::Service;
use towline_core::{CloseReason, Error, Kind, Phase, Poolable, Sent, State};
use towline_test::{Script, ScriptIo, settle};
use towline_transport::{Correlate, Exclusive, Shared, SharedConfig};

use super::multiplexed::ById;
use super::{WRITE_AHEAD, codec, config, frame, messages, said};

type Connection = Shared<Bytes, Bytes>;

fn connection(config: SharedConfig) -> (Connection, Script) {
    let (io, script) = ScriptIo::new();
    let (connection, driver) = Shared::multiplexed(io, codec(), ById, config);
    tokio::spawn(driver);
    (connection, script)
}

/// The state once it is not `seen`.
async fn state(connection: &Connection, seen: State) -> State {
    let mut connection = connection.clone();
    poll_fn(move |cx| connection.poll_change(seen, cx)).await
}

/// A call that its caller gives up after `wait`.
async fn times_out(connection: &Connection, wait: Duration) {
    let mut connection = connection.clone();
    assert!(timeout(wait, connection.call("1|lost".into())).await.is_err());
}

const LONG: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn aborted_a_connection_ends_at_once_with_the_calls_in_flight_on_it() {
    let (connection, script) = connection(config(8));
    let (mut call, mut same) = (spawn(connection.clone().call("1|never".into())), connection.clone());
    assert!(call.poll().is_pending());
    settle().await;
    same.abort();
    settle().await;
    let Poll::Ready(Err(error)) = call.poll() else { panic!("it was to fail") };
    assert_eq!(said(&error), (Kind::Closed, Sent::Maybe, None));
    assert_eq!(
        (state(&connection, State::Idle).await, connection.close_reason()),
        (State::Closed, CloseReason::Shutdown)
    );
    assert!(script.said_goodbye());
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

// F10
#[tokio::test(start_paused = true)]
async fn timeouts_one_after_another_retire_the_connection() {
    let (connection, _script) = connection(config(8).retire_after(Some(3)));
    settle().await;
    for _ in 0..2 {
        times_out(&connection, LONG).await;
        assert_eq!(state(&connection, State::Busy).await, State::Idle);
    }
    times_out(&connection, LONG).await;
    assert_eq!(state(&connection, State::Idle).await, State::Draining);
    assert_eq!(connection.close_reason(), CloseReason::Unresponsive);
    let refused = connection.clone().call("2|x".into()).await.unwrap_err();
    assert_eq!(said(&refused), (Kind::Closed, Sent::Never, Some(&b"2|x"[..])));
    settle().await;
    assert_eq!(state(&connection, State::Draining).await, State::Closed, "nothing is in flight");
}

// F10
#[tokio::test(start_paused = true)]
async fn a_burst_of_timeouts_counts_once() {
    let (connection, _script) = connection(config(64).retire_after(Some(3)));
    settle().await;
    for _ in 0..2 {
        let burst = (0..20).map(|_| times_out(&connection, LONG));
        futures_util::future::join_all(burst).await;
    }
    assert_eq!(state(&connection, State::Busy).await, State::Idle);
}

// F10
#[tokio::test(start_paused = true)]
async fn any_answer_ends_a_streak_of_timeouts_a_late_one_too() {
    let (connection, script) = connection(config(8).retire_after(Some(2)));
    settle().await;
    for _ in 0..5 {
        times_out(&connection, LONG).await;
        let late = messages(&script.take_written(1).await).remove(0);
        script.deliver(frame(&late));
        settle().await;
    }
    assert_eq!(connection.discarded(), 5);
    assert_eq!(state(&connection, State::Busy).await, State::Idle);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_given_up_early_say_nothing_about_the_connection() {
    let (connection, _script) = connection(config(8).retire_after(Some(2)));
    settle().await;
    for _ in 0..10 {
        times_out(&connection, Duration::from_millis(5)).await;
    }
    assert_eq!(state(&connection, State::Busy).await, State::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_retired_connection_finishes_what_is_in_flight() {
    let (connection, script) = connection(config(8).retire_after(Some(1)));
    settle().await;
    let mut slow = spawn(connection.clone().call("1|slow".into()));
    assert!(slow.poll().is_pending());
    times_out(&connection, LONG).await;
    assert_eq!(state(&connection, State::Busy).await, State::Draining);
    script.deliver(frame(&messages(&script.written())[0]));
    settle().await;
    assert!(matches!(slow.poll(), Poll::Ready(Ok(answer)) if answer == "1|slow"));
    settle().await;
    assert_eq!(state(&connection, State::Draining).await, State::Closed);
    assert!(script.is_closed());
}

// F41
#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_ends_the_connection_within_the_write_timeout() {
    let (mut connection, script) = connection(config(8).write_timeout(Duration::from_secs(5)));
    settle().await;
    script.accept(10);
    let mut sent = spawn(connection.call("1|a long enough request".into()));
    assert!(sent.poll().is_pending());
    settle().await;
    // Progress starts the time anew.
    sleep(Duration::from_secs(4)).await;
    script.accept(1);
    settle().await;
    let start = Instant::now();
    let big = "x".repeat(WRITE_AHEAD);
    let mut queued: Vec<_> = (0..2).map(|_| spawn(connection.clone().call(format!("2|{big}").into()))).collect();
    queued.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    let Err(error) = (&mut *sent).await else { panic!("answered") };
    assert_eq!(start.elapsed().as_millis().div_ceil(10), 500);
    assert_eq!(
        (error.error.kind(), error.error.phase(), error.error.sent()),
        (Kind::Timeout, Phase::Write, Sent::Maybe)
    );
    let Poll::Ready(Err(error)) = queued.pop().unwrap().poll() else { panic!() };
    assert_eq!((error.error.sent(), error.request.is_some()), (Sent::Never, true), "{error:?}");
    assert_eq!(connection.close_reason(), CloseReason::Unresponsive);
}

// F41
#[tokio::test(start_paused = true)]
async fn an_exclusive_call_to_a_peer_that_stops_reading_ends_within_the_write_timeout() {
    let (io, script) = ScriptIo::new();
    let mut connection = Exclusive::new(io, codec()).with_write_timeout(Duration::from_secs(5));
    script.accept(3);
    let start = Instant::now();
    let error = connection.call(Bytes::from("ping")).await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(
        (error.error.kind(), error.error.phase(), error.error.sent()),
        (Kind::Timeout, Phase::Write, Sent::Maybe)
    );
    assert_eq!(connection.close_reason(), CloseReason::Unresponsive);
}

// F41
#[tokio::test]
async fn answers_are_read_while_a_big_request_is_stuck() {
    let (mut connection, script) = connection(config(8));
    settle().await;
    let mut small = spawn(connection.call("1|small".into()));
    assert!(small.poll().is_pending());
    settle().await;
    let asked = messages(&script.take_written(1).await).remove(0);
    script.accept(100);
    let mut big = spawn(connection.call(format!("2|{}", "x".repeat(1 << 20)).into()));
    assert!(big.poll().is_pending());
    settle().await;
    script.deliver(frame(&asked));
    settle().await;
    assert!(matches!(small.poll(), Poll::Ready(Ok(answer)) if answer == "1|small"));
}

// F3
#[tokio::test]
async fn a_request_of_which_no_byte_was_accepted_was_never_sent_whatever_else_was_in_the_batch() {
    let lengths = [2, 3, 4].map(|id: u64| 4 + format!("{}|body", (id << 4) | (id - 1)).len());
    for accepted in 0..lengths.iter().sum::<usize>() {
        let (connection, script) = connection(config(8));
        settle().await;
        // With one in flight, the others go out in one write.
        let mut earlier = spawn(connection.clone().call("x|earlier".into()));
        assert!(earlier.poll().is_pending());
        script.accept_then_fail(accepted, std::io::ErrorKind::ConnectionReset);
        let mut calls: Vec<_> = (0..3).map(|_| spawn(connection.clone().call("x|body".into()))).collect();
        calls.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
        settle().await;
        let mut start = 0;
        for (i, (call, length)) in calls.iter_mut().zip(lengths).enumerate() {
            let Poll::Ready(Err(error)) = call.poll() else { panic!("hangs") };
            let sent = if accepted > start { Sent::Maybe } else { Sent::Never };
            assert_eq!(error.error.sent(), sent, "request {i}, {accepted} bytes accepted");
            start += length;
        }
        let Poll::Ready(Err(error)) = earlier.poll() else { panic!("hangs") };
        assert_eq!(error.error.sent(), Sent::Maybe);
    }
}

#[tokio::test]
async fn a_caller_who_is_alone_writes_in_its_own_poll_and_others_in_one_go() {
    let (connection, script) = connection(config(8));
    settle().await;
    let mut first = spawn(connection.clone().call("1|first".into()));
    assert!(first.poll().is_pending());
    assert_eq!(messages(&script.written()).len(), 1, "without waiting for the task");
    let mut others: Vec<_> = (0..5).map(|i| spawn(connection.clone().call(format!("{i}|other").into()))).collect();
    others.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    assert_eq!(messages(&script.written()).len(), 1, "the task writes for all");
    settle().await;
    assert_eq!((messages(&script.written()).len(), script.writes()), (6, 2));
}

// F5
#[tokio::test]
async fn a_caller_who_is_alone_looks_whether_the_peer_is_gone_before_it_writes() {
    let (mut connection, script) = connection(config(8));
    settle().await;
    script.end(); // The task has not run since.
    let refused = connection.call("1|ping".into()).await.unwrap_err();
    assert_eq!(said(&refused), (Kind::Closed, Sent::Never, Some(&b"1|ping"[..])));
    assert!(script.written().is_empty());
}

/// Pings with a message of its own.
#[derive(Clone)]
struct Pinging;

impl Correlate<Bytes, Bytes> for Pinging {
    type Original = Bytes;

    fn tag(&self, request: &mut Bytes, id: u64) -> Bytes {
        ById.tag(request, id)
    }

    fn id(&self, response: &Bytes) -> Option<u64> {
        ById.id(response)
    }

    fn restore(&self, response: &mut Bytes, original: Bytes) {
        ById.restore(response, original);
    }

    fn ping(&self) -> Option<Bytes> {
        Some("0|are you there?".into())
    }
}

// F9
#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_ping_is_given_up_without_a_caller() {
    let (io, script) = ScriptIo::new();
    let config = config(8).ping(Duration::from_secs(10), Duration::from_secs(2));
    let (connection, driver) = Shared::multiplexed(io, codec(), Pinging, config);
    tokio::spawn(driver);
    let start = Instant::now();
    for round in 1..=3 {
        let asked = messages(&script.take_written(1).await).remove(0);
        assert!(asked.ends_with("|are you there?"));
        assert_eq!(start.elapsed().as_secs(), 10 * round);
        script.deliver(frame(&asked));
    }
    script.take_written(1).await;
    assert_eq!(state(&connection, State::Idle).await, State::Closed);
    assert_eq!(start.elapsed().as_secs(), 42);
    assert_eq!(connection.close_reason(), CloseReason::Unresponsive);
}

// F14
#[tokio::test(start_paused = true)]
async fn the_last_handle_says_goodbye_after_what_is_unwritten_and_within_a_time() {
    for stalls in [false, true] {
        let (connection, script) = connection(config(8).shutdown_timeout(Duration::from_secs(2)));
        settle().await;
        script.accept(3);
        let mut call = spawn(connection.clone().call("1|x".into()));
        assert!(call.poll().is_pending());
        settle().await;
        drop((call, connection));
        settle().await;
        assert!(!script.is_closed(), "something is unwritten");
        if stalls {
            sleep(Duration::from_millis(1_900)).await;
            assert!(!script.is_closed());
            sleep(Duration::from_millis(200)).await;
        } else {
            script.accept_all();
            settle().await;
            assert_eq!(messages(&script.written()).len(), 1, "flushed");
        }
        assert!(script.is_closed());
        assert_eq!(script.said_goodbye(), !stalls);
    }
}

// F14
#[tokio::test]
async fn an_idle_exclusive_connection_says_goodbye_and_one_in_use_does_not() {
    let (io, script) = ScriptIo::new();
    drop(Exclusive::new(io, codec()));
    assert!(script.said_goodbye());
    let (io, script) = ScriptIo::new();
    let mut connection = Exclusive::new(io, codec());
    let mut call = spawn(connection.call(Bytes::from("ping")));
    assert!(call.poll().is_pending());
    drop(call);
    drop(connection);
    assert!(script.is_closed() && !script.said_goodbye());
}

/// A codec that panics when told to.
struct Panicking(towline_codec::FrameCodec);

impl Encoder<Bytes> for Panicking {
    type Error = Error;

    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> Result<(), Error> {
        assert!(!message.ends_with(b"|panic"), "told to");
        self.0.encode(message, dst)
    }
}

impl Decoder for Panicking {
    type Item = Bytes;
    type Error = Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        self.0.decode(src)
    }
}

// F40
#[tokio::test]
async fn a_codec_that_panics_ends_the_connection_and_hangs_nobody() {
    for alone in [true, false] {
        let (io, _script) = ScriptIo::new();
        let (connection, driver) = Shared::multiplexed(io, Panicking(codec()), ById, config(8));
        tokio::spawn(driver);
        settle().await;
        let mut other = spawn(connection.clone().call("1|other".into()));
        if !alone {
            assert!(other.poll().is_pending());
        }
        let call = tokio::spawn(connection.clone().call("2|panic".into()));
        settle().await;
        if alone {
            assert!(call.await.unwrap_err().is_panic());
            assert_eq!(said(&other.await.unwrap_err()), (Kind::Closed, Sent::Never, Some(&b"1|other"[..])));
        } else {
            let Poll::Ready(Err(error)) = other.poll() else { panic!("hangs") };
            assert_eq!(error.error.kind(), Kind::Runtime);
            assert_eq!(call.await.unwrap().unwrap_err().error.kind(), Kind::Runtime);
        }
        assert_eq!(state(&connection, State::Idle).await, State::Closed);
    }
}

#[tokio::test]
async fn a_connection_full_of_ready_answers_lets_its_siblings_run() {
    let (connection, script) = connection(config(8));
    settle().await;
    // More than the task takes without a pause, none of which anybody waits for.
    let flood = frame("99|nobody's").repeat(100_000);
    script.deliver(&flood);
    let sibling = tokio::spawn(async move {
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            cx.waker().wake_by_ref();
            if connection.discarded() < 100_000 && turns < 10_000 { Poll::Pending } else { Poll::Ready(turns) }
        })
        .await
    });
    let turns = sibling.await.unwrap();
    assert!((10..10_000).contains(&turns), "the sibling ran {turns} times");
}
