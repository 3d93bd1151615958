//! Retry that is safe by default.
//!
//! A failed call goes again when that can do no harm: always when no byte of it can have left the machine
//! ([`Sent::Never`](towline_core::Sent::Never)), otherwise only when the caller has marked it
//! [idempotent](towline_core::CallContext::is_idempotent), or the [`RetryPolicy`] says that of all calls. The next attempt
//! avoids the endpoints that earlier ones went to, waits under jitter of its own, and is not begun when its pause would reach
//! the deadline.
//!
//! Attempts that may repeat work are paid for from a [`Budget`] which successes fill and all clones share: when
//! everything fails, retries add a tenth to the load, not a multiple of it. Attempts that were never sent are free, and a token
//! goes back when what it was for never left.
//!
//! Of several retry layers around one another only the outermost retries; the others let calls through, and say so
//! ([`Event::NestedRetry`](towline_core::Event::NestedRetry)).
//!
//! [`HedgeLayer`] is for calls that do not fail but take long: these are sent a second time, elsewhere, and answered by whichever
//! attempt succeeds first. Put it inside the retry layer, and give both the same budget.
//!
//! ```
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use towline_core::{Call, Error, Kind, Phase};
//! use towline_retry::{RetryLayer, RetryPolicy};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//! let flaky = service_fn(|call: Call<&'static str>| async move {
//!     match CALLS.fetch_add(1, Ordering::Relaxed) {
//!         0 => Err(Error::new(Kind::Unavailable, Phase::Dial)), // never sent
//!         1 => Err(Error::new(Kind::Closed, Phase::Read)),      // may have been
//!         _ => Ok(call.into_message()),
//!     }
//! });
//! let service = ServiceBuilder::new().layer(RetryLayer::new()).service(flaky);
//! assert!(service.clone().oneshot(Call::new("write")).await.is_err());
//!
//! let reads = ServiceBuilder::new().layer(RetryLayer::with_policy(RetryPolicy::idempotent())).service(flaky);
//! assert_eq!(reads.oneshot(Call::new("read")).await?, "read");
//! # Ok::<(), Error>(())
//! # }).unwrap();
//! ```

mod budget;
mod decide;
mod hedge;
mod leg;
mod policy;
mod retry;
#[cfg(feature = "tower")]
mod tower_policy;

pub use self::budget::{Budget, Permit};
pub use self::hedge::{Hedge, HedgeFuture, HedgeLayer, HedgePolicy, HedgeStats};
pub use self::policy::{RetryPolicy, RetryStats};
pub use self::retry::{Retry, RetryFuture, RetryLayer};
#[cfg(feature = "tower")]
pub use self::tower_policy::{Pause, TowerPolicy};

/// The synchronous core, for simulators that drive it in a time of their own. Not part of the stable surface.
#[doc(hidden)]
pub mod core {
    pub use crate::budget::Reserve;
    pub use crate::decide::{Again, Ended, Rules, Stop};
    pub use crate::hedge::Hedging;
}
