//! The last good set, for a while.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep_until};
use towline_core::sync::after;
use towline_core::{EndpointSet, Error, Kind, Phase, Sent};

use crate::source::BoxSets;

pub(crate) struct KeepLastGood {
    /// Until it has ended.
    sets: Option<BoxSets>,
    max_staleness: Duration,
    /// There is a set that counts.
    has_set: bool,
    /// It counts until then, since the source has failed.
    until: Option<Pin<Box<Sleep>>>,
    /// To be said next.
    items: VecDeque<Result<EndpointSet, Error>>,
}

impl KeepLastGood {
    pub(crate) fn new(sets: BoxSets, max_staleness: Duration) -> Self {
        Self { sets: Some(sets), max_staleness, has_set: false, until: None, items: VecDeque::new() }
    }

    /// The source is not what it was: the time begins, if it has not yet.
    fn has_failed(&mut self) {
        if self.has_set && self.until.is_none() {
            self.until = Some(Box::pin(sleep_until(after(Instant::now(), self.max_staleness))));
        }
    }

    /// A source that fails at every poll must not keep the time from passing, so that is looked at first.
    fn poll_stale(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(until) = &mut self.until else { return false };
        if until.as_mut().poll(cx).is_pending() {
            return false;
        }
        (self.has_set, self.until) = (false, None);
        true
    }

    fn drop_set(&mut self) {
        let why = format!("the last set was dropped: nothing good was heard for {:?}", self.max_staleness);
        let why = Error::new(Kind::NoEndpoints, Phase::Resolve).with_sent(Sent::Never).with_message(why);
        self.items.extend([Ok(EndpointSet::none()), Err(why)]);
    }
}

impl Stream for KeepLastGood {
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(item) = this.items.pop_front() {
            return Poll::Ready(Some(item));
        }
        let is_stale = this.poll_stale(cx);
        let said = this.sets.as_mut().map_or(Poll::Pending, |sets| sets.as_mut().poll_next(cx));
        match said {
            Poll::Ready(Some(Ok(set))) => {
                // In time, if only just.
                (this.has_set, this.until) = (!set.is_empty(), None);
                return Poll::Ready(Some(Ok(set)));
            }
            Poll::Ready(Some(Err(error))) => {
                if is_stale {
                    this.drop_set();
                }
                this.has_failed();
                this.items.push_back(Err(error));
            }
            Poll::Ready(None) => {
                this.sets = None;
                this.has_failed();
                if is_stale {
                    this.drop_set();
                } else if this.poll_stale(cx) {
                    // For the waker, unless it is over at once.
                    this.drop_set();
                }
            }
            Poll::Pending if is_stale => this.drop_set(),
            Poll::Pending => {}
        }
        match this.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if this.sets.is_none() && this.until.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;
    use crate::testing::{Script, all};

    const MINUTE: Duration = Duration::from_secs(60);
    const DROPPED: &str = "error: the last set was dropped: nothing good was heard for 60s";

    #[tokio::test(start_paused = true)]
    async fn a_set_outlives_failures_until_it_is_stale_and_not_longer() {
        let (source, _) = Script::new().set("a:1").pause(100).err("x").pause(20).err("y").pause(600).source();
        let said = all(source.keep_last_good(MINUTE)).await;
        // From the first failure, not from the last.
        assert_eq!(said, ["0 a:1", "100 error: x", "120 error: y", "160 none", &format!("160 {DROPPED}")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_answer_in_time_starts_it_anew() {
        let script =
            Script::new().set("a:1").err("x").pause(59).set("a:1").pause(100).err("y").pause(59).set("b:1").pause(600);
        let (source, _) = script.source();
        let said = all(source.keep_last_good(MINUTE).take(5)).await;
        assert_eq!(said, ["0 a:1", "0 error: x", "59 a:1", "159 error: y", "218 b:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_answer_is_a_failure_and_none_on_purpose_is_not() {
        let (source, _) = Script::new().set("a:1").set("").pause(10).none().pause(600).source();
        let said = all(source.keep_last_good(MINUTE)).await;
        assert_eq!(said, ["0 a:1", "0 error: discovery answered with nothing", "10 none"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_ended_is_stale_some_day_too() {
        let (source, _) = Script::new().set("a:1").source();
        let said = all(source.keep_last_good(MINUTE)).await;
        assert_eq!(said, ["0 a:1", "60 none", &format!("60 {DROPPED}")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_fails_all_the_time_is_stale_in_time() {
        let failing = stream::repeat_with(|| Err::<EndpointSet, _>("down")).then(|item| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            item
        });
        let first = stream::once(std::future::ready(Ok::<EndpointSet, &str>(crate::testing::set("a:1").into())));
        let always = stream::repeat_with(|| Err::<EndpointSet, _>("at every poll")).take(100);
        let source = crate::Source::new(first.chain(failing.take(70_000)).chain(always)).keep_last_good(MINUTE);
        let said = all(source).await;
        assert!(said.contains(&"60 none".to_owned()), "{:?}", said.last());
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_end_of_patience_it_stays_for_ever() {
        let (source, _) = Script::new().set("a:1").err("x").pause(1_000_000).source();
        let years = tokio::time::sleep(Duration::from_secs(2_000_000));
        assert_eq!(
            all(source.keep_last_good(Duration::MAX).take_until(Box::pin(years))).await,
            ["0 a:1", "0 error: x"]
        );
    }
}
