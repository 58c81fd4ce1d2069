//! Declares what we need at the broker. Declaring again changes nothing; a difference is an error.

use std::convert::Infallible;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::link::Link;
use super::{QueueError, is_missing, name};
use crate::config::Queue;
use crate::event::Catalogue;
use crate::reconnect::Outage;
use crate::{error_chain, millis};

/// Between two looks at what could be deleted without our consumer noticing.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn declare(channel: &Channel, queue: &Queue, catalogue: &Catalogue) -> lapin::Result<()> {
    for (exchange, kind) in exchanges(queue) {
        declare_exchange(channel, exchange, kind).await?;
    }
    for (queue, arguments) in queues(queue) {
        declare_queue(channel, queue, arguments).await?;
    }
    bind_all(channel, queue, catalogue).await
}

/// Declares again what somebody deletes while we consume: without the dead queue, rejected messages stay in the worker
/// queue for ever. The end of the worker queue itself ends the consumer.
pub(super) async fn keep_declared(link: &Link, queue: &Queue, catalogue: &Catalogue) -> Infallible {
    let mut failing = Outage::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match declare_missing(link, queue, catalogue).await {
            Ok(found) => {
                if let Some(failed) = failing.end() {
                    tracing::info!(failed_ms = millis(failed), "it can be looked again whether all is declared");
                }
                if let Found::Missing = found {
                    tracing::warn!("an exchange or the dead queue was deleted at the broker; declared it again");
                }
            }
            Err(error) => {
                let error = error_chain(&error);
                if failing.is_news(&error) {
                    tracing::warn!(error, "cannot look whether all is still declared, or declare it again");
                }
            }
        }
    }
}

enum Found {
    All,
    Missing,
}

/// Without a bound of its own: it delays nobody, and a second question to a queue that does not answer the first one
/// would only be one more channel that waits. The connection's end ends it.
async fn declare_missing(link: &Link, queue: &Queue, catalogue: &Catalogue) -> Result<Found, QueueError> {
    let channel = link.channel().await?;
    let found = match look(&channel, queue, catalogue).await {
        Ok(()) => Found::All,
        Err(error) if is_missing(&error) => Found::Missing,
        Err(error) => return Err(error.into()),
    };
    let Found::Missing = found else {
        channel.close(200, name("done")).await?;
        return Ok(found);
    };
    // The broker has closed the first one when it said no.
    let channel = link.channel().await?;
    declare(&channel, queue, catalogue).await.map_err(QueueError::declaring)?;
    channel.close(200, name("done")).await?;
    Ok(found)
}

/// Asks for each of them, and binds them: whether they are bound cannot be asked, and who deletes an exchange or a queue and
/// creates it anew between two looks has lost its bindings. What is bound already stays as it is.
async fn look(channel: &Channel, queue: &Queue, catalogue: &Catalogue) -> lapin::Result<()> {
    for (exchange, kind) in exchanges(queue) {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name(exchange), kind, options, FieldTable::default()).await?;
    }
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name(&queue.dead_queue), options, FieldTable::default()).await?;
    bind_all(channel, queue, catalogue).await
}

pub(super) fn exchanges(queue: &Queue) -> [(&str, ExchangeKind); 3] {
    [
        (&queue.events_exchange, ExchangeKind::Topic),
        (&queue.notices_exchange, ExchangeKind::Topic),
        (&queue.dead_exchange, ExchangeKind::Fanout),
    ]
}

/// What dies finds its queue before anything can die.
pub(super) fn queues(queue: &Queue) -> [(&str, FieldTable); 2] {
    [(&queue.dead_queue, dead_arguments(queue)), (&queue.worker_queue, worker_arguments(queue))]
}

fn worker_arguments(queue: &Queue) -> FieldTable {
    let mut arguments = quorum(queue.delivery_limit);
    let mut text = |key: &str, value: &str| {
        arguments.insert(key.into(), AMQPValue::LongString(value.into()));
    };
    text("x-dead-letter-exchange", &queue.dead_exchange);
    // Only with these two is a message not lost between the queues when the broker dies.
    text("x-dead-letter-strategy", "at-least-once");
    text("x-overflow", "reject-publish");
    arguments
}

/// Without a limit of its own RabbitMQ 4 would drop a dead letter that was looked at 20 times.
fn dead_arguments(queue: &Queue) -> FieldTable {
    quorum(queue.dead_delivery_limit)
}

fn quorum(delivery_limit: i64) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(delivery_limit));
    arguments
}

pub(super) async fn declare_exchange(channel: &Channel, exchange: &str, kind: ExchangeKind) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name(exchange), kind, options, FieldTable::default()).await
}

pub(super) async fn declare_queue(channel: &Channel, queue: &str, arguments: FieldTable) -> lapin::Result<()> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name(queue), options, arguments).await.map(drop)
}

async fn bind_all(channel: &Channel, queue: &Queue, catalogue: &Catalogue) -> lapin::Result<()> {
    bind(channel, &queue.dead_queue, &queue.dead_exchange, "").await?;
    for event_type in catalogue.types() {
        bind(channel, &queue.worker_queue, &queue.events_exchange, event_type.as_str()).await?;
    }
    Ok(())
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel.queue_bind(name(queue), name(exchange), name(key), options, FieldTable::default()).await
}
