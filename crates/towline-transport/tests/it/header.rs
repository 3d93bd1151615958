//! The frame header, on both ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt, service_fn};
use towline_core::{Call, CloseReason, Error, HasContext, Kind, Poolable, Sent, State};
use towline_test::{Script, ScriptIo, settle};
use towline_transport::{HeaderLayer, Server, ServerLoad, Shared, SharedConfig};

use super::server::Once;
use super::{WRITE_AHEAD, codec, config, frame};

pub(crate) type Connection = Shared<Call<Bytes>, Bytes>;
type Handler = BoxCloneService<Call<Bytes>, Bytes, std::io::Error>;

fn handler<F, Fut>(handle: F) -> Handler
where
    F: Fn(Call<Bytes>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Bytes, std::io::Error>> + Send + 'static,
{
    BoxCloneService::new(service_fn(handle))
}

/// A client over `io`.
pub(crate) async fn connect<Io>(io: Io, config: SharedConfig) -> Connection
where
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let io = Once::new(io);
    let connector = service_fn(move |()| {
        let io = io.take();
        async move { Ok::<_, Error>(io) }
    });
    HeaderLayer::carried(codec()).with_config(config).layer(connector).oneshot(()).await.unwrap()
}

/// A client and a server with this handler; the server stops when told.
async fn pair(handle: Handler) -> (Connection, oneshot::Sender<()>) {
    let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(4096);
    let (stop, stopped) = oneshot::channel();
    let server = Server::new(codec()).with_header();
    tokio::spawn(server.serve_until(super::server::one(theirs), handle, async {
        let _ = stopped.await;
    }));
    (connect(ours, config(8)).await, stop)
}

/// A client and the script of its peer.
async fn scripted(config: SharedConfig) -> (Connection, Script) {
    let (io, script) = ScriptIo::new();
    let connection = connect(io, config).await;
    settle().await;
    (connection, script)
}

pub(crate) fn call(message: &'static str) -> Call<Bytes> {
    Call::new(Bytes::from_static(message.as_bytes()))
}

/// A header as the peer writes it.
fn header(flags: u8, id: &[u8]) -> Vec<u8> {
    [&[0xa1, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], id].concat()
}

/// Flags and id of the header that the client wrote first.
fn asked(written: &[u8]) -> (u8, Vec<u8>) {
    assert_eq!(written[0], 0xa1);
    (written[1], written[8..16].to_vec())
}

async fn state(connection: &Connection, seen: State) -> State {
    let mut connection = connection.clone();
    poll_fn(move |cx: &mut Context<'_>| connection.poll_change(seen, cx)).await
}

#[tokio::test(start_paused = true)]
async fn messages_without_an_id_find_their_callers_in_any_order() {
    let (connection, _stop) = pair(handler(|call| async move {
        let millis = std::str::from_utf8(call.message()).unwrap().parse().unwrap();
        sleep(Duration::from_millis(millis)).await;
        Ok(call.into_message())
    }))
    .await;
    let calls = ["30", "10", "20"].map(|message| {
        let mut connection = connection.clone();
        async move { connection.call(call(message)).await.unwrap() == message }
    });
    assert_eq!(futures_util::future::join_all(calls).await, [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_goes_along_and_ends_the_handler() {
    let (left, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (note, tell) = (left.clone(), dropped.clone());
    let (mut connection, _stop) = pair(handler(move |call| {
        let left = call.context().deadline().unwrap() - Instant::now();
        note.store(left.as_millis() as usize, Ordering::SeqCst);
        let tells = Tells(tell.clone());
        async move {
            let _tells = tells;
            std::future::pending().await
        }
    }))
    .await;
    let mut request = call("x");
    request.context_mut().limit_deadline(Instant::now() + Duration::from_millis(250));
    // A client that does not stop waiting by itself.
    let mut waiting = spawn(connection.call(request));
    assert!(waiting.poll().is_pending());
    let start = Instant::now();
    timeout(Duration::from_secs(5), dropped.notified()).await.expect("the handler goes on");
    assert!((249..=251).contains(&left.load(Ordering::SeqCst)));
    assert!((249..=252).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

/// Tells when it is dropped.
struct Tells(Arc<Notify>);

impl Drop for Tells {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

// F2
#[tokio::test]
async fn a_call_that_is_given_up_is_cancelled_at_the_server() {
    let dropped = Arc::new(Notify::new());
    let tell = dropped.clone();
    let (mut connection, _stop) = pair(handler(move |call| {
        let tells = Tells(tell.clone());
        async move {
            if call.message() == "stay" {
                std::mem::forget(tells);
                return Ok(call.into_message());
            }
            let _tells = tells;
            std::future::pending().await
        }
    }))
    .await;
    let mut given_up = spawn(connection.call(call("x")));
    assert!(given_up.poll().is_pending());
    settle().await;
    drop(given_up);
    timeout(Duration::from_secs(5), dropped.notified()).await.expect("the handler goes on");
    assert_eq!(connection.call(call("stay")).await.unwrap(), "stay");
}

#[tokio::test]
async fn a_handler_that_fails_or_panics_fails_its_call_alone_and_the_client_is_told() {
    let (mut connection, _stop) = pair(handler(|call| async move {
        match &call.message()[..] {
            b"fail" => Err(std::io::Error::other("no")),
            b"panic" => panic!("told to"),
            _ => Ok(call.into_message()),
        }
    }))
    .await;
    for bad in ["fail", "panic"] {
        let error = connection.call(call(bad)).await.unwrap_err();
        assert_eq!((error.error.kind(), error.error.sent()), (Kind::Server, Sent::Maybe));
        assert_eq!(connection.call(call("fine")).await.unwrap(), "fine");
    }
}

#[tokio::test]
async fn answers_say_what_the_load_is() {
    let (mut connection, _stop) = pair(handler(|call| async move { Ok(call.into_message()) })).await;
    assert_eq!(connection.load(), None);
    connection.call(call("x")).await.unwrap();
    assert_eq!(
        connection.load(),
        Some(ServerLoad { utilization: None, in_flight: Some(0) }),
        "beside the one that is answered"
    );

    let (ours, theirs) = tokio::io::duplex(4096);
    let server = Server::new(codec()).with_header();
    let server = server.load(|| ServerLoad { utilization: Some(750), in_flight: None });
    tokio::spawn(server.serve(super::server::one(theirs), handler(|call| async move { Ok(call.into_message()) })));
    let mut connection = connect(ours, config(8)).await;
    connection.call(call("x")).await.unwrap();
    assert_eq!(connection.load(), Some(ServerLoad { utilization: Some(750), in_flight: None }));
}

// F38
#[tokio::test]
async fn a_server_that_drains_gets_no_new_calls_and_finishes_old_ones() {
    let go_on = Arc::new(Notify::new());
    let wait = go_on.clone();
    let (mut connection, stop) = pair(handler(move |call| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            Ok(call.into_message())
        }
    }))
    .await;
    let mut old = spawn(connection.call(call("old")));
    assert!(old.poll().is_pending());
    settle().await;
    stop.send(()).unwrap();
    assert_eq!(state(&connection, State::Busy).await, State::Draining);
    let refused = connection.call(call("new")).await.unwrap_err();
    assert_eq!(refused.error.sent(), Sent::Never);
    assert_eq!(refused.request.unwrap().message(), "new", "the pool gives it to another connection");
    go_on.notify_one();
    assert_eq!(old.await.unwrap(), "old");
    assert_eq!(state(&connection, State::Draining).await, State::Closed);
    assert_eq!(connection.close_reason(), CloseReason::Drained);
}

// F38
#[tokio::test]
async fn drain_may_come_with_an_answer() {
    let (mut connection, script) = scripted(config(8)).await;
    let mut last = spawn(connection.call(call("x")));
    assert!(last.poll().is_pending());
    let (flags, id) = asked(&script.written());
    assert_eq!(flags, 1);
    script.deliver([header(0x03, &id), frame("answer")].concat());
    settle().await;
    assert!(matches!(last.poll(), Poll::Ready(Ok(answer)) if answer == "answer"));
    assert_ne!(state(&connection, State::Idle).await, State::Busy);
    assert_eq!(connection.close_reason(), CloseReason::Drained);
}

// F9
#[tokio::test(start_paused = true)]
async fn pings_are_answered_by_both_ends_and_a_silent_server_is_given_up() {
    let (connection, _stop) = pair(handler(|call| async move { Ok(call.into_message()) })).await;
    drop(connection);
    let (ours, theirs) = tokio::io::duplex(4096);
    tokio::spawn(
        Server::new(codec())
            .with_header()
            .serve(super::server::one(theirs), handler(|call| async move { Ok(call.into_message()) })),
    );
    let pings = config(8).ping(Duration::from_secs(1), Duration::from_millis(100));
    let mut connection = connect(ours, pings).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(connection.call(call("alive")).await.unwrap(), "alive");

    let (connection, script) = scripted(pings).await;
    script.deliver(header(0x08, &[7; 8]));
    settle().await;
    assert_eq!(asked(&script.take_written(16).await), (0x10, vec![7; 8]));
    assert_eq!(state(&connection, State::Idle).await, State::Closed);
    assert_eq!(connection.close_reason(), CloseReason::Unresponsive);
    assert_eq!(asked(&script.written()).0, 0x08);
}

#[tokio::test]
async fn a_peer_that_pings_and_never_reads_fills_no_buffer() {
    let (connection, script) = scripted(config(8)).await;
    script.accept(0);
    for _ in 0..100 {
        script.deliver(header(0x08, &[7; 8]).repeat(10_000));
        settle().await;
    }
    script.accept_all();
    settle().await;
    assert!(script.written().len() <= WRITE_AHEAD, "{}", script.written().len());
    drop(connection);
}

#[tokio::test]
async fn a_server_without_headers_is_told_apart_at_once() {
    let (mut connection, script) = scripted(config(8)).await;
    let mut asking = spawn(connection.call(call("x")));
    assert!(asking.poll().is_pending());
    script.deliver(frame("plain"));
    settle().await;
    let Poll::Ready(Err(error)) = asking.poll() else { panic!() };
    assert_eq!(error.error.kind(), Kind::Malformed);
    assert!(error.error.to_string().contains("both ends must be set to use frame headers"), "{}", error.error);
}

// F4
#[tokio::test]
async fn an_answer_cut_at_any_byte_of_header_or_frame_fails_the_call_without_hanging() {
    let len = header(1, &[0; 8]).len() + frame("answer").len();
    for cut in 0..len {
        let (mut connection, script) = scripted(config(8)).await;
        let mut asking = spawn(connection.call(call("x")));
        assert!(asking.poll().is_pending());
        let (_, id) = asked(&script.written());
        script.deliver(&[header(1, &id), frame("answer")].concat()[..cut]);
        script.end();
        settle().await;
        let Poll::Ready(Err(error)) = asking.poll() else { panic!("hangs, cut at {cut}") };
        let kind = if cut == 0 { Kind::Closed } else { Kind::UnexpectedEof };
        assert_eq!((error.error.kind(), error.error.sent()), (kind, Sent::Maybe), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_client_whose_server_hangs_up_at_the_header_is_asked_whether_it_is_set_to_use_one() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let echo = service_fn(|request: Bytes| async move { Ok::<_, std::io::Error>(request) });
    let (heard, mut told) = tokio::sync::mpsc::channel(8);
    let server = Server::new(codec()).on_error(move |error| heard.try_send(error.kind()).unwrap());
    tokio::spawn(server.serve(super::server::one(theirs), echo));
    let error = connect(ours, config(8)).await.call(call("x")).await.unwrap_err();
    assert!(error.error.to_string().contains("is it set to use frame headers?"), "{}", error.error);
    assert_eq!(told.recv().await, Some(Kind::TooLarge));
}

#[tokio::test]
async fn whoever_runs_the_server_hears_of_handlers_that_fail() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (heard, mut told) = tokio::sync::mpsc::channel(8);
    let server = Server::new(codec()).with_header();
    let server = server.on_error(move |error| heard.try_send(format!("{error:?}")).unwrap());
    let handler = handler(|call| async move {
        match &call.message()[..] {
            b"fail" => Err(std::io::Error::other("no such thing")),
            _ => panic!("told to"),
        }
    });
    tokio::spawn(server.serve(super::server::one(theirs), handler));
    let mut connection = connect(ours, config(8)).await;
    connection.call(call("fail")).await.unwrap_err();
    assert!(told.recv().await.unwrap().contains("no such thing"));
    connection.call(call("panic")).await.unwrap_err();
    assert!(told.recv().await.unwrap().contains("told to"));
}
