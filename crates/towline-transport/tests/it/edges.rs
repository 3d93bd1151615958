//! What goes wrong rarely: panics, full windows, peers that stall and talk out of turn, and wakers that bite.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tokio_util::codec::{Decoder, Encoder};
use tower::{Service, service_fn};
use towline_codec::FrameCodec;
use towline_core::{Call, Error, HasContext, Poolable, Sent, State};
use towline_test::{Script, ScriptIo, settle};
use towline_transport::{Exclusive, Server, Shared, SharedConfig, serve_connection};

use super::header::{call, connect};
use super::server::one;
use super::{codec, config, frame};

type Plain = Shared<Bytes, Bytes>;

fn pipelined(config: SharedConfig) -> (Plain, Script) {
    let (io, script) = ScriptIo::new();
    let (connection, driver) = Shared::pipelined(io, codec(), config);
    tokio::spawn(driver);
    (connection, script)
}

#[tokio::test(start_paused = true)]
async fn what_was_said_never_to_have_been_sent_does_not_leave_with_the_goodbye() {
    let (connection, script) = pipelined(config(8));
    settle().await;
    script.accept(0);
    let mut big = spawn(connection.clone().call(Bytes::from(vec![b'x'; 20_000])));
    assert!(big.poll().is_pending());
    let mut small = spawn(connection.clone().call("second".into()));
    assert!(small.poll().is_pending());
    settle().await;
    script.end(); // FIN: the peer answers no more
    settle().await;
    let Poll::Ready(Err(error)) = small.poll() else { panic!() };
    assert_eq!(error.error.sent(), Sent::Never);
    script.accept_all(); // within the shutdown timeout
    settle().await;
    let written = script.written();
    assert!(!written.windows(6).any(|w| w == b"second"), "a request that was Sent::Never has left");
}

/// Panics at "bad", after it has written.
struct Panics(FrameCodec);
impl Encoder<Bytes> for Panics {
    type Error = Error;
    fn encode(&mut self, item: Bytes, dst: &mut BytesMut) -> Result<(), Error> {
        let bad = item == "bad";
        self.0.encode(item, dst)?;
        assert!(!bad, "told to");
        Ok(())
    }
}
impl Decoder for Panics {
    type Item = Bytes;
    type Error = Error;
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        self.0.decode(src)
    }
}

#[tokio::test]
async fn an_exclusive_call_whose_codec_panics_leaves_nothing_behind_for_the_next() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let echo = service_fn(|request: Bytes| async move { Ok::<_, std::io::Error>(request) });
    tokio::spawn(serve_connection(theirs, codec(), echo, 16));
    let mut connection = Exclusive::new(ours, Panics(codec()));
    let bad = AssertUnwindSafe(connection.call("bad".into())).catch_unwind().await;
    assert!(bad.is_err());
    let refused = connection.call("good".into()).await.unwrap_err();
    assert_eq!((refused.error.sent(), refused.request.unwrap()), (Sent::Never, Bytes::from("good")));
}

#[tokio::test(start_paused = true)]
async fn a_server_at_its_limit_hears_that_a_call_is_cancelled() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let handler = service_fn(|call: Call<Bytes>| async move {
        if call.message() == "slow" {
            std::future::pending::<()>().await
        }
        Ok::<_, std::io::Error>(call.into_message())
    });
    tokio::spawn(Server::new(codec()).with_header().in_flight(1).serve(one(theirs), handler));
    let mut connection = connect(ours, config(8)).await;
    assert!(timeout(Duration::from_secs(1), connection.call(call("slow"))).await.is_err());
    timeout(Duration::from_secs(3600), connection.call(call("fast"))).await.expect("hangs").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_cancelled_before_there_is_room_for_it_is_never_handled() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (handled, mut seen) = tokio::sync::mpsc::channel(8);
    let handler = service_fn(move |call: Call<Bytes>| {
        handled.try_send(call.message().clone()).unwrap();
        async move {
            sleep(Duration::from_secs(1)).await;
            Ok::<_, std::io::Error>(call.into_message())
        }
    });
    tokio::spawn(Server::new(codec()).with_header().in_flight(1).serve(one(theirs), handler));
    let connection = connect(ours, config(8)).await;
    let calls = [("first", 5_000), ("given up", 500), ("last", 5_000)].map(|(message, patience)| {
        let mut connection = connection.clone();
        async move { timeout(Duration::from_millis(patience), connection.call(call(message))).await.is_ok() }
    });
    assert_eq!(futures_util::future::join_all(calls).await, [true, false, true]);
    assert_eq!((seen.recv().await.unwrap(), seen.recv().await.unwrap()), (Bytes::from("first"), Bytes::from("last")));
    assert!(seen.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_at_its_limit_answers_pings() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let handler = service_fn(|call: Call<Bytes>| async move {
        sleep(Duration::from_secs(10)).await;
        Ok::<_, std::io::Error>(call.into_message())
    });
    tokio::spawn(Server::new(codec()).with_header().in_flight(1).serve(one(theirs), handler));
    let mut connection = connect(ours, config(8).ping(Duration::from_secs(1), Duration::from_secs(1))).await;
    connection.call(call("x")).await.expect("the server is alive");
}

#[tokio::test(start_paused = true)]
async fn a_server_goes_on_as_soon_as_its_client_has_read() {
    let (mut ours, theirs) = tokio::io::duplex(256 * 1024);
    let handler = service_fn(|_: Bytes| async move { Ok::<_, std::io::Error>(Bytes::from(vec![0; 400 * 1024])) });
    tokio::spawn(serve_connection(theirs, codec(), handler, 16));
    let start = Instant::now();
    ours.write_all(&[frame("a"), frame("b")].concat()).await.unwrap();
    let mut all = vec![0; 2 * (400 * 1024 + 4)];
    // a client that reads in big pieces
    settle().await;
    ours.read_exact(&mut all).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_pipelined_connection_whose_window_is_full_of_lost_calls_is_retired_too() {
    let (connection, _script) = pipelined(config(8)); // retires after 3
    settle().await;
    // A burst fills the window, and counts once.
    let burst = (0..8).map(|_| {
        let mut c = connection.clone();
        async move { assert!(timeout(Duration::from_secs(1), c.call("x".into())).await.is_err()) }
    });
    futures_util::future::join_all(burst).await;
    for _ in 0..100 {
        let mut c = connection.clone();
        match timeout(Duration::from_secs(1), c.call("x".into())).await {
            Err(_) => {}
            Ok(_) => return, // Retired: the request came back.
        }
    }
    panic!("100 timeouts in a row, and still not retired");
}

#[tokio::test]
async fn what_comes_before_the_first_request_is_not_its_answer() {
    let (io, script) = ScriptIo::new();
    let (mut connection, driver) = Shared::<Bytes, Bytes>::pipelined(io, codec(), config(8));
    script.deliver(frame("too many clients"));
    let mut asking = spawn(connection.call("ping".into()));
    assert!(asking.poll().is_pending());
    tokio::spawn(driver);
    settle().await;
    let Poll::Ready(result) = asking.poll() else { panic!() };
    assert!(result.is_err(), "took {result:?} for its answer");
}

#[tokio::test]
async fn an_answer_that_comes_twice_is_not_the_next_callers() {
    let (connection, script) = pipelined(config(8));
    settle().await;
    let mut first = spawn(connection.clone().call("first".into()));
    assert!(first.poll().is_pending());
    settle().await;
    script.deliver(frame("one"));
    settle().await; // answered, and its caller has not looked yet
    script.deliver(frame("one again")); // unasked
    let mut second = spawn(connection.clone().call("second".into()));
    assert!(second.poll().is_pending());
    settle().await;
    let Poll::Ready(result) = second.poll() else { panic!() };
    assert!(result.is_err(), "took {result:?} for its answer");
}

#[tokio::test(start_paused = true)]
async fn a_big_answer_on_its_way_is_a_sign_of_life() {
    let (io, script) = ScriptIo::new();
    let mut connection = connect(io, config(8).ping(Duration::from_secs(1), Duration::from_secs(1))).await;
    settle().await;
    let mut asking = spawn(connection.call(call("x")));
    assert!(asking.poll().is_pending());
    settle().await;
    let id = script.written()[8..16].to_vec();
    let answer = [&[0xa1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &id, &frame(&"y".repeat(1000))].concat();
    for byte in answer.chunks(10) {
        script.deliver(byte);
        sleep(Duration::from_millis(100)).await;
    }
    settle().await;
    let Poll::Ready(result) = asking.poll() else { panic!() };
    result.expect("bytes came all the time");
}

#[tokio::test(start_paused = true)]
async fn pings_go_out_as_often_as_asked_however_long_their_timeout() {
    let (io, script) = ScriptIo::new();
    let _connection = connect(io, config(8).ping(Duration::from_secs(3), Duration::from_secs(60))).await;
    let start = Instant::now();
    let mut at = Vec::new();
    for _ in 0..4 {
        let ping = script.take_written(16).await;
        at.push(start.elapsed().as_secs());
        script.deliver([&[0xa1, 0x10, 0, 0, 0, 0, 0, 0][..], &ping[8..16]].concat());
    }
    assert!(at[3] <= 14, "{at:?}");
}

#[tokio::test]
async fn no_call_is_cancelled_before_it_was_sent() {
    let (io, script) = ScriptIo::new();
    let connection = connect(io, config(8)).await;
    settle().await;
    script.accept(0);
    let big = || Call::new(Bytes::from(vec![b'x'; 200_000]));
    let mut calls: Vec<_> = (0..3).map(|_| spawn(connection.clone().call(big()))).collect();
    calls.iter_mut().for_each(|c| assert!(c.poll().is_pending()));
    settle().await;
    drop(calls); // the third is taken and not encoded
    settle().await;
    script.accept_all();
    settle().await;
    let (written, mut seen) = (script.written(), Vec::new());
    let mut rest = &written[..];
    while !rest.is_empty() {
        let (flags, id) = (rest[1], u64::from_be_bytes(rest[8..16].try_into().unwrap()));
        seen.push((flags, id));
        rest = &rest[16..];
        if flags == 1 {
            rest = &rest[200_004..];
        }
    }
    for (i, (flags, id)) in seen.iter().enumerate() {
        if *flags == 4 {
            assert!(!seen[i..].contains(&(1, *id)), "cancelled before it was asked: {seen:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_stops_delivers_what_it_has_answered_though_more_requests_come() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let handler = service_fn(|_: Bytes| async move {
        sleep(Duration::from_millis(200)).await;
        Ok::<_, std::io::Error>(Bytes::from(vec![7; 4 << 20]))
    });
    tokio::spawn(Server::new(codec()).serve_until(listener, handler, async {
        let _ = stopped.await;
    }));
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(&frame("a")).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    stop.send(()).unwrap();
    sleep(Duration::from_millis(50)).await;
    client.write_all(&frame("b")).await.unwrap(); // pipelined: does not know yet
    let (mut got, mut buffer) = (0, vec![0; 64 * 1024]);
    let mut end = Ok(());
    while got < (4 << 20) + 4 {
        match client.read(&mut buffer).await {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) => {
                end = Err(e);
                break;
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((got, end.is_ok()), ((4 << 20) + 4, true), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_its_time_to_arrive_is_not_idleness() {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let echo = service_fn(|request: Bytes| async move { Ok::<_, std::io::Error>(request) });
    tokio::spawn(Server::new(codec()).idle_timeout(Duration::from_secs(1)).serve(one(theirs), echo));
    for byte in frame("a request that takes its time") {
        ours.write_all(&[byte]).await.expect("closed in the middle");
        sleep(Duration::from_millis(100)).await;
    }
    let mut answer = vec![0; 33];
    ours.read_exact(&mut answer).await.expect("closed in the middle");
}

struct Looks(Plain);
impl Wake for Looks {
    fn wake(self: Arc<Self>) {}
}
impl Drop for Looks {
    fn drop(&mut self) {
        self.0.in_flight();
    }
}

fn within(f: impl FnOnce() + Send + 'static) {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        f();
        let _ = done.send(());
    });
    finished.recv_timeout(Duration::from_secs(5)).expect("deadlock");
}

#[test]
fn wakers_are_dropped_outside_the_lock_when_another_polls() {
    within(|| {
        let (io, _script) = ScriptIo::new();
        let (mut connection, _driver) = Shared::<Bytes, Bytes>::pipelined(io, codec(), config(8));
        let mut call = Box::pin(connection.call("x".into()));
        let waker = Waker::from(Arc::new(Looks(connection.clone())));
        assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    });
}
#[test]
fn wakers_are_dropped_outside_the_lock_when_a_call_is_dropped() {
    within(|| {
        let (io, _script) = ScriptIo::new();
        let (mut connection, _driver) = Shared::<Bytes, Bytes>::pipelined(io, codec(), config(8));
        let mut call = Box::pin(connection.call("x".into()));
        let waker = Waker::from(Arc::new(Looks(connection.clone())));
        assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        drop(call);
    });
}
#[test]
fn wakers_are_dropped_outside_the_lock_when_another_watches() {
    within(|| {
        let (io, _script) = ScriptIo::new();
        let (mut connection, _driver) = Shared::<Bytes, Bytes>::pipelined(io, codec(), config(8));
        let waker = Waker::from(Arc::new(Looks(connection.clone())));
        assert!(connection.poll_change(State::Idle, &mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert!(connection.poll_change(State::Idle, &mut Context::from_waker(Waker::noop())).is_pending());
    });
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_ends_a_handler_leaves_no_caller_waiting() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let handler = service_fn(|call: Call<Bytes>| async move {
        std::future::pending::<()>().await;
        Ok::<_, std::io::Error>(call.into_message())
    });
    tokio::spawn(Server::new(codec()).with_header().serve(one(theirs), handler));
    let mut connection = connect(ours, config(8)).await;
    let mut request = call("x");
    request.context_mut().limit_deadline(Instant::now() + Duration::from_millis(250));
    let _ = timeout(Duration::from_secs(3600), connection.call(request)).await.expect("hangs");
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_is_the_one_that_a_served_connection_ends_with() {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let handler = service_fn(|request: Bytes| async move {
        sleep(Duration::from_millis(request.len() as u64)).await;
        Err::<Bytes, _>(std::io::Error::other(String::from_utf8(request.to_vec()).unwrap()))
    });
    ours.write_all(&[frame("a"), frame("bbbbbb")].concat()).await.unwrap();
    let error = serve_connection(theirs, codec(), handler, 16).await.unwrap_err();
    let text = format!("{error:?}");
    assert!(!text.contains("bbbbbb"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_server_goes_on_after_a_client_has_long_not_read() {
    let (mut ours, theirs) = tokio::io::duplex(256 * 1024);
    let handler = service_fn(|_: Bytes| async move { Ok::<_, std::io::Error>(Bytes::from(vec![0; 400 * 1024])) });
    tokio::spawn(serve_connection(theirs, codec(), handler, 16));
    ours.write_all(&[frame("a"), frame("b")].concat()).await.unwrap();
    sleep(Duration::from_secs(5)).await; // well within the write timeout of 20
    let mut all = vec![0; 2 * (400 * 1024 + 4)];
    timeout(Duration::from_secs(3600), ours.read_exact(&mut all)).await.expect("hangs for ever").unwrap();
}

#[tokio::test(start_paused = true)]
async fn when_the_task_is_gone_so_is_the_stream() {
    let (io, script) = ScriptIo::new();
    let (connection, driver) = Shared::<Bytes, Bytes>::pipelined(io, codec(), config(8));
    let task = tokio::spawn(driver);
    settle().await;
    task.abort();
    sleep(Duration::from_secs(60)).await;
    assert!(script.is_closed() || script.said_goodbye(), "the peer learns nothing while a handle is there");
    drop(connection);
}

#[tokio::test]
async fn a_cancelled_handler_whose_destructor_panics_concerns_its_own_call_only() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("told to")
            }
        }
    }
    let (ours, theirs) = tokio::io::duplex(4096);
    let handler = service_fn(|call: Call<Bytes>| async move {
        if call.message() == "bomb" {
            let _b = Bomb;
            std::future::pending::<()>().await
        }
        sleep(Duration::from_millis(50)).await;
        Ok::<_, std::io::Error>(call.into_message())
    });
    tokio::spawn(Server::new(codec()).with_header().serve(one(theirs), handler));
    let connection = connect(ours, config(8)).await;
    let mut bomb = spawn(connection.clone().call(call("bomb")));
    assert!(bomb.poll().is_pending());
    settle().await;
    let mut other = connection.clone();
    let other = tokio::spawn(async move { other.call(call("other")).await });
    settle().await;
    drop(bomb);
    other.await.unwrap().expect("concerns its own call only");
}
