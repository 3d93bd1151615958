//! Where endpoints come from, for the balancers of towline and of tower.
//!
//! A [`Source`] is a stream of whole sets. Lists, channels, files and names are sources, adapters go over any of them, and a URL says
//! which one is meant.
//!
//! | what there is | source |
//! |---|---|
//! | a list that does not change | [`Source::fixed`], `static:a:1,b:2` |
//! | your own code that knows | [`Source::watch`], [`Source::mpsc`], [`Source::new`] of any stream, `Source::accumulate` of changes |
//! | a file that others write | [`File`], `file:path` |
//! | a name | [`System`], `dns:///name:port`; TTL, SRV and servers of your choice by `towline-discover-dns` |
//! | anything that can be asked | a [`Resolve`] of yours |
//!
//! ```
//! use std::time::Duration;
//! use futures_util::StreamExt;
//! use towline_discover::Schemes;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let mut source = Schemes::default()
//!     .open("static:10.0.0.1:7000,10.0.0.2:7000")?
//!     .keep_last_good(Duration::from_secs(3_600))
//!     .min_interval(Duration::from_secs(1));
//! let set = source.next().await.unwrap()?;
//! assert_eq!(set.len(), 2);
//! # Ok::<(), towline_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! # What holds for all
//!
//! - An error is an item and no end, and changes nothing. A balancer reports it, and keeps the set that it has.
//! - An empty answer is taken for a failure. Only [`EndpointSet::none`](towline_core::EndpointSet::none) means that there are none.
//! - An endpoint that stays keeps its connections, whatever happens to the others, and in whatever order they come.
//! - Whoever [asks for a look](Refresh), and however often: each source has a shortest time between two.

mod adapt;
#[cfg(feature = "tower")]
mod changes;
mod file;
mod origin;
mod refresh;
mod resolving;
mod schemes;
mod source;
mod system;
#[cfg(test)]
mod testing;
mod url;

pub use self::adapt::Defaults;
#[cfg(feature = "tower")]
pub use self::changes::Discovered;
#[doc(hidden)]
pub use self::file::parse;
pub use self::file::{File, Format};
pub use self::origin::{IntoOrigin, Origin, Text};
pub use self::refresh::Refresh;
pub use self::resolving::{Answer, Failure, Resolve, Resolving, Timing, sorted};
pub use self::schemes::{Scheme, Schemes, names};
pub use self::source::Source;
pub use self::system::System;
pub use self::url::SourceUrl;
