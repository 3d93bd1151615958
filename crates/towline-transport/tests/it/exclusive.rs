//! Exclusive connections.

use std::future::poll_fn;
use std::io::ErrorKind;

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder, LinesCodec, LinesCodecError};
use tower::{Service, ServiceExt};
use towline_codec::{FrameCodec, FrameLimits};
use towline_core::progress::Progress;
use towline_core::{CloseReason, Kind, Phase, Poolable, Sent, State};
use towline_test::{Script, ScriptIo, cancel_at_every_poll, poll_times};
use towline_transport::Exclusive;

use super::{codec, frame, said};

type Connection = Exclusive<ScriptIo, FrameCodec>;

fn connection() -> (Connection, Script) {
    let (io, script) = ScriptIo::new();
    (Exclusive::new(io, codec()), script)
}

/// The state that a pool sees when the connection comes back.
async fn state(connection: &mut Connection) -> State {
    poll_fn(|cx| connection.poll_change(State::Busy, cx)).await
}

#[tokio::test]
async fn a_call_writes_its_frame_and_reads_the_answer() {
    let (mut connection, script) = connection();
    script.one_byte_at_a_time();
    script.reply(frame("pong"));
    assert_eq!(connection.ready().await.unwrap().call("ping".into()).await.unwrap(), "pong");
    assert_eq!(script.written(), frame("ping"));
    assert_eq!(state(&mut connection).await, State::Idle);
}

// F1
#[tokio::test]
async fn a_call_dropped_after_its_first_poll_closes_the_connection_and_before_it_leaves_it_clean() {
    for accepted in 0..=frame("ping").len() {
        let (mut connection, script) = connection();
        script.accept(accepted);
        drop(connection.call("never polled".into()));
        {
            let mut call = std::pin::pin!(connection.call("ping".into()));
            assert!(poll_times(call.as_mut(), 1).await.is_none());
        }
        script.accept_all();
        // Also when nothing was accepted: a TLS stream keeps what it has encrypted, and sends it before the next.
        assert_eq!(state(&mut connection).await, State::Closed);
        assert_eq!(connection.close_reason(), CloseReason::Dirty);
        script.deliver(frame("another's"));
        let refused = connection.call("next".into()).await.unwrap_err();
        assert_eq!(said(&refused), (Kind::Closed, Sent::Never, Some(&b"next"[..])));
        assert_eq!(script.written(), frame("ping")[..accepted], "the call that was never polled wrote nothing");
    }
}

// F1
#[tokio::test]
async fn dropped_at_any_poll_a_call_never_leaves_its_answer_to_the_next() {
    let polls = cancel_at_every_poll(
        || async {
            let (mut connection, script) = connection();
            script.one_byte_at_a_time();
            let answer = connection.call("ping".into());
            let peer = async {
                script.take_written(frame("ping").len()).await;
                for byte in frame("pong") {
                    tokio::task::yield_now().await;
                    script.deliver([byte]);
                }
            };
            let (answer, ()) = tokio::join!(answer, peer);
            assert_eq!(answer.unwrap(), "pong");
        },
        |_| async {},
    )
    .await;
    assert!(polls > 5);
}

// F3
#[tokio::test]
async fn a_write_that_fails_after_k_bytes_was_sent_exactly_when_k_is_not_zero() {
    for k in 0..frame("ping").len() {
        let (mut connection, script) = connection();
        script.accept_then_fail(k, ErrorKind::BrokenPipe);
        let error = connection.call("ping".into()).await.unwrap_err();
        let sent = if k == 0 { Sent::Never } else { Sent::Maybe };
        assert_eq!((error.error.kind(), error.error.phase(), error.error.sent()), (Kind::Io, Phase::Write, sent));
        assert_eq!(state(&mut connection).await, State::Closed);
    }
}

// F4
#[tokio::test]
async fn an_answer_cut_at_any_byte_fails_the_call_without_hanging() {
    let answer = frame("pong");
    for cut in 0..answer.len() {
        let (mut connection, script) = connection();
        script.reply_and_end(&answer[..cut]);
        let error = connection.call("ping".into()).await.unwrap_err();
        let kind = if cut == 0 { Kind::Closed } else { Kind::UnexpectedEof };
        assert_eq!(said(&error), (kind, Sent::Maybe, None), "cut at {cut}");
        assert_eq!(state(&mut connection).await, State::Closed);
    }
}

// F5
#[tokio::test]
async fn an_idle_connection_notices_that_its_peer_is_gone() {
    for reset in [false, true] {
        let (mut connection, script) = connection();
        let mut watch = tokio_test_task(connection_state(&mut connection, State::Idle));
        assert!(watch.poll().is_pending());
        if reset {
            script.reset()
        } else {
            script.end()
        }
        assert!(watch.is_woken());
        assert_eq!(watch.poll(), std::task::Poll::Ready(State::Closed));
        drop(watch);
        assert_eq!(connection.close_reason(), CloseReason::Peer);
    }
}

// F7
#[tokio::test]
async fn stray_bytes_close_an_idle_connection_before_anyone_can_read_them() {
    let (mut connection, script) = connection();
    let mut watch = tokio_test_task(connection_state(&mut connection, State::Idle));
    assert!(watch.poll().is_pending());
    script.deliver(frame("unasked"));
    assert!(watch.is_woken());
    assert_eq!(watch.poll(), std::task::Poll::Ready(State::Closed));
    drop(watch);
    assert_eq!(connection.close_reason(), CloseReason::Stray);
    assert_eq!(said(&connection.call("ping".into()).await.unwrap_err()).2, Some(&b"ping"[..]));
}

// F7
#[tokio::test]
async fn bytes_beyond_the_answer_close_the_connection() {
    let (mut connection, script) = connection();
    script.reply([frame("pong"), frame("more")].concat());
    assert_eq!(connection.call("ping".into()).await.unwrap(), "pong");
    // At once, without a look at its state in between.
    assert_eq!(said(&connection.call("next".into()).await.unwrap_err()).2, Some(&b"next"[..]));
    assert_eq!(state(&mut connection).await, State::Closed);
    assert_eq!(connection.close_reason(), CloseReason::Stray);
}

// F7
#[tokio::test]
async fn what_comes_unasked_between_two_calls_is_never_the_next_ones_answer() {
    let (mut connection, script) = connection();
    script.reply(frame("a"));
    assert_eq!(connection.call("a".into()).await.unwrap(), "a");
    script.deliver(frame("unasked"));
    let refused = connection.call("b".into()).await.unwrap_err();
    assert_eq!(said(&refused), (Kind::Closed, Sent::Never, Some(&b"b"[..])));
}

#[tokio::test]
async fn what_is_written_is_flushed() {
    let (mut connection, script) = connection();
    script.hold_until_flushed();
    let mut call = tokio_test_task(connection.call("ping".into()));
    assert!(call.poll().is_pending());
    assert_eq!(script.written(), frame("ping"));
}

// F8
#[tokio::test]
async fn a_reset_in_use_fails_the_call_with_its_cause() {
    let (mut connection, script) = connection();
    let mut call = tokio_test_task(connection.call("ping".into()));
    assert!(call.poll().is_pending());
    script.reset();
    let std::task::Poll::Ready(Err(error)) = call.poll() else { panic!() };
    assert_eq!((error.error.kind(), error.error.sent()), (Kind::Io, Sent::Maybe));
    let cause = error.error.find::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), ErrorKind::ConnectionReset);
}

// F36
#[tokio::test]
async fn a_request_over_the_limit_is_unsent_and_harmless() {
    let (io, script) = ScriptIo::new();
    let codec = FrameCodec::new(FrameLimits { encode: 4, ..FrameLimits::default() });
    let mut connection = Exclusive::new(io, codec);
    let error = connection.call("too long".into()).await.unwrap_err();
    assert_eq!((error.error.kind(), error.error.sent()), (Kind::TooLarge, Sent::Never));
    script.reply(frame("pong"));
    assert_eq!(connection.call("ping".into()).await.unwrap(), "pong");
    assert_eq!(script.written(), frame("ping"));
}

#[tokio::test]
async fn errors_of_a_foreign_codec_say_what_and_where() {
    let lines = || LinesCodec::new_with_max_length(8);
    let (io, script) = ScriptIo::new();
    let mut connection = Exclusive::new(io, lines());
    script.reply("a line that is too long\n");
    let rejected = connection.call("ping").await.unwrap_err();
    let (kind, phase, sent) = (rejected.error.kind(), rejected.error.phase(), rejected.error.sent());
    assert_eq!((kind, phase, sent), (Kind::Malformed, Phase::Read, Sent::Maybe));

    let (io, script) = ScriptIo::new();
    let mut connection = Exclusive::new(io, Refusing(lines()));
    let rejected = connection.call("ping").await.unwrap_err();
    assert_eq!((rejected.error.kind(), rejected.error.sent()), (Kind::Unencodable, Sent::Never));
    assert!(!rejected.error.kind().is_transient() && script.written().is_empty());
}

/// Encodes nothing.
struct Refusing(LinesCodec);

impl Encoder<&'static str> for Refusing {
    type Error = LinesCodecError;

    fn encode(&mut self, _line: &'static str, dst: &mut BytesMut) -> Result<(), LinesCodecError> {
        dst.extend_from_slice(b"half of it");
        Err(LinesCodecError::MaxLineLengthExceeded)
    }
}

impl Decoder for Refusing {
    type Item = String;
    type Error = LinesCodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<String>, LinesCodecError> {
        self.0.decode(src)
    }
}

// F36
#[tokio::test]
async fn a_hostile_frame_ends_the_connection_with_a_typed_error() {
    let (mut connection, script) = connection();
    script.reply(u32::MAX.to_be_bytes());
    let error = connection.call("ping".into()).await.unwrap_err();
    assert_eq!(said(&error), (Kind::TooLarge, Sent::Maybe, None));
    assert_eq!(state(&mut connection).await, State::Closed);
}

#[tokio::test]
async fn a_second_call_at_once_comes_back_unsent() {
    let (mut connection, script) = connection();
    let mut first = tokio_test_task(connection.call("first".into()));
    assert!(first.poll().is_pending());
    let error = connection.call(Bytes::from("second")).await.unwrap_err();
    assert_eq!(said(&error), (Kind::Overloaded, Sent::Never, Some(&b"second"[..])));
    script.deliver(frame("answer"));
    assert!(matches!(first.poll(), std::task::Poll::Ready(Ok(answer)) if answer == "answer"));
}

#[tokio::test]
async fn progress_is_reported_to_whoever_sets_the_deadline() {
    let (mut connection, script) = connection();
    script.accept(0);
    let mut progress = Progress::starting(Phase::Queue);
    let mut call = tokio_test_task(connection.call("ping".into()));
    assert!(progress.scope(|| call.poll()).is_pending());
    assert_eq!((progress.phase(), progress.sent()), (Phase::Write, Sent::Maybe));
    script.accept_all();
    assert!(progress.scope(|| call.poll()).is_pending());
    assert_eq!((progress.phase(), progress.sent()), (Phase::Read, Sent::Maybe));
}

async fn connection_state(connection: &mut Connection, seen: State) -> State {
    poll_fn(|cx| connection.poll_change(seen, cx)).await
}

fn tokio_test_task<F: Future>(future: F) -> tokio_test::task::Spawn<F> {
    tokio_test::task::spawn(future)
}
