//! Publishes notices (such as that a webhook is failing) for penr.ai's own services, in a task that delays no delivery.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{Amqp, Queue};
use crate::queue::{PublishError, Publisher};
use crate::reconnect::{Outage, Reconnect};
use crate::store::{Notice, Store, StoreError};
use crate::{error_chain, millis};

/// Between looks for notices: they are rare and may be seconds late.
const EVERY: Duration = Duration::from_secs(1);
/// Notices claimed at a time.
const BATCH: i64 = 100;

pub(super) struct Notices {
    pub(super) store: Store,
    pub(super) amqp: Amqp,
    pub(super) queue: Queue,
    /// How long claimed notices stay with this worker.
    pub(super) lease: Duration,
    pub(super) stop: CancellationToken,
}

impl Notices {
    pub(super) async fn run(self) {
        let mut publisher = None;
        let (mut reconnect, mut outage) = (Reconnect::default(), Outage::default());
        let mut wait = EVERY;
        while self.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            let Some(sent) = self.stop.run_until_cancelled(self.send_unsent(&mut publisher)).await else { break };
            wait = match sent {
                Ok(()) => {
                    reconnect.reset();
                    if let Some(after) = outage.end() {
                        tracing::info!(after_ms = millis(after), "notices are sent again");
                    }
                    EVERY
                }
                Err(error) => {
                    if let Some(publisher) = publisher.take() {
                        publisher.close().await;
                    }
                    let reason = error_chain(error.as_ref());
                    // Other parts of the worker log that a server is away.
                    if !is_logged_elsewhere(&error) && outage.is_news(&reason) {
                        tracing::warn!(error = reason, "cannot send notices, trying again");
                    } else {
                        tracing::debug!(error = reason, "cannot send notices, trying again");
                    }
                    reconnect.wait().max(EVERY)
                }
            };
        }
        if let Some(publisher) = publisher {
            publisher.close().await;
        }
    }

    async fn send_unsent(&self, publisher: &mut Option<Publisher>) -> anyhow::Result<()> {
        let notices = self.store.claim_notices(BATCH, self.lease).await?;
        if !notices.is_empty() && publisher.is_none() {
            *publisher = Some(Publisher::connect(&self.amqp, &self.queue).await?);
        }
        let Some(publisher) = publisher else { return Ok(()) };
        for notice in notices {
            self.send(publisher, &notice).await?;
            self.store.forget_notices(&[notice.id]).await?;
        }
        Ok(())
    }

    async fn send(&self, publisher: &Publisher, notice: &Notice) -> Result<(), PublishError> {
        let (id, body) = (notice.id.to_string(), notice.body.as_bytes());
        let sent = publisher.send(&self.queue.notices_exchange, &notice.kind, &id, body).await?;
        match sent.confirmed().await {
            // No queue is bound for this kind: that is penr.ai's choice, not a failure.
            Ok(()) | Err(PublishError::Unroutable) => {
                tracing::info!(kind = notice.kind, notice_id = %notice.id, "sent a notice");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the error is the database's, or that of a broker that is away.
fn is_logged_elsewhere(error: &anyhow::Error) -> bool {
    let of_broker = error.downcast_ref::<PublishError>();
    error.is::<StoreError>() || matches!(of_broker, Some(PublishError::Queue(error)) if error.is_away())
}
