//! What retries and hedges guarantee, on the paused clock.

mod cancel;
mod hedge;
mod retry;
mod sticky;
mod storm;
#[cfg(feature = "tower")]
mod tower_policy;

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tower::Service;
use towline_core::sync::Lock;
use towline_core::{Call, EndpointId, EndpointKey, Error, Event, Kind, Observer, Observers, Phase, progress};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Answer = Result<&'static str, Error>;

/// Answers with what the script says, and remembers what it was sent: when, and which attempt.
#[derive(Clone)]
struct Scripted {
    script: Arc<Lock<Vec<Answer>>>,
    seen: Arc<Lock<Vec<Call<&'static str>>>>,
    at: Arc<Lock<Vec<Instant>>>,
    endpoint: Option<EndpointId>,
}

fn scripted(script: impl IntoIterator<Item = Answer>) -> Scripted {
    let mut script: Vec<_> = script.into_iter().collect();
    script.reverse();
    Scripted { script: Arc::new(Lock::new(script)), seen: Arc::default(), at: Arc::default(), endpoint: None }
}

impl Service<Call<&'static str>> for Scripted {
    type Response = &'static str;
    type Error = Error;
    type Future = Ready<Answer>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(id) = self.endpoint {
            progress::at(id, &EndpointKey::new("a"));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<&'static str>) -> Self::Future {
        self.at.lock().push(Instant::now());
        self.seen.lock().push(call);
        ready(self.script.lock().pop().expect("no more calls were expected"))
    }
}

impl Scripted {
    fn calls(&self) -> usize {
        self.seen.lock().len()
    }
}

fn unsent() -> Answer {
    Err(Error::new(Kind::Unavailable, Phase::Dial))
}

fn maybe() -> Answer {
    Err(Error::new(Kind::Closed, Phase::Read))
}

/// The names of the events that came.
#[derive(Clone, Default)]
struct Events(Arc<Lock<Vec<String>>>);

impl Observer for Events {
    fn on(&self, event: &Event<'_>) {
        let name = format!("{event:?}");
        self.0.lock().push(name.split([' ', '{']).next().unwrap().to_owned());
    }
}

impl Events {
    fn observers(&self) -> Observers {
        Observers::new(self.clone())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}
