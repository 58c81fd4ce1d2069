//! Looks at the broker and at what is declared there, and leaves nothing behind.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use uuid::Uuid;

use super::link::{Link, Purpose, bounded};
use super::rights::{Lack, Names, Right};
use super::topology::{Thing, Unchecked};
use super::{QueueError, greeting, is_forbidden, is_missing, name, topology};
use crate::config::{Amqp, Queue};

const CONSUMER: &str = "doctor";

/// A connection that only looks.
pub struct Broker {
    link: Link,
    /// `host:port` of the node that it leads to.
    pub node: String,
    /// Of that node.
    pub version: String,
    /// One question and its answer.
    pub latency: Duration,
    pub encrypted: bool,
    /// The other addresses, as far as they do not serve, each with the reason.
    pub unserved: Vec<String>,
}

/// What of the topology is declared, and how.
#[derive(Debug, Default)]
pub struct Topology {
    /// Exchanges and queues that nobody has declared yet.
    pub missing: Vec<String>,
    /// The broker's words about those that are not as we would declare them.
    pub different: Vec<String>,
    /// What this user may not declare or bind.
    pub unchecked: Unchecked,
    pub worker_queue: Option<Depth>,
    pub dead_queue: Option<Depth>,
}

/// A queue's content, without what consumers hold.
#[derive(Debug, Clone, Copy)]
pub struct Depth {
    pub messages: u32,
    pub consumers: u32,
}

/// What came of a message to ourselves.
#[derive(Debug)]
pub enum RoundTrip {
    Took(Duration),
    /// This user may not try it.
    Forbidden(Lack),
}

impl Topology {
    /// Whether anybody consumes from the worker queue.
    pub fn has_workers(&self) -> bool {
        self.worker_queue.is_some_and(|queue| queue.consumers > 0)
    }
}

impl Broker {
    /// Connects to every node, and keeps the first that serves in the order of the addresses.
    pub async fn connect(amqp: &Amqp) -> Result<Self, QueueError> {
        let mut links = Vec::new();
        let mut unserved = Vec::new();
        for (_, opened) in Link::open_each(amqp, Purpose::Doctor).await? {
            match opened {
                Ok(link) => links.push(link),
                Err(failure) => unserved.push(failure.to_string()),
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
    pub async fn topology(&self, queue: &Queue) -> Result<Topology, QueueError> {
        let mut found = Topology { unchecked: Unchecked::of(self.link.user()), ..Topology::default() };
        for thing in topology::things(queue) {
            match self.exists(&thing).await? {
                Some(false) => found.missing.push(thing.name.to_owned()),
                Some(true) => self.compare(&thing, &mut found).await?,
                None => found.unchecked.add(&thing),
            }
        }
        if found.missing.is_empty() {
            let note = topology::note_unbindable(&self.link, queue, &mut found.unchecked);
            self.link.answer("looking at what is bound", note).await?;
        }
        found.worker_queue = self.depth(&queue.worker_queue).await?;
        found.dead_queue = self.depth(&queue.dead_queue).await?;
        Ok(found)
    }

    /// Publishes a message to a queue of our own, which goes with the connection, and takes it out again.
    pub async fn round_trip(&self, queue: &Queue) -> Result<RoundTrip, QueueError> {
        match self.link.answer("a message makes its round", self.send_around(queue)).await {
            Ok(took) => Ok(RoundTrip::Took(took)),
            Err(QueueError::Forbidden(lack)) => Ok(RoundTrip::Forbidden(lack)),
            Err(error) => Err(error),
        }
    }

    async fn send_around(&self, queue: &Queue) -> Result<Duration, QueueError> {
        // A name that the permissions of our own queues are likely to cover.
        let prefix = format!("{}.doctor.", queue.worker_queue);
        let own = name(&format!("{prefix}{}", Uuid::new_v4()));
        let own_queue =
            |error: lapin::Error| QueueError::from(error).for_want_of(|| lacks_own(self.link.user(), &prefix));
        let default =
            |error: lapin::Error| QueueError::from(error).for_want_of(|| Lack::publishing(self.link.user(), ""));
        let channel = self.link.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(own.clone(), options, FieldTable::default()).await.map_err(own_queue)?;
        let consume = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(own.clone(), name(CONSUMER), consume, FieldTable::default()).await;
        let mut messages = consumer.map_err(own_queue)?;
        let started = Instant::now();
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default();
        let sent = channel.basic_publish(name(""), own.clone(), options, b"doctor", properties).await;
        sent.map_err(default)?.await.map_err(default)?;
        let ended = || QueueError::Unavailable(anyhow::anyhow!("it ended the consumer"));
        messages.next().await.ok_or_else(ended)??.acker.ack(BasicAckOptions::default()).await?;
        let took = started.elapsed();
        // With its last consumer goes the queue.
        channel.basic_cancel(name(CONSUMER), BasicCancelOptions::default()).await?;
        self.close_channel(&channel).await?;
        Ok(took)
    }

    /// Closes politely, so that the broker does not log a lost connection.
    pub async fn close(self) -> Result<(), QueueError> {
        self.link.close().await
    }

    /// The broker's word, which may be no. After that its channel is closed, so each question has one of its own.
    async fn ask<T>(&self, question: impl Future<Output = lapin::Result<T>>) -> Result<lapin::Result<T>, QueueError> {
        self.link.answer("looking at what is declared", async { Ok::<_, QueueError>(question.await) }).await
    }

    /// Not known if the broker does not tell this user.
    async fn exists(&self, thing: &Thing<'_>) -> Result<Option<bool>, QueueError> {
        let channel = self.link.channel().await?;
        match self.ask(thing.look(&channel)).await? {
            Ok(()) => self.close_channel(&channel).await.map(|()| Some(true)),
            Err(error) if is_missing(&error) => Ok(Some(false)),
            Err(error) if is_forbidden(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn depth(&self, queue: &str) -> Result<Option<Depth>, QueueError> {
        let channel = self.link.channel().await?;
        match self.ask(depth(&channel, queue)).await? {
            Ok(depth) => self.close_channel(&channel).await.map(|()| Some(depth)),
            Err(error) if is_missing(&error) || is_forbidden(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn compare(&self, thing: &Thing<'_>, found: &mut Topology) -> Result<(), QueueError> {
        let channel = self.link.channel().await?;
        match self.ask(thing.declare(&channel)).await? {
            Ok(()) => return self.close_channel(&channel).await,
            Err(error) if is_forbidden(&error) => found.unchecked.add(thing),
            Err(error) => match QueueError::declaring(error) {
                QueueError::Mismatch(difference) => found.different.push(difference),
                error => return Err(error),
            },
        }
        Ok(())
    }

    async fn close_channel(&self, channel: &Channel) -> Result<(), QueueError> {
        self.link.answer("closing a channel", channel.close(200, name("done"))).await
    }
}

/// Changes nothing. The broker closes the channel if there is no such queue.
pub(super) async fn depth(channel: &Channel, queue: &str) -> lapin::Result<Depth> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(name(queue), options, FieldTable::default()).await?;
    Ok(Depth { messages: queue.message_count(), consumers: queue.consumer_count() })
}

fn lacks_own(user: &str, prefix: &str) -> Lack {
    let own = |right| (right, Names::From(prefix.to_owned()));
    let default = (Right::Write, Names::One("amq.default".to_owned()));
    Lack {
        user: user.to_owned(),
        doing: format!("make itself a queue {prefix}…"),
        needs: vec![own(Right::Configure), own(Right::Read), default],
        or_else: "",
    }
}
