//! A caller who gives up takes the connection with it that was being made for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use sqlx::sqlite::SqlitePoolOptions;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use super::paused;
use crate::network::Network;
use crate::pools::{self, Pool, version};
use crate::report::{Bug, Observed};

const URL: &str = "https://github.com/transact-rs/sqlx/issues/3513";
const DIAL: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_millis(200);
const CALLERS: usize = 10;

pub(super) fn replay() -> Result<Bug> {
    Ok(Bug {
        name: "sqlx #3513",
        url: URL,
        met: "A caller whose `acquire` times out or is cancelled throws the half-made connection away; the next one starts afresh, \
              and times out as well.",
        replayed: format!(
            "A connection takes {DIAL:?} to make and {CALLERS} callers, one after another, give up after {PATIENCE:?}. For sqlx it \
             is SQLite in memory with an `after_connect` that takes as long, on the real clock."
        ),
        observed: vec![
            Builder::new_current_thread().enable_all().build()?.block_on(sqlx())?,
            paused(async {
                let network = Network::taking(DIAL);
                impatient(pools::deadpool(&network, 1)?, &network).await
            })?,
            paused(async {
                let network = Network::taking(DIAL);
                impatient(pools::bb8(&network, 1).await?, &network).await
            })?,
            paused(async {
                let network = Network::taking(DIAL);
                impatient(pools::towline(&network, 1).await?, &network).await
            })?,
        ],
    })
}

async fn impatient(pool: Pool, network: &Network) -> Result<Observed> {
    let mut served = 0;
    for _ in 0..CALLERS {
        if let Ok(loan) = timeout(PATIENCE, pool.acquire()).await {
            drop(loan?);
            served += 1;
        }
    }
    Ok(observed(pool.name, served, network.begun(), network.made()))
}

async fn sqlx() -> Result<Observed> {
    let (begun, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (begun.clone(), made.clone());
    let options = SqlitePoolOptions::new().max_connections(1).acquire_timeout(PATIENCE);
    let options = options.after_connect(move |_, _| {
        let (begun, made) = counts.clone();
        Box::pin(async move {
            begun.fetch_add(1, Relaxed);
            sleep(DIAL).await;
            made.fetch_add(1, Relaxed);
            Ok(())
        })
    });
    let pool = options.connect_lazy("sqlite::memory:")?;
    let mut served = 0;
    for _ in 0..CALLERS {
        match pool.acquire().await {
            Ok(connection) => {
                drop(connection);
                served += 1;
            }
            Err(sqlx::Error::PoolTimedOut) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(observed(version("sqlx"), served, begun.load(Relaxed), made.load(Relaxed)))
}

fn observed(pool: String, served: usize, begun: usize, made: usize) -> Observed {
    let did = format!("{served} of {CALLERS} callers served; dials begun: {begun}, finished: {made}");
    Observed { pool, did, has_bug: Some(served == 0) }
}
