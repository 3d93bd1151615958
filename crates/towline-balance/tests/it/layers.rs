//! The balancer under a deadline and retries, with endpoints of which it knows nothing: what is said to be unsent was
//! not sent.

use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};
use towline_balance::{Balance, BalanceBuilder, Change, P2c, P2cPicker, Update, fixed};
use towline_core::{
    Call, CallContext, Endpoint, EndpointKey, Error, Event, Kind, Lend, Lent, Observer, Observers, Phase, Room, Sent,
    Target, TokioExecutor, progress,
};
use towline_retry::RetryLayer;
use towline_timeout::DeadlineLayer;

type Message = Call<u32>;

const SECOND: Duration = Duration::from_secs(1);

/// Lends at once the first so many times, then never.
#[derive(Clone)]
struct Lends<S> {
    service: S,
    left: Arc<AtomicUsize>,
}

impl<S: Clone + Send + 'static> Lend for Lends<S> {
    type Checkout = S;
    type Lend = Pin<Box<dyn Future<Output = Result<S, Error>> + Send>>;

    fn room(&self) -> Room {
        Room::Ready
    }

    fn lend(&self, _context: Option<&CallContext>) -> Self::Lend {
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Box::pin(ready(Ok(self.service.clone()))),
            Err(_) => Box::pin(async {
                progress::enter(Phase::Queue);
                pending().await
            }),
        }
    }
}

/// A balancer over one endpoint that lends `service` so many times.
fn lends<S: Clone + Send + Sync + 'static>(service: S, times: usize) -> Balance<Lends<S>, P2cPicker> {
    let lends = Lends { service, left: Arc::new(times.into()) };
    let make = service_fn(move |_: Target| ready(Ok::<_, Error>(lends.clone())));
    one(make)
}

fn one<L, M>(make: M) -> Balance<L, P2cPicker>
where
    L: Lend<Lend: Send> + Send + Sync + 'static,
    M: Service<Target, Response = L, Error = Error, Future: Send> + Clone + Send + 'static,
{
    over(fixed(["10.0.0.1:1".parse().unwrap()]), make)
}

fn over<D, U, L, M>(discover: D, make: M) -> Balance<L, P2cPicker>
where
    D: Stream<Item = Result<U, Error>> + Send + 'static,
    U: Into<Update>,
    L: Lend<Lend: Send> + Send + Sync + 'static,
    M: Service<Target, Response = L, Error = Error, Future: Send> + Clone + Send + 'static,
{
    BalanceBuilder::new(P2c::new()).spawn(discover, make, &TokioExecutor::current()).unwrap()
}

fn insert(key: &str, target: &str) -> Result<Change<EndpointKey, Endpoint>, Error> {
    Ok(Change::Insert(key.into(), target.parse().unwrap()))
}

/// Makes an endpoint that answers, after a while.
fn makes_slowly(
    takes: Duration,
) -> impl Service<
    Target,
    Response = Lent<impl Service<Message, Response = (), Error = Error, Future: Send> + Clone + Send + Sync + 'static>,
    Error = Error,
    Future: Send,
> + Clone
+ Send
+ 'static {
    service_fn(move |_: Target| async move {
        sleep(takes).await;
        Ok::<_, Error>(Lent::new(service_fn(|_: Message| ready(Ok::<_, Error>(())))))
    })
}

/// A retry that is not ours.
#[derive(Clone)]
struct Again;

impl tower::retry::Policy<Message, (), Error> for Again {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _call: &mut Message, result: &mut Result<(), Error>) -> Option<Self::Future> {
        result.is_err().then(|| ready(()))
    }

    fn clone_request(&mut self, call: &Message) -> Option<Message> {
        Some(call.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_attempt_through_a_foreign_retry_counts_as_sent() {
    let fails = service_fn(|_: Message| async { Err::<(), _>(std::io::Error::other("after it was written")) });
    let stack = DeadlineLayer::new(SECOND).layer(tower::retry::Retry::new(Again, lends(fails, 1)));
    let error = stack.oneshot(Call::new(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (Kind::Timeout, Sent::Maybe));
}

#[tokio::test(start_paused = true)]
async fn of_two_calls_under_one_deadline_the_one_that_was_handed_over_counts() {
    let balance = lends(service_fn(|_: Message| pending::<Result<(), Error>>()), 1);
    let hedge = service_fn(move |call: Message| {
        let (one, other) = (balance.clone().oneshot(call.clone()), balance.clone().oneshot(call));
        async move {
            tokio::select! { biased; result = one => result, result = other => result }
        }
    });
    let error = DeadlineLayer::new(SECOND).layer(hedge).oneshot(Call::new(1)).await.unwrap_err();
    assert_eq!(error.sent(), Sent::Maybe);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_uses_a_stack_of_its_own_after_sending_does_not_unsend() {
    let audit = lends(service_fn(|_: Message| ready(Ok::<(), Error>(()))), 0);
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let sends_then_audits = service_fn(move |call: Message| {
        count.fetch_add(1, Ordering::Relaxed);
        audit.clone().oneshot(call)
    });
    let balance = one(service_fn(move |_: Target| ready(Ok::<_, Error>(Lent::new(sends_then_audits.clone())))));
    let stack = RetryLayer::new().layer(DeadlineLayer::new(SECOND).layer(balance));
    let error = stack.oneshot(Call::new(1)).await.unwrap_err();
    assert_eq!((error.sent(), sent.load(Ordering::Relaxed)), (Sent::Maybe, 1));
}

// F19
#[tokio::test(start_paused = true)]
async fn a_discovery_that_ends_while_its_endpoints_are_made_has_endpoints() {
    let balance = over(stream::iter([insert("a", "10.0.0.1:1")]), makes_slowly(SECOND / 100));
    balance.oneshot(Call::new(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_made_keeps_nobody_waiting_and_is_the_cause() {
    let fails = service_fn(|_: Target| ready(Err::<Lends<()>, _>(Error::new(Kind::Unavailable, Phase::Build))));
    let balance = one(fails);
    timeout(SECOND, balance.discovered()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_discovery_that_refreshes_faster_than_endpoints_are_made_does_not_keep_them_from_being_made() {
    let refresh = stream::unfold((), |()| async {
        sleep(SECOND).await;
        Some((insert("a", "10.0.0.1:1"), ()))
    });
    let discover = stream::iter([insert("a", "10.0.0.1:1")]).chain(refresh);
    let balance = over(discover, makes_slowly(2 * SECOND));
    timeout(60 * SECOND, balance.oneshot(Call::new(1))).await.unwrap().unwrap();
}

#[derive(Clone, Default)]
struct Known(Arc<AtomicUsize>);

impl Observer for Known {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::EndpointAdded { .. } => self.0.fetch_add(1, Ordering::Relaxed),
            Event::EndpointRemoved { .. } => self.0.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_added_and_not_removed_is_what_there_is() {
    let known = Known::default();
    let changes = stream::iter(["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]).then(|target| async move {
        sleep(SECOND).await;
        insert("a", target)
    });
    let builder = BalanceBuilder::new(P2c::new()).observers(Observers::new(known.clone()));
    let balance = builder
        .spawn(changes.chain(stream::pending()), makes_slowly(Duration::ZERO), &TokioExecutor::current())
        .unwrap();
    sleep(10 * SECOND).await;
    assert_eq!((balance.endpoints().len(), known.0.load(Ordering::Relaxed)), (1, 1));
}

// F20
#[tokio::test(start_paused = true)]
async fn a_flood_of_changes_arrives_in_full() {
    let changes = (0..3_000u32).map(|i| insert(&i.to_string(), "10.0.0.1:1")).collect::<Vec<_>>();
    // Made at once, so that nothing else wakes the driver between two batches.
    let make = service_fn(|_: Target| ready(Ok::<_, Error>(Lent::new(()))));
    let balance = over(stream::iter(changes).chain(stream::pending()), make);
    sleep(SECOND).await;
    assert_eq!(balance.endpoints().len(), 3_000);
}
