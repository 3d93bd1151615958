//! Waiters that are dropped, as a server drops the handlers of clients who left.

use std::future::poll_fn;
use std::task::Poll;

use anyhow::{Result, ensure};
use tokio::time::timeout;

use super::{STUCK, paused};
use crate::network::Network;
use crate::pools::{self, Loan, Pool};
use crate::report::{Bug, Observed};

const URL: &str = "https://github.com/djc/bb8/issues/67";
const WAITERS: [usize; 4] = [1, 2, 5, 20];

/// When the waiters are dropped.
#[derive(Clone, Copy)]
enum Leave {
    BeforeTheReturn,
    /// One of them has been told, and has not run yet.
    AfterTheReturn,
    /// The one who was told last of all.
    AfterTheReturnBackwards,
}

const LEAVE: [Leave; 3] = [Leave::BeforeTheReturn, Leave::AfterTheReturn, Leave::AfterTheReturnBackwards];

pub(super) fn replay() -> Result<Bug> {
    let theirs = paused(async { every(pools::bb8(&Network::default(), 1).await?).await })?;
    let ours = paused(async { every(pools::towline(&Network::default(), 1).await?).await })?;
    let [few, .., many] = WAITERS;
    Ok(Bug {
        name: "bb8 #67",
        url: URL,
        met: "Once callers were dropped while they waited, every later one times out, until a restart.",
        replayed: format!(
            "{few} to {many} callers wait for the only connection and are dropped, before it comes back or after one of them was \
             told; then somebody else asks."
        ),
        observed: vec![theirs, ours],
    })
}

async fn every(pool: Pool) -> Result<Observed> {
    let (mut stuck, mut tried) = (0, 0);
    for waiters in WAITERS {
        for leave in LEAVE {
            tried += 1;
            stuck += usize::from(!is_served(&pool, waiters, leave).await?);
        }
    }
    let did = format!("{} of {tried} times the next caller is served", tried - stuck);
    Ok(Observed { pool: pool.name, did, has_bug: Some(stuck > 0) })
}

/// Whether somebody gets the connection after all who waited for it are gone.
async fn is_served(pool: &Pool, waiters: usize, leave: Leave) -> Result<bool> {
    let Ok(held) = timeout(STUCK, pool.acquire()).await else { return Ok(false) };
    let held: Loan = held?;
    let mut waiting = Vec::new();
    for _ in 0..waiters {
        let mut waiter = pool.acquire();
        let polled = poll_fn(|cx| Poll::Ready(waiter.as_mut().poll(cx))).await;
        ensure!(polled.is_pending(), "two have the only connection");
        waiting.push(waiter);
    }
    match leave {
        Leave::BeforeTheReturn => {
            waiting.clear();
            drop(held);
        }
        Leave::AfterTheReturn => {
            drop(held);
            waiting.clear();
        }
        Leave::AfterTheReturnBackwards => {
            drop(held);
            while let Some(waiter) = waiting.pop() {
                drop(waiter);
            }
        }
    }
    Ok(timeout(STUCK, pool.acquire()).await.is_ok_and(|next| next.is_ok()))
}
