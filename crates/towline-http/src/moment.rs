//! How long a connection that nobody uses may take, to say goodbye to its peer or to be done with its last request.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

const MOMENT: Duration = Duration::from_secs(1);

/// Runs from the first time that it is polled.
#[derive(Default)]
pub(crate) struct Moment(Option<Pin<Box<Sleep>>>);

impl Moment {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_or_insert_with(|| Box::pin(sleep(MOMENT))).as_mut().poll(cx)
    }
}
