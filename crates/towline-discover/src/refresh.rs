//! Asking a source to look again before it would by itself.

use std::sync::Arc;

use tokio::sync::Notify;
use towline_core::{Event, Observer};

/// Asks a source to look again soon: what it said last may be out of date, because nobody can be reached there.
///
/// It is an [`Observer`] that asks at every [`Event::DialFailed`], so that a pool which observes with it tells the source of its
/// trouble; the builders of towline arrange that. Asking is cheap and can be done at any rate: each source has its own shortest time
/// between two looks. Clones ask the same source.
///
/// ```
/// use towline_core::Observers;
/// use towline_discover::{Resolving, Source, System};
///
/// # fn main() -> Result<(), towline_core::Error> {
/// let source: Source = Resolving::new(System::new("db.example", 7000)).source()?;
/// let observers = Observers::new(source.refresh()); // for PoolBuilder::observers
/// source.refresh().ask(); // or by hand
/// # drop(observers);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Refresh(Vec<Arc<Notify>>);

impl Refresh {
    /// One, and where the source hears of it.
    pub(crate) fn new() -> (Self, Asked) {
        let asked = Arc::new(Notify::new());
        (Self(vec![asked.clone()]), Asked(asked))
    }

    /// Asks those that this and `other` ask.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Asks for a look. A source that is looking at the time looks once more.
    pub fn ask(&self) {
        self.0.iter().for_each(|source| source.notify_one());
    }

    /// Whether there is anybody to be asked: a fixed list has nothing to look at.
    pub fn is_heard(&self) -> bool {
        !self.0.is_empty()
    }
}

/// The source's end of a [`Refresh`].
pub(crate) struct Asked(Arc<Notify>);

impl Asked {
    /// Waits until somebody asks. Who has asked since the last time counts.
    pub(crate) async fn wait(&self) {
        self.0.notified().await;
    }
}

impl Observer for Refresh {
    fn on(&self, event: &Event<'_>) {
        if let Event::DialFailed { .. } = event {
            self.ask();
        }
    }
}
