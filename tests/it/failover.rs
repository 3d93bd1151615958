//! Backends that die, and sessions that stay together.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use towline::{Call, Kind, Phase, Sent};
use towline_testbed::ById;

use super::{Bed, echo, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_over_tls_and_sessions_stay_together() {
    for multiplexed in [false, true] {
        let bed = Bed::new(3).await;
        let builder = if multiplexed { bed.builder().multiplexed(ById) } else { bed.builder() };
        let client = builder.build().unwrap();
        let mut homes = HashMap::new();
        for i in 0..300 {
            let session = i % 20;
            let call = Call::new(request(i)).with_session(session.to_string()).with_report();
            let report = call.context().report().cloned().unwrap();
            echo(&client, call).await.unwrap();
            let by = report.endpoint().unwrap();
            assert_eq!(*homes.entry(session).or_insert(by.clone()), by);
        }
        homes.retain(|_, home| *home == client.endpoints()[0].key);
        assert!(homes.len() < 20, "sessions are spread");
        client.close().await;
        assert_eq!(client.send(request(0)).await.unwrap_err().kind(), Kind::Closed);
    }
}

// F5, F8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_backend_dies_and_returns_no_idempotent_call_is_lost() {
    for multiplexed in [false, true] {
        let mut bed = Bed::new(3).await;
        let builder = if multiplexed { bed.builder().multiplexed(ById) } else { bed.builder() };
        let client = builder.build().unwrap();
        let callers: Vec<_> = (0..32)
            .map(|caller| {
                let client = client.clone();
                tokio::spawn(async move {
                    for i in 0..200 {
                        let call = Call::new(request(format!("{caller}-{i}"))).with_session(format!("{}", i % 40));
                        echo(&client, call.idempotent()).await.unwrap();
                        sleep(Duration::from_millis(1)).await;
                    }
                })
            })
            .collect();
        sleep(Duration::from_millis(50)).await;
        bed.backends[0].stop().await;
        sleep(Duration::from_millis(100)).await;
        bed.backends[0].restart().await.unwrap();
        for caller in callers {
            caller.await.unwrap();
        }
    }
}

// F5
#[tokio::test]
async fn connections_that_the_backend_closed_while_idle_cost_no_call_even_one_that_may_not_be_repeated() {
    let mut bed = Bed::new(1).await;
    let client = bed.client();
    bed.backends[0].faults().delay(Duration::from_millis(20));
    join_all((0..8).map(|i| echo(&client, Call::new(request(i))))).await.into_iter().for_each(Result::unwrap);
    bed.backends[0].faults().delay(Duration::ZERO);
    let opened = client.endpoints()[0].pool.opened;
    assert!(opened > 1);
    // One that was dialled for nobody, and ended young, would be taken for a dial that failed.
    sleep(Duration::from_millis(1_100)).await;
    bed.backends[0].restart().await.unwrap();
    let noticed = async {
        while client.endpoints()[0].pool.closed.total() < opened {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), noticed).await.expect("noticed without a caller");
    for i in 0..8 {
        echo(&client, Call::new(request(i))).await.unwrap();
    }
}

// F6
#[tokio::test]
async fn a_backend_that_hangs_up_on_a_request_loses_it_unless_it_is_idempotent_and_another_takes_it() {
    let bed = Bed::new(2).await;
    bed.backends[0].faults().hang_up(true);
    let client = bed.client();
    let (mut lost, mut answered) = (0, 0);
    for i in 0..40 {
        match echo(&client, Call::new(request(i))).await {
            Ok(()) => answered += 1,
            Err(error) => {
                assert_eq!((error.sent(), error.phase()), (Sent::Maybe, Phase::Read));
                assert_eq!(error.endpoint().unwrap().as_str(), bed.backends[0].address().to_string());
                lost += 1;
            }
        }
    }
    assert!(lost > 0 && answered > 0);
    for i in 0..40 {
        echo(&client, Call::new(request(i)).idempotent()).await.unwrap();
    }
}

// F18
#[tokio::test]
async fn when_all_backends_are_down_calls_fail_fast_with_the_cause_and_recover_by_themselves() {
    let mut bed = Bed::new(2).await;
    let client = bed.client();
    echo(&client, Call::new(request(0))).await.unwrap();
    for backend in &mut bed.backends {
        backend.stop().await;
    }
    sleep(Duration::from_millis(20)).await;
    let start = Instant::now();
    let error = echo(&client, Call::new(request(1))).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!((error.kind(), error.sent()), (Kind::Unavailable, Sent::Never));
    assert!(error.find::<std::io::Error>().is_some() || error.is_connect(), "{error:?}");
    for backend in &mut bed.backends {
        backend.restart().await.unwrap();
    }
    let recovered = async {
        while echo(&client, Call::new(request(2))).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), recovered).await.unwrap();
}

// F12
#[tokio::test]
async fn a_backend_that_stalls_in_the_handshake_fails_in_that_phase_and_the_other_serves() {
    let bed = Bed::new(2).await;
    bed.backends[0].faults().delay_handshake(Duration::from_secs(60));
    let alone =
        bed.bare().endpoint(bed.backends[0].address()).connect_deadline(Duration::from_millis(400)).build().unwrap();
    let error = echo(&alone, Call::new(request(0))).await.unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Timeout, Phase::Handshake, Sent::Never));

    let both = bed.builder().connect_deadline(Duration::from_millis(400)).build().unwrap();
    for i in 0..20 {
        echo(&both, Call::new(request(i))).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_says_that_it_waited_for_the_response() {
    let bed = Bed::new(1).await;
    let client = bed.builder().deadline(Duration::from_millis(100)).build().unwrap();
    echo(&client, Call::new(request(0))).await.unwrap();
    bed.backends[0].faults().stall(true);
    let start = Instant::now();
    let error = echo(&client, Call::new(request(1)).idempotent()).await.unwrap_err();
    assert_eq!((error.kind(), error.phase(), error.sent()), (Kind::Timeout, Phase::Read, Sent::Maybe));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(error.endpoint().unwrap().as_str(), bed.backends[0].address().to_string());
    bed.backends[0].faults().stall(false);
    echo(&client, Call::new(request(2))).await.unwrap();
}
