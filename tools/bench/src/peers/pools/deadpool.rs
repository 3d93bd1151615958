//! deadpool, managed with a recycling that has nothing to do, and unmanaged. Neither has a deadline unless it is given
//! one.

use std::io;

use anyhow::Result;
use deadpool::managed::{self, Metrics, RecycleResult};
use deadpool::unmanaged;

use super::{Pool, Stock};

pub(crate) struct Managed<C: Send + Sync + 'static>(managed::Pool<Manager<C>>);

pub(crate) struct Manager<C>(Stock<C>);

impl<C: Send + Sync + 'static> Managed<C> {
    pub(crate) fn new(connections: Vec<C>) -> Result<Self> {
        let size = connections.len();
        Ok(Self(managed::Pool::builder(Manager(Stock::new(connections))).max_size(size).build()?))
    }
}

impl<C: Send + Sync + 'static> managed::Manager for Manager<C> {
    type Type = C;
    type Error = io::Error;

    async fn create(&self) -> io::Result<C> {
        self.0.take()
    }

    async fn recycle(&self, _: &mut C, _: &Metrics) -> RecycleResult<io::Error> {
        Ok(())
    }
}

impl<C: Send + Sync + 'static> Pool for Managed<C> {
    type Loan<'a> = managed::Object<Manager<C>>;

    async fn acquire(&mut self) -> Result<Self::Loan<'_>> {
        Ok(self.0.get().await?)
    }
}

impl<C: Send + Sync + 'static> Clone for Managed<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Lends what it was given and makes nothing.
pub(crate) struct Unmanaged<C>(unmanaged::Pool<C>);

impl<C> Unmanaged<C> {
    pub(crate) fn new(connections: Vec<C>) -> Self {
        Self(connections.into())
    }
}

impl<C: Send + 'static> Pool for Unmanaged<C> {
    type Loan<'a> = unmanaged::Object<C>;

    async fn acquire(&mut self) -> Result<Self::Loan<'_>> {
        Ok(self.0.get().await?)
    }
}

impl<C> Clone for Unmanaged<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
