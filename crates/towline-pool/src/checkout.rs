//! Holding a connection.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;
use tower_service::Service;
use towline_core::{ConnectionId, Error, GiveBack, Kind, Phase, Poolable};

use crate::call::PooledCall;
use crate::core::Use;
use crate::lend::Wish;
use crate::shared::Shared;
use crate::slot::{Grant, SlotId};

/// A connection for one call, or for as long as it is held; dropping it gives it back.
///
/// It dereferences to the connection, and serves one request as a `Service`. While it is held it keeps its pool open,
/// as a handle does.
pub struct Checkout<C: Poolable> {
    /// Present until it is given back, or a call has it.
    held: Option<Held<C>>,
}

struct Held<C: Poolable> {
    shared: Arc<Shared<C>>,
    slot: SlotId,
    connection: C,
    reused: bool,
    how: Use,
    wish: Wish,
}

impl<C: Poolable> Checkout<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, grant: Grant<C>, wish: Wish) -> Self {
        let Grant { connection, slot, reused } = grant;
        Self { held: Some(Held { shared, slot, connection, reused, how: Use::default(), wish }) }
    }

    /// Which connection this is.
    pub fn id(&self) -> ConnectionId {
        self.held().slot.id
    }

    /// Whether it had been used before.
    pub fn is_reused(&self) -> bool {
        self.held().reused
    }

    /// The connection is of no further use: it is closed when it is given back, instead of reused.
    ///
    /// For what the pool cannot know, such as a server that answers, and says that it is shutting down.
    pub fn poison(&mut self) {
        self.held_mut().how.poisoned = true;
    }

    /// A call on it succeeded: the endpoint is well.
    pub(crate) fn succeeded(&mut self) {
        self.held_mut().how.succeeded = true;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<C>> {
        &self.held().shared
    }

    pub(crate) fn slot(&self) -> SlotId {
        self.held().slot
    }

    pub(crate) fn wish(&self) -> &Wish {
        &self.held().wish
    }

    fn held(&self) -> &Held<C> {
        self.held.as_ref().expect("a checkout serves one request, and its call has the connection")
    }

    fn held_mut(&mut self) -> &mut Held<C> {
        self.held.as_mut().expect("a checkout serves one request, and its call has the connection")
    }
}

impl<C: Poolable> Deref for Checkout<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.held().connection
    }
}

impl<C: Poolable> DerefMut for Checkout<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.held_mut().connection
    }
}

impl<C: Poolable> Drop for Checkout<C> {
    fn drop(&mut self) {
        if let Some(Held { shared, slot, connection, how, .. }) = self.held.take() {
            let rest = shared.change(|core, effects| core.give_back(slot, connection, how, Instant::now, effects));
            drop(rest);
        }
    }
}

impl<C: Poolable> fmt::Debug for Checkout<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Checkout");
        if let Some(Held { shared, slot, reused, .. }) = &self.held {
            debug.field("endpoint", &shared.name).field("connection", &slot.id).field("reused", reused);
        }
        debug.finish_non_exhaustive()
    }
}

/// One request: the call takes the connection, so the service is spent after it.
impl<C, Req> Service<Req> for Checkout<C>
where
    C: Poolable + Service<Req>,
    C::Error: GiveBack<Req>,
{
    type Response = C::Response;
    type Error = Error;
    type Future = PooledCall<C, Req>;

    // The connection is readied in the call's future, where a dead one can be replaced.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(if self.held.is_some() { Ok(()) } else { Err(spent()) })
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let held = self.held.take();
        PooledCall::with_checkout(held.map(|held| Self { held: Some(held) }), request)
    }
}

pub(crate) fn spent() -> Error {
    Error::new(Kind::Closed, Phase::Queue).with_message("a checkout serves one request, and this one has")
}
