//! Discovery of a subset.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tower::discover::Change;

use crate::discover::Update;
use crate::subset::ring::{Moves, Ring};

/// Changes that are taken at once without one that concerns the subset: a flood of them must not keep the task from
/// anything else.
const BATCH: usize = 1_024;

pin_project_lite::pin_project! {
    /// The stream of [`Subset::build`](crate::Subset::build): a subset of what `D` yields.
    ///
    /// | `D` yields | this yields |
    /// |---|---|
    /// | a change of an endpoint in the subset | it |
    /// | a change that makes others come or go | an insertion, then a removal: the subset is not short of one in between |
    /// | any other change | nothing; but the first, and the first after an error, as the removal of somebody unknown: there is an answer |
    /// | a whole set | those of it that are in the subset, as a whole set; whatever has its key twice, twice |
    /// | an empty set | the same, and the subset stays: resolvers answer with nothing when they are in trouble |
    /// | [`Update::Empty`] | the same |
    /// | an error, its end | the same, and the subset stays |
    ///
    /// It knows all endpoints, also those outside of the subset, since one of them follows when another leaves: some 200 bytes
    /// each, with key and target. A change costs a binary search and moves 16 bytes for each endpoint; calls know nothing of it.
    /// Dropping it loses nothing but itself, and there is no task.
    pub struct SubsetOf<D> {
        #[pin]
        discover: D,
        ring: Ring,
        moves: Moves,
        // Nothing has been said since the beginning, an error or an empty set.
        silent: bool,
    }
}

impl<D> SubsetOf<D> {
    pub(super) fn new(discover: D, ring: Ring) -> Self {
        Self { discover, ring, moves: Moves::new(), silent: true }
    }
}

impl<D, U, E> Stream for SubsetOf<D>
where
    D: Stream<Item = Result<U, E>>,
    U: Into<Update>,
{
    type Item = Result<Update, E>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        for _ in 0..BATCH {
            if let Some(change) = this.moves.pop_front() {
                *this.silent = false;
                return Poll::Ready(Some(Ok(change.into())));
            }
            let update = match ready!(this.discover.as_mut().poll_next(cx)) {
                Some(Ok(update)) => update.into(),
                ended_or_failed => {
                    *this.silent = true;
                    return Poll::Ready(ended_or_failed.map(|item| item.map(Into::into)));
                }
            };
            match update {
                Update::Change(change) => {
                    let key = match change {
                        // The change's key is what a later removal will name.
                        Change::Insert(key, endpoint) => {
                            this.ring.insert(endpoint.with_key(key.clone()), this.moves);
                            key
                        }
                        Change::Remove(key) => {
                            this.ring.remove(&key, this.moves);
                            key
                        }
                    };
                    if *this.silent && this.moves.is_empty() {
                        this.moves.push_back(Change::Remove(key));
                    }
                }
                Update::Renew(endpoint) => {
                    let key = endpoint.key().clone();
                    this.ring.insert(endpoint, this.moves);
                    // Whoever is in the subset comes first.
                    match this.moves.pop_front() {
                        Some(Change::Insert(inserted, endpoint)) if inserted == key => {
                            *this.silent = false;
                            return Poll::Ready(Some(Ok(Update::Renew(endpoint))));
                        }
                        Some(other) => this.moves.push_front(other),
                        None if *this.silent => this.moves.push_back(Change::Remove(key)),
                        None => {}
                    }
                }
                Update::Set(endpoints) => {
                    *this.silent = endpoints.is_empty();
                    let subset = if endpoints.is_empty() { endpoints } else { this.ring.replace(endpoints) };
                    return Poll::Ready(Some(Ok(Update::Set(subset))));
                }
                Update::Empty => {
                    *this.silent = false;
                    this.ring.clear();
                    return Poll::Ready(Some(Ok(Update::Empty)));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<D> fmt::Debug for SubsetOf<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubsetOf").finish_non_exhaustive()
    }
}
