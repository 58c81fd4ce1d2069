//! Declares what we need at the broker. Declaring again changes nothing; a difference is an error.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::name;
use crate::config::Queue;
use crate::event::Catalogue;

pub(super) async fn declare(channel: &Channel, queue: &Queue, catalogue: &Catalogue) -> lapin::Result<()> {
    for (exchange, kind) in exchanges(queue) {
        declare_exchange(channel, exchange, kind).await?;
    }
    for (queue, arguments) in queues(queue) {
        declare_queue(channel, queue, arguments).await?;
    }
    bind(channel, &queue.dead_queue, &queue.dead_exchange, "").await?;
    for event_type in catalogue.types() {
        bind(channel, &queue.worker_queue, &queue.events_exchange, event_type.as_str()).await?;
    }
    Ok(())
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

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel.queue_bind(name(queue), name(exchange), name(key), options, FieldTable::default()).await
}
