//! Never out of step: calls over all kinds of connections, with random cancels at every stage, random delays, late and
//! duplicate answers, and cuts at every byte of a frame in either direction. No answer may reach the wrong caller, no call
//! may hang, no entry may be left, and no request may have arrived that was said never to have been sent.
//!
//! A short seeded run is part of the tests. `cargo xtask soak transport` makes ten million calls; `TOWLINE_SOAK_CALLS` and
//! `TOWLINE_SOAK_SEED` repeat what went wrong.

mod peer;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tower::Service;
use towline_codec::FrameCodec;
use towline_core::sync::Lock;
use towline_core::{Error, Rejected, Sent};
use towline_transport::{Correlate, Exclusive, HeaderLayer, IntoConnection, Shared, SharedConfig};

use self::peer::{Manners, Peer};

/// How calls find their answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Exclusive,
    Pipelined,
    Multiplexed,
    Header,
}

const KINDS: [Kind; 4] = [Kind::Exclusive, Kind::Pipelined, Kind::Multiplexed, Kind::Header];
/// No call may take longer, in virtual time.
const HANGS: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Tally {
    calls: u64,
    answered: u64,
    cancelled: u64,
    failed: u64,
    never_sent: u64,
    discarded: u64,
    connections: u64,
    cut: u64,
}

/// Messages are `id|body`.
#[derive(Clone)]
struct ById;

impl Correlate<Bytes, Bytes> for ById {
    type Original = Bytes;

    fn tag(&self, request: &mut Bytes, id: u64) -> Bytes {
        let bar = request.iter().position(|byte| *byte == b'|').unwrap();
        let original = request.slice(..bar);
        *request = [id.to_string().as_bytes(), &request[bar..]].concat().into();
        original
    }

    fn id(&self, response: &Bytes) -> Option<u64> {
        std::str::from_utf8(response).ok()?.split_once('|')?.0.parse().ok()
    }

    fn restore(&self, response: &mut Bytes, original: Bytes) {
        let bar = response.iter().position(|byte| *byte == b'|').unwrap();
        *response = [&original[..], &response[bar..]].concat().into();
    }
}

/// The part of a message that is its caller's own.
fn token(message: &[u8]) -> &[u8] {
    let bar = message.iter().position(|byte| *byte == b'|').expect("a message");
    &message[bar + 1..]
}

#[derive(Clone)]
struct Soak {
    tally: Arc<Lock<Tally>>,
    /// What requests of this connection were said never to have left.
    never: Arc<Lock<HashSet<Bytes>>>,
}

impl Soak {
    /// One call, perhaps given up on the way.
    async fn call<S>(&self, mut connection: S, rng: &mut Rng, name: String) -> Result<(), Rejected<Bytes>>
    where
        S: Service<Bytes, Response = Bytes, Error = Rejected<Bytes>>,
    {
        let padding = "x".repeat(if rng.u8(..) < 8 { rng.usize(..20_000) } else { rng.usize(..60) });
        let request = Bytes::from(format!("{}|{name}|{padding}", rng.u8(..)));
        let mut call = Box::pin(connection.call(request.clone()));
        self.tally.lock().calls += 1;
        let patience = match rng.u8(..) {
            0..30 => Some(Patience::Polls(rng.usize(..4))),
            30..90 => Some(Patience::Time(Duration::from_micros(rng.u64(..20_000)))),
            _ => None,
        };
        let answer = match patience {
            Some(Patience::Polls(most)) => towline_test::poll_times(call.as_mut(), most).await,
            Some(Patience::Time(limit)) => timeout(limit, call.as_mut()).await.ok(),
            None => Some(timeout(HANGS, call.as_mut()).await.expect("a call hangs")),
        };
        drop(call);
        let mut tally = self.tally.lock();
        match answer {
            None => tally.cancelled += 1,
            Some(Ok(answer)) => {
                assert_eq!(answer, request, "an answer reached the wrong caller");
                tally.answered += 1;
            }
            Some(Err(rejected)) => {
                tally.failed += 1;
                if rejected.error.sent() == Sent::Never {
                    tally.never_sent += 1;
                    let token = Bytes::copy_from_slice(token(&request));
                    self.never.lock().insert(token);
                }
                if let Some(back) = &rejected.request {
                    assert_eq!((back, rejected.error.sent()), (&request, Sent::Never), "another's request came back");
                }
                return Err(rejected);
            }
        }
        Ok(())
    }

    async fn exclusive(&self, io: DuplexStream, rng: &mut Rng, calls: usize) {
        let mut connection = Exclusive::new(io, FrameCodec::default());
        for i in 0..calls {
            // The pool's look, and what `call` does without one.
            if rng.bool() && std::future::poll_fn(|cx| connection.poll_ready(cx)).await.is_err() {
                return;
            }
            if self.call(&mut connection, rng, format!("{i}")).await.is_err() {
                return;
            }
        }
    }

    async fn shared(&self, connection: Shared<Bytes, Bytes>, driver: Driver, rng: &mut Rng, calls: usize) {
        let driver = tokio::spawn(driver);
        let callers = rng.usize(1..40);
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let (soak, connection, mut rng) = (self.clone(), connection.clone(), rng.fork());
                tokio::spawn(async move {
                    for i in 0..calls / callers {
                        if soak.call(connection.clone(), &mut rng, format!("{caller}-{i}")).await.is_err() {
                            break;
                        }
                        if rng.u8(..) < 4 {
                            sleep(Duration::from_micros(rng.u64(..5_000))).await;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a caller failed");
        }
        assert_eq!(connection.in_flight(), 0, "an entry was left");
        self.tally.lock().discarded += connection.discarded();
        drop(connection);
        timeout(HANGS, driver).await.expect("the task of a connection that nobody has lives on").unwrap();
    }

    async fn connection(&self, kind: Kind, threads: bool, rng: &mut Rng) {
        // Small pipes cut writes anywhere.
        let (ours, theirs) = tokio::io::duplex(if rng.bool() { rng.usize(1..200) } else { 64 * 1024 });
        let manners = Manners::random(kind, threads, rng);
        let peer = Peer::new(kind, theirs, manners, rng.fork());
        let peer = tokio::spawn(peer.run());
        let calls = rng.usize(1..3_000);
        let config = SharedConfig::default().in_flight(64).unwrap();
        match kind {
            Kind::Exclusive => self.exclusive(ours, rng, calls.min(200)).await,
            Kind::Pipelined => {
                let (connection, driver) = Shared::pipelined(ours, FrameCodec::default(), config);
                self.shared(connection, Box::pin(driver), rng, calls).await;
            }
            Kind::Multiplexed => {
                let (connection, driver) = Shared::multiplexed(ours, FrameCodec::default(), ById, config);
                self.shared(connection, Box::pin(driver), rng, calls).await;
            }
            Kind::Header => {
                let held = Held::default();
                let layer = HeaderLayer::new(FrameCodec::default()).with_config(config).with_executor(held.clone());
                let connection = layer.connection(ours).unwrap();
                let driver = held.0.lock().take().expect("a driver");
                self.shared(connection, driver, rng, calls).await;
            }
        }
        let heard = timeout(HANGS, peer).await.expect("a connection was left open").expect("the peer failed");
        let never = std::mem::take(&mut *self.never.lock());
        if let Some(lie) = never.iter().find(|token| heard.requests.contains(*token)) {
            panic!("{:?} was said never to have been sent, and arrived", &lie[..lie.len().min(40)]);
        }
        let mut tally = self.tally.lock();
        tally.connections += 1;
        tally.cut += u64::from(heard.cut);
    }
}

enum Patience {
    Polls(usize),
    Time(Duration),
}

type Driver = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Keeps the task that it is to spawn.
#[derive(Clone, Debug, Default)]
struct Held(Arc<Lock<Option<Driver>>>);

impl Held {
    fn clone(&self) -> Arc<Self> {
        Arc::new(Self(self.0.clone()))
    }
}

impl towline_core::Executor for Held {
    fn spawn(&self, task: Driver) -> Result<(), Error> {
        *self.0.lock() = Some(task);
        Ok(())
    }
}

/// In virtual time, or on two threads.
fn runtime(threads: bool) -> Runtime {
    let built = if threads {
        Builder::new_multi_thread().worker_threads(2).enable_all().build()
    } else {
        Builder::new_current_thread().enable_all().start_paused(true).build()
    };
    built.expect("a runtime")
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

// F1 F2 F3 F4
#[test]
fn no_answer_reaches_the_wrong_caller_and_no_call_hangs_whatever_the_peer_does() {
    let (wanted, seed) = (setting("TOWLINE_SOAK_CALLS", 60_000), setting("TOWLINE_SOAK_SEED", 1));
    let started = std::time::SystemTime::now();
    let (mut rounds, mut totals) = (Rng::with_seed(seed), Vec::new());
    for kind in KINDS {
        let soak = Soak { tally: Arc::default(), never: Arc::default() };
        while soak.tally.lock().calls < wanted / KINDS.len() as u64 {
            let seed = rounds.u64(..);
            let threads = rounds.u8(..32) == 0;
            let runtime = runtime(threads);
            let run = std::panic::AssertUnwindSafe(|| {
                runtime.block_on(soak.connection(kind, threads, &mut Rng::with_seed(seed)));
            });
            if let Err(panic) = std::panic::catch_unwind(run) {
                eprintln!("{kind:?}, connection seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
        let tally = std::mem::take(&mut *soak.tally.lock());
        println!("{kind:?}: {tally:?}");
        assert!(tally.answered > 0 && tally.cancelled > 0 && tally.failed > 0 && tally.cut > 0, "not much of a test");
        totals.push(tally.calls);
    }
    let calls: u64 = totals.iter().sum();
    let took = started.elapsed().unwrap_or_default();
    println!("{calls} calls in {took:.0?}: no answer to the wrong caller, no hang, no entry left (seed {seed})");
}
