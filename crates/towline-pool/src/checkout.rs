//! Holding a connection.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;
use towline_core::{CallContext, CloseReason, ConnectionId, Error, GiveBack, Kind, Phase, Poolable};

use crate::call::PooledCall;
use crate::core::Use;
use crate::lend::Wish;
use crate::shared::Shared;
use crate::slot::{Grant, SlotId};
use crate::sync::Ordering;

/// A connection for one call, or for as long as it is held; dropping it gives it back.
///
/// It dereferences to the connection, and serves one request as a `Service`. One that was made by
/// [`Handle::checkout`](crate::Handle::checkout) borrows its pool; [`into_owned`](Self::into_owned) makes it free to go
/// anywhere, and then it keeps its pool open, as a handle does.
pub struct Checkout<'a, C: Poolable> {
    /// Both are present until a call has them.
    home: Option<Home<'a, C>>,
    connection: Option<C>,
    slot: SlotId,
    reused: bool,
    how: Use,
    wish: Wish,
}

/// The pool that a connection belongs to.
enum Home<'a, C: Poolable> {
    /// Counting references would cost as much as the lock.
    Borrowed(&'a Arc<Shared<C>>),
    Owned(Arc<Shared<C>>),
}

impl<C: Poolable> Deref for Home<'_, C> {
    type Target = Arc<Shared<C>>;

    #[inline]
    fn deref(&self) -> &Arc<Shared<C>> {
        match self {
            Self::Borrowed(shared) => shared,
            Self::Owned(shared) => shared,
        }
    }
}

impl<C: Poolable> Checkout<'static, C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, grant: Grant<C>, wish: Wish) -> Self {
        let Grant { connection, slot, reused } = grant;
        let (home, connection) = (Some(Home::Owned(shared)), Some(connection));
        Self { home, connection, slot, reused, how: Use::default(), wish }
    }
}

impl<C: Poolable> Checkout<'static, C> {
    /// For a health check.
    pub(crate) fn to_look_into(shared: Arc<Shared<C>>, grant: Grant<C>) -> Self {
        shared.checks.fetch_add(1, Ordering::AcqRel);
        let mut checkout = Self::new(shared, grant, Wish::default());
        checkout.how.check = true;
        checkout
    }
}

impl<'a, C: Poolable> Checkout<'a, C> {
    /// An idle connection, if there is one that needs no further thought.
    #[inline]
    pub(crate) fn idle(shared: &'a Arc<Shared<C>>) -> Option<Self> {
        let mut connection = None;
        let (slot, reused) = shared.take_idle(&mut connection)?;
        let home = Some(Home::Borrowed(shared));
        Some(Self { home, connection, slot, reused, how: Use::default(), wish: Wish::default() })
    }

    /// The same connection, without the borrow.
    pub fn into_owned(mut self) -> Checkout<'static, C> {
        self.take()
    }

    /// The same for a call that carries this context.
    pub(crate) fn into_owned_for(mut self, context: Option<&CallContext>) -> Checkout<'static, C> {
        self.wish = context.map(Wish::of).unwrap_or_default();
        self.take()
    }

    fn take(&mut self) -> Checkout<'static, C> {
        let home = self.home.take().map(|home| match home {
            Home::Borrowed(shared) => Home::Owned(shared.clone()),
            Home::Owned(shared) => Home::Owned(shared),
        });
        let Self { slot, reused, how, .. } = *self;
        Checkout { home, connection: self.connection.take(), slot, reused, how, wish: std::mem::take(&mut self.wish) }
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
    /// For what the pool cannot know, such as a server that answers, and says that it is shutting down. A checkout that was
    /// called as a `Service` has given its connection to that call; to poison it afterwards, call the connection itself.
    pub fn poison(&mut self) {
        self.how.end = Some(CloseReason::Poisoned);
    }

    /// A call on the connection succeeded, so its endpoint is well, and dials need no backoff any more. The pool knows
    /// that of calls it makes itself, not of what is done with the connection of a checkout: until this is said, dials to an
    /// endpoint that has failed once go one at a time, and the next failure waits longer than the last.
    pub fn succeeded(&mut self) {
        self.how.succeeded = true;
    }

    /// The connection, to be readied: that is no use of it.
    pub(crate) fn for_readying(&mut self) -> &mut C {
        self.connection.as_mut().expect(SPENT)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<C>> {
        self.home.as_ref().expect(SPENT)
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

impl<C: Poolable> Deref for Checkout<'_, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect(SPENT)
    }
}

impl<C: Poolable> DerefMut for Checkout<'_, C> {
    fn deref_mut(&mut self) -> &mut C {
        self.how.used = true;
        self.connection.as_mut().expect(SPENT)
    }
}

impl<C: Poolable> Drop for Checkout<'_, C> {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.give_back(self.slot, &mut self.connection, self.how);
            if self.how.check {
                home.checks.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

impl<C: Poolable> fmt::Debug for Checkout<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout")
            .field("endpoint", &self.home.as_ref().map(|home| &home.name))
            .field("connection", &self.slot.id)
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}

/// One request: the call takes the connection, so the service is spent after it.
impl<C, Req> Service<Req> for Checkout<'_, C>
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
        let checkout = self.connection.is_some().then(|| self.take());
        PooledCall::with_checkout(checkout, request)
    }
}

pub(crate) fn spent() -> Error {
    Error::new(Kind::Closed, Phase::Queue).with_message("a checkout serves one request, and this one has")
}
