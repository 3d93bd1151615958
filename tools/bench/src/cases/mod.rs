//! What can be measured.

pub(crate) mod balance;
pub(crate) mod batched;
mod callgrind;
pub(crate) mod checkout;
mod discover;
pub(crate) mod echo;
pub(crate) mod head_to_head;
mod http;
pub(crate) mod instructions;
mod layers;
pub(crate) mod memory;
mod pooled;
mod recorded;
mod stack;
mod sticky;
pub(crate) mod tls;

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;

use crate::args::Recorded;
use crate::child::Server;
use crate::cores;
use crate::measure::{Caller, Echo, Plan, Round, interleave, round};
use crate::peers::{Peer, Visit};
use crate::report::{Report, Row};

/// A case, as it is named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Echo,
    Tls,
    Memory,
    Instructions,
    HeadToHead,
    Checkout,
    CheckoutInstructions,
    Balance,
    BalanceInstructions,
    Layers,
    Sticky,
    Http,
    Discover,
}

impl Case {
    pub(crate) const ALL: [Self; 13] = [
        Self::Echo,
        Self::Tls,
        Self::Memory,
        Self::Instructions,
        Self::HeadToHead,
        Self::Checkout,
        Self::CheckoutInstructions,
        Self::Balance,
        Self::BalanceInstructions,
        Self::Layers,
        Self::Sticky,
        Self::Http,
        Self::Discover,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Tls => "tls",
            Self::Memory => "memory",
            Self::Instructions => "instructions",
            Self::HeadToHead => "head-to-head",
            Self::Checkout => "checkout",
            Self::CheckoutInstructions => "checkout-instructions",
            Self::Balance => "balance",
            Self::BalanceInstructions => "balance-instructions",
            Self::Layers => "layers",
            Self::Sticky => "sticky",
            Self::Http => "http",
            Self::Discover => "discover",
        }
    }

    /// Whether its figures can be recorded and checked.
    pub(crate) fn is_recorded(self) -> bool {
        matches!(self, Self::CheckoutInstructions | Self::BalanceInstructions)
    }

    /// Says what the machine lacks for it.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Instructions | Self::CheckoutInstructions | Self::BalanceInstructions => callgrind::check(),
            _ => Ok(()),
        }
    }

    pub(crate) fn run(self, bench: &Bench, recorded: Recorded) -> Result<Report> {
        eprintln!("{}:", self.name());
        match self {
            Self::Echo => echo::run(bench),
            Self::Tls => tls::run(bench),
            Self::Memory => memory::run(bench),
            Self::Instructions => instructions::run(bench),
            Self::HeadToHead => head_to_head::run(bench),
            Self::Checkout => checkout::run(bench),
            Self::CheckoutInstructions => checkout::instructions::run(bench, recorded),
            Self::Balance => balance::run(bench),
            Self::BalanceInstructions => balance::instructions::run(bench, recorded),
            Self::Layers => layers::run(bench),
            Self::Sticky => sticky::run(bench),
            Self::Http => http::run(bench),
            Self::Discover => discover::run(bench),
        }
    }
}

/// What all cases share.
pub(crate) struct Bench {
    pub(crate) server: Server,
    pub(crate) runtime: Runtime,
    pub(crate) quick: bool,
}

impl Bench {
    pub(crate) fn start(quick: bool) -> Result<Self> {
        Ok(Self { server: Server::start()?, runtime: runtime()?, quick })
    }

    fn plan(&self) -> Plan {
        let (rounds, warm_up, time) = if self.quick { (3, 50, 100) } else { (7, 100, 400) };
        Plan { rounds, warm_up: Duration::from_millis(warm_up), time: Duration::from_millis(time) }
    }

    /// Measures rows side by side, each against its floor.
    fn timed<R: Copy>(
        &self,
        rows: &[R],
        names: impl Fn(R) -> (&'static str, &'static str),
        start: impl FnMut(R) -> Result<Round<'static>>,
    ) -> Result<Vec<Row>> {
        let measured = interleave(&self.runtime, &self.plan(), rows, start)?;
        let speed = |name| {
            let mut named = measured.iter().filter(|(row, _)| names(*row).0 == name);
            named.next().map_or(f64::NAN, |(_, outcome)| outcome.ops_per_s)
        };
        let row = |(row, outcome): &_| {
            let (peer, floor) = names(*row);
            Row { peer, floor, ..Row::timed(outcome, speed(floor)) }
        };
        Ok(measured.iter().map(row).collect())
    }
}

/// The one thread that all rows run on.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Of [`workers`].
const WORKERS: usize = 2;

/// Workers on cores of their own, where there are as many: everything else here runs on one.
fn workers() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let spread = || cores::spread().expect("a thread may run where its process was started");
    Ok(builder.worker_threads(WORKERS).on_thread_start(spread).enable_all().build()?)
}

fn names(peer: Peer) -> (&'static str, &'static str) {
    (peer.name(), peer.floor().name())
}

/// Makes a round of echoes with a payload of so many bytes.
struct EchoRound(usize);

impl Visit for EchoRound {
    type Output = Round<'static>;

    fn visit<C: Caller>(self, callers: Vec<C>) -> Self::Output {
        round(Echo::all(callers, self.0))
    }
}
