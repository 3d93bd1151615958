//! tokio-tower's multiplexed client and ours over the same scripted peer, where peers misbehave. What is printed was
//! observed in this run; nothing is expected of either.

mod script;

use std::future::poll_fn;
use std::task::Poll;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower::{Service, ServiceExt};
use towline_core::{Rejected, Sent};
use towline_proto::{Request, Response};

use self::script::{BOUND, SETTLE, Script, chain, connection, request};
use super::Bench;
use crate::peers::{tokio_tower, towline};
use crate::report::{Report, Table};
use crate::usage;

/// What both clients are.
trait Client: Service<Request, Response = Response, Error: Told, Future: Send + 'static> + Send + 'static {}

impl<T> Client for T where T: Service<Request, Response = Response, Error: Told, Future: Send + 'static> + Send + 'static
{}

/// What an error tells its caller about the request.
trait Told: std::error::Error + Send + 'static {
    fn told(&self) -> String;
}

impl Told for Rejected<Request> {
    fn told(&self) -> String {
        let request =
            if self.request.is_some() { "the request is given back" } else { "the request is not given back" };
        match self.error.sent() {
            Sent::Never => format!("never sent, {request}"),
            Sent::Maybe => format!("maybe sent, {request}"),
        }
    }
}

impl Told for tokio_tower::Error<TcpStream> {
    /// Its kind is all that there is.
    fn told(&self) -> String {
        format!("`{self:?}`")
    }
}

/// Calls behind a peer that reads nothing, and what each weighs: more than sockets can buffer.
const QUEUED: usize = 16;
const QUEUED_BYTES: usize = 2 << 20;
/// Callers who leave.
const ABANDONED: usize = 2_000;

#[derive(Serialize)]
struct Line {
    case: &'static str,
    scenario: &'static str,
    #[serde(rename = "tokio-tower")]
    tokio_tower: String,
    towline: String,
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut lines = Vec::new();
    macro_rules! scenario {
        ($scenario:expr, $observe:path) => {{
            let both = async {
                let (io, script) = connection().await?;
                let theirs = $observe(tokio_tower::multiplexed(io), script).await?;
                let (io, script) = connection().await?;
                let ours: String = $observe(towline::multiplexed(io), script).await?;
                anyhow::Ok((theirs, ours))
            };
            let (tokio_tower, towline) = bench.runtime.block_on(both).context($scenario)?;
            lines.push(Line { case: "head-to-head", scenario: $scenario, tokio_tower, towline });
        }};
    }
    scenario!("The peer closes an idle connection; then a call is made", idle_close);
    scenario!("The connection is reset while a call is in flight", reset_in_flight);
    scenario!(
        "The peer reads nothing, callers queue, the connection is reset: the caller who came last",
        reset_in_queue
    );
    scenario!("An answer with an unknown id comes before the right one", unknown_id);
    scenario!("A caller leaves before the connection's task has run: its request", dropped_before_sending);
    scenario!("A reset with one request under way and another still queued: what their errors tell", sent_or_not);
    let scenario = "Callers leave after their requests were sent and are never answered: memory kept";
    let tokio_tower = abandoned(&bench.runtime, tokio_tower::multiplexed).context(scenario)?;
    let towline = abandoned(&bench.runtime, towline::multiplexed).context(scenario)?;
    lines.push(Line { case: "head-to-head", scenario, tokio_tower, towline });
    let mut report = Report::default();
    report.add_lines(&lines)?;
    report.tables.push(Table {
        title: format!("tokio-tower's multiplexed client and ours, same peer (hangs: for {BOUND:?})"),
        head: ["scenario", "tokio-tower", "towline-multiplexed"].map(str::to_owned).to_vec(),
        rows: lines.into_iter().map(|line| vec![line.scenario.to_owned(), line.tokio_tower, line.towline]).collect(),
        prose: true,
        detail: false,
    });
    Ok(report)
}

/// A call that runs by itself.
type Call<C> = JoinHandle<Result<Response, <C as Service<Request>>::Error>>;

async fn start<C: Client>(client: &mut C, bytes: usize) -> Result<Call<C>> {
    let ready = client.ready().await.map_err(|error| anyhow!("not ready: {error}"))?;
    Ok(tokio::spawn(ready.call(request(bytes))))
}

/// How a call ends.
async fn end<C: Client>(mut call: Call<C>) -> Result<String> {
    Ok(match timeout(BOUND, &mut call).await {
        Ok(Ok(answer)) => outcome(answer),
        Ok(Err(panic)) => format!("panics: {panic}"),
        Err(_) => {
            call.abort();
            "hangs".to_owned()
        }
    })
}

fn outcome<T, E: Told>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "is answered".to_owned(),
        Err(error) => format!("fails: {}", chain(&error)),
    }
}

async fn idle_close<C: Client>(mut client: C, mut script: Script) -> Result<String> {
    let first = start(&mut client, 64).await?;
    let asked = script.expect().await?;
    script.answer(asked.id).await?;
    ensure!(end::<C>(first).await? == "is answered", "the call before was not answered");
    drop(script);
    sleep(SETTLE).await;
    Ok(match timeout(BOUND, client.ready()).await {
        Ok(Ok(ready)) => format!("is ready; the call {}", end::<C>(tokio::spawn(ready.call(request(64)))).await?),
        Ok(Err(error)) => format!("readiness fails: {}", chain(&error)),
        Err(_) => "readiness hangs".to_owned(),
    })
}

async fn reset_in_flight<C: Client>(mut client: C, mut script: Script) -> Result<String> {
    let call = start(&mut client, 64).await?;
    script.expect().await?;
    script.reset()?;
    Ok(format!("the call {}", end::<C>(call).await?))
}

/// Calls behind a peer that reads nothing, and the client, when it says that it is not ready for another one.
struct Queue<C: Client> {
    calls: Vec<Call<C>>,
    waiting: Option<JoinHandle<Result<(), C::Error>>>,
}

/// Makes calls until readiness is pending, or there are more of them than sockets can buffer.
async fn queue<C: Client>(mut client: C) -> Result<Queue<C>> {
    let mut calls = Vec::new();
    for _ in 0..QUEUED {
        match timeout(SETTLE, client.ready()).await {
            Ok(ready) => calls
                .push(tokio::spawn(ready.map_err(|error| anyhow!("not ready: {error}"))?.call(request(QUEUED_BYTES)))),
            Err(_) => {
                let waiting = tokio::spawn(async move { client.ready().await.map(drop) });
                sleep(SETTLE).await;
                return Ok(Queue { calls, waiting: Some(waiting) });
            }
        }
    }
    sleep(SETTLE).await;
    Ok(Queue { calls, waiting: None })
}

async fn reset_in_queue<C: Client>(client: C, script: Script) -> Result<String> {
    let Queue { mut calls, waiting } = queue(client).await?;
    script.reset()?;
    let Some(mut waiting) = waiting else {
        let last = calls.pop().context("no call was made")?;
        return Ok(format!("is in a call, which {}", end::<C>(last).await?));
    };
    let ended = match timeout(BOUND, &mut waiting).await {
        Ok(ready) => outcome(ready?),
        Err(_) => "hangs".to_owned(),
    };
    waiting.abort();
    Ok(format!("waits for readiness, which {ended}"))
}

async fn unknown_id<C: Client>(mut client: C, mut script: Script) -> Result<String> {
    let call = start(&mut client, 64).await?;
    let asked = script.expect().await?;
    script.answer(u64::MAX.to_string()).await?;
    script.answer(asked.id).await?;
    Ok(format!("the call {}", end::<C>(call).await?))
}

async fn dropped_before_sending<C: Client>(mut client: C, mut script: Script) -> Result<String> {
    let ready = client.ready().await.map_err(|error| anyhow!("not ready: {error}"))?;
    let mut call = Box::pin(ready.call(request(64)));
    let polled = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
    ensure!(polled.is_pending(), "a call that nobody answered has ended");
    drop(call);
    let sent = script.next(SETTLE).await?.is_some();
    drop(client);
    Ok(if sent { "is sent" } else { "is not sent" }.to_owned())
}

/// What callers leave behind who left after their requests were sent.
fn abandoned<C: Client>(runtime: &Runtime, make: fn(TcpStream) -> C) -> Result<String> {
    let (mut client, mut script) = runtime.block_on(async {
        let (io, mut script) = connection().await?;
        let mut client = make(io);
        // These fill buffers that stay.
        abandon(&mut client, &mut script).await?;
        anyhow::Ok((client, script))
    })?;
    let ((), used) = usage::measure(|| runtime.block_on(abandon(&mut client, &mut script)))?;
    Ok(format!("{} bytes per call", used.heap / ABANDONED as i64))
}

async fn abandon<C: Client>(client: &mut C, script: &mut Script) -> Result<()> {
    for _ in 0..ABANDONED {
        let call = start(client, 64).await?;
        script.expect().await?;
        call.abort();
        ensure!(call.await.is_err_and(|error| error.is_cancelled()), "a call that nobody answered has ended");
    }
    Ok(())
}

async fn sent_or_not<C: Client>(client: C, script: Script) -> Result<String> {
    let Queue { mut calls, waiting } = queue(client).await?;
    script.reset()?;
    let (queued, sent) = (calls.pop().context("no call was made")?, calls.swap_remove(0));
    let [sent, queued] = [told::<C>(sent).await?, told::<C>(queued).await?];
    waiting.inspect(JoinHandle::abort);
    Ok(format!("sent: {sent}; queued: {queued}"))
}

async fn told<C: Client>(call: Call<C>) -> Result<String> {
    Ok(match timeout(BOUND, call).await {
        Ok(Ok(Err(error))) => error.told(),
        Ok(ended) => outcome(ended?),
        Err(_) => "hangs".to_owned(),
    })
}
