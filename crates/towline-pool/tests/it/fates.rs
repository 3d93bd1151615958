//! Every combination of what can become of a dial, a health check and a caller: nothing is lost, and the pool works
//! afterwards.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_test::task::spawn;
use tower::Service;
use towline_core::{Error, Kind, Lend, Phase};
use towline_pool::{Checkout, HealthCheck, Pool, PoolBuilder};
use towline_test::{ScriptedConnection, settle};

use crate::maker::{Fate, Fateful};
use crate::support::{check, tasks};

#[derive(Clone, Copy, Debug)]
enum Check {
    Succeeds,
    Fails,
    Panics,
    NeverEnds,
    /// Gives up half-way, with an answer outstanding.
    IsCutShort,
}

const CHECKS: [Check; 5] = [Check::Succeeds, Check::Fails, Check::Panics, Check::NeverEnds, Check::IsCutShort];

#[derive(Clone, Copy, Debug)]
enum Caller {
    Waits,
    LeavesBeforeItAsks,
    LeavesTheQueue,
    LeavesWhenItsTurnComes,
    LeavesHalfWay,
    Holds,
    Poisons,
    EvictsMeanwhile,
}

const CALLERS: [Caller; 8] = [
    Caller::Waits,
    Caller::LeavesBeforeItAsks,
    Caller::LeavesTheQueue,
    Caller::LeavesWhenItsTurnComes,
    Caller::LeavesHalfWay,
    Caller::Holds,
    Caller::Poisons,
    Caller::EvictsMeanwhile,
];

fn health_check(fate: Check) -> HealthCheck<ScriptedConnection> {
    let check = HealthCheck::new(move |mut connection: Checkout<'static, ScriptedConnection>| async move {
        match fate {
            Check::Succeeds => connection.call("check").await.map(drop),
            Check::Fails => Err(Error::new(Kind::Server, Phase::Read)),
            Check::Panics => panic!("checked {}", connection.id()),
            Check::NeverEnds => std::future::pending().await,
            Check::IsCutShort => {
                let _half = spawn(Service::call(&mut *connection, "check")).poll();
                Ok(())
            }
        }
    });
    check.every(Duration::from_millis(300)).deadline(Duration::from_millis(200))
}

type Endpoint = towline_pool::Handle<ScriptedConnection>;

async fn call(handle: &mut Endpoint, make: &Fateful, caller: Caller) {
    let short = Duration::from_millis(50);
    match caller {
        Caller::Waits => drop(handle.call("own").await),
        Caller::LeavesBeforeItAsks => drop(handle.lend(None)),
        Caller::LeavesTheQueue => drop(timeout(short, handle.checkout()).await),
        Caller::LeavesWhenItsTurnComes => {
            let mut lend = spawn(handle.lend(None));
            let _ = lend.poll();
            let _ = timeout(short, handle.checkout()).await;
        }
        Caller::LeavesHalfWay => {
            make.make.wires().iter().for_each(|wire| wire.hold(true));
            let _ = timeout(short, handle.call("own")).await;
            make.make.wires().iter().for_each(|wire| wire.hold(false));
        }
        Caller::Holds => {
            if let Ok(held) = handle.checkout().await {
                sleep(short).await;
                drop(held);
            }
        }
        Caller::Poisons => {
            if let Ok(mut held) = handle.checkout().await {
                held.poison();
            }
        }
        Caller::EvictsMeanwhile => {
            let held = handle.checkout().await;
            handle.evict();
            drop(held);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_dials_checks_and_callers_nothing_is_lost() {
    for fate in Fate::ALL {
        for checked in CHECKS {
            for first in CALLERS {
                for second in CALLERS {
                    one(fate, checked, [first, second]).await;
                }
            }
        }
    }
}

async fn one(fate: Fate, checked: Check, callers: [Caller; 2]) {
    let what = format!("dial {fate:?}, check {checked:?}, callers {callers:?}");
    let make = Fateful::new(fate);
    let builder = PoolBuilder::new()
        .max_connections(2)
        .max_total(2)
        .dial_deadline(Duration::from_millis(500))
        .wait_deadline(Duration::from_secs(1))
        .idle_timeout(Duration::from_secs(10));
    let mut pool: Pool<_, &'static str> = builder.build_checked(make.clone(), health_check(checked)).unwrap();
    let mut handle = pool.call("endpoint").await.unwrap();
    let tasks_of_callers: Vec<_> = callers
        .into_iter()
        .map(|caller| {
            let (mut handle, make) = (handle.clone(), make.clone());
            tokio::spawn(async move {
                for _ in 0..3 {
                    call(&mut handle, &make, caller).await;
                }
            })
        })
        .collect();
    for task in tasks_of_callers {
        task.await.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    sleep(Duration::from_millis(700)).await; // a health check or two
    make.set(Fate::Succeeds);
    sleep(Duration::from_secs(3)).await; // the longest backoff
    let mut served = 0;
    for _ in 0..3 {
        served += usize::from(handle.call("after").await.is_ok_and(|(_, answer)| answer == "after"));
    }
    assert_eq!(served, 3, "{what}");
    settle().await;
    // A check that is under way uses its connection until its deadline.
    let all_back = async {
        while handle.stats().in_use > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let all_back = timeout(Duration::from_secs(2), all_back).await.is_ok();
    let stats = handle.stats();
    assert!(all_back, "{what}: {stats:?}");
    assert_eq!((stats.in_use, stats.waiting, stats.dialling), (0, 0, 0), "{what}: {stats:?}");
    assert!(stats.idle == stats.live && stats.live <= 2, "{what}: {stats:?}");
    check(&handle);
    drop(handle);
    // A check that is under way ends with its deadline.
    sleep(Duration::from_millis(250)).await;
    assert_eq!((make.make.open(), tasks()), (0, 0), "{what}");
}
