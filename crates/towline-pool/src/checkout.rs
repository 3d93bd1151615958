//! Holding a connection.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::{Context, Poll};

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
    /// Both are present until a call has them.
    shared: Option<Arc<Shared<C>>>,
    connection: Option<C>,
    slot: SlotId,
    reused: bool,
    how: Use,
    wish: Wish,
}

impl<C: Poolable> Checkout<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, grant: Grant<C>, wish: Wish) -> Self {
        let Grant { connection, slot, reused } = grant;
        Self { shared: Some(shared), connection: Some(connection), slot, reused, how: Use::default(), wish }
    }

    /// An idle connection, if there is one that needs no further thought; else what it was made of.
    #[inline]
    pub(crate) fn idle(shared: Arc<Shared<C>>, wish: Wish) -> Result<Self, (Arc<Shared<C>>, Wish)> {
        let mut connection = None;
        match shared.take_idle(&mut connection) {
            Some((slot, reused)) => {
                Ok(Self { shared: Some(shared), connection, slot, reused, how: Use::default(), wish })
            }
            None => Err((shared, wish)),
        }
    }

    /// Which connection this is.
    pub fn id(&self) -> ConnectionId {
        self.slot.id
    }

    /// Whether it had been used before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// The connection is of no further use: it is closed when it is given back, instead of reused.
    ///
    /// For what the pool cannot know, such as a server that answers, and says that it is shutting down.
    pub fn poison(&mut self) {
        self.how.poisoned = true;
    }

    /// A call on it succeeded: the endpoint is well.
    pub(crate) fn succeeded(&mut self) {
        self.how.succeeded = true;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<C>> {
        self.shared.as_ref().expect(SPENT)
    }

    /// Whether its session, if it has one, is bound to this connection: by this call, if by none before.
    pub(crate) fn is_bound(&self) -> bool {
        self.wish.pin.as_ref().is_none_or(|pin| pin.bind(self.slot.id))
    }

    pub(crate) fn slot(&self) -> SlotId {
        self.slot
    }

    pub(crate) fn wish(&self) -> &Wish {
        &self.wish
    }
}

const SPENT: &str = "a checkout serves one request, and its call has the connection";

impl<C: Poolable> Deref for Checkout<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect(SPENT)
    }
}

impl<C: Poolable> DerefMut for Checkout<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.connection.as_mut().expect(SPENT)
    }
}

impl<C: Poolable> Drop for Checkout<C> {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.give_back(self.slot, &mut self.connection, self.how);
        }
    }
}

impl<C: Poolable> fmt::Debug for Checkout<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout")
            .field("endpoint", &self.shared.as_ref().map(|shared| &shared.name))
            .field("connection", &self.slot.id)
            .field("reused", &self.reused)
            .finish_non_exhaustive()
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
        Poll::Ready(if self.connection.is_some() { Ok(()) } else { Err(spent()) })
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let checkout = self.connection.take().map(|connection| Self {
            shared: self.shared.take(),
            connection: Some(connection),
            wish: std::mem::take(&mut self.wish),
            slot: self.slot,
            reused: self.reused,
            how: self.how,
        });
        PooledCall::with_checkout(checkout, request)
    }
}

pub(crate) fn spent() -> Error {
    Error::new(Kind::Closed, Phase::Queue).with_message("a checkout serves one request, and this one has")
}
