//! From targets to handles.

use std::collections::HashMap;
use std::fmt;
use std::future::{Ready, ready};
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use tower_service::Service;
use towline_core::sync::Lock;
use towline_core::{BoxError, EndpointKey, Error, Kind, Observers, Phase, Poolable, SharedExecutor};

use crate::config::Limits;
use crate::driver::Driver;
use crate::handle::Handle;
use crate::shared::{Shared, Users};

/// A `MakeService` over targets: for each, a [`Handle`] that serves requests over many connections.
///
/// Clones share everything. Targets are compared by value; asking for one that is in use yields another handle to
/// the same connections. Endpoints share nothing but their settings: no lock is common to two of them.
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
    make: Lock<M>,
    endpoints: Lock<Endpoints<T, M::Response>>,
    limits: Limits,
    executor: SharedExecutor,
    observers: Observers,
}

struct Endpoints<T, C: Poolable> {
    by_target: HashMap<T, Weak<Users<C>>>,
    closed: bool,
}

impl<M, T> Pool<M, T>
where
    M: Service<T>,
    M::Response: Poolable,
    T: Clone + Eq + Hash,
{
    pub(crate) fn new(make: M, limits: Limits, executor: SharedExecutor, observers: Observers) -> Self {
        let endpoints = Lock::new(Endpoints { by_target: HashMap::new(), closed: false });
        Self { inner: Arc::new(Inner { make: Lock::new(make), endpoints, limits, executor, observers }) }
    }

    /// Closes every endpoint, see [`Handle::close`], and refuses new targets.
    pub async fn close(&self) {
        let handles: Vec<_> = {
            let mut endpoints = self.inner.endpoints.lock();
            endpoints.closed = true;
            endpoints.by_target.values().filter_map(Weak::upgrade).map(Handle::new).collect()
        };
        // All of them at once, before waiting for the first.
        handles.iter().for_each(Handle::shut_down);
        for handle in &handles {
            handle.close().await;
        }
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
        f.debug_struct("Pool").field("limits", &self.inner.limits).finish_non_exhaustive()
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
        let mut endpoints = self.endpoints.lock();
        if endpoints.closed {
            return Err(Error::new(Kind::Closed, Phase::Queue).with_message("the pool is closed"));
        }
        // One whose last user is gone is shutting down: its connections end, and a new life begins.
        let known = endpoints.by_target.get(&target).and_then(Weak::upgrade);
        if let Some(users) = known.filter(|users| !users.read(|core| core.is_closed())) {
            return Ok(Handle::new(users));
        }
        endpoints.by_target.retain(|_, shared| shared.strong_count() > 0);
        let name = EndpointKey::new(target.to_string());
        let (make, executor, key) = (Lock::new(self.make.lock().clone()), self.executor.clone(), target.clone());
        let spawn = Box::new(move |shared: Arc<Shared<M::Response>>| {
            executor.spawn(Box::pin(Driver::new(shared, make.lock().clone(), key.clone())))
        });
        let users = Users::of(Shared::new(self.limits, name, self.observers.clone(), spawn));
        endpoints.by_target.insert(target, Arc::downgrade(&users));
        drop(endpoints);
        if self.limits.warm > 0 {
            users.drive()?;
        }
        Ok(Handle::new(users))
    }
}
