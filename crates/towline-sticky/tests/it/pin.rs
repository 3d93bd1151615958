//! Sessions that keep to one connection, over the real pool.

use std::time::Duration;

use tower::{Layer, ServiceExt};
use towline_balance::{BalanceBuilder, Balanced, fixed};
use towline_core::{Call, CloseReason, ConnectionPin, Error, Kind, Sent, SessionKey, Target, TokioExecutor};
use towline_pool::{Pool, PoolBuilder};
use towline_sticky::{PinLayer, Pinned, Pins, SessionTable, StickyStats, WhenHomeFails};
use towline_test::{ScriptedMaker, cancel_at_every_poll};

use crate::support::{Message, SECOND, endpoints, settle};

type Who = fn(&Message) -> Option<SessionKey>;
type Stack = Pinned<Balanced<Pool<ScriptedMaker, Target>, SessionTable>, Who>;

/// The message says who calls.
fn who(call: &Message) -> Option<SessionKey> {
    let text = call.message().to_string();
    Some(if *call.message() == 0 { SessionKey::new("") } else { SessionKey::new(text) })
}

/// Two endpoints, each with connections of its own.
async fn stack(pins: &Pins) -> (Stack, ScriptedMaker) {
    let make = ScriptedMaker::exclusive();
    // Connections outlive what sessions do here.
    let (idle, life) = (Duration::from_secs(600), Duration::from_secs(86_400));
    let pool = PoolBuilder::new().idle_timeout(idle).max_lifetime(life).build(make.clone()).unwrap();
    let policy = SessionTable::new().when_home_fails(WhenHomeFails::Strict);
    let balance = BalanceBuilder::new(policy).spawn(fixed(endpoints(2)), pool, &TokioExecutor::current()).unwrap();
    settle().await;
    (PinLayer::by(pins.clone(), who as Who).layer(balance), make)
}

/// The connection that serves a call of this session.
async fn wire(stack: &Stack, session: u32) -> Result<usize, Error> {
    stack.clone().oneshot(Call::new(session)).await.map(|(wire, _)| wire)
}

#[tokio::test(start_paused = true)]
async fn all_calls_of_a_session_use_one_connection_until_it_is_ended() {
    let pins = Pins::default();
    let (stack, _make) = stack(&pins).await;
    let first = wire(&stack, 1).await.unwrap();
    // Others hold and return theirs meanwhile, so that the last that is idle is another.
    for other in 2..10 {
        let (a, b) = tokio::join!(wire(&stack, other), wire(&stack, other + 100));
        assert!(a.is_ok() && b.is_ok());
        assert_eq!(wire(&stack, 1).await.unwrap(), first);
    }
    assert_eq!(pins.stats().counts().entries, 17);
    assert!(pins.end(&SessionKey::new("1")) && !pins.end(&SessionKey::new("1")));
    wire(&stack, 1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn when_the_connection_is_gone_calls_fail_until_the_session_is_ended_and_begins_again() {
    let pins = Pins::default();
    let (stack, make) = stack(&pins).await;
    let first = wire(&stack, 1).await.unwrap();
    make.wires()[first].close(CloseReason::Peer);
    settle().await;
    for _ in 0..3 {
        let error = wire(&stack, 1).await.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (Kind::PinLost, Sent::Never));
    }
    assert_ne!(wire(&stack, 2).await.unwrap(), first, "others are not concerned");
    assert!(pins.end(&SessionKey::new("1")));
    assert_ne!(wire(&stack, 1).await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_forgotten_and_one_that_calls_is_not() {
    let pins = Pins::new(10, 60 * SECOND, StickyStats::new()).unwrap();
    let (stack, make) = stack(&pins).await;
    let first = wire(&stack, 1).await.unwrap();
    wire(&stack, 2).await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(50 * SECOND).await;
        assert_eq!(wire(&stack, 1).await.unwrap(), first);
    }
    make.wires()[first].close(CloseReason::Peer);
    settle().await;
    assert_eq!(wire(&stack, 1).await.unwrap_err().kind(), Kind::PinLost);
    tokio::time::sleep(64 * SECOND).await;
    wire(&stack, 1).await.unwrap();
    pins.sweep();
    let counts = pins.stats().counts();
    assert_eq!((counts.entries, counts.expired, counts.evicted), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn without_room_a_new_session_is_refused_and_nobody_loses_a_pin() {
    let pins = Pins::new(2, 60 * SECOND, StickyStats::new()).unwrap();
    let (stack, make) = stack(&pins).await;
    let (first, second) = (wire(&stack, 1).await.unwrap(), wire(&stack, 2).await.unwrap());
    let dials = make.dials();
    for other in 3..100 {
        let error = wire(&stack, other).await.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (Kind::Overloaded, Sent::Never));
        assert!(error.to_string().contains("capacity"), "{error}");
    }
    assert_eq!((wire(&stack, 1).await.unwrap(), wire(&stack, 2).await.unwrap()), (first, second));
    assert_eq!(make.dials(), dials);
    assert!(pins.end(&SessionKey::new("2")));
    wire(&stack, 3).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_a_call_leaves_the_session_as_it_is() {
    let pins = Pins::new(1, 60 * SECOND, StickyStats::new()).unwrap();
    let (stack, make) = stack(&pins).await;
    cancel_at_every_poll(
        || wire(&stack, 1),
        |polls| {
            // Whoever has not been polled has not called.
            assert_eq!(pins.stats().counts().entries, u64::from(polls > 0));
            begins_again(&stack, &pins)
        },
    )
    .await;
    assert_eq!(make.wires().iter().map(towline_test::Wire::in_flight).sum::<usize>(), 0);
}

/// After a call of the session was dropped.
async fn begins_again(stack: &Stack, pins: &Pins) {
    // An exclusive connection that was written to is gone with the call, and so is the pin, if it was bound.
    match wire(stack, 1).await {
        Ok(first) => assert_eq!(wire(stack, 1).await.unwrap(), first),
        Err(error) => assert_eq!(error.kind(), Kind::PinLost),
    }
    assert!(pins.end(&SessionKey::new("1")));
    wire(stack, 1).await.unwrap();
    assert!(pins.end(&SessionKey::new("1")));
}

#[tokio::test]
async fn the_caller_s_pin_and_session_stay_and_an_empty_key_is_no_session() {
    let pins = Pins::default();
    let echo = tower::service_fn(|call: Message| async move { Ok::<_, Error>(call) });
    let layer = PinLayer::by(pins.clone(), who as Who);
    let own = ConnectionPin::to(towline_core::ConnectionId::fresh());
    let call = layer.layer(echo).oneshot(Call::new(1).with_pin(&own)).await.unwrap();
    assert_eq!(call.context().pin().unwrap().connection(), own.connection());
    let call = layer.layer(echo).oneshot(Call::new(1).with_session("mine")).await.unwrap();
    assert_eq!(call.context().session(), Some(&SessionKey::new("mine")));
    assert!(call.context().pin().is_some());
    let call = layer.layer(echo).oneshot(Call::new(1)).await.unwrap();
    assert_eq!(call.context().session(), Some(&SessionKey::new("1")));
    let call = layer.layer(echo).oneshot(Call::new(0)).await.unwrap();
    assert!(call.context().pin().is_none() && call.context().session().is_none());
    assert_eq!((pins.stats().counts().entries, pins.stats().counts().empty_keys), (1, 1));
}

#[test]
fn bad_settings_say_what_to_change() {
    for (error, word) in [
        (Pins::new(0, SECOND, StickyStats::new()).unwrap_err(), "capacity"),
        (Pins::new(1, Duration::ZERO, StickyStats::new()).unwrap_err(), "idle"),
    ] {
        assert!(error.kind() == Kind::Config && error.to_string().contains(word), "{error}");
    }
}
