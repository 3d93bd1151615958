//! The floor that most people would write: tokio's semaphore, which is first in first out, and a mutex over a vector.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Pool;
use crate::measure::lock;

pub(crate) struct Semaphored<C>(Arc<Inner<C>>);

struct Inner<C> {
    permits: Semaphore,
    idle: Mutex<Vec<C>>,
}

impl<C> Semaphored<C> {
    pub(crate) fn new(connections: Vec<C>) -> Self {
        let permits = Semaphore::new(connections.len());
        Self(Arc::new(Inner { permits, idle: Mutex::new(connections) }))
    }
}

pub(crate) struct Loan<'a, C> {
    idle: &'a Mutex<Vec<C>>,
    /// Present until dropped.
    connection: Option<C>,
    /// Returned after the connection: fields are dropped after `drop`.
    _permit: SemaphorePermit<'a>,
}

impl<C> Drop for Loan<'_, C> {
    fn drop(&mut self) {
        lock(self.idle).extend(self.connection.take());
    }
}

impl<C> Deref for Loan<'_, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect("present until dropped")
    }
}

impl<C> DerefMut for Loan<'_, C> {
    fn deref_mut(&mut self) -> &mut C {
        self.connection.as_mut().expect("present until dropped")
    }
}

impl<C: Send + 'static> Pool for Semaphored<C> {
    type Loan<'a> = Loan<'a, C>;

    async fn acquire(&mut self) -> Result<Loan<'_, C>> {
        let Inner { permits, idle } = &*self.0;
        let permit = permits.acquire().await?;
        let connection = lock(idle).pop().context("a permit without a connection")?;
        Ok(Loan { idle, connection: Some(connection), _permit: permit })
    }
}

impl<C> Clone for Semaphored<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
