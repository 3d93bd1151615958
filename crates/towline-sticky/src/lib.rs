//! Session affinity: calls of one session go to one endpoint, as long as that can take them.

mod hash;
mod layer;
mod sessions;
mod stats;
#[cfg(test)]
mod testing;

pub use self::hash::{Maglev, MaglevOrder, MaglevPicker, Rendezvous, RendezvousOrder, RendezvousPicker};
pub use self::layer::{Sticky, StickyLayer};
pub use self::sessions::WhenHomeFails;
pub use self::stats::{ByLoss, StickyCounts, StickyStats};
