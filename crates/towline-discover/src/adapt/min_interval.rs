//! Not too many sets.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep_until};
use towline_core::sync::after;
use towline_core::{EndpointSet, Error};

use crate::source::BoxSets;

pub(crate) struct MinInterval {
    /// Until it has ended.
    sets: Option<BoxSets>,
    interval: Duration,
    /// The next set comes no earlier.
    not_before: Option<Pin<Box<Sleep>>>,
    /// The last one that came too early.
    waiting: Option<EndpointSet>,
}

impl MinInterval {
    pub(crate) fn new(sets: BoxSets, interval: Duration) -> Self {
        Self { sets: Some(sets), interval, not_before: None, waiting: None }
    }
}

impl Stream for MinInterval {
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while let Some(sets) = &mut this.sets {
            match sets.as_mut().poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(set))) => this.waiting = Some(set),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => this.sets = None,
            }
        }
        if let Some(not_before) = &mut this.not_before {
            if not_before.as_mut().poll(cx).is_pending() {
                return if this.sets.is_none() && this.waiting.is_none() { Poll::Ready(None) } else { Poll::Pending };
            }
            this.not_before = None;
        }
        match this.waiting.take() {
            Some(set) => {
                this.not_before = Some(Box::pin(sleep_until(after(Instant::now(), this.interval))));
                Poll::Ready(Some(Ok(set)))
            }
            None if this.sets.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Script, all};

    #[tokio::test(start_paused = true)]
    async fn of_sets_that_come_too_soon_the_last_is_said_in_its_time() {
        let script =
            Script::new().set("a:1").pause(1).set("b:1").pause(1).err("x").set("c:1").pause(60).set("d:1").set("e:1");
        let (source, _) = script.source();
        let said = all(source.min_interval(Duration::from_secs(10))).await;
        assert_eq!(said, ["0 a:1", "2 error: x", "10 c:1", "62 e:1"]);
    }
}
