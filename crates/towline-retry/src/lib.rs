//! Retry that is safe by default.
//!
//! A failed call goes again when that can do no harm: always when no byte of it can have left the machine
//! ([`Sent::Never`](towline_core::Sent::Never)), otherwise only when the caller has marked it
//! [idempotent](towline_core::CallContext::is_idempotent). The next attempt avoids the endpoints that earlier ones
//! went to, waits under full jitter, and is not begun when the deadline would not let it finish waiting.
//!
//! Attempts that may repeat work are paid for from a [`Budget`] which successes fill and all clones share: when
//! everything fails, retries add a tenth to the load, not a multiple of it. Attempts that were never sent are free.
//!
//! ```
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use towline_core::{Call, Error, Kind, Phase};
//! use towline_retry::RetryLayer;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//! let flaky = service_fn(|call: Call<&'static str>| async move {
//!     match CALLS.fetch_add(1, Ordering::Relaxed) {
//!         0 => Err(Error::new(Kind::Unavailable, Phase::Dial)),
//!         _ => Ok(call.into_message()),
//!     }
//! });
//! let service = ServiceBuilder::new().layer(RetryLayer::new()).service(flaky);
//! assert_eq!(service.oneshot(Call::new("ping")).await?, "ping");
//! # Ok::<(), Error>(())
//! # }).unwrap();
//! ```

mod budget;
mod retry;

pub use self::budget::Budget;
pub use self::retry::{Retry, RetryFuture, RetryLayer};
