//! Carries out the recoveries that were asked for. They stand in the database until they are done, so a stop, or a
//! process that ends, only delays them; several processes at one recovery share it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Api;
use crate::error_chain;
use crate::store::{Recovery, StoreError};

/// Looking for recoveries that other processes left behind.
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

async fn carry_out_all(api: &Api) -> Result<(), StoreError> {
    for recovery in api.store.recoveries().await? {
        carry_out(api, &recovery).await?;
    }
    Ok(())
}

/// One batch after the other; whatever is left when the webhook is switched off or deleted meanwhile stays closed.
async fn carry_out(api: &Api, recovery: &Recovery) -> Result<(), StoreError> {
    let mut recovered = 0;
    let moved =
        api.store.recover(recovery.webhook, &recovery.span, api.recoveries.rate, |count| recovered += count).await;
    if let Err(crate::store::RecoverError::Store(error)) = moved {
        return Err(error);
    }
    tracing::info!(webhook_id = %recovery.webhook, recovered, "recovered");
    api.store.forget_recovery(recovery).await
}
