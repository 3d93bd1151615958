//! What several sources have together.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use towline_core::{EndpointKey, EndpointSet, Error};

use super::BATCH;
use crate::source::BoxSets;

pub(crate) struct Merge {
    parts: Vec<Part>,
    /// To be said next.
    items: VecDeque<Result<EndpointSet, Error>>,
    /// What was said last has endpoints.
    has_said: bool,
}

struct Part {
    /// Until it has ended.
    sets: Option<BoxSets>,
    last: Option<EndpointSet>,
    /// It has said anything, be it an error.
    was_heard: bool,
    /// The last that it said was an error, or it has ended without a set.
    fails: bool,
    is_new: bool,
}

impl Merge {
    pub(crate) fn new(sets: Vec<BoxSets>) -> Self {
        let part = |sets| Part { sets: Some(sets), last: None, was_heard: false, fails: false, is_new: false };
        Self { parts: sets.into_iter().map(part).collect(), items: VecDeque::new(), has_said: false }
    }

    /// What is known. `None` when that is nothing, and nobody has said so on purpose who had something, or for all.
    fn union(&self) -> Option<EndpointSet> {
        let known = || self.parts.iter().filter_map(|part| part.last.as_ref());
        let mut keys = HashSet::<&EndpointKey>::new();
        // Within one set a key that is there twice is for whoever takes the set to judge.
        let mut union = Vec::new();
        for set in known() {
            union.extend(set.iter().filter(|endpoint| !keys.contains(endpoint.key())).cloned());
            keys.extend(set.iter().map(towline_core::Endpoint::key));
        }
        if !union.is_empty() {
            return Some(union.into());
        }
        // What one has that has only failed so far is not known.
        let is_sure = self.parts.iter().all(|part| part.last.is_some());
        (is_sure || self.has_said && known().next().is_some()).then_some(EndpointSet::none())
    }
}

impl Part {
    /// Takes one item, so that one which always has something to say does not keep the others from their turn. Whether there was one;
    /// an error is passed on.
    fn poll(&mut self, cx: &mut Context<'_>, items: &mut VecDeque<Result<EndpointSet, Error>>) -> bool {
        let Some(sets) = &mut self.sets else { return false };
        match sets.as_mut().poll_next(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(set))) => (self.last, self.fails, self.is_new) = (Some(set), false, true),
            // The others may do well: what there is is said after it.
            Poll::Ready(Some(Err(error))) => {
                items.push_back(Err(error));
                (self.fails, self.is_new) = (true, true);
            }
            Poll::Ready(None) => self.sets = None,
        }
        self.is_new |= !self.was_heard;
        self.was_heard = true;
        true
    }
}

impl Stream for Merge {
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        for _ in 0..BATCH {
            if let Some(item) = this.items.pop_front() {
                return Poll::Ready(Some(item));
            }
            let mut any = false;
            for part in &mut this.parts {
                any |= part.poll(cx, &mut this.items);
            }
            let is_new = this.parts.iter().any(|part| part.is_new);
            if is_new && this.parts.iter().all(|part| part.was_heard) {
                this.parts.iter_mut().for_each(|part| part.is_new = false);
                let all_fail = this.parts.iter().all(|part| part.fails);
                if let Some(union) = this.union().filter(|_| !all_fail) {
                    this.has_said = !union.is_empty();
                    this.items.push_back(Ok(union));
                }
            }
            if !this.items.is_empty() {
                continue;
            }
            if this.parts.iter().all(|part| part.sets.is_none()) {
                return Poll::Ready(None);
            }
            if !any {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
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
        let (one, _) = Script::new().set("a:1").pause(5).err("x").pause(5).set("").source(); // An empty answer is an error, too.
        let (other, _) = Script::new().pause(1).err("never").pause(8).set("z:9").source();
        let said = all(one.merge(other)).await;
        let nothing = "10 error: discovery answered with nothing";
        assert_eq!(said, ["1 error: never", "1 a:1", "5 error: x", "9 a:1 z:9", nothing, "10 a:1 z:9"]);
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

    #[tokio::test(start_paused = true)]
    async fn what_one_has_that_has_only_failed_is_not_known_to_be_nothing() {
        let (one, _) = Script::new().none().pause(5).set("a:1").pause(5).none().source();
        let (other, _) = Script::new().err("down").pause(20).source();
        assert_eq!(all(one.merge(other)).await, ["0 error: down", "5 a:1", "10 none"]);
    }

    #[tokio::test]
    async fn one_that_fails_at_every_poll_does_not_keep_the_others_from_their_turn() {
        let failing = Source::new(futures_util::stream::repeat_with(|| Err::<Vec<_>, _>("down")));
        let mut merged = failing.merge(Source::fixed(set("a:1")));
        let said = [(); 2].map(|()| futures_util::FutureExt::now_or_never(futures_util::StreamExt::next(&mut merged)));
        let said: Vec<_> = said.into_iter().map(|item| crate::testing::keys(item.unwrap())).collect();
        assert!(said.contains(&"a:1".to_owned()), "{said:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_for_ever_makes_nobody_stale_who_does_well() {
        let (one, _) = Script::new().set("a:1").pause(5).err("gone").pause(5).err("gone").pause(600).source();
        let other = Source::fixed(set("z:9"));
        let source = one.merge(other).keep_last_good(std::time::Duration::from_secs(60));
        let years = Box::pin(tokio::time::sleep(std::time::Duration::from_secs(1_000)));
        let said = all(futures_util::StreamExt::take_until(source, years)).await;
        let gone = ["5 error: gone", "5 a:1 z:9", "10 error: gone", "10 a:1 z:9"];
        assert_eq!((said[0].as_str(), &said[1..]), ("0 a:1 z:9", &gone.map(str::to_owned)[..]));
    }
}
