//! One file per bug.

mod bb8_122;
mod bb8_67;
mod clickhouse_119072;
mod hyper_util_297;
mod sqlx_3513;
mod tower_balance;
mod tower_layers;

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Builder;

use crate::report::Bug;

type Replay = fn() -> Result<Bug>;

/// By what they are about, in the order in which they are told.
pub(crate) const ALL: [(&str, &[Replay]); 3] = [("pool", &POOL), ("balance", &BALANCE), ("layers", &LAYERS)];

const POOL: [Replay; 6] = [
    hyper_util_297::deadlock,
    hyper_util_297::hoarding,
    bb8_122::replay,
    bb8_67::replay,
    sqlx_3513::replay,
    clickhouse_119072::replay,
];

const BALANCE: [Replay; 3] = [tower_balance::stale_index, tower_balance::idle, tower_balance::ready_and_fails];

const LAYERS: [Replay; 4] = [tower_layers::budget, tower_layers::jitter, tower_layers::readiness, tower_layers::hedge];

/// Whatever takes longer than this is stuck: on the paused clock it costs nothing.
const STUCK: Duration = Duration::from_secs(60);

/// Runs a scenario on one thread with tokio's clock paused: every run is the same.
fn paused<T>(scenario: impl Future<Output = Result<T>>) -> Result<T> {
    Builder::new_current_thread().enable_all().start_paused(true).build()?.block_on(scenario)
}
