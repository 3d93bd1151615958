//! One absolute deadline over a whole call: waiting for readiness, for an endpoint, for a connection, all attempts
//! and the pauses between them.
//!
//! tower's `Timeout` starts in `call`, so the time spent in `poll_ready` is nobody's. Here the inner service is
//! readied inside the future, under the deadline. The deadline also rides in the [`CallContext`], so inner layers see
//! it and a retry that cannot finish is not begun; one that the caller has set already can only be earlier.
//!
//! The error says which phase was running, with which endpoint, whether the request can have been sent, and how long each
//! phase took. [`AttemptTimeoutLayer`] is the same for one attempt of a call, inside a retry layer.
//!
//! ```
//! use std::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use towline_core::{Call, Error};
//! use towline_timeout::DeadlineLayer;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! let service = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Duration::from_secs(2)))
//!     .service(service_fn(|_: Call<()>| std::future::pending::<Result<(), Error>>()));
//! let error = service.oneshot(Call::new(())).await.unwrap_err();
//! assert!(error.is_timeout());
//! # });
//! ```
//!
//! [`CallContext`]: towline_core::CallContext

mod deadline;

pub use self::deadline::{AttemptTimeoutLayer, Deadline, DeadlineFuture, DeadlineLayer};
