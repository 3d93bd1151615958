//! What several sources have together.

use std::collections::HashSet;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use towline_core::{EndpointKey, EndpointSet, Error};

use crate::source::BoxSets;

pub(crate) struct Merge(Vec<Part>);

struct Part {
    /// Until it has ended.
    sets: Option<BoxSets>,
    last: Option<EndpointSet>,
    /// It has said anything, be it an error.
    was_heard: bool,
    is_new: bool,
}

impl Merge {
    pub(crate) fn new(sets: Vec<BoxSets>) -> Self {
        let part = |sets| Part { sets: Some(sets), last: None, was_heard: false, is_new: false };
        Self(sets.into_iter().map(part).collect())
    }

    fn union(&self) -> EndpointSet {
        let known = || self.0.iter().filter_map(|part| part.last.as_ref());
        if known().all(EndpointSet::is_none_on_purpose) {
            return EndpointSet::none();
        }
        let mut keys = HashSet::<&EndpointKey>::new();
        // Within one set a key that is there twice is for whoever takes the set to judge.
        let mut union = Vec::new();
        for set in known() {
            union.extend(set.iter().filter(|endpoint| !keys.contains(endpoint.key())).cloned());
            keys.extend(set.iter().map(towline_core::Endpoint::key));
        }
        union.into()
    }
}

impl Part {
    /// An error to be passed on.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Error> {
        while let Some(sets) = &mut self.sets {
            match sets.as_mut().poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(set))) => {
                    // An empty answer changes nothing; only all together are to look empty.
                    let is_doubtful = set.is_empty() && !set.is_none_on_purpose();
                    if !(is_doubtful && self.last.is_some()) {
                        self.last = Some(set);
                    }
                    (self.was_heard, self.is_new) = (true, true);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.is_new |= !self.was_heard;
                    self.was_heard = true;
                    return Some(error);
                }
                Poll::Ready(None) => {
                    self.sets = None;
                    self.is_new |= !self.was_heard;
                    self.was_heard = true;
                }
            }
        }
        None
    }
}

impl Stream for Merge {
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        for part in &mut self.0 {
            if let Some(error) = part.poll(cx) {
                return Poll::Ready(Some(Err(error)));
            }
        }
        let is_new = self.0.iter().any(|part| part.is_new);
        if is_new && self.0.iter().all(|part| part.was_heard) {
            self.0.iter_mut().for_each(|part| part.is_new = false);
            if self.0.iter().any(|part| part.last.is_some()) {
                return Poll::Ready(Some(Ok(self.union())));
            }
        }
        if self.0.iter().all(|part| part.sets.is_none()) { Poll::Ready(None) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use towline_core::Weight;

    use super::*;
    use crate::Source;
    use crate::testing::{Script, all, set};

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_all_and_then_follows_each() {
        let (one, _) = Script::new().set("a:1").pause(9).set("a:1 b:1").source();
        let (other, _) = Script::new().pause(5).set("z:9").pause(9).set("y:9").source();
        assert_eq!(all(one.merge(other)).await, ["5 a:1 z:9", "9 a:1 b:1 z:9", "14 a:1 b:1 y:9"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_had_stays_while_it_fails_and_one_that_never_had_any_is_not_waited_for() {
        let (one, _) = Script::new().set("a:1").pause(5).err("x").pause(5).set("").source();
        let (other, _) = Script::new().pause(1).err("never").pause(8).set("z:9").source();
        let said = all(one.merge(other)).await;
        assert_eq!(said, ["1 error: never", "1 a:1", "5 error: x", "9 a:1 z:9", "10 a:1 z:9"]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_one_key_the_first_source_counts() {
        let heavy = set("a:1").remove(0).with_weight(Weight::new(2.0).unwrap());
        let (one, other) = (Source::fixed([heavy]), Source::fixed(set("a:1 b:1")));
        let merged = Merge::new(vec![Box::pin(one), Box::pin(other)]);
        let first = futures_util::StreamExt::next(&mut { merged }).await.unwrap().unwrap();
        assert_eq!(first.len(), 2);
        assert_eq!(first[0].weight().get(), 2.0);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_none_on_purpose_only_when_all_say_so() {
        let (one, _) = Script::new().none().pause(5).source();
        let (other, _) = Script::new().set("z:9").pause(5).none().source();
        assert_eq!(all(one.merge(other)).await, ["0 z:9", "5 none"]);
    }
}
