//! The same program over two clients, and the same trouble for both.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use towline_examples::{BoxError, Latencies, aligned, progress_bar, report};
use towline_proto_grpc::Backend;

const TASKS: u32 = 40;
/// Every task sends a call so often, or when the one before has ended, if that is later.
const PACE: Duration = Duration::from_millis(25);
const RUN: Duration = Duration::from_millis(2_500);
const SLOWED_AT: Duration = Duration::from_millis(800);
const KILLED_AT: Duration = Duration::from_millis(1_600);
/// How long the slowed server takes for every answer.
const DELAY: Duration = Duration::from_millis(200);
/// No client may hang the run.
const LIMIT: Duration = Duration::from_secs(2);

/// A server to which something can happen.
pub trait Server: Sized {
    /// Serves on loopback.
    ///
    /// # Errors
    ///
    /// When it cannot listen there.
    fn start() -> io::Result<Self>;

    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// From now on every answer takes so long.
    fn slow_down(&self, delay: Duration);

    /// Ends at once, with its connections.
    fn kill(&mut self);

    /// How many calls have come.
    fn calls(&self) -> u64;
}

impl Server for Backend {
    fn start() -> io::Result<Self> {
        Self::start("127.0.0.1:0")
    }

    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn slow_down(&self, delay: Duration) {
        self.faults().delay(delay);
    }

    fn kill(&mut self) {
        self.kill();
    }

    fn calls(&self) -> u64 {
        self.faults().calls()
    }
}

/// Three servers.
///
/// # Errors
///
/// When one cannot listen.
pub fn three_servers<S: Server>() -> io::Result<[S; 3]> {
    Ok([S::start()?, S::start()?, S::start()?])
}

/// How a program has fared.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    name: String,
    latencies: Latencies,
    /// What went wrong with each call that failed, or got a wrong answer.
    failures: Vec<String>,
    /// How many calls came to the server that stays healthy, to the slowed, and to the killed.
    served: [u64; 3],
}

/// Runs a program over these servers, one of which becomes slow, and then another dies. `connect` makes its client from
/// their addresses, and `call` sends one numbered call and checks the answer.
///
/// # Errors
///
/// When the client cannot be made. Calls that fail are counted.
pub async fn endure<S, C, F, R>(
    name: &str,
    mut servers: [S; 3],
    connect: impl FnOnce(&[String]) -> Result<C, BoxError>,
    call: F,
) -> Result<Outcome, BoxError>
where
    S: Server,
    C: Clone + Send + 'static,
    F: Fn(C, u64) -> R + Copy + Send + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let client = connect(&servers.each_ref().map(|server| format!("http://{}", server.address())))?;

    let start = Instant::now();
    let run = Run { until: start + RUN, next: Arc::default(), bar: bar(name) };
    // Not all at the same moment.
    let starts = (0..TASKS).map(|task| start + PACE * task / TASKS);
    let callers: Vec<_> = starts.map(|start| tokio::spawn(caller(run.clone(), start, client.clone(), call))).collect();
    sleep_until(start + SLOWED_AT).await;
    servers[1].slow_down(DELAY);
    run.bar.set_message(format!("{name}: a server is slow"));
    sleep_until(start + KILLED_AT).await;
    servers[2].kill();
    run.bar.set_message(format!("{name}: a server is slow, another dead"));

    let mut outcome = Outcome { name: name.to_owned(), ..Outcome::default() };
    for caller in callers {
        let (latencies, failures) = caller.await?;
        outcome.latencies.merge(&latencies);
        outcome.failures.extend(failures);
    }
    run.bar.finish_and_clear();
    outcome.served = servers.each_ref().map(Server::calls);
    Ok(outcome)
}

/// What all tasks of a run share.
#[derive(Clone)]
struct Run {
    until: Instant,
    next: Arc<AtomicU64>,
    bar: ProgressBar,
}

fn bar(name: &str) -> ProgressBar {
    // Fewer, if calls take longer than their pace.
    let calls = u64::from(TASKS) * (RUN.as_millis() / PACE.as_millis()) as u64;
    progress_bar(calls).with_message(name.to_owned())
}

/// Sends calls until the time is over.
async fn caller<C, F, R>(run: Run, start: Instant, client: C, call: F) -> (Latencies, Vec<String>)
where
    C: Clone,
    F: Fn(C, u64) -> R,
    R: Future<Output = Result<(), BoxError>>,
{
    let (mut latencies, mut failures) = (Latencies::default(), Vec::new());
    let mut pace = interval_at(start, PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while pace.tick().await < run.until {
        let number = run.next.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        match timeout(LIMIT, call(client.clone(), number)).await {
            Ok(Ok(())) => latencies.record(sent.elapsed()),
            Ok(Err(error)) => failures.push(format!("call {number}: {}", report(error))),
            Err(_) => failures.push(format!("call {number}: nothing came for {LIMIT:?}")),
        }
        run.bar.inc(1);
    }
    (latencies, failures)
}

impl Outcome {
    /// # Errors
    ///
    /// When a call failed, or got a wrong answer.
    pub fn without_failure(&self) -> Result<(), BoxError> {
        match self.failures.first() {
            None => Ok(()),
            Some(first) => Err(format!("{}: {} calls failed; {first}", self.name, self.failures.len()).into()),
        }
    }

    fn row(&self) -> Vec<String> {
        let (latencies, failed) = (&self.latencies, self.failures.len());
        let counts = [latencies.count() + failed as u64, failed as u64].map(|count| count.to_string());
        let times = [0.5, 0.99, 1.0].map(|quantile| latencies.at(quantile));
        let served = self.served.map(|calls| calls.to_string());
        [self.name.clone()].into_iter().chain(counts).chain(times).chain(served).collect()
    }
}

/// How programs have fared, one line each, and how the first call of each failed that did. Latencies are of successful
/// calls; what came to which server counts repeated calls again.
pub fn comparison(outcomes: &[&Outcome]) -> String {
    let header = ["", "calls", "failed", "p50", "p99", "max", "to healthy", "to slowed", "to killed"];
    let table = aligned(&header, outcomes.iter().map(|outcome| outcome.row()));
    let failures = outcomes.iter().filter_map(|outcome| outcome.without_failure().err());
    failures.fold(table, |out, failure| format!("{out}{failure}\n"))
}
