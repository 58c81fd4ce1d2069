//! Measures how old the oldest transaction and snapshot of the database are: they keep it from removing dead rows. Also counts
//! the notices that wait.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error_chain;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

/// Between measurements.
const EVERY: Duration = Duration::from_secs(10);

pub(super) async fn run(store: Store, metrics: Metrics, stop: CancellationToken) {
    loop {
        match stop.run_until_cancelled(measure(&store, &metrics)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(error = error_chain(&error), "cannot ask for old transactions"),
            None => return,
        }
        if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

async fn measure(store: &Store, metrics: &Metrics) -> Result<(), StoreError> {
    let holders = store.snapshot_holders().await?;
    let ages = holders.iter().filter_map(|holder| holder.age);
    metrics.oldest_transaction.set(ages.max().unwrap_or_default().as_secs_f64());
    let snapshots = holders.iter().map(|holder| holder.transactions);
    metrics.oldest_snapshot.set(snapshots.max().unwrap_or_default());
    metrics.notices_waiting.set(store.count_notices().await?);
    Ok(())
}
