//! Many tasks, few connections, callers that leave, and a backend that kills: no answer goes to the wrong caller, and
//! every connection is accounted for. `cargo xtask soak pool` runs each part for a minute; here it takes a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, service_fn};
use towline_codec::FrameCodec;
use towline_core::{CallContext, CloseReason, Error, Kind, Lend, Phase, Sent};
use towline_pool::{Handle, Pool, PoolBuilder};
use towline_transport::{Exclusive, ExclusiveLayer};

const TASKS: usize = 64;
const CAP: usize = 8;

type Connection = Exclusive<TcpStream, FrameCodec>;

/// What the backend has seen.
#[derive(Default)]
struct Seen {
    open: AtomicUsize,
    killed: AtomicU64,
    requests: AtomicU64,
}

/// Answers each frame with itself, late, in two pieces or not at all.
async fn backend(seen: Arc<Seen>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let seen = seen.clone();
            tokio::spawn(async move {
                seen.open.fetch_add(1, Ordering::Relaxed);
                if serve(stream, &seen).await.is_none() {
                    seen.killed.fetch_add(1, Ordering::Relaxed);
                }
                seen.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    address
}

/// `None` when it killed the connection.
async fn serve(mut stream: TcpStream, seen: &Seen) -> Option<()> {
    let chance = |one_in: u32| fastrand::u32(..one_in) == 0;
    loop {
        let mut head = [0; 4];
        let idle_kill = chance(50).then(|| Duration::from_micros(fastrand::u64(..2_000)));
        let read = timeout(idle_kill.unwrap_or(Duration::MAX), stream.read_exact(&mut head)).await.ok()?;
        if read.is_err() {
            return Some(());
        }
        let mut body = vec![0; u32::from_be_bytes(head) as usize];
        if stream.read_exact(&mut body).await.is_err() {
            return Some(());
        }
        seen.requests.fetch_add(1, Ordering::Relaxed);
        if chance(4) {
            sleep(Duration::from_micros(fastrand::u64(..3_000))).await;
        }
        if chance(40) {
            // A reset where something is unread, else the end of the stream.
            return None;
        }
        let answer = [&head[..], &body].concat();
        let cut = if chance(3) { fastrand::usize(..answer.len()) } else { answer.len() };
        if stream.write_all(&answer[..cut]).await.is_err() {
            return Some(());
        }
        if cut < answer.len() {
            if chance(10) {
                return None;
            }
            tokio::task::yield_now().await;
            if stream.write_all(&answer[cut..]).await.is_err() {
                return Some(());
            }
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    /// While nothing was open, and the last two connections or more had died before a call succeeded on them.
    refused: AtomicU64,
}

/// Longer than an endpoint that works is taken for one that does not, however often chance kills its young connections:
/// twice the longest backoff, and what the machine needs.
const REFUSED_AT_MOST: Duration = Duration::from_secs(10);

async fn calls(mut handle: Handle<Connection>, task: usize, tally: &Tally, stop: &AtomicBool) {
    let mut refused_since = None;
    for i in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let request = Bytes::from(format!("{task}/{i}/{}", "x".repeat(fastrand::usize(..200))));
        let patience = match fastrand::u8(..10) {
            0 => Duration::ZERO,
            1 => Duration::from_micros(fastrand::u64(..1_000)),
            _ => Duration::from_secs(30),
        };
        let call = async {
            match fastrand::u8(..10) {
                // Somebody who uses the connection itself, for two calls, or poisons it.
                0 => {
                    let mut held = handle.lend(Some(&CallContext::default())).await?;
                    if fastrand::u8(..10) == 0 {
                        held.poison();
                    }
                    let first = Service::<Bytes>::call(&mut *held, request.clone()).await.map_err(Error::from)?;
                    assert_eq!(first, request, "an answer of somebody else");
                    Service::<Bytes>::call(&mut *held, request.clone()).await.map_err(Error::from)
                }
                _ => handle.call(request.clone()).await,
            }
        };
        let called = timeout(patience, call).await;
        if let Ok(Err(error)) = &called
            && error.kind() == Kind::Unavailable
        {
            // Nobody was refused because a dial failed.
            assert_eq!((error.sent(), error.phase()), (Sent::Never, Phase::Dial), "{error}");
            assert!(error.to_string().contains("before it served a call"), "{error}");
            let since = *refused_since.get_or_insert_with(Instant::now);
            assert!(since.elapsed() < REFUSED_AT_MOST, "task {task} is refused for {:?}", since.elapsed());
            tally.refused.fetch_add(1, Ordering::Relaxed);
            // As whoever is told at once has to, lest all that is counted here is who asks in a loop.
            sleep(Duration::from_millis(1)).await;
            continue;
        }
        refused_since = refused_since.filter(|_| called.is_err());
        match called {
            Err(_) if patience > Duration::from_secs(1) => panic!("task {task} hangs in call {i}"),
            Err(_) => tally.cancelled.fetch_add(1, Ordering::Relaxed),
            Ok(Ok(answer)) => {
                assert_eq!(answer, request, "an answer of somebody else");
                tally.answered.fetch_add(1, Ordering::Relaxed)
            }
            Ok(Err(error)) => {
                let killed = [Kind::UnexpectedEof, Kind::Io, Kind::Closed].contains(&error.kind());
                assert!(killed, "{error}");
                tally.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

async fn soak(time: Duration, endpoints: usize, builder: PoolBuilder) {
    let (seen, tally, stop) = (Arc::new(Seen::default()), Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let connect = service_fn(|address: SocketAddr| async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    });
    let make = ExclusiveLayer::new(FrameCodec::default()).layer(connect);
    let mut pool: Pool<_, SocketAddr> = builder.build(make).unwrap();
    let mut handles = Vec::new();
    for _ in 0..endpoints {
        handles.push(pool.call(backend(seen.clone()).await).await.unwrap());
    }
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (handle, tally, stop) = (handles[task % endpoints].clone(), tally.clone(), stop.clone());
            tokio::spawn(async move { calls(handle, task, &tally, &stop).await })
        })
        .collect();
    let began = Instant::now();
    let mut counted = 0;
    while began.elapsed() < time {
        if let Some(places) = places(&handles) {
            assert!(places <= CAP, "{:?}", pool.stats());
            counted += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    assert!(counted > 10, "{counted}");
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    settled(&pool, &seen).await;
    let stats = pool.stats();
    assert_eq!(stats.opened - stats.closed.total(), stats.live as u64, "{stats:?}");
    assert_eq!(stats.closed.by(CloseReason::IdleTimeout), 0);
    assert_eq!(stats.dials_failed, 0, "connecting to a live listener does not fail");
    println!("{tally:?}\n{stats:?}\nkilled by the backend: {:?}", seen.killed);
    assert!(tally.answered.load(Ordering::Relaxed) > 100);
    drop(handles);
    drop(pool);
    let gone = async {
        while seen.open.load(Ordering::Relaxed) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("every connection ends with the last handle");
}

/// How many connections and dials there are at one moment. Endpoints are read one after the other, and a place that changes
/// hands meanwhile is counted twice: `None` when anything has come or gone.
fn places(handles: &[Handle<Connection>]) -> Option<usize> {
    let look = |handle: &Handle<Connection>| {
        let stats = handle.stats();
        (stats.live + stats.dialling, stats.opened, stats.closed.total(), stats.dials_failed)
    };
    let [before, after] = [(); 2].map(|()| handles.iter().map(look).collect::<Vec<_>>());
    (before == after).then(|| before.iter().map(|(places, ..)| places).sum())
}

/// Waits until nothing is under way, and the backend has as many connections as the pool.
async fn settled<M>(pool: &Pool<M, SocketAddr>, seen: &Seen)
where
    M: Service<SocketAddr, Response = Connection>,
{
    for _ in 0..10_000 {
        let stats = pool.stats();
        let at_rest = (stats.in_use, stats.waiting, stats.dialling) == (0, 0, 0) && stats.idle == stats.live;
        if at_rest && seen.open.load(Ordering::Relaxed) == stats.live {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("{:?}, and the backend has {:?}", pool.stats(), seen.open);
}

/// Of each part.
fn time() -> Duration {
    let seconds = std::env::var("TOWLINE_SOAK_SECONDS").ok().map(|seconds| seconds.parse().expect("a number"));
    Duration::from_secs_f64(seconds.unwrap_or(1.0))
}

// F1, F3, F8, F28, F29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_cancels_and_kills_no_answer_is_mixed_up_and_no_connection_lost() {
    soak(time(), 1, PoolBuilder::new().max_connections(CAP)).await;
    // As many connections for two endpoints together.
    soak(time(), 2, PoolBuilder::new().max_connections(CAP).max_total(CAP)).await;
}
