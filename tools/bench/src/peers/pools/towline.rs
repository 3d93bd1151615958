//! Ours, with its defaults: it watches its connections and knows their age, and callers wait under a deadline.

use std::future::ready;

use anyhow::Result;
use tower::{Service, ServiceExt, service_fn};
use towline_core::Poolable;
use towline_pool::{Checkout, Handle, PoolBuilder};

use super::{Pool, Stock};

/// One endpoint's pool, which is also a service for what its connections serve.
pub(crate) async fn towline<C: Poolable>(connections: Vec<C>) -> Result<Handle<C>> {
    let builder = PoolBuilder::new().max_connections(connections.len());
    let stock = Stock::new(connections);
    let mut pool = builder.build(service_fn(move |_: &'static str| ready(stock.take())))?;
    Ok(pool.ready().await?.call("bench").await?)
}

impl<C: Poolable> Pool for Handle<C> {
    type Loan<'a> = Checkout<'a, C>;

    async fn acquire(&mut self) -> Result<Checkout<'_, C>> {
        Ok(self.checkout().await?)
    }
}
