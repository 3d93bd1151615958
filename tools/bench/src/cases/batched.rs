//! Calls that take tens of nanoseconds, made in batches: the clock is read once per batch, and latencies are of one call in
//! many.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::measure::{Round, Sample};
use crate::usage;

/// Calls between two readings of the clock; then others get their turn.
const BATCH: u64 = 512;
/// One call in so many is timed: a prime, so as not to keep step with anything.
const TIMED: u64 = 61;
/// Timed calls of a task, with room to spare.
const TIMES: usize = 1 << 12;

/// What is called, or one task's share of it: answers with the request.
pub(crate) trait Callee: Send + 'static {
    fn call(&mut self, request: u64) -> impl Future<Output = Result<u64>> + Send;
}

/// A round of calls, a task for each callee. Single calls are timed too if there is anybody that they could have to wait for.
pub(super) fn round<B: Callee>(callees: Vec<B>) -> Round<'static> {
    Box::new(move |runtime, plan, latencies| {
        let warmed_up = runtime.block_on(all(callees, plan.warm_up))?;
        let work = || runtime.block_on(all(warmed_up.callees, plan.time));
        let (Made { calls, timed, .. }, used) = usage::measure(work)?;
        timed.into_iter().for_each(|time| latencies.saturating_record(time.as_nanos() as u64));
        Ok(Sample { calls, used })
    })
}

/// What tasks have done.
struct Made<B> {
    /// To go on with.
    callees: Vec<B>,
    calls: u64,
    timed: Vec<Duration>,
}

/// Runs the tasks.
async fn all<B: Callee>(callees: Vec<B>, time: Duration) -> Result<Made<B>> {
    let began = Instant::now();
    let is_contended = callees.len() > 1;
    let tasks: Vec<_> =
        callees.into_iter().map(|callee| tokio::spawn(one(callee, is_contended, began, time))).collect();
    let mut all = Made { callees: Vec::with_capacity(tasks.len()), calls: 0, timed: Vec::new() };
    for task in tasks {
        let (callee, calls, mut timed) = task.await.context("a task panicked")??;
        all.callees.push(callee);
        all.calls += calls;
        all.timed.append(&mut timed);
    }
    Ok(all)
}

async fn one<B: Callee>(
    mut callee: B,
    is_contended: bool,
    began: Instant,
    time: Duration,
) -> Result<(B, u64, Vec<Duration>)> {
    let mut calls = 0;
    let mut timed = Vec::with_capacity(if is_contended { TIMES } else { 0 });
    loop {
        for index in 0..BATCH {
            let request = calls + index;
            let asked = (is_contended && request % TIMED == 0).then(Instant::now);
            let answer = black_box(callee.call(request).await?);
            timed.extend(asked.map(|asked| asked.elapsed()));
            ensure!(answer == request, "call {request} got the answer of {answer}");
        }
        calls += BATCH;
        yield_now().await;
        if began.elapsed() >= time {
            return Ok((callee, calls, timed));
        }
    }
}
