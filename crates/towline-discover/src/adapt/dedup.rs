//! Not saying the same twice.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use towline_core::{Endpoint, EndpointKey, EndpointSet, Error};

use super::BATCH;
use crate::source::BoxSets;

/// Whether two sets say the same, in whatever order.
pub(crate) fn is_same(one: &EndpointSet, other: &EndpointSet) -> bool {
    if one == other {
        return true;
    }
    if one.len() != other.len() || one.is_empty() {
        return false;
    }
    let mut known: HashMap<&EndpointKey, Option<&Endpoint>> =
        one.iter().map(|endpoint| (endpoint.key(), Some(endpoint))).collect();
    // With a key twice in one of them nothing is known for sure.
    known.len() == one.len()
        && other.iter().all(|endpoint| known.get_mut(endpoint.key()).is_some_and(|it| it.take() == Some(endpoint)))
}

pub(crate) struct Dedup {
    sets: BoxSets,
    /// Unless an error came after it: whoever has heard of that is to hear that it is over.
    last: Option<EndpointSet>,
}

impl Dedup {
    pub(crate) fn new(sets: BoxSets) -> Self {
        Self { sets, last: None }
    }
}

impl Stream for Dedup {
    type Item = Result<EndpointSet, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        for _ in 0..BATCH {
            let item = ready!(self.sets.as_mut().poll_next(cx));
            match &item {
                Some(Ok(set)) if self.last.as_ref().is_some_and(|last| is_same(last, set)) => continue,
                Some(Ok(set)) => self.last = Some(set.clone()),
                _ => self.last = None,
            }
            return Poll::Ready(item);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use towline_core::Weight;

    use super::*;
    use crate::testing::{Script, keys, set};

    #[tokio::test]
    async fn a_set_that_says_the_same_in_another_order_is_dropped_and_a_changed_weight_is_not() {
        let heavy = |mut set: Vec<Endpoint>| {
            set[0] = set[0].clone().with_weight(Weight::new(2.0).unwrap());
            set
        };
        let script = Script::new().set("a:1 b:2").set("b:2 a:1").ok(heavy(set("a:1 b:2"))).set("a:1").set("a:1 a:1");
        let (mut source, _) = script.source();
        source = source.dedup();
        assert_eq!(keys(source.next().await), "a:1 b:2");
        let changed = source.next().await.unwrap().unwrap();
        assert_eq!(changed[0].weight().get(), 2.0);
        assert_eq!(keys(source.next().await), "a:1");
        assert_eq!(keys(source.next().await), "a:1 a:1");
    }

    #[test]
    fn with_a_key_twice_nothing_is_the_same() {
        let sets = ["a:1 b:1", "a:1 a:1"].map(|keys| EndpointSet::from(set(keys)));
        assert!(!is_same(&sets[0], &sets[1]) && !is_same(&sets[1], &sets[0]));
    }

    #[tokio::test]
    async fn after_an_error_the_same_set_is_said_again() {
        let (source, _) = Script::new().set("a:1").err("x").set("a:1").source();
        let said: Vec<_> = source.dedup().map(|item| keys(Some(item))).collect().await;
        assert_eq!(said, ["a:1", "error: x", "a:1"]);
    }
}
