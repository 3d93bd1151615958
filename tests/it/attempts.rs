//! Attempts that take too long, through the whole stack over sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use towline::retry::HedgePolicy;
use towline::{Call, Event, Kind, Observer, Phase, Sent};
use towline_testbed::ById;

use super::{Bed, EchoClient, echo, request};

const STALLED: Duration = Duration::from_secs(60);

/// Calls that may be repeated, until one has gone to the first backend.
async fn until_first_is_asked(bed: &Bed, client: &EchoClient) {
    let before = bed.backends[0].served();
    for i in 0..1_000 {
        echo(client, Call::new(request(i)).idempotent()).await.unwrap();
        if bed.backends[0].served() > before {
            return;
        }
    }
    panic!("the first backend was never asked");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_goes_elsewhere_within_the_deadline() {
    for multiplexed in [false, true] {
        let bed = Bed::new(2).await;
        let builder = if multiplexed { bed.builder().multiplexed(ById) } else { bed.builder() };
        let client = builder.attempt_timeout(Duration::from_millis(150)).build().unwrap();
        until_first_is_asked(&bed, &client).await;
        bed.backends[0].faults().delay(STALLED);
        let began = Instant::now();
        for i in 0..20 {
            let call = echo(&client, Call::new(request(i)).idempotent());
            timeout(Duration::from_secs(10), call).await.expect("within the deadline").unwrap();
        }
        // Once the backend has let two calls down it is on probation, and nobody waits for it but now and then.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn an_attempt_that_took_too_long_is_not_repeated_unless_it_may_be() {
    let bed = Bed::new(1).await;
    let client = bed.builder().attempt_timeout(Duration::from_millis(100)).build().unwrap();
    echo(&client, Call::new(request(0))).await.unwrap();
    bed.backends[0].faults().delay(STALLED);
    let error = echo(&client, Call::new(request(1))).await.unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Timeout, Phase::Read, Sent::Maybe));
    assert!(error.to_string().starts_with("attempt timeout of 100ms exceeded"), "{error}");
    assert!(error.spent().iter().any(|(phase, took)| *phase == Phase::Read && took.as_millis() >= 90), "{error}");
    assert_eq!(error.endpoint().unwrap().as_str(), bed.backends[0].address().to_string());
}

/// Counts second attempts.
#[derive(Clone, Default)]
struct Hedges(Arc<AtomicUsize>);

impl Observer for Hedges {
    fn on(&self, event: &Event<'_>) {
        if let Event::Hedged { endpoint, .. } = event {
            assert!(endpoint.is_some(), "it is known who takes long");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn a_call_that_takes_long_is_answered_by_another_backend() {
    let (bed, hedges) = (Bed::new(2).await, Hedges::default());
    let builder = bed.builder().multiplexed(ById).observer(hedges.clone());
    // More than by default, since all calls below stall.
    let client = builder.hedge(HedgePolicy::new().extra_load(1.0).unwrap()).build().unwrap();
    // What is usual has to be known first, from one second to the next; and whose home is at the first backend.
    let mut at_first = None;
    for i in 0..400 {
        let session = format!("{}", i % 10);
        let call = Call::new(request(i)).with_session(&session).with_report().idempotent();
        let report = call.context().report().cloned().unwrap();
        echo(&client, call).await.unwrap();
        let address = bed.backends[0].address().to_string();
        at_first = at_first.or((report.endpoint().unwrap().as_str() == address).then_some(session));
    }
    sleep(Duration::from_millis(1_100)).await;
    bed.backends[0].faults().delay(STALLED);
    let before = hedges.0.load(Ordering::Relaxed);
    for i in 0..10 {
        let call = Call::new(request(1_000 + i)).with_session(at_first.as_ref().unwrap()).idempotent();
        timeout(Duration::from_secs(5), echo(&client, call)).await.expect("answered by the other").unwrap();
    }
    assert_eq!(hedges.0.load(Ordering::Relaxed) - before, 10);
}
