//! What can be put over any source. Each takes a stream of sets and is one.

mod dedup;
mod defaults;
mod fallback_to;
mod keep_last_good;
mod merge;
mod min_interval;

pub(crate) use self::dedup::{Dedup, is_same};
pub use self::defaults::Defaults;
pub(crate) use self::fallback_to::FallbackTo;
pub(crate) use self::keep_last_good::KeepLastGood;
pub(crate) use self::merge::Merge;
pub(crate) use self::min_interval::MinInterval;

/// Items that are taken in one poll before others have their turn.
pub(crate) const BATCH: usize = 1_024;
