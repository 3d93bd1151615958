//! Instructions per call over endpoints that do nothing, one task and nobody in its way.

use std::hint::black_box;

use anyhow::{Context, Result, bail};

use super::Load;
use super::peers::{BalancePeer, Visit};
use crate::args::Recorded;
use crate::cases::batched::Callee;
use crate::cases::recorded::{self, Counted};
use crate::cases::{Bench, Case, runtime};
use crate::child::BALANCE;
use crate::report::Report;

const LOAD: Load = Load { endpoints: 100, tasks: 1 };
const PEERS: [BalancePeer; 3] = [BalancePeer::FLOOR, BalancePeer::Towline, BalancePeer::TowlineEwma];
/// What the default metric costs depends on what the clock says, by more than a check may forgive.
const COUNTED: [BalancePeer; 2] = [BalancePeer::FLOOR, BalancePeer::Towline];

pub(in crate::cases) fn run(bench: &Bench, recorded: Recorded) -> Result<Report> {
    let counted = Counted {
        case: Case::BalanceInstructions,
        role: BALANCE,
        peers: &COUNTED.map(BalancePeer::name),
        title: "Instructions per call, 100 endpoints, 1 task",
    };
    recorded::run(bench, recorded, &counted)
}

/// The process under callgrind, or under a profiler, with another number of endpoints if that is to be.
pub(crate) fn call(words: &[String]) -> Result<()> {
    let (name, calls, endpoints) = match words {
        [name, calls] => (name, calls, LOAD.endpoints),
        [name, calls, endpoints] => (name, calls, endpoints.parse().context("the number of endpoints")?),
        _ => bail!("expected a row and a number"),
    };
    let peer = PEERS.into_iter().find(|peer| peer.name() == name).with_context(|| format!("no row {name:?}"))?;
    let calls = calls.parse().context("the number of calls")?;
    runtime()?.block_on(peer.open(Load { endpoints, ..LOAD }, Calls(calls)))
}

struct Calls(u64);

impl Visit for Calls {
    type Output = ();

    async fn visit<B: Callee>(self, balancers: Vec<B>) -> Result<()> {
        for mut balancer in balancers {
            for request in 0..self.0 {
                black_box(balancer.call(request).await?);
            }
        }
        Ok(())
    }
}
