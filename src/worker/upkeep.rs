//! Keeps partitions ahead of time and drops what retention has ended.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Retention;
use crate::error_chain;
use crate::store::Store;

/// Partitions are made days ahead, so an hour missed is nothing.
const EVERY: Duration = Duration::from_secs(3600);

pub(super) async fn run(store: Store, retention: Retention, stop: CancellationToken) {
    loop {
        match stop.run_until_cancelled(store.keep_partitions(retention.events, retention.attempts)).await {
            Some(Ok(dropped)) if dropped.is_empty() => {}
            Some(Ok(dropped)) => tracing::info!(?dropped, "retention ended"),
            Some(Err(error)) => tracing::warn!(error = error_chain(&error), "cannot keep the partitions"),
            None => return,
        }
        if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}
