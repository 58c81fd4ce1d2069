//! Carries out the recoveries that customers have asked for. Each is a row in the database until it is done, so a process that
//! ends only delays it. Several processes may work on one recovery.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Api;
use crate::error_chain;
use crate::store::{Recovery, StoreError};

/// Recoveries that one process carries out at the same time.
const AT_ONCE: usize = 4;
/// How often to look for recoveries that other processes have left unfinished.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

pub(super) struct Recoveries {
    rate: u32,
    asked: Notify,
}

impl Recoveries {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, asked: Notify::new() }
    }

    pub(super) fn notify(&self) {
        self.asked.notify_one();
    }
}

pub(super) async fn run(api: Arc<Api>, stop: CancellationToken) {
    let work = async {
        loop {
            if let Err(error) = carry_out_all(&api).await {
                tracing::debug!(error = error_chain(&error), "recoveries wait for the database");
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, api.recoveries.asked.notified()).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Carries out several at the same time, so that none waits for a long one. A recovery that fails does not stop the others.
async fn carry_out_all(api: &Api) -> Result<(), StoreError> {
    let recoveries = stream::iter(api.store.recoveries().await?);
    let each = async |recovery: Recovery| {
        if let Err(error) = carry_out(api, &recovery).await {
            let error = error_chain(&error);
            tracing::warn!(webhook_id = %recovery.webhook, error, "a recovery will be tried again");
        }
    };
    recoveries.for_each_concurrent(AT_ONCE, each).await;
    Ok(())
}

/// Recovers batch after batch. If the webhook is switched off or deleted meanwhile, the rest stays closed.
async fn carry_out(api: &Api, recovery: &Recovery) -> Result<(), StoreError> {
    let mut recovered = 0;
    let moved =
        api.store.recover(recovery.webhook, &recovery.span, api.recoveries.rate, |count| recovered += count).await;
    if let Err(crate::store::RecoverError::Store(error)) = moved {
        return Err(error);
    }
    tracing::info!(webhook_id = %recovery.webhook, recovered, "recovered");
    api.store.finish_recovery(recovery).await
}
