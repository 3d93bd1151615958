use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http1::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt};
use towline_core::progress::Progress;
use towline_core::{CloseReason, Kind, Lend, Phase, Poolable, Sent, Sharing, State, TokioExecutor};
use towline_http::{Http1, Http1Layer};
use towline_test::{ScriptIo, cancel_at_every_poll, settle};

use crate::net::{
    Body, Counting, Dropping, echo_server, get, http1, net, next_request, ok, pool, read, request, rest, say, text,
};

async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Http1<Body> {
    Http1::handshake(io, &Builder::new(), &TokioExecutor::current()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connection_carries_one_call_after_the_other() {
    let (dials, mut peers) = net();
    let (mut handle, _) = pool(http1(dials), 4).await;
    tokio::spawn(async move {
        let mut peer = peers.recv().await.unwrap();
        while let Some(path) = next_request(&mut peer).await {
            say(&mut peer, &ok(&path)).await;
        }
    });
    for path in ["/a", "/b", "/c"] {
        assert_eq!(text(handle.call(get(path)).await.unwrap()).await, path);
        settle().await;
    }
    let stats = handle.stats();
    assert_eq!((stats.opened, stats.idle), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_free_only_when_the_body_was_read_to_its_end() {
    let (dials, mut peers) = net();
    let (mut handle, _) = pool(http1(dials), 2).await;
    let mut first = handle.clone();
    let call = tokio::spawn(async move { first.call(get("/first")).await });
    let mut peer = peers.recv().await.unwrap();
    request(&mut peer).await;
    say(&mut peer, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234").await;
    let response = call.await.unwrap().unwrap();
    settle().await;
    assert_eq!((handle.stats().idle, handle.stats().in_use), (0, 1), "its response is being read");

    let mut another = handle.clone();
    let call = tokio::spawn(async move { another.call(get("/second")).await });
    let mut other = peers.recv().await.unwrap();
    assert_eq!(request(&mut other).await, "/second");
    say(&mut other, &ok("second")).await;
    assert_eq!(text(call.await.unwrap().unwrap()).await, "second");

    say(&mut peer, "56789").await;
    assert_eq!(text(response).await, "0123456789");
    settle().await;
    assert_eq!((handle.stats().opened, handle.stats().idle), (2, 2));
    drop(handle.call(get("/third")));
}

// F1: the rest of an answer must never be taken for the next one.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_half_way_closes_the_connection() {
    for rest_is_there in [false, true] {
        let (dials, mut peers) = net();
        let (mut handle, closings) = pool(http1(dials), 1).await;
        let mut first = handle.clone();
        let call = tokio::spawn(async move { first.call(get("/first")).await });
        let mut peer = peers.recv().await.unwrap();
        request(&mut peer).await;
        say(&mut peer, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234").await;
        let mut response = call.await.unwrap().unwrap();
        assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "01234");
        if rest_is_there {
            say(&mut peer, "56789").await;
        }
        drop(response);
        assert_eq!(rest(&mut peer).await, b"");

        let next = tokio::spawn(async move { handle.call(get("/next")).await });
        let mut peer = peers.recv().await.unwrap();
        assert_eq!(request(&mut peer).await, "/next");
        say(&mut peer, &ok("next")).await;
        assert_eq!(text(next.await.unwrap().unwrap()).await, "next");
        assert_eq!(closings.seen(), [CloseReason::Dirty, CloseReason::Shutdown]);
    }
}

// F1, F3
#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_half_way_closes_the_connection() {
    let (dials, mut peers) = net();
    let (mut handle, closings) = pool(http1(dials), 1).await;
    let mut first = handle.clone();
    let call = tokio::spawn(async move { first.call(get("/first")).await });
    let mut peer = peers.recv().await.unwrap();
    request(&mut peer).await;
    call.abort();
    assert_eq!(rest(&mut peer).await, b"");

    let next = tokio::spawn(async move { handle.call(get("/next")).await });
    let mut peer = peers.recv().await.unwrap();
    assert_eq!(request(&mut peer).await, "/next");
    say(&mut peer, &ok("next")).await;
    assert_eq!(text(next.await.unwrap().unwrap()).await, "next");
    assert_eq!(closings.seen(), [CloseReason::Dirty, CloseReason::Shutdown]);
}

// F5
#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_its_peer_ends_is_evicted_without_a_caller() {
    let (dials, mut peers) = net();
    let (handle, closings) = pool(http1(dials), 1).await;
    drop(handle.lend(None).await.unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(handle.stats().live, 1);
    drop(peers.recv().await.unwrap());
    settle().await;
    assert_eq!(handle.stats().live, 0);
    assert_eq!(closings.seen(), [CloseReason::Peer]);
}

// F7
#[tokio::test(start_paused = true)]
async fn bytes_that_nobody_asked_for_evict_an_idle_connection() {
    let (dials, mut peers) = net();
    let (mut handle, closings) = pool(http1(dials), 1).await;
    drop(handle.lend(None).await.unwrap());
    let mut peer = peers.recv().await.unwrap();
    say(&mut peer, &ok("stray")).await;
    settle().await;
    assert_eq!((handle.stats().live, closings.seen()), (0, vec![CloseReason::Stray]));

    let next = tokio::spawn(async move { handle.call(get("/next")).await });
    let mut peer = peers.recv().await.unwrap();
    request(&mut peer).await;
    say(&mut peer, &ok("next")).await;
    assert_eq!(text(next.await.unwrap().unwrap()).await, "next");
}

// F7: without a moment in which anybody could have noticed.
#[tokio::test(start_paused = true)]
async fn an_answer_that_was_there_before_its_request_is_nobodys() {
    let (dials, mut peers) = net();
    let (mut handle, closings) = pool(http1(dials), 1).await;
    drop(handle.lend(None).await.unwrap());
    let mut peer = peers.recv().await.unwrap();
    say(&mut peer, &ok("stray")).await;
    let next = handle.call(get("/next"));
    let answer = tokio::spawn(async move {
        let mut peer = peers.recv().await.unwrap();
        assert_eq!(request(&mut peer).await, "/next");
        say(&mut peer, &ok("next")).await;
        peer
    });
    assert_eq!(text(next.await.unwrap()).await, "next", "the request came back unsent, and went elsewhere");
    assert_eq!(closings.seen(), [CloseReason::Stray]);
    drop(answer.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_come_with_the_end_of_a_response_evict() {
    for head_first in [false, true] {
        let (dials, mut peers) = net();
        let (mut handle, closings) = pool(http1(dials), 1).await;
        let call = tokio::spawn(handle.call(get("/first")));
        let mut peer = peers.recv().await.unwrap();
        request(&mut peer).await;
        let (head, tail) = ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "first".to_owned() + &ok("stray"));
        if head_first {
            say(&mut peer, head).await;
            let response = call.await.unwrap().unwrap();
            say(&mut peer, &tail).await;
            assert_eq!(text(response).await, "first");
        } else {
            say(&mut peer, &(head.to_owned() + &tail)).await;
            assert_eq!(text(call.await.unwrap().unwrap()).await, "first");
        }

        let next = tokio::spawn(handle.call(get("/next")));
        let mut peer = peers.recv().await.unwrap();
        request(&mut peer).await;
        say(&mut peer, &ok("next")).await;
        assert_eq!(text(next.await.unwrap().unwrap()).await, "next");
        assert_eq!(closings.seen(), [CloseReason::Stray]);
    }
}

// F6
#[tokio::test(start_paused = true)]
async fn a_request_that_meets_a_fin_goes_to_another_connection() {
    let (dials, mut peers) = net();
    let (mut handle, closings) = pool(http1(dials), 1).await;
    drop(handle.lend(None).await.unwrap());
    drop(peers.recv().await.unwrap()); // Nobody has noticed when the call is made.
    let next = handle.call(get("/next"));
    tokio::spawn(async move {
        let mut peer = peers.recv().await.unwrap();
        request(&mut peer).await;
        say(&mut peer, &ok("next")).await;
        rest(&mut peer).await;
    });
    assert_eq!(text(next.await.unwrap()).await, "next");
    assert_eq!((handle.stats().opened, closings.seen()), (2, vec![CloseReason::Peer]));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_it_is_the_last_response_is_believed() {
    for head in ["HTTP/1.1 200 OK\r\nconnection: keep-alive, Close\r\n", "HTTP/1.0 200 OK\r\n"] {
        for (length, ends) in [("content-length: 4\r\n", false), ("", true)] {
            let (dials, mut peers) = net();
            let (mut handle, closings) = pool(http1(dials), 1).await;
            let mut first = handle.clone();
            let call = tokio::spawn(async move { first.call(get("/first")).await });
            let mut peer = peers.recv().await.unwrap();
            request(&mut peer).await;
            say(&mut peer, &format!("{head}{length}\r\nlast")).await;
            let response = call.await.unwrap().unwrap();
            if ends {
                drop(peer);
            }
            assert_eq!(text(response).await, "last");
            settle().await;
            assert_eq!(closings.seen(), [CloseReason::Drained], "{head}{length}");
            drop(handle.call(get("/unpolled")));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_before_the_response_may_have_had_the_request() {
    let (dials, mut peers) = net();
    let (mut handle, closings) = pool(http1(dials), 1).await;
    let call = tokio::spawn(handle.call(get("/first")));
    let mut peer = peers.recv().await.unwrap();
    request(&mut peer).await;
    drop(peer);
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::UnexpectedEof, Phase::Read, Sent::Maybe));
    assert_eq!(error.endpoint().unwrap().as_str(), "peer");
    assert!(error.find::<hyper::Error>().is_some());
    settle().await;
    assert_eq!(closings.seen(), [CloseReason::Peer]);
}

// F4
#[tokio::test(start_paused = true)]
async fn a_body_that_is_cut_short_is_an_error_of_its_own() {
    let (dials, mut peers) = net();
    let (mut handle, closings) = pool(http1(dials), 1).await;
    let call = tokio::spawn(handle.call(get("/first")));
    let mut peer = peers.recv().await.unwrap();
    request(&mut peer).await;
    say(&mut peer, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234").await;
    let response = call.await.unwrap().unwrap();
    drop(peer);
    let error = read(response).await.unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::UnexpectedEof, Phase::Read, Sent::Maybe));
    settle().await;
    assert_eq!(closings.seen(), [CloseReason::Peer]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http_is_malformed() {
    let (dials, mut peers) = net();
    let (mut handle, closings) = pool(http1(dials), 1).await;
    let call = tokio::spawn(handle.call(get("/first")));
    let mut peer = peers.recv().await.unwrap();
    request(&mut peer).await;
    say(&mut peer, "220 mail.example ESMTP\r\n\r\n").await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Malformed, Sent::Maybe));
    settle().await;
    assert_eq!(closings.seen(), [CloseReason::Failed]);
}

// F3, F8
#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_no_byte_was_sent_none() {
    for (accepts, sent) in [(0, Sent::Never), (5, Sent::Maybe)] {
        let (io, script) = ScriptIo::new();
        let mut connection = over(io).await;
        settle().await;
        script.accept_then_fail(accepts, io::ErrorKind::ConnectionReset);
        let rejected = connection.call(get("/")).await.unwrap_err();
        assert_eq!(rejected.error.sent(), sent, "{accepts} bytes were accepted: {}", rejected.error);
        assert_eq!(rejected.error.kind(), Kind::Io);
        assert_eq!(connection.close_reason(), CloseReason::Peer);
    }
}

// F3
#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_a_byte_left_says_so_and_nothing_leaves_after_it() {
    for (accepts, sent) in [(None, Sent::Never), (Some(5), Sent::Maybe)] {
        let (io, script) = ScriptIo::new();
        let mut connection = over(io).await;
        settle().await;
        script.accept(accepts.unwrap_or(usize::MAX));
        let mut progress = Progress::default();
        let mut call = Box::pin(connection.call(get("/")));
        progress.scope(|| {
            assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        });
        if accepts.is_some() {
            settle().await; // hyper's turn
        }
        progress.scope(|| drop(call));
        assert_eq!(progress.sent(), sent);
        settle().await;
        assert_eq!(script.written().len(), accepts.unwrap_or(0));
        assert!(script.is_closed());
        assert_eq!(connection.close_reason(), CloseReason::Dirty);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_never_polled_leaves_the_connection_as_it_is() {
    let (io, script) = ScriptIo::new();
    let mut connection = over(io).await;
    drop(connection.call(get("/unpolled")));
    settle().await;
    script.reply(ok("answer"));
    let response = connection.ready().await.unwrap().call(get("/")).await.unwrap();
    assert_eq!(text(response).await, "answer");
}

#[tokio::test(start_paused = true)]
async fn a_connection_carries_one_call_at_a_time() {
    let (io, _script) = ScriptIo::new();
    let mut connection = over(io).await;
    assert_eq!(connection.sharing(), Sharing::Exclusive);
    let first = connection.call(get("/first"));
    let second = connection.call(get("/second"));
    let first = tokio::spawn(first);
    settle().await;
    let rejected = second.await.unwrap_err();
    assert_eq!((rejected.error.kind(), rejected.error.sent()), (Kind::Overloaded, Sent::Never));
    assert_eq!(rejected.request.unwrap().uri().path(), "/second");
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn readiness_waits_until_the_response_before_was_read() {
    let (io, script) = ScriptIo::new();
    let mut connection = over(io).await;
    script.reply("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n12");
    let response = connection.ready().await.unwrap().call(get("/")).await.unwrap();
    assert!(timeout(Duration::from_secs(1), connection.ready()).await.is_err());
    script.deliver("34");
    let reading = tokio::spawn(text(response));
    timeout(Duration::from_secs(1), connection.ready()).await.unwrap().unwrap();
    assert_eq!(reading.await.unwrap(), "1234");
    script.end();
    settle().await;
    let refused = connection.ready().await.unwrap_err();
    assert_eq!((refused.error.kind(), refused.error.sent()), (Kind::Closed, Sent::Never));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_dropped_for_its_answer_still_answers() {
    let (io, script) = ScriptIo::new();
    let connection = over(io).await;
    script.reply(ok("answer"));
    let response = connection.oneshot(get("/")).await.unwrap();
    assert_eq!(text(response).await, "answer");
    settle().await;
    assert!(script.is_closed());
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_handle_after_what_is_being_read() {
    let (dials, mut peers) = net();
    let tasks = Counting::default();
    let make = Http1Layer::<Body>::new().with_executor(Arc::new(tasks.clone())).layer(dials);
    let (mut handle, _) = pool(make, 4).await;
    let idle = handle.lend(None).await.unwrap();
    let call = tokio::spawn(handle.call(get("/slow")));
    let _idle_peer = peers.recv().await.unwrap();
    let mut peer = peers.recv().await.unwrap();
    request(&mut peer).await;
    say(&mut peer, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234").await;
    let response = call.await.unwrap().unwrap();
    drop(idle);
    settle().await;
    assert_eq!(tasks.running(), 2);
    drop(handle);
    settle().await;
    assert_eq!(tasks.running(), 1, "a response is being read");
    say(&mut peer, "56789").await;
    assert_eq!(text(response).await, "0123456789");
    settle().await;
    assert_eq!(tasks.running(), 0);
    assert_eq!(rest(&mut peer).await, b"");
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_takes_a_second_at_most() {
    let tasks = Counting::default();
    let (io, _script) = ScriptIo::new();
    let connection: Http1<Body> = Http1::handshake(Clinging(io), &Builder::new(), &tasks).await.unwrap();
    drop(connection);
    settle().await;
    assert_eq!(tasks.running(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    settle().await;
    assert_eq!(tasks.running(), 0);

    // What is being read is no goodbye yet; what is dropped needs none.
    for read in [true, false] {
        let (io, script) = ScriptIo::new();
        let mut connection: Http1<Body> = Http1::handshake(Clinging(io), &Builder::new(), &tasks).await.unwrap();
        script.reply("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlast");
        let response = connection.call(get("/")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(tasks.running(), 1);
        if read {
            assert_eq!(text(response).await, "last");
            settle().await;
            assert_eq!(tasks.running(), 1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        } else {
            drop(response);
        }
        settle().await;
        assert_eq!(tasks.running(), 0, "read: {read}");
    }
}

/// A stream that never ends its shutdown.
struct Clinging(ScriptIo);

impl AsyncRead for Clinging {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Clinging {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

// F40
#[tokio::test(start_paused = true)]
async fn a_call_whose_task_is_gone_hears_of_it() {
    let (io, _script) = ScriptIo::new();
    let mut connection: Http1<Body> = Http1::handshake(io, &Builder::new(), &Dropping).await.unwrap();
    let rejected = connection.call(get("/")).await.unwrap_err();
    assert_eq!((rejected.error.kind(), rejected.error.sent()), (Kind::Closed, Sent::Never));
    assert!(rejected.request.is_some());

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let (io, script) = ScriptIo::new();
    let executor = TokioExecutor::on(runtime.handle().clone());
    let mut connection: Http1<Body> = Http1::handshake(io, &Builder::new(), &executor).await.unwrap();
    let call = tokio::spawn(connection.call(get("/")));
    script.take_written(1).await;
    runtime.shutdown_background();
    let rejected = call.await.unwrap().unwrap_err();
    assert_eq!((rejected.error.kind(), rejected.error.sent()), (Kind::Runtime, Sent::Maybe));
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_body_fails_says_so() {
    let (io, _script) = ScriptIo::new();
    let mut connection: Http1<_> = Http1::handshake(io, &Builder::new(), &TokioExecutor::current()).await.unwrap();
    let failing = async { Err::<http_body::Frame<bytes::Bytes>, _>(io::Error::other("no body")) };
    let body = http_body_util::StreamBody::new(Box::pin(futures_util::stream::once(failing)));
    let rejected = connection.call(http::Request::post("/").body(body).unwrap()).await.unwrap_err();
    assert_eq!((rejected.error.kind(), rejected.error.sent()), (Kind::RequestBody, Sent::Never));
    assert_eq!(rejected.error.find::<io::Error>().unwrap().to_string(), "no body");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_of_each_change() {
    let (io, script) = ScriptIo::new();
    let mut connection = over(io).await;
    let look =
        |connection: &mut Http1<Body>, seen| connection.poll_change(seen, &mut Context::from_waker(Waker::noop()));
    let until = async |connection: &mut Http1<Body>, seen| {
        let change = poll_fn(|cx| connection.poll_change(seen, cx));
        timeout(Duration::from_secs(1), change).await.expect("it wakes")
    };
    assert_eq!(look(&mut connection, State::Idle), Poll::Pending);
    script.reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n1");
    let response = connection.call(get("/")).await.unwrap();
    assert_eq!(look(&mut connection, State::Idle), Poll::Ready(State::Busy));
    assert_eq!(look(&mut connection, State::Busy), Poll::Pending);
    let reading = tokio::spawn(text(response));
    tokio::spawn(async move {
        script.deliver("2");
        tokio::time::sleep(Duration::from_millis(10)).await;
        script.end();
    });
    assert_eq!(until(&mut connection, State::Busy).await, State::Idle);
    assert_eq!(until(&mut connection, State::Idle).await, State::Closed);
    assert_eq!(reading.await.unwrap(), "12");
}

// F1
#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_the_next_call_gets_its_own_answer() {
    let (dials, mut peers) = net();
    let (handle, _) = pool(http1(dials), 2).await;
    tokio::spawn(async move {
        while let Some(mut peer) = peers.recv().await {
            tokio::spawn(async move {
                while let Some(path) = next_request(&mut peer).await {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    say(&mut peer, &format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", path.len())).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    say(&mut peer, &path).await;
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
            assert_eq!((stats.in_use, stats.dialling, stats.waiting), (0, 0, 0));
            assert!(stats.live <= 2);
        },
    )
    .await;
    assert!(polls >= 3, "{polls} polls");
}

// F1, F2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_on_few_connections_never_mix_answers() {
    let address = echo_server().await;
    let connect = tower::service_fn(move |_: &'static str| tokio::net::TcpStream::connect(address));
    let (handle, _) = pool(Http1Layer::<Body>::new().layer(connect), 4).await;
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let mut handle = handle.clone();
            tokio::spawn(async move {
                for turn in 0..40 {
                    let said = format!("{caller}:{turn}:").repeat(if turn == 25 { 200_000 } else { 1 + turn * 20 });
                    let request = http::Request::post("/").header("host", "peer").body(said.clone().into()).unwrap();
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
    assert!(handle.stats().live <= 4);
}
