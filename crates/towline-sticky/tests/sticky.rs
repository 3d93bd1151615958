//! Sessions stay together, and move only when they must.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tower::{Layer, ServiceExt, service_fn};
use towline_balance::{BalanceBuilder, fixed};
use towline_core::sync::Lock;
use towline_core::{
    Call, Endpoint, Error, Event, Lend, Lent, Observer, Observers, Room, SessionKey, Target, TokioExecutor,
};
use towline_sticky::{Rendezvous, StickyLayer};

/// Answers with its own name.
#[derive(Clone)]
struct Named(String);

type Answer = std::future::Ready<Result<String, Error>>;

impl tower::Service<Call<&'static str>> for Named {
    type Response = String;
    type Error = Error;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _call: Call<&'static str>) -> Answer {
        std::future::ready(Ok(self.0.clone()))
    }
}

/// An endpoint that can be down.
#[derive(Clone)]
struct Switched(Lent<Named>, Arc<AtomicBool>);

impl Lend for Switched {
    type Checkout = Named;
    type Lend = std::future::Ready<Result<Named, Error>>;

    fn room(&self) -> Room {
        if self.1.load(Ordering::Relaxed) { Room::Down } else { Room::Ready }
    }

    fn lend(&self, context: Option<&towline_core::CallContext>) -> Self::Lend {
        self.0.lend(context)
    }
}

#[derive(Clone, Default)]
struct Moves(Arc<Lock<Vec<(String, String, String)>>>);

impl Observer for Moves {
    fn on(&self, event: &Event<'_>) {
        if let Event::SessionSpilled { session, home: Some(home), to, .. } = event {
            self.0.lock().push((session.to_string(), home.to_string(), to.to_string()));
        }
    }
}

// F33
#[tokio::test(start_paused = true)]
async fn a_session_stays_with_its_home_moves_only_while_that_is_down_and_returns() {
    let switches: HashMap<String, Arc<AtomicBool>> =
        (1..=3).map(|i| (format!("10.0.0.{i}:1"), Arc::default())).collect();
    let endpoints: Vec<Endpoint> = (1..=3).map(|i| format!("10.0.0.{i}:1").parse().unwrap()).collect();
    let make = {
        let switches = switches.clone();
        service_fn(move |target: Target| {
            let (name, down) = (target.to_string(), switches[&target.to_string()].clone());
            let lent = Lent::new(Named(name));
            async move { Ok::<_, Error>(Switched(lent, down)) }
        })
    };
    let moves = Moves::default();
    let policy = Rendezvous::new().observers(Observers::new(moves.clone()));
    let balance = BalanceBuilder::new(policy).spawn(fixed(endpoints), make, &TokioExecutor::current()).unwrap();
    let stack = StickyLayer::by(|call: &Call<&'static str>| Some(SessionKey::new(call.message()))).layer(balance);
    let ask = |who: &'static str| stack.clone().oneshot(Call::new(who));

    let home = ask("alice").await.unwrap();
    for _ in 0..50 {
        assert_eq!(ask("alice").await.unwrap(), home);
    }
    assert!(moves.0.lock().is_empty());

    switches[&home].store(true, Ordering::Relaxed);
    let second = ask("alice").await.unwrap();
    assert_ne!(second, home);
    for _ in 0..50 {
        assert_eq!(ask("alice").await.unwrap(), second, "one second choice, not a scatter");
    }
    let moved = moves.0.lock().drain(..).collect::<Vec<_>>();
    assert_eq!(moved.len(), 51);
    assert_eq!(moved[0], ("alice".to_owned(), home.clone(), second));

    switches[&home].store(false, Ordering::Relaxed);
    assert_eq!(ask("alice").await.unwrap(), home);
    assert!(moves.0.lock().is_empty());
}

#[tokio::test]
async fn a_session_that_the_caller_has_set_stays() {
    let seen =
        service_fn(
            |call: Call<&'static str>| async move { Ok::<_, Error>(call.context().session().unwrap().to_string()) },
        );
    let layer = StickyLayer::by(|call: &Call<&'static str>| Some(SessionKey::new(call.message())));
    assert_eq!(layer.layer(seen).oneshot(Call::new("by request")).await.unwrap(), "by request");
    let call = Call::new("by request").with_session("by caller");
    assert_eq!(layer.layer(seen).oneshot(call).await.unwrap(), "by caller");
}
