//! How a row is measured: jobs that repeat on one thread until the time is over.
//!
//! Every row runs the same loop: one task per caller on a current-thread runtime, one clock reading per call, one
//! histogram for all. The numbers around it (wall clock, CPU of this process, allocations) are read before the tasks
//! are spawned and after the last has ended, so that they belong to exactly the calls that are counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use towline_proto::{Request, Response};

use crate::usage::{self, Usage};

/// Something that is done over and over.
pub(crate) trait Job: Send + 'static {
    /// Does it once; `sequence` differs each time.
    fn once(&mut self, sequence: u64) -> impl Future<Output = Result<()>> + Send;
}

/// A client of the echo protocol, or its share of one.
pub(crate) trait Caller: Send + 'static {
    fn call(&mut self, request: Request) -> impl Future<Output = Result<Response>> + Send;
}

/// Calls and checks that the answer is its own.
pub(crate) struct Echo<C> {
    caller: C,
    index: u64,
    payload: Bytes,
}

/// Callers below this number have ids that differ from each other's: the low bits of an id are the caller's index.
pub(crate) const MAX_CALLERS: u64 = 1 << 10;

impl<C: Caller> Echo<C> {
    pub(crate) fn all(callers: Vec<C>, payload: usize) -> Vec<Self> {
        let payload = Bytes::from(vec![b'x'; payload]);
        let job = |(index, caller)| Self { caller, index: index as u64, payload: payload.clone() };
        callers.into_iter().enumerate().map(job).collect()
    }
}

impl<C: Caller> Job for Echo<C> {
    async fn once(&mut self, sequence: u64) -> Result<()> {
        let id = sequence * MAX_CALLERS + self.index;
        let request = Request { id: id.to_string(), payload: self.payload.clone() };
        let response = self.caller.call(request).await?;
        ensure!(
            response.id.parse() == Ok(id) && response.payload.len() == self.payload.len(),
            "call {id} got the answer of {:?}",
            response.id
        );
        Ok(())
    }
}

/// When the jobs stop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Time(Duration),
    Calls(u64),
}

/// Latencies in nanoseconds, of all rounds of a row.
pub(crate) type Latencies = Histogram<u32>;

pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_max(60_000_000_000, 3).expect("the bounds are sound")
}

/// How long and how often.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
}

/// Jobs whose type is forgotten: one row in one round.
pub(crate) type Round<'a> = Box<dyn FnOnce(&Runtime, &Plan, &mut Latencies) -> Result<Sample> + 'a>;

/// What one round brought.
pub(crate) struct Sample {
    pub(crate) calls: u64,
    pub(crate) used: Usage,
}

/// What all rounds of a row brought: medians, unless they say otherwise.
pub(crate) struct Outcome {
    pub(crate) ops_per_s: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) cpu_us_per_op: f64,
    pub(crate) allocs_per_op: f64,
    /// Of all calls of all rounds.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// A round of these jobs: warms up, then measures.
pub(crate) fn round<'a, J: Job>(jobs: Vec<J>) -> Round<'a> {
    Box::new(|runtime, plan, total| {
        let (jobs, _) = runtime.block_on(repeat(jobs, 0, Until::Time(plan.warm_up), latencies()))?;
        let recorded = std::mem::replace(total, latencies());
        let work = || runtime.block_on(repeat(jobs, 1 << 32, Until::Time(plan.time), recorded));
        let ((_jobs, (calls, recorded)), used) = usage::measure(work)?;
        *total = recorded;
        Ok(Sample { calls, used })
    })
}

/// Measures rows side by side: each round has all of them, so that whatever disturbs the machine for a while disturbs
/// them alike.
pub(crate) fn interleave<R: Copy>(
    runtime: &Runtime,
    plan: &Plan,
    rows: &[R],
    mut start: impl FnMut(R) -> Result<Round<'static>>,
) -> Result<Vec<(R, Outcome)>> {
    let mut measured: Vec<_> = rows.iter().map(|row| (*row, Vec::new(), latencies())).collect();
    for _ in 0..plan.rounds {
        for (row, samples, latencies) in &mut measured {
            let round = start(*row)?;
            samples.push(round(runtime, plan, latencies)?);
        }
    }
    Ok(measured.into_iter().map(|(row, samples, latencies)| (row, Outcome::new(&samples, &latencies))).collect())
}

impl Outcome {
    fn new(samples: &[Sample], latencies: &Latencies) -> Self {
        let sorted = |of: fn(&Sample) -> f64| {
            let mut values: Vec<_> = samples.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let speeds = sorted(|sample| sample.calls as f64 / sample.used.elapsed.as_secs_f64());
        let median = |values: &[f64]| values[values.len() / 2];
        Self {
            ops_per_s: median(&speeds),
            min: speeds[0],
            max: speeds[speeds.len() - 1],
            cpu_us_per_op: median(&sorted(|sample| sample.used.cpu.as_secs_f64() * 1e6 / sample.calls as f64)),
            allocs_per_op: median(&sorted(|sample| sample.used.allocations as f64 / sample.calls as f64)),
            p50_us: latencies.value_at_quantile(0.5) as f64 / 1e3,
            p99_us: latencies.value_at_quantile(0.99) as f64 / 1e3,
        }
    }
}

/// Runs all jobs at the same time, each over and over; gives them back with the number of calls they made.
pub(crate) async fn repeat<J: Job>(
    jobs: Vec<J>,
    first: u64,
    until: Until,
    latencies: Latencies,
) -> Result<(Vec<J>, (u64, Latencies))> {
    let latencies = Arc::new(Mutex::new(latencies));
    let began = Instant::now();
    let tasks: Vec<_> =
        jobs.into_iter().map(|job| tokio::spawn(one(job, first, began, until, latencies.clone()))).collect();
    let (mut jobs, mut calls) = (Vec::with_capacity(tasks.len()), 0);
    for task in tasks {
        let (job, made) = task.await.context("a caller panicked")??;
        jobs.push(job);
        calls += made;
    }
    let latencies = std::mem::replace(&mut *lock(&latencies), self::latencies());
    Ok((jobs, (calls, latencies)))
}

async fn one<J: Job>(
    mut job: J,
    first: u64,
    mut last: Instant,
    until: Until,
    latencies: Arc<Mutex<Latencies>>,
) -> Result<(J, u64)> {
    let began = last;
    for calls in 1.. {
        job.once(first + calls).await?;
        let now = Instant::now();
        lock(&latencies).saturating_record((now - last).as_nanos() as u64);
        last = now;
        let over = match until {
            Until::Time(time) => now - began >= time,
            Until::Calls(limit) => calls >= limit,
        };
        if over {
            return Ok((job, calls));
        }
    }
    unreachable!("the range has no end")
}

/// A lock that is only ever taken for a few instructions by one thread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
