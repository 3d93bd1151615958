//! Session affinity: calls of one session go to one endpoint, as long as that can take them.
//!
//! Two halves. [`StickyLayer`] says *who* is calling: it puts a session key into the call's context. [`Rendezvous`] is
//! a policy for the balancer that says *where* they go: every client process sends a session to the same endpoint,
//! without having to agree, and a change of the set moves only the sessions that it must.
//!
//! A session's calls go elsewhere for two reasons only: its home is gone or cannot be reached, or the call has failed
//! there already and is retried. They return as soon as the home does. Each is an
//! [`Event::SessionSpilled`](towline_core::Event::SessionSpilled).
//!
//! ```
//! use tower::ServiceBuilder;
//! use towline_balance::{BalanceBuilder, P2c};
//! use towline_core::{Call, SessionKey};
//! use towline_sticky::{Rendezvous, StickyLayer};
//!
//! struct Request { user: String }
//!
//! let who = StickyLayer::by(|call: &Call<Request>| Some(SessionKey::new(&call.message().user)));
//! let balance = BalanceBuilder::new(Rendezvous::new());
//! # let _ = (ServiceBuilder::new().layer(who), balance, P2c::new(), Request { user: String::new() }.user);
//! ```

mod layer;
mod rendezvous;

pub use self::layer::{Sticky, StickyLayer};
pub use self::rendezvous::{Rendezvous, RendezvousOrder, RendezvousPicker};
