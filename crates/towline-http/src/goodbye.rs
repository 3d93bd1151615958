//! A connection that is over says so to its peer, as far as that takes no long waiting.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Runs from the first time that it is polled.
#[derive(Default)]
pub(crate) struct Goodbye(Option<Pin<Box<Sleep>>>);

impl Goodbye {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_or_insert_with(|| Box::pin(sleep(GOODBYE))).as_mut().poll(cx)
    }
}
