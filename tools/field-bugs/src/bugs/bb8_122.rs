//! A connection that is returned between a waiter's look and its joining the queue.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::network::Network;
use crate::pools::{self, Pool};
use crate::report::{Bug, Observed};

const URL: &str = "https://github.com/djc/bb8/issues/122";
/// More than there are cores: the system then stops a worker anywhere.
const WORKERS: usize = 16;
const CONNECTIONS: usize = 16;
/// Waiters ask for further connections, which do not come. bb8 needs a while for asking, between look and queue.
const MAX_CONNECTIONS: usize = 64;
/// Bursts take microseconds.
const LOST: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(20);

pub(super) fn replay() -> Result<Bug> {
    let cores = std::thread::available_parallelism()?;
    let runtime = || Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let theirs = bursts(async |network| pools::bb8(network, MAX_CONNECTIONS).await);
    let theirs = runtime()?.block_on(theirs)?;
    let ours = bursts(async |network| pools::towline(network, MAX_CONNECTIONS).await);
    let ours = runtime()?.block_on(ours)?;
    Ok(Bug {
        name: "bb8 #122",
        url: URL,
        met: "Under load callers time out although connections are idle: one comes back after a caller has looked and \
              before it waits, so nobody tells it. In 0.9.1 such a return is remembered, but no more than one (tokio's \
              `Notify`): two of them lose a wake-up.",
        replayed: format!(
            "{CONNECTIONS} connections are given back while {CONNECTIONS} callers ask on {WORKERS} threads (of {cores} cores), and each caller \
             keeps what it gets; more connections would be allowed, but take for ever to make. Again and again for {TIME:?}, or \
             until a caller waits for {LOST:?} beside an idle connection. A race, on the real clock: not seen does not mean that \
             it is not there."
        ),
        observed: vec![theirs, ours],
    })
}

async fn bursts(open: impl AsyncFn(&Network) -> Result<Pool>) -> Result<Observed> {
    let began = Instant::now();
    let mut bursts = 0;
    loop {
        bursts += 1;
        let pool = open(&Network::of(CONNECTIONS)).await?;
        let served = burst(&pool).await?;
        if served < CONNECTIONS && pool.idle() > 0 {
            let (waiting, idle) = (CONNECTIONS - served, pool.idle());
            let did =
                format!("burst {bursts}: {waiting} of {CONNECTIONS} callers not served, connections idle: {idle}");
            return Ok(Observed { pool: pool.name, did, has_bug: Some(true) });
        }
        if began.elapsed() > TIME {
            return Ok(Observed { pool: pool.name, did: format!("not seen in {bursts} bursts"), has_bug: Some(false) });
        }
    }
}

/// How many callers get a connection.
async fn burst(pool: &Pool) -> Result<usize> {
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(pool.acquire().await?);
    }
    let served = Arc::new(Semaphore::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (pool, served) = (pool.clone(), served.clone());
        tasks.spawn(async move {
            let _kept = pool.acquire().await;
            served.add_permits(1);
            std::future::pending::<()>().await;
        });
    }
    for loan in held {
        tasks.spawn(async move { drop(loan) });
    }
    // The permits go back at once: they count.
    let _ = timeout(LOST, served.acquire_many(CONNECTIONS as u32)).await;
    Ok(served.available_permits())
}
