//! The policies that come with the balancer. Each says who is preferred; who is *eligible* is the balancer's matter.

mod hot_cold;
mod least_request;
mod p2c;
mod round_robin;
mod turn;
mod weighted_random;
mod zones;

use towline_core::{Member, Members};

pub use self::hot_cold::{HotCold, HotColdOrder, HotColdPicker};
pub use self::least_request::{LeastRequest, LeastRequestOrder, LeastRequestPicker};
pub use self::p2c::{P2c, P2cOrder, P2cPicker};
pub use self::round_robin::{RoundRobin, RoundRobinPicker};
pub use self::weighted_random::{WeightedOrder, WeightedRandom, WeightedRandomPicker};
pub use self::zones::{Zones, ZonesOrder, ZonesPicker};

fn weights(set: &Members) -> impl ExactSizeIterator<Item = f64> + Clone {
    set.iter().map(|member: &Member| member.endpoint.weight().get())
}
