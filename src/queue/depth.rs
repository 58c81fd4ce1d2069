//! How many messages and consumers a queue has.

use std::convert::Infallible;
use std::time::Duration;

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::connection::link::Link;
use super::convert::name;
use super::error::{QueueError, is_forbidden};
use super::topology::part::Part;
use crate::metrics::{Metrics, QueueLabel};

/// Between two counts of the queues.
const EVERY: Duration = Duration::from_secs(10);

/// How many messages wait in a queue, and how many consumers it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    /// Messages that no consumer has.
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
}

/// Asks by a passive declaration, which changes nothing.
///
/// # Errors
///
/// NOT_FOUND if there is no such queue. The broker then closes the channel.
pub(super) async fn depth(channel: &Channel, queue: &str) -> lapin::Result<Depth> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(name(queue), options, FieldTable::default()).await?;
    Ok(Depth { messages: queue.message_count(), consumers: queue.consumer_count() })
}

/// Keeps the metrics of a consumer's queue, and of the dead queue if the consumer watches what all share, as long as the connection
/// is open. A queue that the broker does not show has none.
pub(super) async fn keep_counted(link: &Link, part: &Part, metrics: &Metrics) -> Infallible {
    let mut shown = vec![&part.shard.queue];
    shown.extend(part.watches_shared.then_some(&part.queue.dead_queue));
    loop {
        let mut hidden = Vec::new();
        for name in &shown {
            let label = QueueLabel { queue: (*name).clone() };
            match count(link, name).await {
                Ok(Ok(depth)) => {
                    metrics.queue_messages.get_or_create(&label).set(depth.messages.into());
                    metrics.queue_consumers.get_or_create(&label).set(depth.consumers.into());
                }
                Ok(Err(error)) => {
                    metrics.queue_messages.remove(&label);
                    metrics.queue_consumers.remove(&label);
                    // The broker would log every further question as an error.
                    hidden.extend(is_forbidden(&error).then_some(*name));
                }
                Err(error) => tracing::debug!(error = crate::error_chain(&error), "cannot count a queue"),
            }
        }
        shown.retain(|name| !hidden.contains(name));
        tokio::time::sleep(EVERY).await;
    }
}

/// The broker's answer, which may be a refusal; that closes the channel.
async fn count(link: &Link, queue: &str) -> Result<lapin::Result<Depth>, QueueError> {
    let channel = link.channel().await?;
    let asked = async { Ok::<_, QueueError>(depth(&channel, queue).await) };
    let depth = link.answer("counting a queue", asked).await?;
    if depth.is_ok() {
        link.answer("closing a channel", channel.close(200, name("done"))).await?;
    }
    Ok(depth)
}
