//! Session affinity: calls of one session go to one endpoint, as long as that can take them.

mod affinity;
mod clock;
mod hash;
mod home_first;
mod kept;
mod layer;
mod pin;
mod places;
mod sessions;
mod stats;
mod table;
#[cfg(test)]
mod testing;
#[cfg(feature = "token")]
mod token;

pub use self::affinity::{Affinity, AffinityOrder, AffinityPicker};
pub use self::hash::{Maglev, MaglevOrder, MaglevPicker, Rendezvous, RendezvousOrder, RendezvousPicker};
pub use self::home_first::{HomeFirst, HomeFirstOrder, HomeFirstPicker};
pub use self::layer::{Sticky, StickyLayer};
pub use self::pin::{PinLayer, Pinned, PinnedFuture, Pins};
pub use self::sessions::WhenHomeFails;
pub use self::stats::{ByLoss, StickyCounts, StickyStats};
pub use self::table::{SessionTable, SessionTableOrder, SessionTablePicker};
#[cfg(feature = "token")]
pub use self::token::{Token, TokenError, TokenFuture, TokenLayer, TokenService, Tokens};
