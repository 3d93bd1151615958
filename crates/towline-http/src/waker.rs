//! Wakers that are kept until they are needed.

use std::task::Waker;

/// Notes whom to wake, if it is another; whoever it was before.
pub(crate) fn note(place: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match place {
        Some(known) if known.will_wake(waker) => None,
        _ => place.replace(waker.clone()),
    }
}
