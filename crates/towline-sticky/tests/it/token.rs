//! Sessions by tokens.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use tower::{Layer, Service, ServiceExt};
use towline_balance::{Balance, P2c, Update};
use towline_core::{Call, Error, Pick};
use towline_sticky::{HomeFirst, HomeFirstPicker, StickyStats, TokenLayer, Tokens};
use towline_test::cancel_at_every_poll;

use crate::support::{Desk, Desks, Discovery, Message, Seen, endpoints, over, settle};

/// A request with a token, to endpoints that know no tokens; answers with who has served it, and the token given out.
#[derive(Clone)]
struct Cookies<S>(S);

impl<S: Service<Message, Response = String>> Service<Call<Option<String>>> for Cookies<S>
where
    S::Future: Send + 'static,
{
    type Response = (String, Option<String>);
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, call: Call<Option<String>>) -> Self::Future {
        let (_, context) = call.into_parts();
        let inner = self.0.call(Call::from_parts(0, context));
        Box::pin(async move { inner.await.map(|name| (name, None)) })
    }
}

thread_local! {
    /// Seconds since 1970.
    static NOW: Cell<u64> = const { Cell::new(1_000_000) };
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.get())
}

struct Setup {
    desks: Desks,
    seen: Seen,
    stats: StickyStats,
    balance: Balance<Desk, HomeFirstPicker<<P2c as towline_core::Policy>::Picker>>,
    discovery: Discovery,
    tokens: Tokens,
}

async fn setup(n: u8) -> Setup {
    let (desks, stats) = (Desks::default(), StickyStats::new());
    let policy = HomeFirst::new(P2c::new()).with_stats(stats.clone());
    let (balance, discovery) = over(policy, &desks, endpoints(n)).await;
    let tokens = Tokens::new(1, [1; 32]).unwrap();
    Setup { desks, seen: Seen::default(), stats, balance, discovery, tokens }
}

impl Setup {
    async fn ask(&self, token: Option<&str>) -> Result<(String, Option<String>), Error> {
        ask(&self.balance, &self.tokens, &self.seen, &self.stats, token).await
    }
}

async fn ask<P>(
    balance: &Balance<Desk, P>,
    tokens: &Tokens,
    seen: &Seen,
    stats: &StickyStats,
    token: Option<&str>,
) -> Result<(String, Option<String>), Error>
where
    P: Pick<Message> + Send + Sync + 'static,
{
    let layer = TokenLayer::new(
        tokens.clone(),
        |call: &Call<Option<String>>| call.message().as_deref(),
        |response: &mut (String, Option<String>), token: &str| response.1 = Some(token.to_owned()),
    );
    let layer = layer.observers(seen.observers()).with_stats(stats.clone()).with_clock(now);
    layer.layer(Cookies(balance.clone())).oneshot(Call::new(token.map(str::to_owned))).await
}

#[tokio::test(start_paused = true)]
async fn a_token_brings_a_session_back_and_is_given_out_once() {
    let setup = setup(5).await;
    let (home, token) = setup.ask(None).await.unwrap();
    let token = token.unwrap();
    for _ in 0..20 {
        assert_eq!(setup.ask(Some(&token)).await.unwrap(), (home.clone(), None));
    }
    let counts = setup.stats.counts();
    assert_eq!((counts.issued, counts.followed, counts.forged, counts.stale), (1, 20, 0, 0));
    assert!(setup.seen.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_when_half_of_its_life_is_over_and_ignored_when_all_of_it_is() {
    let setup = setup(5).await;
    let start = NOW.get();
    let (home, token) = setup.ask(None).await.unwrap();
    let token = token.unwrap();
    NOW.set(start + 1_799);
    assert_eq!(setup.ask(Some(&token)).await.unwrap(), (home.clone(), None));
    NOW.set(start + 1_800);
    let (same, renewed) = setup.ask(Some(&token)).await.unwrap();
    assert_eq!(same, home);
    let renewed = renewed.unwrap();
    NOW.set(start + 3_600);
    assert_eq!(setup.ask(Some(&renewed)).await.unwrap().0, home);
    assert!(setup.seen.take().is_empty());
    setup.ask(Some(&token)).await.unwrap().1.expect("as if there had been none");
    assert_eq!(setup.seen.take(), ["ignored stale=true"]);
    assert_eq!((setup.stats.counts().stale, setup.stats.counts().forged), (1, 0));
    NOW.set(start);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_home_cannot_take_it_moves_with_its_token() {
    let setup = setup(5).await;
    let (home, token) = setup.ask(None).await.unwrap();
    setup.desks.of(&home).down(true);
    let (second, moved) = setup.ask(token.as_deref()).await.unwrap();
    assert_ne!(second, home);
    setup.desks.of(&home).down(false);
    for _ in 0..10 {
        assert_eq!(setup.ask(moved.as_deref()).await.unwrap(), (second.clone(), None));
    }
    let left = endpoints(5).into_iter().filter(|endpoint| endpoint.key().as_str() != second).collect();
    setup.discovery.send(Ok(Update::Set(left))).await.unwrap();
    settle().await;
    let (third, moved) = setup.ask(moved.as_deref()).await.unwrap();
    assert_ne!(third, second);
    assert_eq!(setup.ask(moved.as_deref()).await.unwrap(), (third, None));
    let counts = setup.stats.counts();
    assert_eq!((counts.spilled.unready, counts.spilled.gone, counts.issued), (1, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn forged_tokens_are_ignored_and_counted_and_steer_nobody() {
    let setup = setup(3).await;
    let (_, token) = setup.ask(None).await.unwrap();
    let other = Tokens::new(1, [2; 32]).unwrap();
    let outside = towline_core::Home::from(&towline_core::EndpointKey::new("169.254.169.254:80"));
    let foreign = other.issue(outside, now()).to_string();
    let mut cut = token.unwrap();
    cut.pop();
    for forged in ["", "garbage", &foreign, &cut, "10.0.0.1:80", &"A".repeat(1 << 20)] {
        let (name, token) = setup.ask(Some(forged)).await.unwrap();
        assert!(["a:1", "b:1", "c:1"].contains(&&*name));
        token.expect("a good one instead");
    }
    let counts = setup.stats.counts();
    assert_eq!((counts.forged, counts.stale, counts.followed), (6, 0, 0));
    assert_eq!(setup.seen.take(), ["ignored stale=false"; 6]);
    // One that was signed for somebody who is not in the set.
    let ours = setup.tokens.issue(outside, now()).to_string();
    let (name, _) = setup.ask(Some(&ours)).await.unwrap();
    assert!(["a:1", "b:1", "c:1"].contains(&&*name));
    assert_eq!(setup.desks.all().len(), 3);
    assert_eq!(setup.stats.counts().spilled.gone, 1);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_a_call_gives_out_no_token_and_the_next_gets_its_own() {
    let setup = setup(3).await;
    let given = std::cell::Cell::new(0);
    cancel_at_every_poll(
        || async {
            setup.ask(None).await.unwrap();
            given.set(given.get() + 1);
        },
        |_| async {
            assert_eq!(setup.stats.counts().issued, given.get());
            let (home, token) = setup.ask(None).await.unwrap();
            given.set(given.get() + 1);
            assert_eq!(setup.ask(token.as_deref()).await.unwrap(), (home, None));
            assert_eq!(setup.desks.all().iter().map(Desk::now).sum::<usize>(), 0);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_carries_no_token_and_where_nobody_reports_there_are_none() {
    let setup = setup(1).await;
    setup.desks.of("a:1").fails(true);
    setup.ask(None).await.unwrap_err();
    assert_eq!(setup.stats.counts().issued, 0);
    let silent = tower::service_fn(|_: Message| async { Ok::<_, Error>("somebody".to_owned()) });
    let layer = TokenLayer::new(
        setup.tokens.clone(),
        |call: &Call<Option<String>>| call.message().as_deref(),
        |response: &mut (String, Option<String>), token: &str| response.1 = Some(token.to_owned()),
    );
    let answer = layer.layer(Cookies(silent)).oneshot(Call::new(None)).await.unwrap();
    assert_eq!(answer.1, None);
}
