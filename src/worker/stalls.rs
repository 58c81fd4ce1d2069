//! Knows since when something in this worker has been waiting for the database, whatever part it is.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::reconnect::Reconnect;
use crate::store::StoreError;
use crate::{error_chain, millis};

/// Shared by all parts that cannot go on without the database.
#[derive(Debug, Clone)]
pub(super) struct Stalls {
    state: watch::Sender<State>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    since: Option<Instant>,
}

/// One part's wait, over when it is dropped.
#[derive(Debug)]
pub(super) struct Stall {
    stalls: Stalls,
    reconnect: Reconnect,
}

impl Stalls {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { state: watch::Sender::default(), metrics }
    }

    /// After a statement of a part failed: waits a little, longer each time. The part keeps its stall until one
    /// succeeds.
    pub(super) async fn wait(&self, stall: &mut Option<Stall>, part: &'static str, error: &StoreError) {
        let error = error_chain(error);
        let stall = stall.get_or_insert_with(|| self.begin(&error));
        tracing::debug!(error, "{part}");
        tokio::time::sleep(stall.reconnect.wait()).await;
    }

    fn begin(&self, error: &str) -> Stall {
        self.state.send_modify(|state| {
            state.waiting += 1;
            if state.since.is_none() {
                state.since = Some(Instant::now());
                self.metrics.database_waiting.set(1);
                tracing::warn!(error, "waiting for the database");
            }
        });
        Stall { stalls: self.clone(), reconnect: Reconnect::default() }
    }

    /// Says when results have waited so long that their broker messages should go back, and when nobody waits any more.
    pub(super) async fn watch(self, patience: Duration, hold_off: watch::Sender<bool>, stop: CancellationToken) {
        let mut state = self.state.subscribe();
        let mut wait = async || {
            let begun = state.wait_for(|state| state.since.is_some()).await.ok()?.since;
            let deadline = begun.expect("it was waited for") + patience;
            let over = state.wait_for(|state| state.since.is_none());
            if tokio::time::timeout_at(deadline, over).await.is_err() {
                hold_off.send_replace(true);
                state.wait_for(|state| state.since.is_none()).await.ok()?;
                hold_off.send_replace(false);
            }
            Some(())
        };
        while let Some(Some(())) = stop.run_until_cancelled(wait()).await {}
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.stalls.state.send_modify(|state| {
            state.waiting -= 1;
            if state.waiting == 0
                && let Some(since) = state.since.take()
            {
                self.stalls.metrics.database_waiting.set(0);
                tracing::info!(waited_ms = millis(since.elapsed()), "the database takes what waited");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> StoreError {
        StoreError::Unavailable(anyhow::anyhow!("it is away"))
    }

    #[tokio::test]
    async fn the_last_part_to_go_on_ends_the_wait() {
        let stalls = Stalls::new(Metrics::default());
        let since = || stalls.state.borrow().since;
        let (mut one, mut other) = (None, None);
        stalls.wait(&mut one, "one", &error()).await;
        let begun = since();
        stalls.wait(&mut other, "other", &error()).await;
        drop(one);
        assert!(begun.is_some());
        assert_eq!(since(), begun);
        drop(other);
        assert_eq!(since(), None);
    }
}
