//! Not too many sets.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep_until};
use towline_core::sync::after;
use towline_core::{EndpointSet, Error};

use super::BATCH;
use crate::source::BoxSets;

pub(crate) struct MinInterval {
    /// Until it has ended.
    sets: Option<BoxSets>,
    interval: Duration,
    /// The next set comes no earlier.
    not_before: Option<Pin<Box<Sleep>>>,
    /// The last one that came too early.
    waiting: Option<EndpointSet>,
    /// After the set before it, which is not to look as if it came later.
    error: Option<Error>,
}

impl MinInterval {
    pub(crate) fn new(sets: BoxSets, interval: Duration) -> Self {
        Self { sets: Some(sets), interval, not_before: None, waiting: None, error: None }
    }

    fn say(&mut self, set: EndpointSet) -> Poll<Option<Result<EndpointSet, Error>>> {
        self.not_before = Some(Box::pin(sleep_until(after(Instant::now(), self.interval))));
        Poll::Ready(Some(Ok(set)))
    }
}

impl Stream for MinInterval {
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut taken = 0;
        while let Some(sets) = &mut this.sets {
            match sets.as_mut().poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(set))) => this.waiting = Some(set),
                Poll::Ready(Some(Err(error))) => {
                    let Some(set) = this.waiting.take() else { return Poll::Ready(Some(Err(error))) };
                    this.error = Some(error);
                    return this.say(set);
                }
                Poll::Ready(None) => this.sets = None,
            }
            taken += 1;
            if taken == BATCH {
                cx.waker().wake_by_ref();
                break;
            }
        }
        let is_over = this.sets.is_none() && this.waiting.is_none();
        if let Some(not_before) = this.not_before.as_mut().filter(|_| !is_over) {
            ready!(not_before.as_mut().poll(cx));
            this.not_before = None;
        }
        match this.waiting.take() {
            Some(set) => this.say(set),
            None if is_over => Poll::Ready(None),
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
        assert_eq!(said, ["0 a:1", "2 b:1", "2 error: x", "12 c:1", "62 e:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_waits_is_not_said_after_an_error_that_came_later_nor_lost_to_an_empty_answer() {
        let (source, _) = Script::new().set("a:1").pause(1).set("b:1").set("").pause(100).source();
        let source = source.min_interval(Duration::from_secs(10)).keep_last_good(Duration::from_secs(60));
        let said = all(source).await;
        assert_eq!(said[..4], ["0 a:1", "1 b:1", "1 error: discovery answered with nothing", "61 none"]);
    }
}
