//! hyper-util's composable cache. It has no cap: who finds it empty makes a connection, unless one comes back first; then
//! the new one is thrown away, since the cache has no executor to finish it on, which is quicker here.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::task::{Context, Poll};

use anyhow::Result;
use hyper_util::client::pool;
use tower::Service;

use super::Pool;

/// Its type has no name that could be written.
pub(crate) fn cache<C: Send + Unpin + 'static>(make: fn() -> C) -> impl Pool {
    Cache(pool::cache::builder().build(Connect(make)))
}

#[derive(Clone)]
struct Cache<S>(S);

impl<S> Pool for Cache<S>
where
    S: Service<(), Response: Send, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Loan<'a> = S::Response;

    async fn acquire(&mut self) -> Result<S::Response> {
        poll_fn(|cx| self.0.poll_ready(cx)).await?;
        Ok(self.0.call(()).await?)
    }
}

struct Connect<C>(fn() -> C);

impl<C> Clone for Connect<C> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<C> Service<()> for Connect<C> {
    type Response = C;
    type Error = Infallible;
    type Future = Ready<Result<C, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(self.0()))
    }
}
