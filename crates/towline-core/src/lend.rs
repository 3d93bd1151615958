//! What a balancer needs of an endpoint.

use std::future::{Ready, ready};

use crate::{CallContext, Error, LoadReport};

/// Whether an endpoint has room for a call, as far as one can tell without asking for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Room {
    /// A connection is free, or can take one more call.
    Ready,
    /// No connection is free, but there is room for another: a call would dial.
    Cold,
    /// Every connection is taken; a call would wait.
    Full,
    /// The endpoint cannot be reached at present; a call would fail.
    Down,
}

/// An endpoint that lends what serves one call.
///
/// A plain `Service` cannot tell whether it has room without `&mut` and reserving, and a request can be `call`ed
/// only once. With `Lend` no request is consumed until something is granted: waiting on two endpoints is racing
/// two lends and dropping the loser.
///
/// The pool's handle implements it; a service that is `Clone` enters through [`Lent`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no endpoint that a balancer can use",
    note = "give it a pool's handle, or wrap a `Clone` service in `Lent`"
)]
pub trait Lend {
    /// A service for one call; dropping it unused gives it back.
    type Checkout;
    /// Resolves when there is one. Dropping it at any point loses nothing.
    type Lend: Future<Output = Result<Self::Checkout, Error>>;

    /// Whether there is room.
    fn room(&self) -> Room;

    /// Asks for a [`Checkout`](Self::Checkout). Its errors are [`Sent::Never`](crate::Sent::Never).
    fn lend(&self, context: Option<&CallContext>) -> Self::Lend;

    /// A [`Checkout`](Self::Checkout) at once, if that takes no waiting; `None` says nothing about
    /// [`lend`](Self::lend), which is to be asked then.
    fn try_lend(&self, context: Option<&CallContext>) -> Option<Self::Checkout> {
        let _ = context;
        None
    }

    /// What the server has said about itself since this was last asked; `None` when it says nothing.
    fn reported(&self) -> Option<LoadReport> {
        None
    }
}

/// An endpoint made of a service that is `Clone`: each call gets a clone.
///
/// ```
/// use towline_core::{Lend, Lent, Room};
///
/// let endpoint = Lent::new("any service that is Clone");
/// assert_eq!(endpoint.room(), Room::Ready);
/// ```
#[derive(Clone, Debug)]
pub struct Lent<S>(S);

impl<S> Lent<S> {
    /// An endpoint that lends clones of `service`.
    pub fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S: Clone> Lend for Lent<S> {
    type Checkout = S;
    type Lend = Ready<Result<S, Error>>;

    fn room(&self) -> Room {
        Room::Ready
    }

    fn lend(&self, _context: Option<&CallContext>) -> Self::Lend {
        ready(Ok(self.0.clone()))
    }

    #[inline]
    fn try_lend(&self, _context: Option<&CallContext>) -> Option<S> {
        Some(self.0.clone())
    }
}
