//! The balancers that are compared, behind one trait. Each is given endpoints that answer at once, so that nothing but
//! the choice among them, and the way there, is in any figure.

mod floor;
pub(crate) mod tower;
pub(crate) mod towline;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::task::{Context, Poll};
use std::time::Duration;

use ::tower::{BoxError, Service, ServiceExt};
use anyhow::{Error, Result};
use tokio::time::Instant;

pub(crate) use self::floor::Floor;
use crate::cases::batched::Callee;

/// An endpoint: answers at once with the request, which the compiler cannot know.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noop;

impl Noop {
    /// A request above this is answered after as many nanoseconds, by a thread that does not sleep.
    pub(crate) const BUSY: u64 = 1 << 63;
}

impl Service<u64> for Noop {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        if request > Self::BUSY {
            spin(Duration::from_nanos(request - Self::BUSY));
        }
        ready(Ok(black_box(request)))
    }
}

// Not among the instructions of a call.
#[cold]
#[inline(never)]
fn spin(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {}
}

/// Readies a balancer that is a service, then calls it.
#[derive(Clone, Debug)]
pub(crate) struct Through<S>(pub(crate) S);

impl<S> Callee for Through<S>
where
    S: Service<u64, Response = u64, Error: Into<BoxError>, Future: Send> + Send + 'static,
{
    async fn call(&mut self, request: u64) -> Result<u64> {
        let ready = self.0.ready().await.map_err(|error| Error::from_boxed(error.into()))?;
        ready.call(request).await.map_err(|error| Error::from_boxed(error.into()))
    }
}
