//! Endpoints that fail: who is ejected, for how long, and how it comes back.
//!
//! Two choices cannot avoid what both of them are, so a balancer that only compares sends a floor of calls to broken
//! endpoints. Here they are not eligible at all. The well-known detectors have holes that this one does not:
//!
//! - A threshold of the mean less some standard deviations can never be crossed once a fifth of the set is broken, because
//!   the broken ones widen it. This one compares with the median, and with what endpoints do that do well.
//! - Minima of hosts and of calls keep them silent in small sets. This one asks whether chance explains what it saw
//!   ([`evidence`]), which two endpoints and two calls can answer.
//! - A cap that rounds down ejects nobody below ten hosts, and one that is checked before the ejection ejects everybody.
//!   This one holds after the ejection, and one endpoint at least is always left.
//! - A host that returns has its full share at once. Here a single call finds out, and then the share grows slowly.
//!
//! The [`detector`] runs on the driver, ten times a second while there are calls; what calls themselves do is count.

pub(crate) mod detector;
mod evidence;
mod settings;
mod slow_start;
#[cfg(test)]
mod tests;

pub use self::detector::{Detector, News};
pub use self::settings::{Outliers, PanicMode, SlowStart};
