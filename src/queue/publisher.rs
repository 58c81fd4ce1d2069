//! Publishes messages that survive the broker's restart. A message counts as published only once the broker has confirmed
//! that a queue holds it.

use std::sync::Arc;
use std::time::Duration;

use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use uuid::Uuid;

use super::connection::connect::connect;
use super::connection::link::{Link, Purpose};
use super::connection::nodes::Peer;
use super::convert::{name, persistent};
use super::error::{QueueError, is_missing};
use super::topology::entities::HASHED_HEADER;
use super::topology::rights::MissingRights;
use crate::config::{Amqp, Queue};

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No queue is bound for the message's exchange and routing key.
    #[error("the message was routed to no queue: no queue is bound for it (workers declare theirs when they start)")]
    Unroutable,
    /// Nobody has declared the exchange yet.
    #[error("the exchange does not exist: a worker declares it when it starts")]
    NoExchange,
    /// The broker sent a `nack`.
    #[error("the broker refused the message")]
    Refused,
    /// The message may be in its queue or not.
    #[error("the broker did not confirm within {}", humantime::format_duration(*.0))]
    Unconfirmed(Duration),
    /// The connection or channel has ended, or a right is lacking.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl PublishError {
    /// The error of a publish. A missing exchange, or one that this user may not write to, ends the channel.
    fn of(error: lapin::Error, missing_rights: MissingRights) -> Self {
        if is_missing(&error) {
            Self::NoExchange
        } else {
            Self::Queue(QueueError::from(error).or_missing_rights(|| missing_rights))
        }
    }
}

/// What of an event stands outside its body when it is published.
#[derive(Debug, Clone, Copy)]
pub struct EventAddress<'a> {
    /// The event's type: the routing key.
    pub event_type: &'a str,
    /// The event's id: the message's id.
    pub id: &'a str,
    /// The account that the event belongs to.
    pub account: &'a str,
}

/// A connection that publishes.
pub struct Publisher {
    link: Link,
    channel: Channel,
    confirm_timeout: Duration,
}

/// A message that was sent and not confirmed yet.
pub struct Unconfirmed {
    confirm: PublisherConfirm,
    confirm_timeout: Duration,
    /// The right that this user lacks if the broker refuses the message.
    missing_rights: MissingRights,
    peer: Arc<Peer>,
}

impl Publisher {
    /// Connects to whichever node serves.
    ///
    /// # Errors
    ///
    /// [`PublishError::Queue`] if no node serves, or none opens a channel in time.
    pub async fn connect(amqp: &Amqp, queue: &Queue) -> Result<Self, PublishError> {
        let link = connect(amqp, Purpose::Publisher).await?;
        let channel = link.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        link.answer("asking for confirms", confirms).await?;
        Ok(Self { link, channel, confirm_timeout: queue.confirm_timeout })
    }

    /// Sends a JSON message.
    ///
    /// # Errors
    ///
    /// [`PublishError::Unconfirmed`] if the broker takes nothing for `queue.confirm_timeout`, [`PublishError::Queue`] if the
    /// connection or channel has ended. The broker's answer comes with [`Unconfirmed::confirmed`].
    pub async fn send(
        &self,
        exchange: &str,
        routing_key: &str,
        message_id: &str,
        body: &[u8],
    ) -> Result<Unconfirmed, PublishError> {
        self.publish(exchange, routing_key, json(message_id), body).await
    }

    /// Sends an event with the header by which RabbitMQ chooses one of several worker queues.
    ///
    /// # Errors
    ///
    /// As [`Publisher::send`].
    pub async fn send_event(
        &self,
        exchange: &str,
        event: EventAddress<'_>,
        body: &[u8],
    ) -> Result<Unconfirmed, PublishError> {
        let mut headers = FieldTable::default();
        headers.insert(HASHED_HEADER.into(), AMQPValue::LongString(event.account.into()));
        let properties = json(event.id).with_headers(headers);
        self.publish(exchange, event.event_type, properties, body).await
    }

    /// Publishes a copy of a message straight to one queue, so that no other queue gets it.
    ///
    /// # Errors
    ///
    /// As [`Publisher::send`].
    pub(super) async fn send_again(
        &self,
        queue: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<Unconfirmed, PublishError> {
        self.publish("", queue, properties, body).await
    }

    /// Checks whether this user may publish to the default exchange now, with a message that no queue takes.
    ///
    /// # Errors
    ///
    /// Why it may not, or why the broker takes nothing.
    pub(super) async fn probe(&self) -> Result<(), PublishError> {
        let no_queue = format!("penr-webhooks.nobody.{}", Uuid::new_v4());
        match self.publish("", &no_queue, persistent(), b"").await?.confirmed().await {
            Ok(()) | Err(PublishError::Unroutable) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<Unconfirmed, PublishError> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let send = self.channel.basic_publish(name(exchange), name(routing_key), options, body, properties);
        // A broker in alarm stops reading: without a bound the send would wait until the alarm ends.
        let sent = tokio::time::timeout(self.confirm_timeout, send).await;
        let sent = sent.map_err(|_| late(self.confirm_timeout, &self.link.peer))?;
        let missing_rights = MissingRights::publishing(self.link.user(), exchange);
        match sent {
            Ok(confirm) => {
                let (confirm_timeout, peer) = (self.confirm_timeout, self.link.peer.clone());
                Ok(Unconfirmed { confirm, confirm_timeout, missing_rights, peer })
            }
            Err(error) => Err(PublishError::of(error, missing_rights)),
        }
    }

    /// Closes by the protocol, so that the broker does not log a lost connection.
    pub async fn close(self) {
        self.link.close().await.ok();
    }
}

impl Unconfirmed {
    /// Waits until the broker has the message in a queue, at most for `queue.confirm_timeout`.
    ///
    /// # Errors
    ///
    /// Each variant of [`PublishError`] can occur.
    pub async fn confirmed(self) -> Result<(), PublishError> {
        let Settling { returned, answer } = self.settled().await;
        if returned.is_some() { Err(PublishError::Unroutable) } else { answer }
    }

    /// As [`Unconfirmed::confirmed`], for one of several messages that are under way at a time on this connection.
    pub async fn settled(self) -> Settling {
        let confirmation = match tokio::time::timeout(self.confirm_timeout, self.confirm).await {
            Err(_) => Err(late(self.confirm_timeout, &self.peer)),
            Ok(confirmation) => confirmation.map_err(|error| PublishError::of(error, self.missing_rights)),
        };
        let (returned, answer) = match confirmation {
            Ok(Confirmation::Ack(returned)) => (returned, Ok(())),
            Ok(Confirmation::Nack(returned)) => (returned, Err(PublishError::Refused)),
            Ok(Confirmation::NotRequested) => (None, Err(PublishError::Refused)),
            Err(error) => (None, Err(error)),
        };
        let message_id =
            |message: BasicReturnMessage| message.properties.message_id().as_ref().map(ToString::to_string);
        Settling { returned: returned.map(|message| message_id(message).unwrap_or_default()), answer }
    }
}

/// What came with the confirm of a message.
#[derive(Debug)]
pub struct Settling {
    /// The message id of a message that was routed to no queue: of this one, or of one whose confirm comes later. The AMQP library hands
    /// the return of a message to the next confirm of any message.
    pub returned: Option<String>,
    /// Never [`PublishError::Unroutable`].
    pub answer: Result<(), PublishError>,
}

fn json(message_id: &str) -> BasicProperties {
    persistent().with_content_type(name("application/json")).with_message_id(name(message_id))
}

/// The broker was too late. The next publisher tries the other nodes first.
fn late(limit: Duration, peer: &Peer) -> PublishError {
    peer.try_last();
    PublishError::Unconfirmed(limit)
}
