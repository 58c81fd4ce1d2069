//! Keeps partitions ahead of time and drops what retention has ended.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Retention;
use crate::error_chain;
use crate::store::Store;

/// Partitions are made days ahead, so an hour missed is nothing.
const EVERY: Duration = Duration::from_secs(3600);
/// Detaching waits for readers, but not for a database that does not answer.
const BOUND: Duration = Duration::from_secs(600);

pub(super) async fn run(store: Store, retention: Retention, stop: CancellationToken) {
    loop {
        let keep = timeout(BOUND, store.keep_partitions(retention.events, retention.attempts));
        match stop.run_until_cancelled(keep).await {
            Some(Ok(Ok(dropped))) if dropped.is_empty() => {}
            Some(Ok(Ok(dropped))) => tracing::info!(?dropped, "retention ended"),
            Some(Ok(Err(error))) => tracing::warn!(error = error_chain(&error), "cannot keep the partitions"),
            Some(Err(_)) => tracing::warn!("keeping the partitions takes too long, trying again later"),
            None => return,
        }
        if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}
