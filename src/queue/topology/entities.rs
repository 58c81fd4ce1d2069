//! What a worker needs at the broker: exchanges and queues with their arguments, and bindings.

use std::fmt;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::rights::{Names, Right};
use crate::config::Queue;
use crate::queue::convert::name;

/// An exchange or a queue.
pub(in crate::queue) struct Entity<'a> {
    pub(in crate::queue) name: &'a str,
    kind: EntityKind,
}

enum EntityKind {
    Exchange(ExchangeKind),
    Queue(FieldTable),
}

/// Everything that a worker needs, in the order of declaration: exchanges before queues, and the dead queue before the worker
/// queue, so that no message can become a dead letter before its queue exists.
pub(in crate::queue) fn entities(queue: &Queue) -> [Entity<'_>; 5] {
    let exchange = |name, kind| Entity { name, kind: EntityKind::Exchange(kind) };
    let queue_of = |name, arguments| Entity { name, kind: EntityKind::Queue(arguments) };
    [
        exchange(&queue.events_exchange, ExchangeKind::Topic),
        exchange(&queue.notices_exchange, ExchangeKind::Topic),
        exchange(&queue.dead_exchange, ExchangeKind::Fanout),
        queue_of(&queue.dead_queue, dead_arguments(queue)),
        queue_of(&queue.worker_queue, worker_arguments(queue)),
    ]
}

/// Each queue with the exchange that it is bound to.
pub(super) fn bindings(queue: &Queue) -> [(&str, &str); 2] {
    [(&queue.dead_queue, &queue.dead_exchange), (&queue.worker_queue, &queue.events_exchange)]
}

impl Entity<'_> {
    /// Declares it. If it exists with the same arguments, nothing changes.
    ///
    /// # Errors
    ///
    /// The broker's answer, after which its channel is closed.
    pub(in crate::queue) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        self.send(channel, false).await
    }

    /// Asks only whether it exists, with whatever arguments, by a passive declaration.
    ///
    /// # Errors
    ///
    /// The broker's answer, after which its channel is closed.
    pub(in crate::queue) async fn check_exists(&self, channel: &Channel) -> lapin::Result<()> {
        self.send(channel, true).await
    }

    async fn send(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        match &self.kind {
            EntityKind::Exchange(kind) => {
                let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare(name(self.name), kind.clone(), options, FieldTable::default()).await
            }
            EntityKind::Queue(arguments) => {
                let options = QueueDeclareOptions { durable: true, passive, ..QueueDeclareOptions::default() };
                channel.queue_declare(name(self.name), options, arguments.clone()).await.map(drop)
            }
        }
    }

    pub(super) fn is_queue(&self, name: &str) -> bool {
        self.name == name && matches!(self.kind, EntityKind::Queue(_))
    }

    /// The rights that declaring it takes. A queue with a dead-letter exchange takes rights on that exchange, too.
    pub(super) fn needs<'a>(&'a self, queue: &'a Queue) -> impl Iterator<Item = (Right, Names)> + 'a {
        let one = |name: &str| Names::One(name.to_owned());
        let has_dead_letters = self.is_queue(&queue.worker_queue);
        let more = move || [(Right::Read, one(self.name)), (Right::Write, one(&queue.dead_exchange))];
        std::iter::once((Right::Configure, one(self.name))).chain(has_dead_letters.then(more).into_iter().flatten())
    }
}

/// With the arguments with which an operator would declare it.
impl fmt::Display for Entity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            EntityKind::Exchange(kind) => {
                write!(f, "the exchange {} (durable, {})", self.name, format!("{kind:?}").to_lowercase())
            }
            EntityKind::Queue(arguments) => {
                write!(f, "the queue {} (durable", self.name)?;
                for (key, value) in arguments.inner() {
                    match value {
                        AMQPValue::LongString(text) => write!(f, ", {key}={text}")?,
                        AMQPValue::LongLongInt(number) => write!(f, ", {key}={number}")?,
                        other => write!(f, ", {key}={other:?}")?,
                    }
                }
                f.write_str(")")
            }
        }
    }
}

fn worker_arguments(queue: &Queue) -> FieldTable {
    let mut arguments = quorum(queue.delivery_limit);
    let mut text = |key: &str, value: &str| {
        arguments.insert(key.into(), AMQPValue::LongString(value.into()));
    };
    text("x-dead-letter-exchange", &queue.dead_exchange);
    // Without these two, a message on its way to the dead queue is lost if the broker dies.
    text("x-dead-letter-strategy", "at-least-once");
    text("x-overflow", "reject-publish");
    arguments
}

/// Without the argument, RabbitMQ 4 drops a dead letter that was read 20 times.
fn dead_arguments(queue: &Queue) -> FieldTable {
    quorum(queue.dead_delivery_limit)
}

fn quorum(delivery_limit: i64) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(delivery_limit));
    arguments
}
