//! tower's, by calls in flight. It is not `Clone`: one task owns it, or all of them reach it through a buffer, whose worker
//! is a task of its own.

use ::tower::Service;
use ::tower::balance::p2c::Balance;
use ::tower::buffer::Buffer;
use ::tower::discover::ServiceList;
use ::tower::load::{CompleteOnResponse, PendingRequestsDiscover};

use super::Noop;

pub(crate) type Owned = Balance<PendingRequestsDiscover<ServiceList<Vec<Noop>>, CompleteOnResponse>, u64>;
pub(crate) type Buffered = Buffer<u64, <Owned as Service<u64>>::Future>;

/// Requests that the buffer takes: more than there are tasks.
const BOUND: usize = 1_024;

pub(crate) fn owned(endpoints: usize) -> Owned {
    let services = ServiceList::new::<u64>(vec![Noop; endpoints]);
    Balance::new(PendingRequestsDiscover::new::<u64>(services, CompleteOnResponse::default()))
}

/// To be called on a runtime.
pub(crate) fn buffered(endpoints: usize) -> Buffered {
    Buffer::new(owned(endpoints), BOUND)
}
