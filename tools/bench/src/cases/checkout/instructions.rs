//! Instructions per checkout, one task and nobody in its way.

use std::hint::black_box;

use anyhow::{Context, Result, bail};

use super::peers::{PoolPeer, Visit};
use crate::args::Recorded;
use crate::cases::recorded::{self, Counted};
use crate::cases::{Bench, Case, runtime};
use crate::child::CHECKOUT;
use crate::peers::pools::{Pool, warm};
use crate::report::Report;

const PEERS: [PoolPeer; 2] = [PoolPeer::FLOOR, PoolPeer::Towline];

pub(in crate::cases) fn run(bench: &Bench, recorded: Recorded) -> Result<Report> {
    let counted = Counted {
        case: Case::CheckoutInstructions,
        role: CHECKOUT,
        peers: &PEERS.map(PoolPeer::name),
        title: "Instructions to acquire and release, 1 task",
    };
    recorded::run(bench, recorded, &counted)
}

/// The process under callgrind.
pub(crate) fn checkout(words: &[String]) -> Result<()> {
    let [name, checkouts] = words else { bail!("expected a row and a number") };
    let peer = PEERS.into_iter().find(|peer| peer.name() == name).with_context(|| format!("no row {name:?}"))?;
    let checkouts = checkouts.parse().context("the number of checkouts")?;
    runtime()?.block_on(peer.open(1, Checkouts(checkouts)))
}

struct Checkouts(u64);

impl Visit for Checkouts {
    type Output = ();

    async fn visit<P: Pool>(self, mut pool: P) -> Result<()> {
        warm(&pool, 1).await?;
        for _ in 0..self.0 {
            drop(black_box(pool.acquire().await?));
        }
        Ok(())
    }
}
