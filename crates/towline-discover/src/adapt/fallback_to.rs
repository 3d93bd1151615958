//! Another source while there is nothing from this one.

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
    /// What the second had when it was not asked for.
    kept: Option<EndpointSet>,
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
        Self { first: Some(first), second: Some(second), has_first: Has::Unknown, kept: None }
    }

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<EndpointSet, Error>> {
        while let Some(first) = &mut self.first {
            match first.as_mut().poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(set))) if set.is_none_on_purpose() => self.has_first = Has::None,
                Poll::Ready(Some(Ok(set))) => {
                    // An empty answer is for whoever keeps sets to judge.
                    self.has_first = if set.is_empty() && self.has_first != Has::Some { Has::None } else { Has::Some };
                    return Poll::Ready(Ok(set));
                }
                Poll::Ready(Some(Err(error))) => {
                    if self.has_first == Has::Unknown {
                        self.has_first = Has::None;
                    }
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(None) => {
                    self.first = None;
                    if self.has_first == Has::Unknown {
                        self.has_first = Has::None;
                    }
                }
            }
        }
        Poll::Pending
    }
}

impl Stream for FallbackTo {
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let before = this.has_first;
        if let Poll::Ready(item) = this.poll_first(cx) {
            return Poll::Ready(Some(item));
        }
        if this.has_first == Has::None {
            if before == Has::Some {
                if let Some(set) = this.kept.clone() {
                    return Poll::Ready(Some(Ok(set)));
                }
            }
            if let Some(second) = &mut this.second {
                match second.as_mut().poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(item)) => {
                        if let Ok(set) = &item {
                            this.kept = Some(set.clone());
                        }
                        return Poll::Ready(Some(item));
                    }
                    Poll::Ready(None) => this.second = None,
                }
            }
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

    #[tokio::test]
    async fn it_ends_when_nothing_can_come_any_more() {
        let (first, _) = Script::new().source();
        let (second, _) = Script::new().set("z:9").source();
        let mut source = first.fallback_to(second);
        assert_eq!(keys(source.next().await), "z:9");
        assert!(source.next().await.is_none());
    }
}
