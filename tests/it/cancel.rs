//! Callers who leave at any time.

use std::time::Duration;

use tokio::time::timeout;
use towline::Call;
use towline_testbed::ById;

use super::{Bed, echo, request};

// F1, F2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_whenever_every_caller_gets_its_own_answer() {
    for multiplexed in [false, true] {
        let bed = Bed::new(2).await;
        bed.backends[0].faults().delay(Duration::from_micros(500));
        let builder = if multiplexed { bed.builder().multiplexed(ById) } else { bed.builder() };
        let client = builder.build().unwrap();
        let callers: Vec<_> = (0..16u64)
            .map(|caller| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut rng = fastrand::Rng::with_seed(caller);
                    for i in 0..150 {
                        let leaves = Duration::from_micros(rng.u64(0..2_000));
                        // Everybody uses the same ids; `echo` checks the payload.
                        let mut left = request(i % 4);
                        left.payload = format!("left by {caller}").into();
                        let _ = timeout(leaves, client.send(left)).await;
                        let mut own = request(i % 4);
                        own.payload = format!("{caller}'s own, number {i}").into();
                        echo(&client, Call::new(own)).await.unwrap();
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        for endpoint in client.endpoints() {
            assert_eq!((endpoint.in_flight, endpoint.pool.in_use, endpoint.pool.waiting), (0, 0, 0));
        }
    }
}
