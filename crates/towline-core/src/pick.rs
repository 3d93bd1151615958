//! Which endpoint next: one mechanism for load balancing, hashing, sticky failover and retry-elsewhere.
//!
//! A [`Policy`] builds a picker for a set of endpoints, off the call path. A call asks the picker for candidates in
//! order of preference, takes the first that is eligible (not tried before, has room), and tells the picker what
//! was taken.

use std::fmt;
use std::sync::Arc;

use crate::{CallContext, Endpoint, EndpointId, Rng};

/// One endpoint of a set: which life of it, and its attributes.
#[derive(Clone, Debug)]
pub struct Member {
    /// This life of the endpoint.
    pub id: EndpointId,
    /// Its attributes.
    pub endpoint: Arc<Endpoint>,
}

/// The endpoints that a picker is built for. Indices are positions in this slice and hold for this set only.
pub type Members = [Member];

/// Reads an endpoint's load at the time of a pick.
pub trait Loads {
    /// The load of the endpoint at `index`; less is better.
    fn load(&self, index: usize) -> f64;
}

/// What a picker may look at during a pick.
#[derive(Clone, Copy)]
pub struct View<'a> {
    members: &'a Members,
    loads: &'a dyn Loads,
}

impl<'a> View<'a> {
    /// A view of these endpoints.
    pub fn new(members: &'a Members, loads: &'a dyn Loads) -> Self {
        Self { members, loads }
    }

    /// How many endpoints there are; at least one.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none. Balancers do not ask pickers then.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The endpoints.
    pub fn members(&self) -> &'a Members {
        self.members
    }

    /// The load of the endpoint at `index`; less is better.
    pub fn load(&self, index: usize) -> f64 {
        self.loads.load(index)
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("members", &self.members).finish_non_exhaustive()
    }
}

/// Builds pickers: once for every change of the set, on the balancer's driver.
pub trait Policy: Send + 'static {
    /// What calls ask.
    type Picker: Send + Sync + 'static;

    /// A picker for `set`. `last` is the picker that it replaces.
    fn build(&mut self, set: &Members, last: Option<&Self::Picker>) -> Self::Picker;
}

/// Chooses endpoints for a request. Called by many tasks at once, on the path of every call: no lock, no
/// allocation.
///
/// ```
/// use towline_core::{CallContext, Member, Members, Pick, Policy, Rng, View};
///
/// /// Always the first that is eligible.
/// #[derive(Clone, Debug)]
/// struct First;
///
/// impl Policy for First {
///     type Picker = First;
///     fn build(&mut self, _set: &Members, _last: Option<&First>) -> First {
///         First
///     }
/// }
///
/// impl<Req> Pick<Req> for First {
///     type Order<'a> = std::ops::Range<usize> where Req: 'a;
///     fn order<'a>(
///         &'a self,
///         _request: &'a Req,
///         _context: Option<&'a CallContext>,
///         view: View<'a>,
///         _rng: &mut Rng,
///     ) -> Self::Order<'a> {
///         0..view.len()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not pick endpoints for a request `{Req}`",
    note = "implement `Pick<{Req}>` for the picker that the policy builds"
)]
pub trait Pick<Req> {
    /// Candidates, best first. May repeat an index; those outside of the set are passed over. When it ends, so does
    /// the choice: the call fails with [`Kind::NoEndpoints`](crate::Kind::NoEndpoints) if it yielded none.
    type Order<'a>: Iterator<Item = usize>
    where
        Self: 'a,
        Req: 'a;

    /// The candidates for `request`.
    fn order<'a>(
        &'a self,
        request: &'a Req,
        context: Option<&'a CallContext>,
        view: View<'a>,
        rng: &mut Rng,
    ) -> Self::Order<'a>;

    /// The call takes the candidate at `index`, after passing over `skipped` that were not eligible.
    fn taken(&self, request: &Req, context: Option<&CallContext>, view: View<'_>, index: usize, skipped: usize) {
        let _ = (request, context, view, index, skipped);
    }
}
