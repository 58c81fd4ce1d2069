//! How many messages and consumers a queue has.

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::convert::name;

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
