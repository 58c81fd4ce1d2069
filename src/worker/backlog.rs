//! Measures for operators what waits in the database.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error_chain;
use crate::metrics::Metrics;
use crate::store::Store;

const EVERY: Duration = Duration::from_secs(10);

pub(super) async fn run(store: Store, metrics: Metrics, stop: CancellationToken) {
    loop {
        match stop.run_until_cancelled(store.count_pending()).await {
            Some(Ok(pending)) => drop(metrics.pending.set(pending)),
            Some(Err(error)) => tracing::debug!(error = error_chain(&error), "cannot measure the backlog"),
            None => return,
        }
        if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}
