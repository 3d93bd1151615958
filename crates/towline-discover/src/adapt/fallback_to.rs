//! Another source while there is nothing from this one.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use towline_core::{EndpointSet, Error};

use crate::source::BoxSets;

pub(crate) struct FallbackTo {
    /// Until it has ended.
    first: Option<BoxSets>,
    second: Option<BoxSets>,
    /// Whether the first has a set, as far as is known.
    has_first: Has,
    /// What the second said last: said again when it is needed again.
    kept: Option<EndpointSet>,
    /// To be said next.
    items: VecDeque<Result<EndpointSet, Error>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Has {
    /// It has not said anything.
    Unknown,
    Some,
    None,
}

impl FallbackTo {
    pub(crate) fn new(first: BoxSets, second: BoxSets) -> Self {
        let (first, second) = (Some(first), Some(second));
        Self { first, second, has_first: Has::Unknown, kept: None, items: VecDeque::new() }
    }

    /// One item of the first at most: one that always has something to say must not keep the other from its turn.
    fn poll_first(&mut self, cx: &mut Context<'_>) {
        let Some(first) = &mut self.first else { return };
        match first.as_mut().poll_next(cx) {
            Poll::Pending => return,
            Poll::Ready(Some(Ok(set))) if set.is_empty() => {
                self.has_first = Has::None;
                self.items.push_back(Ok(self.kept.clone().unwrap_or(set)));
            }
            Poll::Ready(Some(Ok(set))) => {
                self.has_first = Has::Some;
                self.items.push_back(Ok(set));
            }
            Poll::Ready(Some(Err(error))) => self.items.push_back(Err(error)),
            Poll::Ready(None) => self.first = None,
        }
        if self.has_first == Has::Unknown {
            self.has_first = Has::None;
        }
    }

    fn poll_second(&mut self, cx: &mut Context<'_>) {
        let Some(second) = &mut self.second else { return };
        match second.as_mut().poll_next(cx) {
            Poll::Pending => {}
            Poll::Ready(Some(item)) => {
                if let Ok(set) = &item {
                    self.kept = Some(set.clone());
                }
                self.items.push_back(item);
            }
            Poll::Ready(None) => self.second = None,
        }
    }
}

impl Stream for FallbackTo {
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.items.is_empty() {
            this.poll_first(cx);
            if this.has_first == Has::None {
                this.poll_second(cx);
            }
        }
        if let Some(item) = this.items.pop_front() {
            return Poll::Ready(Some(item));
        }
        let is_over = this.first.is_none() && (this.second.is_none() || this.has_first == Has::Some);
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;

    use crate::Source;
    use crate::testing::{Script, all, keys, set};

    #[tokio::test(start_paused = true)]
    async fn the_other_serves_while_the_first_has_none_and_not_longer() {
        let (first, _) =
            Script::new().err("down").pause(5).set("a:1").err("again").pause(5).none().pause(5).set("b:1").source();
        let second = Source::fixed(set("z:9"));
        let said = all(first.fallback_to(second)).await;
        assert_eq!(said, ["0 error: down", "0 z:9", "5 a:1", "5 error: again", "10 z:9", "15 b:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_is_not_looked_at_before_it_is_needed() {
        let (first, _) = Script::new().pause(5).set("a:1").pause(9).source();
        let (second, polls) = Script::new().set("z:9").source();
        assert_eq!(all(first.fallback_to(second)).await, ["5 a:1"]);
        assert_eq!(polls.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn together_with_staleness_an_old_set_gives_way_to_the_other() {
        let (first, _) = Script::new().set("a:1").pause(1).err("down").pause(600).source();
        let source = first.keep_last_good(Duration::from_secs(60)).fallback_to(Source::fixed(set("z:9")));
        let said = all(source.take(4)).await;
        assert_eq!(said[..2], ["0 a:1", "1 error: down"]);
        assert!(said[2..].contains(&"61 z:9".to_owned()), "{said:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_falls_back_as_often_as_it_has_to() {
        let script = Script::new().err("x").pause(5).set("a:1").err("y").pause(600).set("b:1").err("z").pause(600);
        let source = script.source().0.keep_last_good(Duration::from_secs(60)).fallback_to(Source::fixed(set("z:9")));
        let sets: Vec<_> = all(source.take(9)).await.into_iter().filter(|said| !said.contains("error")).collect();
        assert_eq!(sets, ["0 z:9", "5 a:1", "65 z:9", "605 b:1", "665 z:9"]);
    }

    #[tokio::test(start_paused = true)]
    async fn none_on_purpose_is_said_when_the_other_has_none_either() {
        let (first, _) = Script::new().set("a:1").pause(5).none().pause(5).source();
        let (second, _) = Script::new().err("down").pause(3).set("z:9").source();
        assert_eq!(all(first.fallback_to(second)).await, ["0 a:1", "5 none", "5 error: down", "8 z:9"]);
    }

    #[tokio::test]
    async fn a_first_one_that_fails_at_every_poll_does_not_keep_the_other_from_its_turn() {
        let failing = futures_util::stream::repeat_with(|| Err::<Vec<_>, _>("down"));
        let mut source = Source::new(failing).fallback_to(Source::fixed(set("z:9")));
        let said = [keys(source.next().await), keys(source.next().await)];
        assert_eq!(said, ["error: down", "z:9"]);
    }

    #[tokio::test]
    async fn it_ends_when_nothing_can_come_any_more() {
        let (first, _) = Script::new().source();
        let (second, _) = Script::new().set("z:9").source();
        let mut source = first.fallback_to(second);
        assert_eq!(keys(source.next().await), "z:9");
        assert!(source.next().await.is_none());
    }
}
