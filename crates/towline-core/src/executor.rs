//! Who runs background work.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::Error;

/// A background task: boxed once when it is spawned.
pub type BoxTask = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Runs background tasks: pool drivers, the balancer's driver, the reader of a multiplexed connection.
///
/// Each task that towline spawns is owned by a handle and ends with it.
///
/// ```
/// use towline_core::{BoxTask, Error, Executor};
///
/// #[derive(Debug)]
/// struct Threads;
///
/// impl Executor for Threads {
///     fn spawn(&self, task: BoxTask) -> Result<(), Error> {
///         drop(task); // run it on a thread of one's own
///         Ok(())
///     }
/// }
/// ```
pub trait Executor: fmt::Debug + Send + Sync + 'static {
    /// Starts `task`.
    ///
    /// # Errors
    ///
    /// [`Kind::Runtime`](crate::Kind::Runtime) when there is nothing to run it on.
    fn spawn(&self, task: BoxTask) -> Result<(), Error>;
}

/// An executor that clones share.
pub type SharedExecutor = Arc<dyn Executor>;

/// Spawns on the tokio runtime of whoever makes the first call, or on one that is given.
#[cfg(feature = "rt")]
#[derive(Clone, Debug, Default)]
pub struct TokioExecutor {
    handle: Option<tokio::runtime::Handle>,
}

#[cfg(feature = "rt")]
impl TokioExecutor {
    /// Spawns on the runtime that is current when a task is spawned.
    pub fn current() -> Self {
        Self { handle: None }
    }

    /// Always spawns on this runtime, whoever calls.
    pub fn on(handle: tokio::runtime::Handle) -> Self {
        Self { handle: Some(handle) }
    }
}

#[cfg(feature = "rt")]
impl Executor for TokioExecutor {
    fn spawn(&self, task: BoxTask) -> Result<(), Error> {
        let handle = match &self.handle {
            Some(handle) => handle.clone(),
            None => tokio::runtime::Handle::try_current().map_err(|cause| {
                Error::new(crate::Kind::Runtime, crate::Phase::Build)
                    .with_message("no tokio runtime to spawn on; call from within one, or give an executor")
                    .with_source(cause)
            })?,
        };
        handle.spawn(task);
        Ok(())
    }
}
