//! The clients that are compared, behind one trait. Static dispatch all the way: a box per call would be measured too.

pub(crate) mod balancers;
mod channel;
pub(crate) mod floor;
mod http;
pub(crate) mod layers;
pub(crate) mod pools;
mod stacks;
pub(crate) mod sticky;
pub(crate) mod tokio_tower;
pub(crate) mod towline;

use anyhow::Result;

pub(crate) use self::http::{Hyper, PooledHttp, Tonic};
use crate::dial::Dial;
use crate::measure::Caller;
use crate::server::Addresses;

/// A row of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    FloorExclusive,
    FloorMultiplexed,
    TowlineExclusive,
    TowlineMultiplexed,
    TokioTower,
    HyperHttp1,
    HyperHttp2,
    Tonic,
    FloorMux3,
    TowlineStack3,
    TowerStack3,
    TonicBalanced3,
    TowlineTonic,
    TowlineTonic3,
    TowlineHttp1,
    TowlineHttp2,
}

impl Peer {
    pub(crate) const ALL: [Self; 8] = [
        Self::FloorExclusive,
        Self::TowlineExclusive,
        Self::HyperHttp1,
        Self::FloorMultiplexed,
        Self::TowlineMultiplexed,
        Self::TokioTower,
        Self::HyperHttp2,
        Self::Tonic,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FloorExclusive => "floor-exclusive",
            Self::FloorMultiplexed => "floor-multiplexed",
            Self::TowlineExclusive => "towline-exclusive",
            Self::TowlineMultiplexed => "towline-multiplexed",
            Self::TokioTower => "tokio-tower",
            Self::HyperHttp1 => "hyper-http1",
            Self::HyperHttp2 => "hyper-http2",
            Self::Tonic => "tonic",
            Self::FloorMux3 => "floor-mux3",
            Self::TowlineStack3 => "towline-stack3",
            Self::TowerStack3 => "tower-stack3",
            Self::TonicBalanced3 => "tonic-balance-list3",
            Self::TowlineTonic => "towline-tonic",
            Self::TowlineTonic3 => "towline-tonic3",
            Self::TowlineHttp1 => "towline-http1",
            Self::TowlineHttp2 => "towline-http2",
        }
    }

    /// What does the same work without a library.
    pub(crate) fn floor(self) -> Self {
        match self {
            Self::FloorExclusive | Self::TowlineExclusive | Self::HyperHttp1 | Self::TowlineHttp1 => {
                Self::FloorExclusive
            }
            Self::FloorMux3 | Self::TowlineStack3 | Self::TowerStack3 | Self::TonicBalanced3 | Self::TowlineTonic3 => {
                Self::FloorMux3
            }
            _ => Self::FloorMultiplexed,
        }
    }
}

/// What to do with the callers of a row, whatever their type.
pub(crate) trait Visit {
    type Output;
    fn visit<C: Caller>(self, callers: Vec<C>) -> Self::Output;
}

impl Peer {
    /// Connects so many callers and shows them to `visitor`.
    pub(crate) async fn connect<D: Dial, V: Visit>(
        self,
        dial: &D,
        addresses: &Addresses,
        callers: usize,
        visitor: V,
    ) -> Result<V::Output> {
        Ok(match self {
            Self::FloorExclusive => {
                let connect = async || Ok(floor::Exclusive::new(dial.by_hand().await?));
                visitor.visit(each(callers, connect).await?)
            }
            Self::FloorMultiplexed => {
                visitor.visit(floor::Multiplexed::all(dial.by_hand().await?, callers, D::READ_ROOM))
            }
            Self::TowlineExclusive => {
                let connect = async || Ok(towline::exclusive(dial.ours().await?));
                visitor.visit(each(callers, connect).await?)
            }
            Self::TowlineMultiplexed => visitor.visit(vec![towline::multiplexed(dial.ours().await?); callers]),
            Self::TokioTower => visitor.visit(tokio_tower::Shared::all(dial.by_hand().await?, callers)),
            Self::HyperHttp1 => visitor.visit(vec![Hyper::new(addresses.http1, false)?; callers]),
            Self::HyperHttp2 => visitor.visit(vec![Hyper::new(addresses.http2, true)?; callers]),
            Self::Tonic => visitor.visit(vec![Tonic::connect(addresses.grpc[0]).await?; callers]),
            Self::FloorMux3 => visitor.visit(stacks::InTurn::all(&addresses.backends, callers, D::READ_ROOM).await?),
            Self::TowlineStack3 => visitor.visit(vec![stacks::Towline::connect(&addresses.backends).await?; callers]),
            Self::TowerStack3 => visitor.visit(vec![stacks::Tower::connect(&addresses.backends).await?; callers]),
            Self::TonicBalanced3 => visitor.visit(vec![stacks::tonic(&addresses.grpc)?; callers]),
            Self::TowlineTonic => visitor.visit(vec![channel::tonic(&addresses.grpc[..1]).await?; callers]),
            Self::TowlineTonic3 => visitor.visit(vec![channel::tonic(&addresses.grpc).await?; callers]),
            Self::TowlineHttp1 => visitor.visit(vec![channel::Towline::new(addresses.http1, false)?; callers]),
            Self::TowlineHttp2 => visitor.visit(vec![channel::Towline::new(addresses.http2, true)?; callers]),
        })
    }
}

pub(crate) async fn each<C>(callers: usize, connect: impl AsyncFn() -> Result<C>) -> Result<Vec<C>> {
    let mut connected = Vec::with_capacity(callers);
    for _ in 0..callers {
        connected.push(connect().await?);
    }
    Ok(connected)
}
