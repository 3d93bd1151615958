//! A limit on idle connections that is compared with all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::paused;
use crate::network::Network;
use crate::pools::{handle, towline_name};
use crate::report::{Bug, Observed};

const URL: &str = "https://github.com/ClickHouse/ClickHouse/issues/119072";
const CALLERS: usize = 300;
const CONNECTIONS: usize = 100;
const REQUESTS: usize = 100;

pub(super) fn replay() -> Result<Bug> {
    Ok(Bug {
        name: "ClickHouse #119072",
        url: URL,
        met: "The limit on connections that are kept is compared with those in use too: above it nothing is kept, every request makes a \
              connection and closes it, and the busier the server, the more so.",
        replayed: format!(
            "{CALLERS} callers make {REQUESTS} requests each over at most {CONNECTIONS} connections. ClickHouse is C++ and was not \
             run: what stands for it is from its issue."
        ),
        observed: vec![
            Observed {
                pool: "ClickHouse 26.8.2".to_owned(),
                did: "as reported: 1,935,132 connections made, 1,919,921 of them closed after one request, none kept; mended in 26.9"
                    .to_owned(),
                has_bug: None,
            },
            paused(busy())?,
        ],
    })
}

async fn busy() -> Result<Observed> {
    let network = Network::default();
    let handle = handle(&network, CONNECTIONS).await?;
    let (done, wrong) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (handle, done, wrong) = (handle.clone(), done.clone(), wrong.clone());
        callers.spawn(async move {
            for request in 0..REQUESTS {
                let connection = handle.checkout().await?;
                // Uneven, so that connections do not come back all at once.
                sleep(Duration::from_millis(1 + (caller + request) as u64 % 7)).await;
                drop(connection);
                let stats = handle.stats();
                let adds_up = stats.in_use + stats.idle == stats.live && stats.live + stats.dialling <= CONNECTIONS;
                wrong.fetch_add(usize::from(!adds_up), Relaxed);
                done.fetch_add(1, Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    let (done, wrong, stats) = (done.load(Relaxed), wrong.load(Relaxed), handle.stats());
    ensure!(done == CALLERS * REQUESTS, "{done} requests");
    let did = format!(
        "{} connections made for {done} requests, {} of which reused one; {} idle afterwards; in use and idle added up to all that \
         were open {} of {done} times",
        network.made(),
        stats.reused,
        stats.idle,
        done - wrong,
    );
    let right = network.made() <= CONNECTIONS && stats.reused as usize == done - network.made() && wrong == 0;
    Ok(Observed { pool: towline_name(), did, has_bug: Some(!right || stats.idle != network.made()) })
}
