//! What a worker needs at the broker: exchanges and queues with their arguments, and bindings.

use std::fmt;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::rights::{Names, Right};
use crate::config::Queue;
use crate::queue::convert::name;

/// An exchange or a queue.
pub(in crate::queue) struct Entity {
    pub(in crate::queue) name: String,
    kind: EntityKind,
}

enum EntityKind {
    Exchange(ExchangeKind, FieldTable),
    Queue(FieldTable),
}

/// The type of the exchange that spreads events over several worker queues. A plugin of RabbitMQ has it.
const CONSISTENT_HASH: &str = "x-consistent-hash";
/// The message header whose value decides to which worker queue an event goes. All messages without it go to one of them.
pub(in crate::queue) const HASHED_HEADER: &str = "account_id";

/// Everything that workers need, in the order of declaration: exchanges before queues, and the dead queue before the worker
/// queues, so that no message can become a dead letter before its queue exists.
pub(in crate::queue) fn entities(queue: &Queue) -> Vec<Entity> {
    let mut entities = vec![
        exchange(&queue.events_exchange, ExchangeKind::Topic),
        exchange(&queue.notices_exchange, ExchangeKind::Topic),
        exchange(&queue.dead_exchange, ExchangeKind::Fanout),
        queue_of(&queue.dead_queue, dead_arguments(queue)),
    ];
    if queue.is_sharded() {
        let (kind, arguments) = consistent_hash();
        entities.push(Entity { name: queue.shards_exchange.clone(), kind: EntityKind::Exchange(kind, arguments) });
    }
    entities.extend(queue.all_shards().map(|shard| queue_of(&shard.queue, worker_arguments(queue))));
    entities
}

/// What keeps events that no queue takes, which workers can do without.
pub(in crate::queue) fn unrouted_entities(queue: &Queue) -> [Entity; 2] {
    [
        exchange(&queue.unrouted_exchange, ExchangeKind::Fanout),
        queue_of(&queue.unrouted_queue, unrouted_arguments(queue)),
    ]
}

fn exchange(name: &str, kind: ExchangeKind) -> Entity {
    Entity { name: name.to_owned(), kind: EntityKind::Exchange(kind, FieldTable::default()) }
}

fn queue_of(name: &str, arguments: FieldTable) -> Entity {
    Entity { name: name.to_owned(), kind: EntityKind::Queue(arguments) }
}

impl Entity {
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
            EntityKind::Exchange(kind, arguments) => {
                let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare(name(&self.name), kind.clone(), options, arguments.clone()).await
            }
            EntityKind::Queue(arguments) => {
                let options = QueueDeclareOptions { durable: true, passive, ..QueueDeclareOptions::default() };
                channel.queue_declare(name(&self.name), options, arguments.clone()).await.map(drop)
            }
        }
    }

    /// Such as `the queue penr.webhooks`.
    pub(in crate::queue) fn title(&self) -> String {
        let kind = if matches!(self.kind, EntityKind::Queue(_)) { "queue" } else { "exchange" };
        format!("the {kind} {}", self.name)
    }

    pub(super) fn is_queue(&self, name: &str) -> bool {
        self.name == name && matches!(self.kind, EntityKind::Queue(_))
    }

    /// Whether its type is one that only a plugin of RabbitMQ has.
    pub(in crate::queue) fn needs_plugin(&self) -> bool {
        matches!(self.kind, EntityKind::Exchange(ExchangeKind::Custom(_), _))
    }

    /// The rights that declaring it takes. A queue with a dead-letter exchange takes rights on that exchange, too.
    pub(super) fn needs<'a>(&'a self, queue: &'a Queue) -> impl Iterator<Item = (Right, Names)> + 'a {
        let one = |name: &str| Names::One(name.to_owned());
        let has_dead_letters = queue.all_shards().any(|shard| self.is_queue(&shard.queue));
        let more = move || [(Right::Read, one(&self.name)), (Right::Write, one(&queue.dead_exchange))];
        std::iter::once((Right::Configure, one(&self.name))).chain(has_dead_letters.then(more).into_iter().flatten())
    }
}

/// With the arguments with which an operator would declare it.
impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            EntityKind::Exchange(ExchangeKind::Custom(kind), arguments) => {
                write!(f, "the exchange {} (durable, {kind}", self.name)?;
                write_arguments(f, arguments)
            }
            EntityKind::Exchange(kind, _) => {
                write!(f, "the exchange {} (durable, {})", self.name, format!("{kind:?}").to_lowercase())
            }
            EntityKind::Queue(arguments) => {
                write!(f, "the queue {} (durable", self.name)?;
                write_arguments(f, arguments)
            }
        }
    }
}

fn write_arguments(f: &mut fmt::Formatter<'_>, arguments: &FieldTable) -> fmt::Result {
    for (key, value) in arguments.inner() {
        match value {
            AMQPValue::LongString(text) => write!(f, ", {key}={text}")?,
            AMQPValue::LongLongInt(number) => write!(f, ", {key}={number}")?,
            other => write!(f, ", {key}={other:?}")?,
        }
    }
    f.write_str(")")
}

/// The type and arguments of the exchange that spreads events.
pub(super) fn consistent_hash() -> (ExchangeKind, FieldTable) {
    let mut arguments = FieldTable::default();
    arguments.insert("hash-header".into(), AMQPValue::LongString(HASHED_HEADER.into()));
    (ExchangeKind::Custom(CONSISTENT_HASH.to_owned()), arguments)
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

/// A full queue drops its oldest message: a publisher of other events must never be refused for it.
fn unrouted_arguments(queue: &Queue) -> FieldTable {
    let mut arguments = quorum(queue.dead_delivery_limit);
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(queue.unrouted_max_bytes));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    arguments
}

fn quorum(delivery_limit: i64) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(delivery_limit));
    arguments
}
