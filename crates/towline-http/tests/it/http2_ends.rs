//! How HTTP/2 connections end: by GOAWAY, silence, failure, their peer or their last handle, and what their calls hear.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::Reason;
use http::Request;
use tokio::io::{AsyncWriteExt, duplex};
use tokio::time::{Instant, timeout};
use tower::{Layer, Service, ServiceExt};
use towline_core::{CloseReason, Kind, Lend, Phase, Poolable, Sent, State, TokioExecutor};
use towline_http::{Http2, Http2Config, Http2Layer};
use towline_test::settle;

use crate::net::{Body, Counting, Dropping, Server, ask, connect, get, http2, net, pair, pool, read, settings, text};

fn look(connection: &mut Http2<Body>, seen: State) -> Poll<State> {
    connection.poll_change(seen, &mut Context::from_waker(Waker::noop()))
}

// F38
#[tokio::test(start_paused = true)]
async fn after_a_goaway_calls_in_flight_finish_and_the_next_goes_elsewhere() {
    let (dials, mut peers) = net();
    let (handle, closings) = pool(http2(dials), 2).await;
    let old = ask(&handle, "/old");
    let mut first = Server::start(peers.recv().await.unwrap(), 100);
    let running = first.call().await;
    first.go_away().await;
    settle().await;
    assert_eq!(handle.stats().live, 1, "it drains");

    let new = ask(&handle, "/new");
    Server::start(peers.recv().await.unwrap(), 100).echo();
    assert_eq!(new.await.unwrap().unwrap(), "/new");
    assert_eq!(closings.seen(), []);

    running.answer("old");
    assert_eq!(old.await.unwrap().unwrap(), "old");
    settle().await;
    assert_eq!(closings.seen(), [CloseReason::Drained]);
    assert_eq!((handle.stats().opened, handle.stats().live), (2, 1));
}

// F38
#[tokio::test(start_paused = true)]
async fn a_goaway_evicts_an_idle_connection_without_a_caller() {
    let (dials, mut peers) = net();
    let (handle, closings) = pool(http2(dials), 2).await;
    let lent = tokio::spawn(handle.lend(None));
    let server = Server::start(peers.recv().await.unwrap(), 100);
    drop(lent.await.unwrap().unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(handle.stats().live, 1);
    server.go_away().await;
    settle().await;
    assert_eq!((handle.stats().live, closings.seen()), (0, vec![CloseReason::Drained]));
}

// F38
#[tokio::test(start_paused = true)]
async fn unsent_calls_move_to_another_connection_uncounted() {
    let (dials, mut peers) = net();
    let (handle, closings) = pool(http2(dials), 2).await;
    // Two responses that are being read take both streams, while another
    // call was lent the connection before, and begins after.
    let lending = [(); 2].map(|()| tokio::spawn(handle.lend(None)));
    let mut first = Server::start(peers.recv().await.unwrap(), 2);
    let lent = futures_util::future::try_join_all(lending).await.unwrap();
    let [reads, mut waits] = <[_; 2]>::try_from(lent).unwrap().map(Result::unwrap);
    let (mut bodies, mut responses) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let call = tokio::spawn(Http2::clone(&reads).call(get("/reading")));
        bodies.push(first.call().await.head());
        responses.push(call.await.unwrap().unwrap());
    }
    let waiting = tokio::spawn(waits.call(get("/waiting")));
    settle().await;
    assert!(first.is_quiet());

    first.go_away().await;
    let mut second = Server::start(peers.recv().await.unwrap(), 2);
    let moved = second.call().await;
    assert_eq!(moved.path, "/waiting");
    moved.answer("moved");
    assert_eq!(text(waiting.await.unwrap().unwrap()).await, "moved");
    assert!(first.is_quiet(), "it was sent once");

    for (body, response) in bodies.iter_mut().zip(responses) {
        body.send_data("whole".into(), true).unwrap();
        assert_eq!(text(response).await, "whole", "what was in flight finishes");
    }
    drop(reads);
    settle().await;
    assert_eq!(closings.seen(), [CloseReason::Drained]);
}

#[tokio::test(start_paused = true)]
async fn what_the_peer_has_not_processed_counts_as_unsent() {
    let (connection, mut server) = pair(100).await;
    let call = ask(&connection, "/");
    server.call().await.reset(Reason::REFUSED_STREAM);
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Overloaded, Sent::Never));
    assert_eq!(error.find::<h2::Error>().unwrap().reason(), Some(Reason::REFUSED_STREAM));

    let call = ask(&connection, "/");
    server.call().await.reset(Reason::INTERNAL_ERROR);
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Server, Sent::Maybe));

    // A GOAWAY for calls up to none, while one is under way.
    let (ours, mut theirs) = duplex(64 * 1024);
    theirs.write_all(&settings(100)).await.unwrap();
    let connection = connect(ours, Http2Config::default()).await.unwrap();
    let call = ask(&connection, "/");
    settle().await;
    theirs.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Closed, Sent::Never));
    assert_eq!(connection.close_reason(), CloseReason::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_goaway_with_an_error_is_a_failure() {
    let (mut connection, mut server) = pair(100).await;
    let call = ask(&connection, "/");
    let running = server.call().await;
    server.go_away_because(Reason::ENHANCE_YOUR_CALM).await;
    settle().await;
    assert_eq!(connection.close_reason(), CloseReason::Failed);
    assert!(matches!(look(&mut connection, State::Busy), Poll::Ready(State::Draining | State::Closed)));
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.phase(), Phase::Read);
    drop(running);
}

// F9
#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_ping_is_evicted() {
    for idle in [true, false] {
        let (dials, mut peers) = net();
        let config = Http2Config::default().ping(Duration::from_secs(10), Duration::from_secs(5)).ping_while_idle(idle);
        let (handle, closings) = pool(Http2Layer::<Body>::new().with_config(config).layer(dials), 1).await;
        let started = Instant::now();
        let call = (!idle).then(|| ask(&handle, "/"));
        let lent = idle.then(|| tokio::spawn(handle.lend(None)));
        let mut silent = peers.recv().await.unwrap();
        silent.write_all(&settings(100)).await.unwrap();
        if let Some(lent) = lent {
            drop(lent.await.unwrap().unwrap());
        }
        if let Some(call) = call {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!((error.kind(), error.sent()), (Kind::Timeout, Sent::Maybe));
        } else {
            tokio::time::sleep(Duration::from_secs(16)).await;
        }
        settle().await;
        assert!(started.elapsed() < Duration::from_secs(17), "{:?}", started.elapsed());
        assert_eq!((handle.stats().live, closings.seen()), (0, vec![CloseReason::Unresponsive]));
    }
}

#[tokio::test(start_paused = true)]
async fn aborting_ends_the_connection_with_its_calls() {
    let (mut connection, mut server) = pair(1).await;
    let running = ask(&connection, "/running");
    let waiting = tokio::spawn(connection.clone().call(get("/waiting")));
    let _unanswered = server.call().await;
    connection.abort();
    let error = timeout(Duration::from_secs(1), running).await.unwrap().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Closed, Sent::Maybe));
    let rejected = waiting.await.unwrap().unwrap_err();
    assert_eq!((rejected.error.kind(), rejected.error.sent()), (Kind::Closed, Sent::Never));
    assert!(rejected.request.is_some());
    assert_eq!(look(&mut connection, State::Busy), Poll::Ready(State::Closed));
    assert_eq!(connection.close_reason(), CloseReason::Shutdown);

    let (mut connection, mut server) = pair(1).await;
    let call = tokio::spawn(connection.clone().call(get("/reading")));
    let _body = server.call().await.head();
    let response = call.await.unwrap().unwrap();
    connection.abort();
    let error = timeout(Duration::from_secs(1), read(response)).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Closed, Phase::Read, Sent::Maybe));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_its_peer_cuts_short_says_so() {
    let (connection, mut server) = pair(1).await;
    let call = tokio::spawn(connection.clone().call(get("/reading")));
    let _body = server.call().await.head();
    let response = call.await.unwrap().unwrap();
    server.hang_up().await;
    let error = timeout(Duration::from_secs(1), read(response)).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::UnexpectedEof, Sent::Maybe), "{error:?}");
}

// F5
#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_its_peer_ends_is_evicted_without_a_caller() {
    let (dials, mut peers) = net();
    let (handle, closings) = pool(http2(dials), 1).await;
    let lent = tokio::spawn(handle.lend(None));
    let server = Server::start(peers.recv().await.unwrap(), 100);
    drop(lent.await.unwrap().unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(handle.stats().live, 1);
    server.hang_up().await;
    settle().await;
    assert_eq!(handle.stats().live, 0);
    assert_eq!(closings.seen(), [CloseReason::Peer]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_speak_http2_fails_the_handshake() {
    let (ours, mut theirs) = duplex(64 * 1024);
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await.unwrap();
    let error = connect(ours, Http2Config::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Malformed, Phase::Handshake, Sent::Never));

    let (ours, _silent) = duplex(64 * 1024);
    let started = Instant::now();
    let error = connect(ours, Http2Config::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Timeout, Phase::Handshake, Sent::Never));
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert!(error.to_string().contains("does it speak HTTP/2?"), "{error}");

    let (ours, theirs) = duplex(64 * 1024);
    drop(theirs);
    let error = connect(ours, Http2Config::default()).await.unwrap_err();
    assert_eq!((error.phase(), error.sent()), (Phase::Handshake, Sent::Never));
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_handle_after_what_is_being_read() {
    let (ours, theirs) = duplex(64 * 1024);
    let mut server = Server::start(theirs, 100);
    let tasks = Counting::default();
    let connection: Http2<Body> = Http2::handshake(ours, Http2Config::default(), &tasks).await.unwrap();
    let call = tokio::spawn(connection.oneshot(get("/")));
    let mut body = server.call().await.head();
    let response = call.await.unwrap().unwrap();
    settle().await;
    assert_eq!(tasks.running(), 1, "a response is being read");
    body.send_data("answer".into(), true).unwrap();
    assert_eq!(text(response).await, "answer");
    settle().await;
    assert_eq!(tasks.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_takes_a_second_at_most() {
    // The peer reads nothing, and its pipe has just room for the preface.
    let (ours, mut theirs) = duplex(80);
    theirs.write_all(&settings(100)).await.unwrap();
    let tasks = Counting::default();
    let connecting = Http2::<Body>::handshake(ours, Http2Config::default(), &tasks);
    let connection = timeout(Duration::from_secs(1), connecting).await.unwrap().unwrap();
    let call = tokio::spawn(connection.oneshot(get(&format!("/{}", "long".repeat(100)))));
    settle().await;
    call.abort();
    settle().await;
    assert_eq!(tasks.running(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    settle().await;
    assert_eq!(tasks.running(), 0);
}

// F40
#[tokio::test(start_paused = true)]
async fn a_call_whose_task_is_gone_hears_of_it() {
    let (ours, theirs) = duplex(64 * 1024);
    let _server = Server::start(theirs, 100);
    let mut connection: Http2<Body> = Http2::handshake(ours, Http2Config::default(), &Dropping).await.unwrap();
    let rejected = connection.call(get("/")).await.unwrap_err();
    assert_eq!((rejected.error.kind(), rejected.error.sent()), (Kind::Closed, Sent::Never));
    assert_eq!(look(&mut connection, State::Idle), Poll::Ready(State::Closed));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let (ours, theirs) = duplex(64 * 1024);
    let mut server = Server::start(theirs, 100);
    let executor = TokioExecutor::on(runtime.handle().clone());
    let connection: Http2<Body> = Http2::handshake(ours, Http2Config::default(), &executor).await.unwrap();
    let call = ask(&connection, "/");
    let _unanswered = server.call().await;
    runtime.shutdown_background();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Runtime, Sent::Maybe));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_when_the_connection_takes_no_more_calls_and_sees_the_rest_when_it_looks() {
    let (mut connection, mut server) = pair(100).await;
    let mut other = connection.clone();
    let mut until = async |seen| {
        let change = std::future::poll_fn(|cx| connection.poll_change(seen, cx));
        timeout(Duration::from_secs(1), change).await.expect("it wakes")
    };
    let call = ask(&other, "/");
    let served = server.call().await;
    assert_eq!(until(State::Idle).await, State::Busy);
    served.answer("answer");
    assert_eq!(call.await.unwrap().unwrap(), "answer");
    assert_eq!(until(State::Busy).await, State::Idle);

    let call = tokio::spawn(other.call(get("/")));
    let running = server.call().await;
    server.go_away().await;
    assert_eq!(until(State::Busy).await, State::Draining);
    running.answer("answer");
    assert_eq!(text(call.await.unwrap().unwrap()).await, "answer");
    assert_eq!(until(State::Draining).await, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_before_the_response_may_have_had_the_request() {
    let (connection, mut server) = pair(100).await;
    let call = ask(&connection, "/");
    let _unanswered = server.call().await;
    server.hang_up().await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::UnexpectedEof, Phase::Read, Sent::Maybe));
    assert_eq!(connection.close_reason(), CloseReason::Peer);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_body_never_ends_does_not_keep_a_connection_that_is_gone() {
    let (ours, theirs) = duplex(64 * 1024);
    let mut server = Server::start(theirs, 1);
    let tasks = Counting::default();
    let mut connection = Http2::handshake(ours, Http2Config::default(), &tasks).await.unwrap();
    let endless = futures_util::stream::pending::<std::io::Result<http_body::Frame<bytes::Bytes>>>();
    let request = Request::post("http://peer/").body(http_body_util::StreamBody::new(endless)).unwrap();
    let call = tokio::spawn(connection.call(request));
    let mut body = server.call().await.head();
    let response = call.await.unwrap().unwrap();
    body.send_data("some".into(), false).unwrap();
    settle().await;
    server.hang_up().await;
    settle().await;
    assert_eq!(
        connection.poll_change(State::Busy, &mut Context::from_waker(Waker::noop())),
        Poll::Ready(State::Closed)
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    settle().await;
    assert_eq!(tasks.running(), 0);
    assert!(read(response).await.is_err());
}
