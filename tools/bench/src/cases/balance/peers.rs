//! The rows of this case, all over the same endpoints, which do nothing.

use anyhow::{Result, ensure};
use towline_balance::LoadMetric;

use super::Load;
use crate::cases::batched::Callee;
use crate::peers::balancers::tower::{buffered, owned};
use crate::peers::balancers::towline::{settle, towline};
use crate::peers::balancers::{Floor, Through};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BalancePeer {
    FloorP2c,
    Towline,
    TowlineEwma,
    Tower,
    TowerBuffer,
}

/// What to do with the balancers of a row, one per task, whatever their type.
pub(super) trait Visit {
    type Output;
    fn visit<B: Callee>(self, balancers: Vec<B>) -> impl Future<Output = Result<Self::Output>>;
}

impl BalancePeer {
    pub(super) const FLOOR: Self = Self::FloorP2c;

    pub(super) const ALL: [Self; 5] =
        [Self::FloorP2c, Self::Towline, Self::TowlineEwma, Self::Tower, Self::TowerBuffer];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FloorP2c => "floor-p2c",
            Self::Towline => "towline-balance",
            Self::TowlineEwma => "towline-balance-ewma",
            Self::Tower => "tower-balance",
            Self::TowerBuffer => "tower-buffer-balance",
        }
    }

    /// Those that so many tasks can use.
    pub(super) fn with(tasks: usize) -> Vec<Self> {
        Self::ALL.into_iter().filter(|peer| tasks == 1 || *peer != Self::Tower).collect()
    }

    /// Of ours.
    pub(super) fn metric(self) -> LoadMetric {
        if self == Self::Towline { LoadMetric::in_flight() } else { LoadMetric::default() }
    }

    /// Opens a balancer and shows `visitor` a clone for each task.
    pub(super) async fn open<V: Visit>(self, load: Load, visitor: V) -> Result<V::Output> {
        let Load { endpoints, tasks } = load;
        match self {
            Self::FloorP2c => visitor.visit(vec![Floor::new(endpoints); tasks]).await,
            Self::Towline => visitor.visit(vec![Through(towline(endpoints, self.metric()).await?); tasks]).await,
            Self::TowlineEwma => {
                let mut balance = towline(endpoints, self.metric()).await?;
                settle(&mut balance).await?;
                visitor.visit(vec![Through(balance); tasks]).await
            }
            Self::Tower => {
                ensure!(tasks == 1, "tower's balancer has one owner");
                visitor.visit(vec![Through(owned(endpoints))]).await
            }
            Self::TowerBuffer => visitor.visit(vec![Through(buffered(endpoints)); tasks]).await,
        }
    }
}
