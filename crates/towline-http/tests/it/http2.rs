use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::Reason;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tower::{Layer, Service, ServiceExt};
use towline_core::progress::Progress;
use towline_core::{CloseReason, Error, Kind, Lend, Phase, Poolable, Sent, Sharing, State, TokioExecutor};
use towline_http::{Http2, Http2Config, Http2Layer, MakeHttp2, ResponseBody};
use towline_test::{cancel_at_every_poll, settle};

use crate::net::{Body, Counting, Dials, Dropping, Server, get, net, pool, read, settings, text};

fn http2(dials: Dials) -> MakeHttp2<Dials, Body> {
    Http2Layer::new().layer(dials)
}

async fn connect(io: DuplexStream, config: Http2Config) -> Result<Http2<Body>, Error> {
    Http2::handshake(io, config, &TokioExecutor::current()).await
}

/// A connection, and its server that allows so many calls at once.
async fn pair(max_streams: u32) -> (Http2<Body>, Server) {
    let (ours, theirs) = duplex(64 * 1024);
    let server = Server::start(theirs, max_streams);
    (connect(ours, Http2Config::default()).await.unwrap(), server)
}

/// Asks, and reads the whole answer.
fn ask<S>(service: &S, path: &str) -> JoinHandle<Result<String, Error>>
where
    S: Service<Request<Body>, Response = Response<ResponseBody>, Error: Into<Error>, Future: Send + 'static> + Clone,
{
    let call = service.clone().call(get(path));
    tokio::spawn(async move { read(call.await.map_err(Into::into)?).await })
}

fn look(connection: &mut Http2<Body>, seen: State) -> Poll<State> {
    connection.poll_change(seen, &mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn many_calls_share_one_connection() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http2(dials), 4).await;
    tokio::spawn(async move {
        while let Some(io) = peers.recv().await {
            Server::start(io, 100).echo();
        }
    });
    let calls: Vec<_> = (0..50).map(|n| (n, ask(&handle, &format!("/{n}")))).collect();
    for (n, call) in calls {
        assert_eq!(call.await.unwrap().unwrap(), format!("/{n}"));
    }
    assert_eq!(handle.stats().opened, 1);
}

#[tokio::test(start_paused = true)]
async fn what_one_connection_cannot_carry_opens_another() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http2(dials), 2).await;
    let calls: Vec<_> = (0..5).map(|n| ask(&handle, &format!("/{n}"))).collect();
    let mut first = Server::start(peers.recv().await.unwrap(), 2);
    let mut second = Server::start(peers.recv().await.unwrap(), 2);
    let served = [first.call().await, first.call().await, second.call().await, second.call().await];
    settle().await;
    assert!(first.is_quiet() && second.is_quiet(), "the fifth waits");
    assert_eq!((handle.stats().opened, handle.stats().waiting), (2, 1));
    for call in served {
        let path = call.path.clone();
        call.answer(&path);
    }
    first.echo();
    second.echo();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), format!("/{n}"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_peers_limit_is_known_from_the_start_and_followed_up_to_our_own() {
    let (ours, mut theirs) = duplex(64 * 1024);
    let config = Http2Config::default().max_streams(50).unwrap();
    let connecting = tokio::spawn(connect(ours, config));
    settle().await;
    assert!(!connecting.is_finished(), "nobody knows the limit yet");
    theirs.write_all(&settings(3)).await.unwrap();
    let connection = connecting.await.unwrap().unwrap();
    assert_eq!(connection.sharing(), Sharing::Shared { limit: 3 });
    for (allowed, limit) in [(10, 10), (1, 1), (0, 1), (500, 50)] {
        theirs.write_all(&settings(allowed)).await.unwrap();
        settle().await;
        assert_eq!(connection.sharing(), Sharing::Shared { limit }, "the peer allows {allowed}");
    }

    let (ours, mut theirs) = duplex(64 * 1024);
    theirs.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let connection = connect(ours, config).await.unwrap();
    assert_eq!(connection.sharing(), Sharing::Shared { limit: 50 }, "a peer that sets no limit");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_being_read_takes_its_stream() {
    let (connection, mut server) = pair(3).await;
    let call = tokio::spawn(connection.clone().call(get("/a")));
    let mut body = server.call().await.head();
    let response = call.await.unwrap().unwrap();
    assert_eq!(connection.sharing(), Sharing::Shared { limit: 2 });
    body.send_data("answer".into(), true).unwrap();
    assert_eq!(text(response).await, "answer");
    assert_eq!(connection.sharing(), Sharing::Shared { limit: 3 });

    let call = tokio::spawn(connection.clone().call(get("/b")));
    server.call().await.head();
    let response = call.await.unwrap().unwrap();
    assert_eq!(connection.sharing(), Sharing::Shared { limit: 2 });
    drop(response);
    assert_eq!(connection.sharing(), Sharing::Shared { limit: 3 });
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_stream_waits_its_turn() {
    let (connection, mut server) = pair(1).await;
    let first = ask(&connection, "/0");
    let running = server.call().await;
    let calls: Vec<_> = (1..4).map(|n| (format!("/{n}"), ask(&connection, &format!("/{n}")))).collect();
    settle().await;
    assert!(server.is_quiet());
    running.answer("/0");
    assert_eq!(first.await.unwrap().unwrap(), "/0");
    for (path, call) in calls {
        let next = server.call().await;
        assert_eq!(next.path, path);
        settle().await;
        assert!(server.is_quiet());
        next.answer("answer");
        assert_eq!(call.await.unwrap().unwrap(), "answer");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_that_is_dropped_leaves_the_queue_and_nobody_overtakes_it() {
    let (connection, mut server) = pair(1).await;
    let first = ask(&connection, "/first");
    let running = server.call().await;
    let mut progress = Progress::default();
    let mut dropped = Box::pin(connection.clone().call(get("/dropped")));
    progress.scope(|| assert!(dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()));
    let mut later = vec![("/second", ask(&connection, "/second"))];
    settle().await;
    running.answer("first");
    assert_eq!(first.await.unwrap().unwrap(), "first");
    later.push(("/newcomer", ask(&connection, "/newcomer")));
    settle().await;
    assert!(server.is_quiet(), "its turn has come, and it does not take it");

    progress.scope(|| drop(dropped));
    assert_eq!(progress.sent(), Sent::Never);
    for (path, call) in later {
        let next = server.call().await;
        assert_eq!(next.path, path);
        next.answer("answer");
        assert_eq!(call.await.unwrap().unwrap(), "answer");
    }
}

#[tokio::test(start_paused = true)]
async fn the_queue_for_streams_is_bounded() {
    let (ours, theirs) = duplex(64 * 1024);
    let mut server = Server::start(theirs, 1);
    let connection = connect(ours, Http2Config::default().max_streams(2).unwrap()).await.unwrap();
    let calls: Vec<_> = (0..3).map(|n| ask(&connection, &format!("/{n}"))).collect();
    let _running = server.call().await;
    settle().await;
    let rejected = connection.clone().call(get("/refused")).await.unwrap_err();
    assert_eq!((rejected.error.kind(), rejected.error.sent()), (Kind::Overloaded, Sent::Never));
    assert!(rejected.request.is_some());
    drop(calls);
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
    // Two responses that are being read take both streams, and the pool takes the connection for a free one.
    let reading: Vec<_> = (0..2).map(|_| tokio::spawn(handle.clone().call(get("/reading")))).collect();
    let mut first = Server::start(peers.recv().await.unwrap(), 2);
    let mut bodies = [first.call().await.head(), first.call().await.head()];
    let mut responses = Vec::new();
    for call in reading {
        responses.push(call.await.unwrap().unwrap());
    }
    let waiting = ask(&handle, "/waiting");
    settle().await;
    assert!(first.is_quiet());

    first.go_away().await;
    let mut second = Server::start(peers.recv().await.unwrap(), 2);
    let moved = second.call().await;
    assert_eq!(moved.path, "/waiting");
    moved.answer("moved");
    assert_eq!(waiting.await.unwrap().unwrap(), "moved");
    assert!(first.is_quiet(), "it was sent once");

    for (body, response) in bodies.iter_mut().zip(responses) {
        body.send_data("whole".into(), true).unwrap();
        assert_eq!(text(response).await, "whole", "what was in flight finishes");
    }
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

// F2
#[tokio::test(start_paused = true)]
async fn a_cancelled_call_resets_its_stream_and_leaves_the_connection_usable() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http2(dials), 1).await;
    let call = tokio::spawn(handle.clone().call(get("/cancelled")));
    let mut server = Server::start(peers.recv().await.unwrap(), 1);
    let running = server.call().await;
    call.abort();
    assert_eq!(running.was_reset().await, Reason::CANCEL);

    let call = tokio::spawn(handle.clone().call(get("/dropped")));
    let mut body = server.call().await.head();
    body.send_data("some".into(), false).unwrap();
    let mut response = call.await.unwrap().unwrap();
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "some");
    drop(response);
    assert_eq!(std::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap(), Reason::CANCEL);

    server.echo();
    for n in 0..10 {
        assert_eq!(ask(&handle, &format!("/{n}")).await.unwrap().unwrap(), format!("/{n}"));
    }
    assert_eq!(handle.stats().opened, 1);
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
    assert!(timeout(Duration::from_secs(1), read(response)).await.unwrap().is_err());
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
async fn a_watcher_hears_of_each_change() {
    let (mut connection, mut server) = pair(100).await;
    let mut other = connection.clone();
    let mut until = async |seen| {
        let change = std::future::poll_fn(|cx| connection.poll_change(seen, cx));
        timeout(Duration::from_secs(1), change).await.expect("it wakes")
    };
    let call = ask(&other, "/");
    assert_eq!(until(State::Idle).await, State::Busy);
    server.call().await.answer("answer");
    assert_eq!(until(State::Busy).await, State::Idle);
    assert_eq!(call.await.unwrap().unwrap(), "answer");

    let call = tokio::spawn(other.call(get("/")));
    let running = server.call().await;
    server.go_away().await;
    assert_eq!(until(State::Busy).await, State::Draining);
    running.answer("answer");
    assert_eq!(text(call.await.unwrap().unwrap()).await, "answer");
    assert_eq!(until(State::Draining).await, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_body_fails_says_so_and_leaves_the_connection_usable() {
    let (ours, theirs) = duplex(64 * 1024);
    let mut server = Server::start(theirs, 1);
    let executor = TokioExecutor::current();
    let mut connection = Http2::handshake(ours, Http2Config::default(), &executor).await.unwrap();
    for fails in [true, false] {
        let last = match fails {
            true => Err(std::io::Error::other("no body")),
            false => Ok(http_body::Frame::data(bytes::Bytes::from("body"))),
        };
        let frames = futures_util::stream::once(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            last
        });
        let body = http_body_util::StreamBody::new(Box::pin(frames));
        let call = tokio::spawn(connection.call(Request::post("http://peer/").body(body).unwrap()));
        let received = server.call().await;
        if fails {
            let error = call.await.unwrap().unwrap_err().error;
            assert_eq!((error.kind(), error.sent()), (Kind::Other, Sent::Maybe));
        } else {
            received.answer("answer");
            assert_eq!(text(call.await.unwrap().unwrap()).await, "answer");
        }
    }
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

// F2
#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_the_next_call_gets_its_own_answer() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http2(dials), 1).await;
    tokio::spawn(async move {
        while let Some(io) = peers.recv().await {
            let mut server = Server::start(io, 2);
            tokio::spawn(async move {
                while let Some(call) = server.next_call().await {
                    tokio::spawn(async move {
                        let path = call.path.clone();
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        let mut body = call.head();
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        let _cancelled = body.send_data(path.into(), true);
                    });
                }
            });
        }
    });
    let polls = cancel_at_every_poll(
        || {
            let call = handle.clone().call(get("/dropped"));
            async move { assert_eq!(text(call.await.unwrap()).await, "/dropped") }
        },
        |_| async {
            assert_eq!(text(handle.clone().call(get("/next")).await.unwrap()).await, "/next");
            settle().await;
            let stats = handle.stats();
            assert_eq!((stats.in_use, stats.dialling, stats.waiting, stats.live), (0, 0, 0, 1));
        },
    )
    .await;
    assert!(polls >= 3, "{polls} polls");
    assert_eq!(handle.stats().opened, 1);
    let connection = handle.lend(None).await.unwrap();
    assert_eq!(connection.sharing(), Sharing::Shared { limit: 2 }, "every stream was given back");
}

// F1, F2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_on_few_connections_never_mix_answers() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let echo = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
                Ok::<_, hyper::Error>(Response::new(request.into_body()))
            });
            let mut server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            server.max_concurrent_streams(8);
            tokio::spawn(server.serve_connection(hyper_util::rt::TokioIo::new(io), echo));
        }
    });
    let connect = tower::service_fn(move |_: &'static str| tokio::net::TcpStream::connect(address));
    let (handle, _) = pool(Http2Layer::<Body>::new().layer(connect), 2).await;
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let mut handle = handle.clone();
            tokio::spawn(async move {
                for turn in 0..40 {
                    let said = format!("{caller}:{turn}:").repeat(if turn == 25 { 200_000 } else { 1 + turn * 20 });
                    let request = Request::post("http://peer/").body(said.clone().into()).unwrap();
                    let call = handle.ready().await.unwrap().call(request);
                    if turn % 7 == 6 {
                        let _dropped_somewhere = timeout(Duration::from_micros(turn as u64 * 20), call).await;
                        continue;
                    }
                    let response = call.await.unwrap();
                    if turn % 10 == 9 {
                        drop(response);
                    } else {
                        assert_eq!(text(response).await, said);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(handle.stats().opened <= 2);
}

#[test]
fn connections_makers_and_their_futures_go_where_they_are_needed() {
    fn send<T: Send>() {}
    fn everywhere<T: Clone + Send + Sync + 'static>() {}
    everywhere::<Http2<Body>>();
    everywhere::<MakeHttp2<Dials, Body>>();
    everywhere::<towline_http::MakeHttp1<Dials, Body>>();
    send::<towline_http::Http1<Body>>();
    send::<towline_http::Http1Future<Body>>();
    send::<towline_http::Http2Future<Body>>();
    send::<<MakeHttp2<Dials, Body> as Service<&'static str>>::Future>();
}
