//! The rows of this case, all with the same connection, which does nothing.

use std::task::{Context, Poll};

use anyhow::Result;
use towline_core::{Poolable, Sharing, State};

use crate::peers::pools::{Bb8, Locked, Managed, Pool, Semaphored, Unmanaged, cache, towline};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PoolPeer {
    FloorLock,
    FloorSemaphore,
    Towline,
    HyperUtilCache,
    DeadpoolUnmanaged,
    DeadpoolManaged,
    Bb8,
}

/// What to do with the pool of a row, whatever its type.
pub(super) trait Visit {
    type Output;
    fn visit<P: Pool>(self, pool: P) -> impl Future<Output = Result<Self::Output>>;
}

impl PoolPeer {
    pub(super) const FLOOR: Self = Self::FloorLock;

    pub(super) const ALL: [Self; 7] = [
        Self::FloorLock,
        Self::FloorSemaphore,
        Self::Towline,
        Self::HyperUtilCache,
        Self::DeadpoolUnmanaged,
        Self::DeadpoolManaged,
        Self::Bb8,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FloorLock => "floor-lock",
            Self::FloorSemaphore => "floor-semaphore",
            Self::Towline => "towline-pool",
            Self::HyperUtilCache => "hyper-util-cache",
            Self::DeadpoolUnmanaged => "deadpool-unmanaged",
            Self::DeadpoolManaged => "deadpool-managed",
            Self::Bb8 => "bb8",
        }
    }

    /// Opens a pool of so many connections and shows it to `visitor`.
    pub(super) async fn open<V: Visit>(self, connections: usize, visitor: V) -> Result<V::Output> {
        let stock: Vec<_> = (0..connections).map(|_| Still).collect();
        match self {
            Self::FloorLock => visitor.visit(Locked::new(stock)).await,
            Self::FloorSemaphore => visitor.visit(Semaphored::new(stock)).await,
            Self::Towline => visitor.visit(towline(stock).await?).await,
            Self::HyperUtilCache => visitor.visit(cache(|| Still)).await,
            Self::DeadpoolUnmanaged => visitor.visit(Unmanaged::new(stock)).await,
            Self::DeadpoolManaged => visitor.visit(Managed::new(stock)?).await,
            Self::Bb8 => visitor.visit(Bb8::new(stock).await?).await,
        }
    }
}

/// A connection that is always idle.
struct Still;

impl Poolable for Still {
    fn sharing(&self) -> Sharing {
        Sharing::Exclusive
    }

    fn poll_change(&mut self, seen: State, _cx: &mut Context<'_>) -> Poll<State> {
        if seen == State::Idle { Poll::Pending } else { Poll::Ready(State::Idle) }
    }
}
