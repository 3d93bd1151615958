//! Session affinity: calls of one session go to one endpoint, as long as that can take them.
//!
//! Two halves. [`StickyLayer`] says *who* is calling: it puts a session key into the call's context. A policy for the balancer
//! says *where* they go:
//!
//! | | where a session's home comes from | for |
//! |---|---|---|
//! | [`Rendezvous`] | a hash of session and endpoint | sets of up to about a hundred |
//! | [`Maglev`] | a table by hash | any set |
//! | [`SessionTable`] | the load at its first call, remembered | sessions that must not move when endpoints join |
//! | [`HomeFirst`], with `TokenLayer` | a signed token that the client brings | servers that cannot remember, clients that can |
//! | [`PinLayer`], beside one of these | one connection | servers that keep state per connection |
//!
//! With the first two every client process agrees where a session goes, without talking. [`Affinity`] is any of the
//! first three, chosen at run time.
//!
//! A session's call goes elsewhere for these reasons only ([`HomeLoss`](towline_core::HomeLoss)): its home is gone, is not
//! ready, has as many calls as it may have, or has failed an earlier attempt of the call. What happens then is
//! [`WhenHomeFails`]: the call fails, or spills, or the session moves. Each is an
//! [event](towline_core::Event::SessionSpilled), and counted in [`StickyStats`].
//!
//! ```
//! use tower::ServiceBuilder;
//! use towline_balance::BalanceBuilder;
//! use towline_core::{Call, SessionKey};
//! use towline_sticky::{Rendezvous, StickyLayer, StickyStats};
//!
//! struct Request { user: String }
//!
//! let stats = StickyStats::new();
//! let who = StickyLayer::by(|call: &Call<Request>| Some(SessionKey::new(&call.message().user)));
//! let balance = BalanceBuilder::new(Rendezvous::new().with_stats(stats.clone()));
//! // … `ServiceBuilder::new().layer(who).service(balance.spawn(…)?)`, and calls …
//! println!("{} calls went home, {} spilled", stats.counts().followed, stats.counts().spilled.total());
//! # let _ = (ServiceBuilder::new().layer(who), balance, Request { user: String::new() }.user);
//! ```
//!
//! # Tokens
//!
//! With the feature `token`, off by default: `Tokens` signs and verifies, `TokenLayer` reads and writes. A token that is forged or
//! stale is ignored and counted, and none steers a call outside of the endpoint set.

mod affinity;
mod clock;
mod hash;
mod home_first;
mod kept;
mod layer;
mod pin;
mod places;
mod recent;
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
pub use self::token::{ByFunctions, CarryToken, Token, TokenError, TokenFuture, TokenLayer, TokenService, Tokens};
