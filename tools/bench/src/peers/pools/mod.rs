//! The pools that are compared, behind one trait. Each is given connections that are already there, so that a dial is in
//! no figure.

mod bb8;
mod cache;
mod deadpool;
mod lock;
mod semaphore;
mod towline;

use std::io;
use std::sync::{Arc, Mutex};

use anyhow::Result;

pub(crate) use self::bb8::Bb8;
pub(crate) use self::deadpool::{Managed, Unmanaged};
pub(crate) use self::lock::Locked;
pub(crate) use self::semaphore::Semaphored;
pub(crate) use self::{cache::cache, towline::towline};
use crate::measure::lock;

/// What lends connections; clones lend the same ones.
pub(crate) trait Pool: Clone + Send + 'static {
    /// Gives its connection back when dropped.
    type Loan<'a>: Send
    where
        Self: 'a;

    fn acquire(&mut self) -> impl Future<Output = Result<Self::Loan<'_>>> + Send;
}

/// Connections for pools that want to make them themselves.
pub(crate) struct Stock<C>(Arc<Mutex<Vec<C>>>);

impl<C> Stock<C> {
    pub(crate) fn new(connections: Vec<C>) -> Self {
        Self(Arc::new(Mutex::new(connections)))
    }

    fn take(&self) -> io::Result<C> {
        lock(&self.0).pop().ok_or_else(|| io::Error::other("a pool asks for more connections than it may have"))
    }
}

impl<C> Clone for Stock<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Makes all connections at once, so that they are there and idle afterwards.
pub(crate) async fn warm<P: Pool>(pool: &P, connections: usize) -> Result<()> {
    let mut users = vec![pool.clone(); connections];
    let mut loans = Vec::with_capacity(connections);
    for user in &mut users {
        loans.push(user.acquire().await?);
    }
    Ok(())
}
