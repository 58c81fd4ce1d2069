//! Why the broker ended our consumer with `basic.cancel`, which gives no reason.

use std::time::{Duration, Instant};

use crate::queue::connection::link::{Link, bounded};
use crate::queue::depth::depth;
use crate::queue::error::{QueueError, is_missing};

/// How long to ask for the reason.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A queue that still exists this long after its consumer was ended is not being deleted.
const DELETION: Duration = Duration::from_secs(1);

/// The loss of the consumer, with its most likely reason: few things end the consumer of a quorum queue.
pub(super) async fn consumer_cancelled(link: &Link, queue: &str) -> QueueError {
    let reason = match bounded(ASK_TIMEOUT, "asking why the consumer ended", stays(link, queue)).await {
        Ok(true) => {
            ": it waited longer for an ack than its consumer_timeout allows (RabbitMQ 4.3 and newer), or its queue moved"
        }
        Ok(false) => ": its queue was deleted",
        Err(_) => "",
    };
    QueueError::Unavailable(anyhow::anyhow!("the broker ended the consumer{reason}"))
}

/// Whether the queue exists and is not being deleted. RabbitMQ 4.0 ends a queue's consumers before it deletes the queue, and
/// reports the queue a moment longer.
async fn stays(link: &Link, queue: &str) -> Result<bool, QueueError> {
    let deleted_by = Instant::now() + DELETION;
    while exists(link, queue).await? {
        if Instant::now() >= deleted_by {
            return Ok(true);
        }
        tokio::time::sleep(DELETION / 10).await;
    }
    Ok(false)
}

async fn exists(link: &Link, queue: &str) -> Result<bool, QueueError> {
    let channel = link.channel().await?;
    match depth(&channel, queue).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
