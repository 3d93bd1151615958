//! From targets to handles.

use std::collections::HashMap;
use std::fmt;
use std::future::{Ready, ready};
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_util::future::join_all;
use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{BoxError, EndpointKey, Error, Kind, Phase, Poolable, SharedExecutor};

use crate::check::HealthCheck;
use crate::driver::Driver;
use crate::handle::Handle;
use crate::shared::{Common, Shared};
use crate::stats::Stats;

/// A `MakeService` over targets: for each, a [`Handle`] that serves requests over many connections.
///
/// Clones share everything. Targets are compared by value; asking for one that is in use yields another handle to
/// the same connections. Endpoints share nothing but their settings, and the cap over all if there is one: no lock on the
/// path of a call is common to two of them.
pub struct Pool<M, T>
where
    M: Service<T>,
    M::Response: Poolable,
{
    inner: Arc<Inner<M, T>>,
}

struct Inner<M, T>
where
    M: Service<T>,
    M::Response: Poolable,
{
    make: Arc<Lock<M>>,
    check: Option<HealthCheck<M::Response>>,
    endpoints: Lock<Endpoints<T, M::Response>>,
    common: Common,
    executor: SharedExecutor,
}

struct Endpoints<T, C: Poolable> {
    by_target: HashMap<T, Weak<Shared<C>>>,
    /// Those whose handles were closed, with calls in flight, before their target was asked for again.
    closing: Vec<Weak<Shared<C>>>,
    /// With so many, those that are gone are looked for.
    sweep_at: usize,
    closed: bool,
}

impl<M, T> Pool<M, T>
where
    M: Service<T>,
    M::Response: Poolable,
    T: Clone + Eq + Hash,
{
    pub(crate) fn new(
        make: M,
        check: Option<HealthCheck<M::Response>>,
        common: Common,
        executor: SharedExecutor,
    ) -> Self {
        let (by_target, closing) = (HashMap::new(), Vec::new());
        let endpoints = Lock::new(Endpoints { by_target, closing, sweep_at: 0, closed: false });
        Self { inner: Arc::new(Inner { make: Arc::new(Lock::new(make)), check, endpoints, common, executor }) }
    }

    /// Closes every endpoint, all at the same time, see [`Handle::close`], and refuses new targets.
    pub async fn close(&self) {
        let handles = {
            let mut endpoints = self.inner.endpoints.lock();
            endpoints.closed = true;
            endpoints.handles()
        };
        join_all(handles.iter().map(Handle::close)).await;
    }

    /// Closes the connections to this target, those in use after their call, see [`Handle::evict`]. Whether the target
    /// is in use.
    pub fn evict(&self, target: &T) -> bool {
        let endpoint = self.inner.endpoints.lock().by_target.get(target).and_then(Weak::upgrade);
        let known = endpoint.map(Handle::new);
        known.as_ref().map(Handle::evict).is_some()
    }

    /// What all endpoints have, and did: also those that are gone. They are asked one after the other, so a place that
    /// changes hands meanwhile may be counted twice, or not at all.
    pub fn stats(&self) -> Stats {
        let handles = self.inner.endpoints.lock().handles();
        let mut sum = *self.inner.common.past.lock();
        handles.iter().for_each(|handle| sum += handle.stats());
        sum
    }
}

impl<T, C: Poolable> Endpoints<T, C> {
    /// Forgets those that are gone, once they may be half of all: with each target that is asked for, making a thousand
    /// handles would look at half a million.
    fn sweep(&mut self) {
        if self.by_target.len() + self.closing.len() < self.sweep_at {
            return;
        }
        self.by_target.retain(|_, shared| shared.strong_count() > 0);
        self.closing.retain(|shared| shared.strong_count() > 0);
        self.sweep_at = 2 * (self.by_target.len() + self.closing.len()).max(8);
    }

    fn handles(&self) -> Vec<Handle<C>> {
        self.by_target.values().chain(&self.closing).filter_map(Weak::upgrade).map(Handle::new).collect()
    }
}

impl<M, T> Clone for Pool<M, T>
where
    M: Service<T>,
    M::Response: Poolable,
{
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<M, T> fmt::Debug for Pool<M, T>
where
    M: Service<T>,
    M::Response: Poolable,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("limits", &self.inner.common.limits).finish_non_exhaustive()
    }
}

impl<M, T> Service<T> for Pool<M, T>
where
    M: Service<T> + Clone + Send + 'static,
    M::Response: Poolable,
    M::Error: Into<BoxError>,
    M::Future: Send + 'static,
    T: Clone + Eq + Hash + fmt::Display + Send + Sync + 'static,
{
    type Response = Handle<M::Response>;
    type Error = Error;
    type Future = Ready<Result<Self::Response, Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    /// Connects to nothing, unless the pool is to be warm; then a runtime must be there to connect on.
    fn call(&mut self, target: T) -> Self::Future {
        ready(self.inner.handle(target))
    }
}

impl<M, T> Inner<M, T>
where
    M: Service<T> + Clone + Send + 'static,
    M::Response: Poolable,
    M::Error: Into<BoxError>,
    M::Future: Send + 'static,
    T: Clone + Eq + Hash + fmt::Display + Send + Sync + 'static,
{
    fn handle(&self, target: T) -> Result<Handle<M::Response>, Error> {
        let handle = self.known_or_new(target)?;
        let limits = &self.common.limits;
        if limits.warm > 0 || limits.min_idle > 0 {
            handle.drive()?;
        }
        Ok(handle)
    }

    fn known_or_new(&self, target: T) -> Result<Handle<M::Response>, Error> {
        // Dropped after the lock is released: it may be the last by then, and an observer may ask the pool for its stats.
        let known;
        let mut endpoints = self.endpoints.lock();
        if endpoints.closed {
            return Err(Error::new(Kind::Closed, Phase::Queue).with_message("the pool is closed"));
        }
        endpoints.sweep();
        known = endpoints.by_target.get(&target).and_then(Weak::upgrade);
        if let Some(shared) = &known {
            if !shared.read(|core| core.is_closed()) {
                return Ok(Handle::new(shared.clone()));
            }
            // It was closed by its handle: a new life begins.
            endpoints.closing.push(Arc::downgrade(shared));
        }
        let name = EndpointKey::new(target.to_string());
        let (make, check) = (self.make.clone(), self.check.clone());
        let (executor, key) = (self.executor.clone(), target.clone());
        let spawn = Box::new(move |shared: Weak<Shared<M::Response>>| match shared.upgrade() {
            Some(shared) => {
                let driver = Driver::new(&shared, make.clone(), key.clone(), check.clone());
                executor.spawn(Box::pin(driver))
            }
            None => Ok(()), // Nobody is left to drive for.
        });
        let shared = Shared::new(name, &self.common, spawn);
        endpoints.by_target.insert(target, Arc::downgrade(&shared));
        Ok(Handle::new(shared))
    }
}
