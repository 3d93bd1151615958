//! Sources that say what they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep};
use towline_core::{BoxError, Endpoint, EndpointSet, Error, Kind};

use crate::Source;

/// `a:1 b:2` as endpoints.
pub(crate) fn set(keys: &str) -> Vec<Endpoint> {
    keys.split_whitespace().map(|key| key.parse().unwrap()).collect()
}

/// An item as text.
pub(crate) fn keys(item: Option<Result<EndpointSet, Error>>) -> String {
    match item {
        None => "end".to_owned(),
        Some(Ok(set)) if set.is_none_on_purpose() => "none".to_owned(),
        Some(Ok(set)) => set.iter().map(|endpoint| endpoint.key().as_str()).collect::<Vec<_>>().join(" "),
        Some(Err(error)) => {
            let cause = std::error::Error::source(&error).filter(|_| error.kind() == Kind::Other);
            let text = cause.map_or_else(|| error.to_string(), ToString::to_string);
            format!(
                "error: {}",
                text.split([';']).next().unwrap_or_default().split(" while ").next().unwrap_or_default()
            )
        }
    }
}

/// All items until the end, each with the second at which it came.
pub(crate) async fn all(source: impl Stream<Item = Result<EndpointSet, Error>>) -> Vec<String> {
    let start = Instant::now();
    source.map(|item| format!("{} {}", start.elapsed().as_secs(), keys(Some(item)))).collect().await
}

/// What a source is to do.
#[derive(Default)]
pub(crate) struct Script(Vec<Step>);

enum Step {
    Say(Result<EndpointSet, BoxError>),
    Pause(u64),
}

/// How often something happened.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Script {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    pub(crate) fn ok(self, set: impl Into<EndpointSet>) -> Self {
        self.then(Step::Say(Ok(set.into())))
    }

    pub(crate) fn set(self, keys: &str) -> Self {
        self.ok(set(keys))
    }

    pub(crate) fn none(self) -> Self {
        self.ok(EndpointSet::none())
    }

    pub(crate) fn err(self, why: &'static str) -> Self {
        self.then(Step::Say(Err(why.into())))
    }

    /// So many seconds.
    pub(crate) fn pause(self, seconds: u64) -> Self {
        self.then(Step::Pause(seconds))
    }

    /// And how many items it was asked for.
    pub(crate) fn source(self) -> (Source, Count) {
        let count = Count::default();
        let polls = count.clone();
        let steps = stream::iter(self.0).then(move |step| {
            polls.add();
            async move {
                match step {
                    Step::Say(item) => Some(item),
                    Step::Pause(seconds) => {
                        sleep(Duration::from_secs(seconds)).await;
                        None
                    }
                }
            }
        });
        (Source::new(steps.filter_map(std::future::ready)), count)
    }
}
