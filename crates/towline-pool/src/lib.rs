//! A connection pool: a `MakeService` over targets, whose handles serve requests over many connections.
//!
//! [`Pool`] wraps what makes single connections. For each target it yields a [`Handle`]: cheap to clone, a
//! `Service<Req>` for whatever the connections serve, and what a balancer needs of an endpoint
//! ([`Lend`](towline_core::Lend)).
//!
//! What it promises, and `tests/` hold it to:
//!
//! - **Readiness holds nothing.** A connection is acquired inside the call's future, under the caller's deadline.
//!   Clones that are ready, idle or dropped starve nobody.
//! - **First in, first out.** A returned connection goes straight to the oldest waiter; a newcomer never overtakes.
//! - **The caps count dials in progress**, per endpoint and over all of them. A dial starts only while waiters outnumber
//!   what dials will bring, and whichever comes first, dial or return, serves the oldest waiter. At the cap over all, the
//!   idle connection that was used least recently makes room, whoever has it.
//! - **Dropped at any poll, nothing is lost**: a dial survives the caller it was started for, and a connection that
//!   was handed to somebody who left goes to the next.
//! - **Dead connections are not handed out.** Idle ones are watched by the pool's one task; one that was heard of since, or
//!   was not used for long, is looked at once more, without blocking, when it is handed out. A connection whose call was
//!   dropped half-way is closed. What makes no sound can be found by a [`HealthCheck`].
//! - **No call is cut by the age of its connection.** Lifetimes are jittered, and where
//!   [`min_idle`](PoolBuilder::min_idle) asks for it the replacement comes first.
//! - **A request that a connection could not take goes to another one**, without a clone and without a retry.
//! - **An endpoint that cannot be reached fails fast** with the dial's own error, while the pool goes on dialling it
//!   under backoff; waiters that can still be served wait on.
//! - **A pinned call never goes elsewhere**: it has the connection of its session, or an error that says that it is gone.
//! - **After the last handle, call and checkout no task is alive.**
//!
//! How big it should be, what each setting is for, and what happens when the backend restarts is told in `docs/pool.md`.
//!
//! ```
//! use tower::{Service, ServiceExt};
//! use towline_pool::PoolBuilder;
//! use towline_core::Target;
//! # use towline_test::ScriptedMaker;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! # let make = ScriptedMaker::exclusive();
//! let mut pool = PoolBuilder::new().max_connections(8).build(make)?;
//! let target: Target = "10.0.0.7:7000".parse()?;
//! let mut handle = pool.ready().await?.call(target).await?;
//! let answer = handle.call("ping").await?;
//! # assert_eq!(answer, (0, "ping"));
//! assert_eq!(handle.stats().idle, 1);
//! # Ok::<(), towline_core::Error>(())
//! # }).unwrap();
//! ```

mod bell;
mod call;
mod check;
mod checkout;
mod config;
mod core;
mod driver;
mod effects;
mod handle;
mod lend;
mod limits;
mod list;
mod pool;
mod queue;
mod reach;
mod shared;
mod slot;
mod stats;
mod sync;
mod total;

pub use self::call::PooledCall;
pub use self::check::HealthCheck;
pub use self::checkout::Checkout;
pub use self::config::PoolBuilder;
/// For simulators that drive the core. Not part of the stable surface.
#[doc(hidden)]
pub use self::core::Lives;
pub use self::handle::Handle;
pub use self::lend::LendFuture;
pub use self::limits::IdleOrder;
pub use self::pool::Pool;
pub use self::stats::{Closed, Stats};
