//! One endpoint comes and one goes, in a large set: the time of the poll of the driver after which a new call sees that.
//! Nobody calls meanwhile, and no call ever waits for it.

use anyhow::Result;

use super::peers::BalancePeer;
use super::{GOAL_CHANGE_MS, Load};
use crate::cases::Bench;
use crate::measure::{Outcome, Round, Sample, interleave};
use crate::peers::balancers::Floor;
use crate::peers::balancers::towline::Driven;
use crate::report::{Extra, Row, Table, thousands};
use crate::usage::{self, Usage};

const ENDPOINTS: usize = 10_000;
/// tower's changes in place, one task's calls wait for that, and it is not compared.
const PEERS: [BalancePeer; 3] = [BalancePeer::FloorP2c, BalancePeer::Towline, BalancePeer::TowlineEwma];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    eprintln!("  {}", title());
    let start = |peer: BalancePeer| Ok(round(peer));
    let measured = interleave(&bench.runtime, &bench.plan(), &PEERS, start)?;
    let floor = measured.iter().find(|(peer, _)| *peer == BalancePeer::FLOOR).map_or(f64::NAN, |(_, o)| o.ops_per_s);
    let row = |(peer, outcome): &(BalancePeer, Outcome)| {
        let ms = 1e3 / outcome.ops_per_s;
        Row {
            case: "balance-change",
            peer: peer.name(),
            floor: BalancePeer::FLOOR.name(),
            concurrency: 1,
            extra: Extra {
                endpoints: Some(ENDPOINTS),
                met: (*peer != BalancePeer::FLOOR).then_some(ms <= GOAL_CHANGE_MS),
                ..Extra::default()
            },
            ..Row::timed(outcome, floor)
        }
    };
    Ok(measured.iter().map(row).collect())
}

fn round(peer: BalancePeer) -> Round<'static> {
    Box::new(move |runtime, plan, latencies| {
        let _runtime = runtime.enter();
        let mut set: Box<dyn Changing> = match peer {
            BalancePeer::FLOOR => Box::new(Floor::new(ENDPOINTS)),
            _ => Box::new(Driven::new(ENDPOINTS, peer.metric())?),
        };
        let mut repeat = |time| {
            let mut sample = Sample { calls: 0, used: Usage::default() };
            while sample.used.elapsed < time {
                set.announce()?;
                let ((), used) = usage::measure(|| {
                    set.change();
                    Ok(())
                })?;
                latencies.saturating_record(used.elapsed.as_nanos() as u64);
                sample.calls += 1;
                sample.used += used;
            }
            set.check()?;
            anyhow::Ok(sample)
        };
        repeat(plan.warm_up)?;
        repeat(plan.time)
    })
}

/// A set of endpoints, one of which is replaced.
trait Changing {
    /// Is not measured.
    fn announce(&mut self) -> Result<()> {
        Ok(())
    }

    fn change(&mut self);

    /// Fails unless calls see what they should.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

impl Changing for Floor {
    fn change(&mut self) {
        Floor::change(self);
    }
}

impl Changing for Driven {
    fn announce(&mut self) -> Result<()> {
        Driven::announce(self)
    }

    fn change(&mut self) {
        self.poll();
    }

    fn check(&self) -> Result<()> {
        Driven::check(self)
    }
}

fn title() -> String {
    let load = Load { endpoints: ENDPOINTS, tasks: 1 };
    format!("One of {} added, one removed", load.endpoints())
}

pub(super) fn table(rows: &[Row]) -> Table {
    let head = ["", "ms", "of floor", "slowest", "fastest", "p50", "p99", "allocs"];
    let cells = |row: &Row| {
        let ms = |per_s: f64| format!("{:.3}", 1e3 / per_s);
        vec![
            row.peer.to_owned(),
            format!("{:.3}", row.ns_per_op / 1e6),
            format!("{:.2}", row.ratio),
            ms(row.min),
            ms(row.max),
            format!("{:.3}", row.p50_us / 1e3),
            format!("{:.3}", row.p99_us / 1e3),
            thousands(row.allocs_per_op),
        ]
    };
    Table {
        title: title(),
        head: head.map(str::to_owned).to_vec(),
        rows: rows.iter().map(cells).collect(),
        prose: false,
        detail: false,
    }
}
