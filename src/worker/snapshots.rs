//! Measures for operators what waits in the database, and who keeps it from removing dead rows.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error_chain;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

const EVERY: Duration = Duration::from_secs(10);

pub(super) async fn run(store: Store, metrics: Metrics, stop: CancellationToken) {
    loop {
        match stop.run_until_cancelled(measure(&store, &metrics)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(error = error_chain(&error), "cannot measure the backlog"),
            None => return,
        }
        if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

async fn measure(store: &Store, metrics: &Metrics) -> Result<(), StoreError> {
    metrics.pending.set(store.count_pending().await?);
    let holders = store.snapshot_holders().await?;
    let ages = holders.iter().filter_map(|holder| holder.age);
    metrics.oldest_transaction.set(ages.max().unwrap_or_default().as_secs_f64());
    let snapshots = holders.iter().map(|holder| holder.transactions);
    metrics.oldest_snapshot.set(snapshots.max().unwrap_or_default());
    Ok(())
}
