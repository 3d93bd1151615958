//! Sessions whose backend dies, by policy, through the whole stack over sockets.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use towline::core::Room;
use towline::sticky::{Affinity, Maglev, Rendezvous, SessionTable, WhenHomeFails};
use towline::{Call, Error, Kind, Sent};

use super::{Bed, EchoClient, echo, request};

/// The backend that answers a call of this session.
async fn served_by(bed: &Bed, client: &EchoClient, session: &str) -> usize {
    let call = Call::new(request(session)).with_session(session).with_report().idempotent();
    let report = call.context().report().cloned().unwrap();
    echo(client, call).await.unwrap();
    let key = report.endpoint().unwrap();
    bed.backends.iter().position(|backend| backend.address().to_string() == key.as_str()).unwrap()
}

/// A session at the first backend.
async fn at_first(bed: &Bed, client: &EchoClient) -> String {
    for i in 0..100 {
        let session = format!("session {i}");
        if served_by(bed, client, &session).await == 0 {
            return session;
        }
    }
    panic!("no session is at the first backend");
}

/// Until the client has seen that nobody listens at the first backend any more, or that somebody does again.
async fn until(client: &EchoClient, is_down: bool) {
    let seen = async {
        while (client.endpoints()[0].room == Room::Down) != is_down {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), seen).await.expect("seen without a caller");
}

/// Stops the first backend. That nobody listens is seen by the first call that wants to go there.
async fn stop_first(bed: &mut Bed, client: &EchoClient, session: &str) -> Result<(), Error> {
    bed.backends[0].stop().await;
    let first = echo(client, Call::new(request(0)).with_session(session).idempotent()).await;
    until(client, true).await;
    first
}

fn kinds() -> [Affinity; 3] {
    [Rendezvous::new().unbounded().into(), Maglev::new().unbounded().into(), SessionTable::new().into()]
}

// F33
#[tokio::test]
async fn under_strict_a_session_whose_backend_is_down_fails_at_once_and_the_others_go_on() {
    for affinity in kinds() {
        let mut bed = Bed::new(3).await;
        let affinity = affinity.when_home_fails(WhenHomeFails::Strict).unwrap();
        let client = bed.builder().sessions(affinity).build().unwrap();
        let session = at_first(&bed, &client).await;
        stop_first(&mut bed, &client, &session).await.unwrap_err();

        let before = (client.retries().retries, client.sessions().refused.unready);
        let call = Call::new(request(0)).with_session(&session).idempotent();
        let error = echo(&client, call).await.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (Kind::HomeUnavailable, Sent::Never), "{error}");
        assert_eq!(error.endpoint().unwrap().as_str(), bed.backends[0].address().to_string());
        let after = (client.retries().retries, client.sessions().refused.unready);
        assert_eq!(after, (before.0, before.1 + 1), "it fails at once, and is counted");
        for i in 0..20 {
            echo(&client, Call::new(request(i)).idempotent()).await.unwrap();
        }

        bed.backends[0].restart().await.unwrap();
        until(&client, false).await;
        assert_eq!(served_by(&bed, &client, &session).await, 0);
    }
}

#[tokio::test]
async fn a_session_by_hash_returns_to_its_backend_and_one_by_table_stays_where_it_went() {
    for (affinity, returns) in kinds().into_iter().zip([true, true, false]) {
        let mut bed = Bed::new(3).await;
        let client = bed.builder().sessions(affinity).build().unwrap();
        let session = at_first(&bed, &client).await;
        stop_first(&mut bed, &client, &session).await.unwrap();
        let second = served_by(&bed, &client, &session).await;
        assert_ne!(second, 0);
        for _ in 0..5 {
            assert_eq!(served_by(&bed, &client, &session).await, second, "one second choice, not a scatter");
        }
        bed.backends[0].restart().await.unwrap();
        until(&client, false).await;
        let then = served_by(&bed, &client, &session).await;
        assert_eq!(then, if returns { 0 } else { second });
    }
}

// F33
#[tokio::test]
async fn a_call_that_failed_at_its_session_s_backend_is_repeated_elsewhere_unless_it_has_to_stay() {
    for affinity in kinds() {
        for strict in [false, true] {
            let bed = Bed::new(3).await;
            let affinity = affinity.clone();
            let affinity = if strict { affinity.when_home_fails(WhenHomeFails::Strict).unwrap() } else { affinity };
            let client = bed.builder().sessions(affinity).build().unwrap();
            let session = at_first(&bed, &client).await;
            bed.backends[0].faults().hang_up(true);
            let call = Call::new(request(0)).with_session(&session).with_report().idempotent();
            let report = call.context().report().cloned().unwrap();
            let result = echo(&client, call).await;
            let first = bed.backends[0].address().to_string();
            if strict {
                assert_eq!(result.unwrap_err().endpoint().unwrap().as_str(), first);
                assert_eq!(report.endpoint().unwrap().as_str(), first, "whatever attempts there were");
            } else {
                result.unwrap();
                assert_ne!(report.endpoint().unwrap().as_str(), first);
            }
        }
    }
}
