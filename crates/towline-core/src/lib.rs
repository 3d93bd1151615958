//! The seams of towline.
//!
//! towline is a client stack of small tower services. This crate is what its other crates agree on, so that
//! each of them is useful without the others: it does no I/O, spawns nothing, and names no protocol.
//!
//! | question | answer |
//! |---|---|
//! | what is dialled and pooled? | [`Target`] |
//! | what does discovery yield? | [`Endpoint`], in an [`EndpointSet`] |
//! | what travels with a call? | [`CallContext`], found through [`Access`] |
//! | what went wrong, where, and did a byte leave? | [`Error`] |
//! | was that a failure? may it go again? | [`Classify`], [`Replay`] |
//! | what does the pool need of a connection? | [`Poolable`] |
//! | what does the balancer need of an endpoint? | [`Lend`] |
//! | which endpoint next? | [`Policy`] builds a [`Pick`] |
//! | what happened, for metrics and logs? | [`Observer`], [`Event`] |
//! | who runs background work? | [`Executor`] |
//!
//! Layers accept any request type. Those who carry a [`CallContext`] wrap their message in a [`Call`] (or
//! implement [`HasContext`]); those who do not pass [`Blind`] and lose only what needs the context.

mod backoff;
mod classify;
mod context;
mod endpoint;
mod endpoint_set;
mod error;
mod executor;
mod hash;
mod lend;
mod observe;
pub mod peer;
mod pick;
mod pin;
mod poolable;
pub mod progress;
mod ready_call;
mod replay;
mod report;
mod rng;
#[doc(hidden)]
pub mod sync;
mod target;
#[cfg(feature = "rt")]
#[doc(hidden)]
pub mod timer;
mod unwrap_call;

pub use self::backoff::{Backoff, Jitter};
pub use self::classify::{ByError, Classify, Outcome};
pub use self::context::{Access, Blind, Call, CallContext, Carried, HasContext, Home, SessionKey, Tried};
pub use self::endpoint::{Endpoint, EndpointId, EndpointKey, Metadata, Weight};
pub use self::endpoint_set::EndpointSet;
pub use self::error::{BoxError, Error, GiveBack, Kind, Phase, Rejected, Sent};
#[cfg(feature = "rt")]
pub use self::executor::TokioExecutor;
pub use self::executor::{BoxTask, Executor, SharedExecutor};
pub use self::hash::stable_hash;
pub use self::lend::{Lend, Lent, Room};
pub use self::observe::{EjectionRule, Event, Observer, Observers};
pub use self::peer::TlsPeer;
pub use self::pick::{HomeLoss, LoadReport, Loads, Member, Members, Pick, Policy, Reported, Terms, View};
pub use self::pin::ConnectionPin;
pub use self::poolable::{CloseReason, ConnectionId, Poolable, Sharing, State, Unwatched, UnwatchedFuture};
pub use self::ready_call::ReadyCall;
pub use self::replay::Replay;
pub use self::report::Report;
pub use self::rng::Rng;
pub use self::target::{Address, Target};
pub use self::unwrap_call::{MakeUnwrapCall, MakeUnwrapCallFuture, UnwrapCall, UnwrapCallFuture, UnwrapCallLayer};
