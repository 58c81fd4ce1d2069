//! Checks for `doctor`: the broker, what is declared there, and whether a message passes through it. Changes nothing that
//! lasts.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use uuid::Uuid;

use super::connection::connect::connect_to_each;
use super::connection::greeting;
use super::connection::link::{Link, Purpose, bounded};
use super::convert::name;
use super::depth::{Depth, depth};
use super::error::{QueueError, is_forbidden, is_missing};
use super::topology::declare::{note_unbindable, note_unbindable_unrouted};
use super::topology::entities::{Entity, entities, unrouted_entities};
use super::topology::rights::{MissingRights, Names, Right};
use super::topology::unchecked::UncheckedTopology;
use crate::config::{Amqp, Queue};

const CONSUMER_TAG: &str = "doctor";

/// A connection for checks.
pub(crate) struct Broker {
    link: Link,
    /// `host:port` of the node that serves.
    pub(crate) node: String,
    /// The RabbitMQ version of that node.
    pub(crate) version: String,
    /// How long opening and closing a channel took: two requests, each with its answer.
    pub(crate) latency: Duration,
    pub(crate) encrypted: bool,
    /// The addresses that do not serve, each with its reason.
    pub(crate) unserved: Vec<String>,
}

/// What is declared at the broker, compared with what a worker would declare.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    /// Exchanges and queues that nobody has declared yet.
    pub(crate) missing: Vec<String>,
    /// The broker's text about each one that has other arguments.
    pub(crate) different: Vec<String>,
    /// What this user may not declare or bind.
    pub(crate) unchecked: UncheckedTopology,
    /// Each worker queue; `None` if it does not exist, or is not shown to this user.
    pub(crate) worker_queues: Vec<(String, Option<Depth>)>,
    /// Further queues that look like those of the workers, and that the settings do not have.
    pub(crate) left_over: Vec<(String, Depth)>,
    /// `None` if it does not exist, or is not shown to this user.
    pub(crate) dead_queue: Option<Depth>,
}

/// What keeps events that no queue takes, compared with what a worker would declare.
#[derive(Debug, Default)]
pub(crate) struct UnroutedQueue {
    /// The exchange or the queue that nobody has declared yet, or both.
    pub(crate) missing: Vec<String>,
    /// The broker's text about each one that has other arguments.
    pub(crate) different: Vec<String>,
    /// What this user may not declare or bind.
    pub(crate) unchecked: UncheckedTopology,
    /// `None` if the queue does not exist, or is not shown to this user.
    pub(crate) depth: Option<Depth>,
}

/// The result of sending a message to ourselves.
#[derive(Debug)]
pub(crate) enum RoundTrip {
    Took(Duration),
    /// This user may not try it.
    Forbidden(MissingRights),
}

impl Topology {
    /// Whether anybody consumes from a worker queue.
    pub(crate) fn has_workers(&self) -> bool {
        self.worker_queues.iter().any(|(_, depth)| depth.is_some_and(|queue| queue.consumers > 0))
    }
}

impl Broker {
    /// Connects to every node, and keeps the connection to the first one, in the order of `AMQP_URL`, that serves.
    ///
    /// # Errors
    ///
    /// [`QueueError::Address`] if `AMQP_URL` cannot be used, [`QueueError::Unavailable`] if no node serves.
    pub(crate) async fn connect(amqp: &Amqp) -> Result<Self, QueueError> {
        let mut links = Vec::new();
        let mut unserved = Vec::new();
        for opened in connect_to_each(amqp, Purpose::Doctor).await? {
            match opened {
                Ok(link) => links.push(link),
                Err(reasons) => unserved.push(reasons.to_string()),
            }
        }
        let mut links = links.into_iter();
        let Some(link) = links.next() else {
            return Err(QueueError::Unavailable(anyhow::Error::msg(unserved.join("; "))));
        };
        join_all(links.map(Link::close)).await;
        let greet = greeting::version(&link.peer);
        let greeted = async { greet.await.map_err(lapin::Error::from) };
        let version = bounded(amqp.connect_timeout, "connecting", greeted).await?;
        let asked = Instant::now();
        link.answer("closing a channel", link.channel().await?.close(200, name("done"))).await?;
        let (node, encrypted) = (link.peer.node.to_string(), link.peer.node.is_encrypted());
        Ok(Self { link, node, version, latency: asked.elapsed(), encrypted, unserved })
    }

    /// Compares what is declared with what a worker would declare. Only what exists is declared again, which changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// The broker does not answer, or the connection has ended.
    pub(crate) async fn topology(&self, queue: &Queue) -> Result<Topology, QueueError> {
        let mut found = Topology { unchecked: UncheckedTopology::of(self.link.user()), ..Topology::default() };
        for entity in entities(queue) {
            match self.exists(&entity).await? {
                Some(false) => found.missing.push(entity.name),
                Some(true) => found.different.extend(self.compare(&entity, &mut found.unchecked).await?),
                None => found.unchecked.add(&entity),
            }
        }
        if found.missing.is_empty() {
            let note = note_unbindable(&self.link, queue, &mut found.unchecked);
            self.link.answer("looking at what is bound", note).await?;
        }
        for shard in queue.all_shards() {
            let depth = self.depth(&shard.queue).await?;
            found.worker_queues.push((shard.queue, depth));
        }
        let further: Vec<_> = queue.further_queues().collect();
        let depths = try_join_all(further.iter().map(|queue| self.depth(queue))).await?;
        found.left_over = further.into_iter().zip(depths).filter_map(|(queue, depth)| Some((queue, depth?))).collect();
        found.dead_queue = self.depth(&queue.dead_queue).await?;
        Ok(found)
    }

    /// Compares what keeps events that no queue takes with what a worker would declare.
    ///
    /// # Errors
    ///
    /// The broker does not answer, or the connection has ended.
    pub(crate) async fn unrouted(&self, queue: &Queue) -> Result<UnroutedQueue, QueueError> {
        let mut found =
            UnroutedQueue { unchecked: UncheckedTopology::of(self.link.user()), ..UnroutedQueue::default() };
        for entity in unrouted_entities(queue) {
            match self.exists(&entity).await? {
                Some(false) => found.missing.push(entity.title()),
                Some(true) => found.different.extend(self.compare(&entity, &mut found.unchecked).await?),
                None => found.unchecked.add(&entity),
            }
        }
        if found.missing.is_empty() {
            let note = note_unbindable_unrouted(&self.link, queue, &mut found.unchecked);
            self.link.answer("looking at what is bound", note).await?;
        }
        found.depth = self.depth(&queue.unrouted_queue).await?;
        Ok(found)
    }

    /// Publishes a message to a queue of our own, which the broker deletes with the connection, and consumes it again.
    ///
    /// # Errors
    ///
    /// The broker does not answer, or the connection has ended.
    pub(crate) async fn round_trip(&self, queue: &Queue) -> Result<RoundTrip, QueueError> {
        match self.link.answer("a message makes its round", self.send_around(queue)).await {
            Ok(took) => Ok(RoundTrip::Took(took)),
            Err(QueueError::Forbidden(missing_rights)) => Ok(RoundTrip::Forbidden(missing_rights)),
            Err(error) => Err(error),
        }
    }

    async fn send_around(&self, queue: &Queue) -> Result<Duration, QueueError> {
        // Rights on the worker queue are likely to cover this name, too.
        let prefix = format!("{}.doctor.", queue.worker_queue);
        let own = name(&format!("{prefix}{}", Uuid::new_v4()));
        let own_queue = |error: lapin::Error| {
            QueueError::from(error).or_missing_rights(|| missing_for_own_queue(self.link.user(), &prefix))
        };
        let default = |error: lapin::Error| {
            QueueError::from(error).or_missing_rights(|| MissingRights::publishing(self.link.user(), ""))
        };
        let channel = self.link.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(own.clone(), options, FieldTable::default()).await.map_err(own_queue)?;
        let consume = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(own.clone(), name(CONSUMER_TAG), consume, FieldTable::default()).await;
        let mut messages = consumer.map_err(own_queue)?;
        let started = Instant::now();
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default();
        let sent = channel.basic_publish(name(""), own.clone(), options, b"doctor", properties).await;
        sent.map_err(default)?.await.map_err(default)?;
        let ended = || QueueError::Unavailable(anyhow::anyhow!("it ended the consumer"));
        messages.next().await.ok_or_else(ended)??.acker.ack(BasicAckOptions::default()).await?;
        let took = started.elapsed();
        // The broker deletes the queue with its last consumer.
        channel.basic_cancel(name(CONSUMER_TAG), BasicCancelOptions::default()).await?;
        self.close_channel(&channel).await?;
        Ok(took)
    }

    /// Closes by the protocol, so that the broker does not log a lost connection.
    ///
    /// # Errors
    ///
    /// The broker did not answer. The connection has ended all the same.
    pub(crate) async fn close(self) -> Result<(), QueueError> {
        self.link.close().await
    }

    /// The broker's answer, which may be a refusal. A refusal closes the channel, so each request has a channel of its own.
    async fn answer<T>(&self, request: impl Future<Output = lapin::Result<T>>) -> Result<lapin::Result<T>, QueueError> {
        self.link.answer("looking at what is declared", async { Ok::<_, QueueError>(request.await) }).await
    }

    /// `None` if the broker does not tell this user.
    async fn exists(&self, entity: &Entity) -> Result<Option<bool>, QueueError> {
        let channel = self.link.channel().await?;
        match self.answer(entity.check_exists(&channel)).await? {
            Ok(()) => self.close_channel(&channel).await.map(|()| Some(true)),
            Err(error) if is_missing(&error) => Ok(Some(false)),
            Err(error) if is_forbidden(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// How many messages and consumers a queue has. `None` if it does not exist, or is not shown to this user.
    ///
    /// # Errors
    ///
    /// The broker does not answer, or the connection has ended.
    pub(crate) async fn depth(&self, queue: &str) -> Result<Option<Depth>, QueueError> {
        let channel = self.link.channel().await?;
        match self.answer(depth(&channel, queue)).await? {
            Ok(depth) => self.close_channel(&channel).await.map(|()| Some(depth)),
            Err(error) if is_missing(&error) || is_forbidden(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The broker's text if the entity has other arguments.
    async fn compare(&self, entity: &Entity, unchecked: &mut UncheckedTopology) -> Result<Option<String>, QueueError> {
        let channel = self.link.channel().await?;
        match self.answer(entity.declare(&channel)).await? {
            Ok(()) => self.close_channel(&channel).await?,
            Err(error) if is_forbidden(&error) => unchecked.add(entity),
            Err(error) => match QueueError::of_declaration(error) {
                QueueError::Mismatch(difference) => return Ok(Some(difference)),
                error => return Err(error),
            },
        }
        Ok(None)
    }

    async fn close_channel(&self, channel: &Channel) -> Result<(), QueueError> {
        self.link.answer("closing a channel", channel.close(200, name("done"))).await
    }
}

/// The rights for the queue of a round trip.
fn missing_for_own_queue(user: &str, prefix: &str) -> MissingRights {
    let own = |right| (right, Names::Prefix(prefix.to_owned()));
    let default = (Right::Write, Names::One("amq.default".to_owned()));
    MissingRights {
        user: user.to_owned(),
        doing: format!("make itself a queue {prefix}…"),
        needs: vec![own(Right::Configure), own(Right::Read), default],
        or_else: "",
    }
}
