//! Calls over HTTP/2: how they share connections and streams, and what becomes of those that are dropped.

use std::task::{Context, Waker};
use std::time::Duration;

use h2::Reason;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncWriteExt, duplex};
use tokio::time::{Instant, timeout};
use tower::{Layer, Service, ServiceExt};
use towline_core::progress::Progress;
use towline_core::{Kind, Lend, Phase, Poolable, Room, Sent, Sharing, TokioExecutor};
use towline_http::{Http2, Http2Config, Http2Layer, MakeHttp2};
use towline_test::{cancel_at_every_poll, settle};

use crate::net::{Body, Dials, Server, ask, connect, get, http2, net, pair, pool, settings, text};

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
    for (allowed, limit) in [(10, 10), (1, 1), (0, 0), (500, 50)] {
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
async fn a_connection_whose_streams_are_all_being_read_is_full_and_the_next_call_dials() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http2(dials), 2).await;
    let reading: Vec<_> = (0..2).map(|_| tokio::spawn(handle.clone().call(get("/unread")))).collect();
    let mut first = Server::start(peers.recv().await.unwrap(), 2);
    let _bodies = [first.call().await.head(), first.call().await.head()];
    let mut unread = Vec::new();
    for call in reading {
        unread.push(call.await.unwrap().unwrap());
    }
    assert_eq!(handle.room(), Room::Cold);

    let third = ask(&handle, "/third");
    Server::start(peers.recv().await.unwrap(), 2).echo();
    assert_eq!(third.await.unwrap().unwrap(), "/third");
    assert!(first.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_allows_no_calls_is_full_and_one_that_may_be_dialled_gets_them() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http2(dials), 2).await;
    let call = ask(&handle, "/");
    let mut none = peers.recv().await.unwrap();
    none.write_all(&settings(0)).await.unwrap();
    Server::start(peers.recv().await.unwrap(), 2).echo();
    assert_eq!(call.await.unwrap().unwrap(), "/");
    assert_eq!(handle.stats().live, 2);
}

#[tokio::test(start_paused = true)]
async fn at_a_peer_that_allows_no_calls_the_wait_has_its_deadline() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http2(dials), 1).await;
    let call = ask(&handle, "/");
    let mut none = peers.recv().await.unwrap();
    none.write_all(&settings(0)).await.unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Timeout, Phase::Queue, Sent::Never));
}

// Not after the second in which the pool looks at what is being read, and although another call goes on.
#[tokio::test(start_paused = true)]
async fn a_body_that_was_read_serves_whoever_waits_for_its_stream_at_once() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http2(dials), 1).await;
    let unread = tokio::spawn(handle.clone().call(get("/unread")));
    let mut server = Server::start(peers.recv().await.unwrap(), 2);
    let mut body = server.call().await.head();
    let unread = unread.await.unwrap().unwrap();
    let _running = ask(&handle, "/running");
    let _unanswered = server.call().await;
    let waits = ask(&handle, "/waits");
    settle().await;
    assert_eq!(handle.stats().waiting, 1, "in the pool, where its wait has a deadline");

    let before = Instant::now();
    body.send_data("read".into(), true).unwrap();
    assert_eq!(text(unread).await, "read");
    server.call().await.answer("served");
    assert_eq!(waits.await.unwrap().unwrap(), "served");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_raises_its_limit_serves_whoever_waits_without_a_return() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http2(dials), 1).await;
    let _calls = [ask(&handle, "/running"), ask(&handle, "/waits")];
    let mut peer = peers.recv().await.unwrap();
    peer.write_all(&settings(1)).await.unwrap();
    settle().await;
    assert_eq!((handle.stats().in_use, handle.stats().waiting), (1, 1));
    peer.write_all(&settings(2)).await.unwrap();
    settle().await;
    assert_eq!((handle.stats().in_use, handle.stats().waiting), (2, 0));
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
            assert_eq!((error.kind(), error.sent()), (Kind::RequestBody, Sent::Maybe));
        } else {
            received.answer("answer");
            assert_eq!(text(call.await.unwrap().unwrap()).await, "answer");
        }
    }
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
            // The pool sees that the last body was read when it looks, once a second.
            tokio::time::sleep(Duration::from_secs(2)).await;
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
