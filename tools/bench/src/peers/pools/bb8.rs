//! bb8, without the test at each checkout and without ages: it is to be as quick as it can.

use std::io;

use anyhow::Result;
use bb8::{ManageConnection, PooledConnection};

use super::{Pool, Stock};

pub(crate) struct Bb8<C: Send + 'static>(bb8::Pool<Manager<C>>);

pub(crate) struct Manager<C>(Stock<C>);

impl<C: Send + 'static> Bb8<C> {
    pub(crate) async fn new(connections: Vec<C>) -> Result<Self> {
        let builder = bb8::Pool::builder().max_size(connections.len() as u32).test_on_check_out(false);
        let builder = builder.idle_timeout(None).max_lifetime(None);
        Ok(Self(builder.build(Manager(Stock::new(connections))).await?))
    }
}

impl<C: Send + 'static> ManageConnection for Manager<C> {
    type Connection = C;
    type Error = io::Error;

    async fn connect(&self) -> io::Result<C> {
        self.0.take()
    }

    async fn is_valid(&self, _: &mut C) -> io::Result<()> {
        Ok(())
    }

    fn has_broken(&self, _: &mut C) -> bool {
        false
    }
}

impl<C: Send + 'static> Pool for Bb8<C> {
    type Loan<'a> = PooledConnection<'a, Manager<C>>;

    async fn acquire(&mut self) -> Result<Self::Loan<'_>> {
        Ok(self.0.get().await?)
    }
}

impl<C: Send + 'static> Clone for Bb8<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
