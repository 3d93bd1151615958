//! The server half.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_test::task::spawn;
use tower::{Service, service_fn};
use towline_core::sync::Lock;
use towline_core::{CloseReason, Kind, Poolable, Sent, State};
use towline_test::settle;
use towline_transport::{Exclusive, Listener, Server, Shared, serve_connection};

use super::multiplexed::ById;
use super::{codec, config, frame};

/// Something that is taken once.
#[derive(Clone)]
pub(crate) struct Once<T>(Arc<Lock<Option<T>>>);

impl<T> Once<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Lock::new(Some(value))))
    }

    pub(crate) fn take(&self) -> T {
        self.0.lock().take().expect("taken once")
    }
}

/// Accepts what is sent.
pub(crate) struct Accepting(mpsc::Receiver<DuplexStream>);

impl Listener for Accepting {
    type Io = DuplexStream;
    type Handshake = std::future::Ready<io::Result<DuplexStream>>;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Handshake>> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(io)) => Poll::Ready(Ok(std::future::ready(Ok(io)))),
            _ => Poll::Pending,
        }
    }
}

fn accepting() -> (mpsc::Sender<DuplexStream>, Accepting) {
    let (sender, receiver) = mpsc::channel(8);
    (sender, Accepting(receiver))
}

/// Accepts this one.
pub(crate) fn one(io: DuplexStream) -> Accepting {
    let (sender, listener) = accepting();
    sender.try_send(io).unwrap();
    listener
}

async fn echo(request: Bytes) -> Result<Bytes, io::Error> {
    Ok(request)
}

/// Answers `id|how`, where how may be a number of milliseconds, `fail` or `panic`.
async fn obey(request: Bytes) -> Result<Bytes, io::Error> {
    let (_, how) = std::str::from_utf8(&request).unwrap().split_once('|').unwrap();
    match how {
        "fail" => return Err(io::Error::other("no")),
        "panic" => panic!("told to"),
        millis => sleep(Duration::from_millis(millis.parse().unwrap())).await,
    }
    Ok(request)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_one_request_at_a_time_is_answered() {
    let (ours, theirs) = tokio::io::duplex(64);
    let slow = service_fn(|request: Bytes| async move {
        sleep(Duration::from_millis(5)).await;
        echo(request).await
    });
    let server = tokio::spawn(serve_connection(theirs, codec(), slow, 4));
    let mut connection = Exclusive::new(ours, codec());
    for i in 0..20 {
        let body = Bytes::from(format!("{i}").repeat(20));
        assert_eq!(connection.call(body.clone()).await.unwrap(), body);
    }
    drop(connection);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_service_that_fails_ends_the_connection_with_its_error() {
    let (ours, theirs) = tokio::io::duplex(64);
    let fails = service_fn(|_: Bytes| async { Err::<Bytes, _>(io::Error::other("no")) });
    let server = tokio::spawn(serve_connection(theirs, codec(), fails, 4));
    let mut connection = Exclusive::new(ours, codec());
    connection.call("ping".into()).await.unwrap_err();
    let error = server.await.unwrap().unwrap_err();
    assert_eq!(error.find::<io::Error>().unwrap().to_string(), "no");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_or_fails_costs_its_own_call_only_and_nobody_hangs() {
    for bad in ["panic", "fail"] {
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(Server::new(codec()).serve(one(theirs), service_fn(obey)));
        let (connection, driver) = Shared::<Bytes, Bytes>::multiplexed(ours, codec(), ById, config(8));
        tokio::spawn(driver);
        let calls = ["1|50", "2|10", &format!("3|{bad}")].map(|request| {
            let (mut connection, request) = (connection.clone(), Bytes::from(request.to_owned()));
            async move { connection.call(request).await }
        });
        let mut answers = futures_util::future::join_all(calls).await;
        let failed = answers.pop().unwrap().unwrap_err();
        assert_eq!((failed.error.kind(), failed.error.sent()), (Kind::Closed, Sent::Maybe));
        assert!(answers.into_iter().all(|answer| answer.is_ok()), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_order_a_handler_that_fails_takes_the_answers_behind_it_along() {
    let (ours, theirs) = tokio::io::duplex(4096);
    tokio::spawn(Server::new(codec()).in_order().serve(one(theirs), service_fn(obey)));
    let (connection, driver) = Shared::<Bytes, Bytes>::pipelined(ours, codec(), config(8));
    tokio::spawn(driver);
    let calls = ["1|50", "2|fail", "3|0"].map(|request| {
        let mut connection = connection.clone();
        async move { connection.call(request.into()).await }
    });
    let answers = futures_util::future::join_all(calls).await;
    let said: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().map_or_else(|e| e.error.kind().into(), |_| None)).collect();
    assert_eq!(said, [None, Some(Kind::Closed), Some(Kind::Closed)]);
}

#[tokio::test(start_paused = true)]
async fn pipelined_clients_are_answered_in_order_however_long_each_takes() {
    let (ours, theirs) = tokio::io::duplex(4096);
    tokio::spawn(Server::new(codec()).in_order().serve(one(theirs), service_fn(obey)));
    let (connection, driver) = Shared::<Bytes, Bytes>::pipelined(ours, codec(), config(8));
    tokio::spawn(driver);
    let calls = ["1|50", "2|10", "3|0"].map(|request| {
        let mut connection = connection.clone();
        async move { connection.call(request.into()).await.unwrap() == request }
    });
    assert_eq!(futures_util::future::join_all(calls).await, [true; 3]);
}

#[tokio::test]
async fn no_more_requests_are_read_than_may_be_in_flight() {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let (count, stuck) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let (counted, wait) = (count.clone(), stuck.clone());
    let handler = service_fn(move |request: Bytes| {
        counted.fetch_add(1, Ordering::SeqCst);
        let wait = wait.clone();
        async move {
            wait.acquire().await.unwrap().forget();
            echo(request).await
        }
    });
    tokio::spawn(Server::new(codec()).in_flight(3).serve(one(theirs), handler));
    ours.write_all(&frame("x").repeat(10)).await.unwrap();
    settle().await;
    assert_eq!(count.load(Ordering::SeqCst), 3);
    stuck.add_permits(10);
    let mut answers = vec![0; 10 * frame("x").len()];
    ours.read_exact(&mut answers).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn further_connections_wait_until_one_ends() {
    let (sender, listener) = accepting();
    tokio::spawn(Server::new(codec()).connections(1).serve(listener, service_fn(echo)));
    let (first, theirs) = tokio::io::duplex(64);
    sender.send(theirs).await.unwrap();
    let mut first = Exclusive::new(first, codec());
    assert_eq!(first.call(Bytes::from("a")).await.unwrap(), "a");
    let (second, theirs) = tokio::io::duplex(64);
    sender.send(theirs).await.unwrap();
    let mut second = Exclusive::new(second, codec());
    let mut waits = spawn(second.call(Bytes::from("b")));
    assert!(waits.poll().is_pending());
    settle().await;
    assert!(waits.poll().is_pending());
    drop(first);
    assert_eq!(waits.await.unwrap(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_idle_for_too_long_is_closed_and_one_in_use_is_not() {
    let (ours, theirs) = tokio::io::duplex(64);
    tokio::spawn(Server::new(codec()).idle_timeout(Duration::from_secs(10)).serve(one(theirs), service_fn(obey)));
    let mut connection = Exclusive::new(ours, codec());
    assert_eq!(connection.call(Bytes::from("1|60000")).await.unwrap(), "1|60000", "a minute at work is not idle");
    for _ in 0..5 {
        sleep(Duration::from_secs(8)).await;
        assert_eq!(connection.call(Bytes::from("1|0")).await.unwrap(), "1|0");
    }
    let start = Instant::now();
    assert_eq!(poll_fn(|cx| connection.poll_change(State::Idle, cx)).await, State::Closed);
    assert_eq!((start.elapsed().as_secs(), connection.close_reason()), (10, CloseReason::Peer));
}

// F12
#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_in_its_handshake_is_cut_and_holds_nobody_up() {
    let (sender, listener) = accepting();
    let handshake = |mut io: DuplexStream| async move {
        let mut hello = [0; 1];
        io.read_exact(&mut hello).await?;
        Ok(io)
    };
    let server = Server::new(codec()).handshake_timeout(Duration::from_secs(3));
    tokio::spawn(server.serve(listener.with_handshake(handshake), service_fn(echo)));
    let (mut silent, theirs) = tokio::io::duplex(64);
    sender.send(theirs).await.unwrap();
    let (mut quick, theirs) = tokio::io::duplex(64);
    sender.send(theirs).await.unwrap();
    quick.write_all(b"!").await.unwrap();
    assert_eq!(Exclusive::new(quick, codec()).call(Bytes::from("a")).await.unwrap(), "a");
    let start = Instant::now();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 3);
}

// F41
#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_costs_bounded_memory_and_is_cut() {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    let big = service_fn(move |_: Bytes| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, io::Error>(Bytes::from(vec![0; 60 * 1024])) }
    });
    tokio::spawn(Server::new(codec()).in_flight(64).write_timeout(Duration::from_secs(5)).serve(one(theirs), big));
    let start = Instant::now();
    let sent = async { while ours.write_all(&frame("x")).await.is_ok() {} };
    timeout(Duration::from_secs(60), sent).await.expect("cut");
    assert_eq!(start.elapsed().as_secs(), 5);
    assert!(answered.load(Ordering::SeqCst) <= 8, "{answered:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_answers_what_is_in_flight_and_cuts_what_takes_too_long() {
    for (takes, answered) in [("1|1000", true), ("1|100000", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = Server::new(codec()).grace(Duration::from_secs(5));
        let server = tokio::spawn(server.serve_until(listener, service_fn(obey), async {
            let _ = stopped.await;
        }));
        let mut connection = Exclusive::new(TcpStream::connect(address).await.unwrap(), codec());
        let mut idle = Exclusive::new(TcpStream::connect(address).await.unwrap(), codec());
        assert_eq!(idle.call(Bytes::from("1|0")).await.unwrap(), "1|0");
        let call = tokio::spawn(connection.call(Bytes::from(takes)));
        sleep(Duration::from_millis(100)).await;
        stop.send(()).unwrap();
        assert_eq!(poll_fn(|cx| idle.poll_change(State::Idle, cx)).await, State::Closed);
        assert!(idle.call(Bytes::from("x")).await.is_err());
        let start = Instant::now();
        server.await.unwrap();
        assert!(start.elapsed() <= Duration::from_secs(5));
        assert_eq!(call.await.unwrap().is_ok(), answered);
        assert!(TcpStream::connect(address).await.is_err(), "nobody is let in");
    }
}

#[tokio::test]
async fn garbage_ends_the_connection_after_the_answers_to_what_came_before() {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let server = tokio::spawn(serve_connection(theirs, codec(), service_fn(echo), 4));
    ours.write_all(&[frame("fine"), u32::MAX.to_be_bytes().to_vec()].concat()).await.unwrap();
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, frame("fine"));
    assert_eq!(server.await.unwrap().unwrap_err().kind(), Kind::TooLarge);
}
