//! The default stack against three TLS backends, one of which dies half-way and comes back.
//!
//! Everything happens in this process: an authority and certificates are made in memory, the backends listen on
//! loopback. 64 tasks send 20,000 idempotent calls of 200 sessions. Every answer is checked against its request, and
//! no session may be served anywhere but at its home, unless that was the backend that died.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::Instant;
use towline::tls::TlsConfig;
use towline::{Call, Client};
use towline_examples::{Events, Latencies, conclude, init_tracing, progress_bar, report, table};
use towline_proto::{Request, Response};
use towline_testbed::{Authority, Backend};

const TASKS: u64 = 64;
const CALLS: u64 = 20_000;
const SESSIONS: u64 = 200;

/// What all tasks of the run share.
struct Run {
    client: Client<Request, Response>,
    next: AtomicU64,
    /// The endpoint that served each session first.
    homes: Mutex<HashMap<u64, String>>,
    /// The endpoint that was stopped, and whether it has been.
    stopped: String,
    has_stopped: AtomicBool,
    bar: ProgressBar,
}

#[tokio::main]
async fn main() -> ExitCode {
    init_tracing();
    conclude(run().await)
}

async fn run() -> Result<(), String> {
    let authority = Authority::new("quickstart");
    let mut backends = Vec::new();
    for _ in 0..3 {
        let certified = authority.certify(&["127.0.0.1"]);
        backends.push(Backend::start("127.0.0.1:0", Some(&certified)).await.map_err(|error| error.to_string())?);
    }

    let events = Events::default();
    let tls = TlsConfig::builder().root_pem(authority.pem()).build().map_err(report)?;
    let client: Client<Request, Response> = Client::builder()
        .endpoints(backends.iter().map(|backend| backend.address().to_string()))
        .tls(tls)
        .observer(events.clone())
        .build()
        .map_err(report)?;

    let run = Arc::new(Run {
        client: client.clone(),
        next: AtomicU64::new(0),
        homes: Mutex::default(),
        stopped: backends[1].address().to_string(),
        has_stopped: AtomicBool::new(false),
        bar: progress_bar(CALLS),
    });
    let start = Instant::now();
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(caller(run.clone()))).collect();

    // Half-way one backend dies, with calls in flight on it; soon after it is back.
    run.reached(CALLS / 2).await;
    run.has_stopped.store(true, Ordering::SeqCst);
    run.bar.set_message(format!("{} has died", run.stopped));
    backends[1].stop().await;
    run.reached(CALLS * 6 / 10).await;
    backends[1].restart().await.map_err(|error| format!("cannot restart the backend: {error}"))?;
    run.bar.set_message(format!("{} is back", run.stopped));

    let mut latencies = Latencies::default();
    for task in tasks {
        latencies.merge(&task.await.map_err(|error| error.to_string())??);
    }
    let took = start.elapsed();
    run.bar.finish_and_clear();
    println!("{}", table(&client, &events, &latencies, took));

    let served: u64 = backends.iter().map(Backend::served).sum();
    if served < CALLS {
        return Err(format!("{CALLS} calls were answered, but the backends served only {served}"));
    }
    client.close().await;
    Ok(())
}

/// Sends calls until all are sent, checking every answer.
async fn caller(run: Arc<Run>) -> Result<Latencies, String> {
    let mut latencies = Latencies::default();
    loop {
        let number = run.next.fetch_add(1, Ordering::Relaxed);
        if number >= CALLS {
            return Ok(latencies);
        }
        let session = number % SESSIONS;
        let request = Request { id: number.to_string(), payload: format!("payload of {number}").into() };
        let call = Call::new(request.clone()).with_session(session.to_string()).idempotent().with_report();
        let served = call.context().report().cloned().ok_or("no report")?;

        let sent = Instant::now();
        let response =
            run.client.send(call).await.map_err(|error| format!("call {number} was lost: {}", report(error)))?;
        latencies.record(sent.elapsed());
        run.bar.inc(1);

        if (&response.id, &response.payload) != (&request.id, &request.payload) {
            return Err(format!("call {number} got the answer of {}", response.id));
        }
        let by = served.endpoint().ok_or("a call that was answered by nobody")?.to_string();
        run.check_home(session, by)?;
    }
}

impl Run {
    /// Waits until so many calls have been begun.
    async fn reached(&self, calls: u64) {
        while self.next.load(Ordering::Relaxed) < calls {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A session is served at its home, except while its home is the backend that died.
    fn check_home(&self, session: u64, by: String) -> Result<(), String> {
        let mut homes = self.homes.lock().map_err(|_| "another task failed")?;
        let home = homes.entry(session).or_insert_with(|| by.clone());
        let excused = *home == self.stopped && self.has_stopped.load(Ordering::SeqCst);
        if *home == by || excused {
            return Ok(());
        }
        Err(format!("session {session} moved from {home} to {by}, though its home was never gone"))
    }
}
